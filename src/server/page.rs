//! `GET /`: a page for people, and the facts that it shows.
//!
//! The page itself is always the same and says nothing of this server; what it shows comes from
//! `/v1/page`, which the read key guards like everything else. It runs no script and loads nothing
//! but its own, and puts what it is told into the document as text only.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::App;
use super::access::Need;
use super::activity::{Client, Failed, Recent};
use super::listing;
use super::problem::Answer;
use super::routes::Peer;

const PAGE: &str = include_str!("page.html");

/// Allows the page's own style and script, by their hashes, and nothing else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let text = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("style"),
        hash_of("script")
    );
    // Base64 and words; should it ever not be a header, nothing may run at all.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Of what stands between the page's two tags of this name.
fn hash_of(tag: &str) -> String {
    let inside = PAGE
        .split_once(&format!("<{tag}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")))
        .map_or("", |(inside, _)| inside);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inside)))
}

/// The page and its facts.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(page))
        .route("/v1/page", get(facts))
}

async fn page() -> Response<Body> {
    let mut response = Response::new(Body::from(PAGE));
    let headers = response.headers_mut();
    let mut set = |name, text| headers.insert(name, HeaderValue::from_static(text));
    set(header::CONTENT_TYPE, "text/html; charset=utf-8");
    set(header::CACHE_CONTROL, "no-cache");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

#[derive(Serialize)]
struct Facts<'a> {
    url: &'a str,
    version: &'static str,
    /// The directory's own name, not where it is.
    name: String,
    files: u64,
    bytes: u64,
    now_ms: i64,
    began_ms: i64,
    index: Freshness,
    access: &'static str,
    /// Whether uploads can be taken at all.
    writable: bool,
    uploads: u64,
    downloads: u64,
    received: u64,
    sent: u64,
    you: IpAddr,
    recent: Vec<Recent>,
    clients: Vec<Client>,
    errors: Vec<Failed>,
}

#[derive(Serialize)]
struct Freshness {
    /// Whether the directory is there.
    present: bool,
    /// Whether everything was seen once.
    scanned: bool,
    sweeping: bool,
    swept_files: u64,
    /// The last sweep of this run.
    last_ms: Option<i64>,
    last_seconds: Option<f64>,
    /// Whether the system tells of changes.
    watching: bool,
}

async fn facts(
    (State(app), Extension(peer)): (State<Arc<App>>, Extension<Peer>),
    request: Request,
) -> Answer {
    app.counters.page();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let (files, bytes) = app.tree.index.totals();
    let (activity, last) = (&app.activity, app.refresh.last());
    let name = app.tree.root.path().file_name().unwrap_or_default();
    let mut response = listing::json(&Facts {
        url: &app.url,
        version: env!("CARGO_PKG_VERSION"),
        name: name.to_string_lossy().into_owned(),
        files,
        bytes,
        now_ms: activity.now_ms(),
        began_ms: activity.began_ms,
        index: Freshness {
            present: app.tree.root.check().is_ok(),
            scanned: app.tree.index.is_scanned(),
            sweeping: app.refresh.is_sweeping(),
            swept_files: app.refresh.so_far().0,
            last_ms: last.map(|last| last.at_ms),
            last_seconds: last.map(|last| last.took.as_secs_f64()),
            watching: !app.refresh.is_blind(),
        },
        access: app.access.describe(),
        writable: app.uploads.is_some(),
        uploads: activity.uploads.get(),
        downloads: activity.downloads.get(),
        received: activity.received.get(),
        sent: activity.sent.get(),
        you: peer.0.to_canonical(),
        recent: activity.recent(),
        clients: activity.clients(),
        errors: activity.failed(),
    })?;
    let fresh = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, fresh);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_the_page_has_one_style_one_script_and_nothing_from_elsewhere() {
        for tag in ["<style>", "</style>", "<script>", "</script>"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            " style=",
            " onclick=",
            " src=",
            "javascript:",
            "setAttribute(\"on",
        ] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(POLICY.to_str().unwrap().contains("script-src 'sha256-"));
    }
}
