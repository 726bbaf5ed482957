//! One suite, every backend: bare, and as the daemon uses it, inside its wrappers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "suites/backend.rs"]
mod backend;

use std::sync::Arc;

use backend::conforms;
use larder::backends::memory::Memory;
use larder::backends::url::RemoteUrl;
use larder::backends::{Options, connect, wrap};
use larder::secret::Credentials;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    conforms(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_inside_wrappers() {
    conforms(wrap(Arc::new(Memory::new()), &Options::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let temp = tempfile::tempdir().unwrap();
    let url = RemoteUrl::try_from(temp.path()).unwrap();
    conforms(connect(&url, &Credentials::default(), &Options::default()).unwrap()).await;
    let left: Vec<_> = std::fs::read_dir(temp.path().join(".larder/partial"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A server over an empty directory, and how it is reached.
async fn served(dir: &std::path::Path) -> (larder::server::Server, RemoteUrl) {
    let mut config = larder::server::ServeConfig::new(dir);
    config.host = "127.0.0.1".into();
    config.port = 0;
    config.allow_delete = true;
    let server = larder::server::start(config).await.unwrap();
    server.wait_scanned().await;
    let url = RemoteUrl::parse(&format!("http://{}", server.addr())).unwrap();
    (server, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn server() {
    let temp = tempfile::tempdir().unwrap();
    let (server, url) = served(temp.path()).await;
    let times = larder::backends::Timeouts::default();
    let bare = larder::backends::http::Http::new(&url, None, times).unwrap();
    conforms(Arc::new(bare)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_inside_wrappers() {
    let temp = tempfile::tempdir().unwrap();
    let (server, url) = served(temp.path()).await;
    conforms(connect(&url, &Credentials::default(), &Options::default()).unwrap()).await;
    server.stop().await;
}
