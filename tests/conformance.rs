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
    conforms(connect(&url, None, &Options::default()).unwrap()).await;
    let left: Vec<_> = std::fs::read_dir(temp.path().join(".larder/partial"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
