//! Errors on the wire: the one table from kinds to status codes, and RFC 9457 bodies.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::error::{Error, Kind};
use crate::wire;

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Of the error behind it.
    kind: Option<Kind>,
    /// Seconds after which the same request may do better.
    retry_after: Option<u32>,
    /// `Content-Range` of a 416.
    size: Option<u64>,
}

/// Why a request was refused; on the answer, for those who watch.
#[derive(Debug, Clone)]
pub struct Reason(pub String);

/// What a handler returns.
pub type Answer = Result<Response<Body>, Problem>;

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
            kind: None,
            retry_after: None,
            size: None,
        }
    }

    pub fn retry_after(mut self, seconds: u32) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// The same in other words.
    pub fn saying(mut self, detail: impl Into<String>) -> Problem {
        self.detail = detail.into();
        self
    }

    /// What kind of error it comes from; none: it is a refusal by rule.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What belongs into the headers, whatever the body looks like.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(size) = self.size
            && let Ok(value) = HeaderValue::try_from(format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
    }

    /// A range that the file of `size` bytes does not have.
    pub fn range(size: u64) -> Problem {
        let mut problem = Problem::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("the file has {size} bytes"),
        );
        problem.size = Some(size);
        problem
    }
}

/// Exhaustive on purpose: a new kind must be given its status here.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::NotADirectory | Kind::IsADirectory | Kind::NotEmpty => {
            StatusCode::CONFLICT
        }
        Kind::Invalid | Kind::NameTooLong | Kind::Corrupt => StatusCode::BAD_REQUEST,
        Kind::Denied | Kind::ReadOnly => StatusCode::FORBIDDEN,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Conflict => StatusCode::PRECONDITION_FAILED,
        Kind::Stale => StatusCode::GONE,
        Kind::TimedOut => StatusCode::REQUEST_TIMEOUT,
        Kind::Offline | Kind::Unavailable | Kind::Busy | Kind::Cancelled => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Kind::Range => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::NoAttribute | Kind::TooSmall | Kind::Io => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let status = status(error.kind());
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(%error, "a request failed");
        }
        let mut problem = Problem::new(status, error.to_string());
        problem.kind = Some(error.kind());
        match status {
            StatusCode::SERVICE_UNAVAILABLE => problem.retry_after(1),
            _ => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let body = wire::Problem {
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: Some(self.detail.clone()),
        };
        // A struct of strings and a number always has a JSON form.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        self.mark(response.headers_mut());
        response.extensions_mut().insert(Reason(self.detail));
        response
    }
}
