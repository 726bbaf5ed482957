//! Which request goes where, who may make it, and how many came.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use serde::{Deserialize, Serialize};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::error::{Error, Kind};
use crate::metrics::Counter;
use crate::path::RelPath;
use crate::wire::FILES;

use super::App;
use super::access::Need;
use super::fxcache::{self, Refusal};
use super::problem::{Answer, Problem};
use super::{activity, batch, delete, get as read, listing, page, put, s3};

/// Where a connection comes from; put into every request of it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// How many requests came, by kind.
#[derive(Debug, Default)]
pub struct Counters {
    info: Counter,
    index: Counter,
    changes: Counter,
    batch: Counter,
    get: Counter,
    head: Counter,
    put: Counter,
    delete: Counter,
    page: Counter,
    other: Counter,
}

/// [`Counters`] at one moment: `GET /v1/stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub info: u64,
    pub index: u64,
    pub changes: u64,
    /// Files of these are not in `get`.
    pub batch: u64,
    pub get: u64,
    pub head: u64,
    pub put: u64,
    pub delete: u64,
    /// Looks at the page for people.
    pub page: u64,
    /// Whatever else was asked for.
    pub other: u64,
}

impl Counters {
    /// Something that is neither of a file nor a listing.
    pub fn other(&self) {
        self.other.add(1);
    }

    /// Somebody looks at the page.
    pub fn page(&self) {
        self.page.add(1);
    }

    /// A file was asked for.
    pub fn read_of(&self, is_head: bool) {
        match is_head {
            true => self.head.add(1),
            false => self.get.add(1),
        }
    }

    /// A file was to be deleted.
    pub fn deletion(&self) {
        self.delete.add(1);
    }

    /// A file was sent.
    pub fn write(&self) {
        self.put.add(1);
    }

    pub fn read(&self) -> Stats {
        Stats {
            info: self.info.get(),
            index: self.index.get(),
            changes: self.changes.get(),
            batch: self.batch.get(),
            get: self.get.get(),
            head: self.head.get(),
            put: self.put.get(),
            delete: self.delete.get(),
            page: self.page.get(),
            other: self.other.get(),
        }
    }
}

/// The whole service: three protocols and a page for people on one port.
pub fn router(app: Arc<App>) -> Router {
    native()
        .merge(fxcache::router())
        .merge(page::router())
        .fallback(any(unknown))
        .layer(from_fn_with_state(app.clone(), s3::taken))
        .layer(from_fn_with_state(app.clone(), activity::noted))
        .with_state(app)
}

/// The protocol under `/v1/`.
fn native() -> Router<Arc<App>> {
    let packed = CompressionLayer::new().quality(CompressionLevel::Fastest);
    let listings = Router::new()
        .route("/v1/index", get(index))
        .route("/v1/changes", get(changes))
        .layer(packed);
    Router::new()
        .route("/v1/info", get(info))
        .route("/v1/stats", get(stats))
        .route("/v1/batch", post(many))
        .route("/v1/files/{*path}", any(file))
        .merge(listings)
}

type Asked = (State<Arc<App>>, Extension<Peer>);

async fn info((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    app.counters.info.add(1);
    app.access.check(Need::Read, peer.0, request.headers())?;
    listing::info(&app, peer.0, request.headers())
}

async fn stats((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    app.access.check(Need::Read, peer.0, request.headers())?;
    listing::json(&app.counters.read())
}

async fn index((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    app.counters.index.add(1);
    app.access.check(Need::Read, peer.0, request.headers())?;
    listing::index(&app).await
}

async fn changes((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    app.counters.changes.add(1);
    app.access.check(Need::Read, peer.0, request.headers())?;
    let since = Query::try_from_uri(request.uri()).map_err(|_| {
        let why = "changes are asked for with epoch=, since= and perhaps wait=";
        Problem::new(StatusCode::BAD_REQUEST, why)
    })?;
    listing::changes(&app, since.0).await
}

/// `POST /v1/batch`.
async fn many((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    app.counters.batch.add(1);
    let (parts, body) = request.into_parts();
    if let Err(problem) = app.access.check(Need::Read, peer.0, &parts.headers) {
        put::drain(&mut body.into_data_stream()).await;
        return Err(problem);
    }
    batch::batch(&app, peer.0, body).await
}

/// `/v1/files/…`, every method.
async fn file((State(app), Extension(peer)): Asked, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let (need, counter) = match parts.method {
        Method::GET => (Need::Read, &app.counters.get),
        Method::HEAD => (Need::Read, &app.counters.head),
        Method::PUT => (Need::Write, &app.counters.put),
        Method::DELETE => (Need::Write, &app.counters.delete),
        _ => {
            app.counters.other.add(1);
            let why = "a file takes GET, HEAD, PUT and DELETE";
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, why));
        }
    };
    counter.add(1);
    let allowed = app.access.check(need, peer.0, &parts.headers);
    let key = match allowed.and_then(|()| Ok(key_of(&parts.uri)?)) {
        Ok(key) => key,
        Err(problem) => {
            put::drain(&mut body.into_data_stream()).await;
            return Err(problem);
        }
    };
    let about = HeaderValue::from_str(&format!("{FILES}{}", key.encode()));
    let answer = match parts.method {
        Method::PUT => put::put(&app, key, &parts.headers, body).await,
        Method::DELETE => delete::delete(&app, key, &parts.headers).await,
        method => read::get(&app, key, &parts.headers, method == Method::HEAD).await,
    };
    let mut answer = answer.into_response();
    if let Ok(about) = about {
        answer.headers_mut().insert(header::CONTENT_LOCATION, about);
    }
    Ok(answer)
}

/// The path as it stands in the URL: bytes, which need not be UTF-8.
fn key_of(uri: &Uri) -> Result<RelPath, Error> {
    let text = uri.path().strip_prefix(FILES).unwrap_or_default();
    let key = RelPath::decode(text)?;
    if key.is_root() {
        return Err(Error::new(Kind::Invalid, "the path is empty"));
    }
    Ok(key)
}

async fn unknown((State(app), _): Asked, request: Request) -> axum::http::Response<Body> {
    app.counters.other();
    let why = "there is nothing at this address";
    match request.uri().path().starts_with("/v1/") {
        true => Problem::new(StatusCode::NOT_FOUND, why).into_response(),
        false => Refusal::new(StatusCode::NOT_FOUND, why).into_response(),
    }
}
