//! One suite, every backend: bare, and as the daemon uses it, inside its wrappers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "suites/backend.rs"]
mod backend;
#[path = "common/s3.rs"]
mod s3;

use std::sync::Arc;

use backend::conforms;
use larder::backends::memory::Memory;
use larder::backends::s3::S3;
use larder::backends::url::{Place, RemoteUrl};
use larder::backends::{Options, connect, wrap};
use larder::secret::{AccessKey, Credentials, Secret};

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
    served_with(dir, None).await
}

/// The same with a key, or without one.
async fn served_with(
    dir: &std::path::Path,
    key: Option<Secret>,
) -> (larder::server::Server, RemoteUrl) {
    let mut config = larder::server::ServeConfig::new(dir);
    config.host = "127.0.0.1".into();
    config.port = 0;
    config.allow_delete = true;
    config.key = key;
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

/// A server as a bucket: whether signatures are verified or not.
#[tokio::test(flavor = "multi_thread")]
async fn server_as_a_bucket() {
    for key in [None, Some(Secret::new(s3::SECRET).unwrap())] {
        let temp = tempfile::tempdir().unwrap();
        let (server, native) = served_with(temp.path(), key).await;
        let url = format!("s3://bucket/p?endpoint={}&region=us-east-1", native.shown());
        let url = RemoteUrl::parse(&url).unwrap();
        conforms(connect(&url, &access(), &Options::default()).unwrap()).await;
        server.stop().await;
    }
}

fn access() -> Credentials {
    let access = AccessKey {
        id: s3::KEY.into(),
        secret: Secret::new(s3::SECRET).unwrap(),
        session: None,
    };
    Credentials {
        key: None,
        access: Some(access),
    }
}

/// A bucket with `habits`, and a client for a prefix of it.
fn bucket(habits: s3::Habits) -> (s3::S3Server, RemoteUrl, Credentials) {
    let store = s3::S3Server::start(habits);
    let url = RemoteUrl::parse(&store.url("p//q/v1")).unwrap();
    (store, url, access())
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_bare() {
    let (store, url, credentials) = bucket(s3::Habits::default());
    let Place::S3(place) = url.place() else {
        panic!("not a bucket")
    };
    let options = Options::default();
    let bare = S3::new(place, url.shown(), credentials.access, &options);
    conforms(Arc::new(bare)).await;
    assert_eq!(store.keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_inside_wrappers() {
    let (store, url, credentials) = bucket(s3::Habits::default());
    conforms(connect(&url, &credentials, &Options::default()).unwrap()).await;
    assert_eq!(store.keys(), [""; 0]);
}

/// No checksums, and nothing kept of what users say: times are those of arrival.
#[tokio::test(flavor = "multi_thread")]
async fn bucket_without_checksums() {
    let (store, url, credentials) = bucket(s3::Habits {
        checksums: false,
        ..s3::Habits::default()
    });
    conforms(connect(&url, &credentials, &Options::default()).unwrap()).await;
    assert_eq!(store.keys(), [""; 0]);
}
