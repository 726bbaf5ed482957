//! The bodies of questions: small, whole, and in time.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;

use super::problem::Problem;

/// For a question's body to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole body of a question, if it is of at most `most` bytes and comes in time.
pub async fn whole(body: Body, most: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(PATIENCE, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let why = "the body was cut off or is too long";
            Err(Problem::new(StatusCode::BAD_REQUEST, why))
        }
        Err(_) => {
            let why = "the body did not come within a minute";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}
