//! A bucket and a backend for it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use larder::backends::rate::Pace;
use larder::backends::s3::S3;
use larder::backends::url::{Place, RemoteUrl};
use larder::backends::{Download, Options, Upload};
use larder::error::Result;
use larder::object::Sha256;
use larder::path::RelPath;
use larder::secret::{AccessKey, Secret};
use sha2::Digest as _;

use crate::s3::{KEY, S3Server, SECRET};

pub const MTIME: i64 = 1_234_567_890_123_456_789;

pub fn access(secret: &str) -> AccessKey {
    AccessKey {
        id: KEY.into(),
        secret: Secret::new(secret).unwrap(),
        session: None,
    }
}

/// A bare backend for `url`.
pub fn at(url: &str, options: &Options) -> S3 {
    with(url, access(SECRET), options)
}

pub fn with(url: &str, access: AccessKey, options: &Options) -> S3 {
    let url = RemoteUrl::parse(url).unwrap();
    let Place::S3(place) = url.place() else {
        panic!("not a bucket")
    };
    S3::new(place, url.shown(), Some(access), options)
}

/// A bare backend for the prefix `p` of the bucket of `store`.
pub fn below(store: &S3Server, options: &Options) -> S3 {
    at(&store.url("p"), options)
}

pub fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// More than five parts.
pub const LARGE: usize = (41 << 20) + 17;

static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes = vec![0; LARGE];
    for (n, word) in bytes.chunks_mut(8).enumerate() {
        let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        word.copy_from_slice(&mixed[..word.len()]);
    }
    bytes.into()
});

/// `size` bytes, no part of which is like another.
pub fn bytes(size: usize) -> Bytes {
    BYTES.slice(..size)
}

pub fn upload(bytes: &[u8]) -> Upload {
    let file: File = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Upload {
        file: Arc::new(file.into()),
        size: bytes.len() as u64,
        mtime_ns: MTIME,
        sha256: Sha256(sha2::Sha256::digest(bytes).into()),
        pace: Pace::default(),
    }
}

pub async fn read(download: Download) -> Result<Vec<u8>> {
    let (mut body, mut bytes) = (download.body, Vec::new());
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
