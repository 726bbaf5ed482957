//! The FXCACHE protocol: what existing clients of that server speak, on the same port.
//!
//! Paths, fields and texts are the original's, for errors too. It has no download and no upload of
//! its own: both are those of `/v1/files`, so what they promise holds here. Where the original is
//! dangerous (links, its own index file, half-written files, absolute paths in errors), this is not.
//!
//! The files: `path` is how files are named, `answer` how answers look; the rest answers.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post};

use crate::index::served::Legacy;

mod answer;
mod debug;
mod exists;
mod health;
mod path;
mod refresh;
mod transfer;

pub use answer::Refusal;
use answer::Reply;

use super::App;
use super::routes::Peer;

/// What this protocol keeps for itself.
#[derive(Default)]
pub struct Own {
    /// What another server left, until everything was seen.
    legacy: Mutex<Option<Arc<Legacy>>>,
    logs: debug::Logs,
}

impl Own {
    pub fn new(legacy: Option<Legacy>) -> Own {
        Own {
            legacy: Mutex::new(legacy.map(Arc::new)),
            logs: debug::Logs::default(),
        }
    }

    fn legacy(&self) -> Option<Arc<Legacy>> {
        let legacy = self.legacy.lock().unwrap_or_else(PoisonError::into_inner);
        legacy.clone()
    }

    /// Everything was seen; hearsay has had its day.
    pub fn forget_legacy(&self) {
        *self.legacy.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What every handler gets beside the request.
type Asked = (State<Arc<App>>, Extension<Peer>);

/// The whole protocol.
pub fn router() -> Router<Arc<App>> {
    let only = |methods: MethodRouter<Arc<App>>| methods.fallback(other_method);
    Router::new()
        .route("/health", only(get(health::health)))
        .route("/exists", only(get(exists::exists)))
        .route("/exists_batch", only(post(exists::exists_batch)))
        .route("/download", only(get(transfer::download)))
        .route("/upload", only(post(transfer::upload)))
        .route("/refresh", only(post(refresh::refresh)))
        .route("/refresh/status", only(get(refresh::status)))
        .route(
            "/rebuild",
            only(get(refresh::rebuild).post(refresh::rebuild)),
        )
        .route(
            "/debug/log",
            only(get(debug::read_log).post(debug::post_log)),
        )
        .route("/debug/log/list", only(get(debug::list)))
        .route("/debug/compare", only(get(debug::compare)))
}

async fn other_method() -> Reply {
    let text = "The method is not allowed for the requested URL.";
    Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text))
}
