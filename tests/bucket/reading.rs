//! What comes down: parts at once, and proof of the whole.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use larder::backends::{Backend as _, Options};
use larder::error::Kind;

use crate::s3::{Habits, Op, S3Server};
use crate::support::{LARGE, below, bytes, p, read};

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_large_body_comes_in_parts_and_in_order() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", bytes(LARGE));
    store.set(|habits| habits.delay = Duration::from_millis(20));
    let s3 = below(&store, &Options::default());
    let got = s3.get(&p("a"), None, None).await.unwrap();
    assert!(got.is_proven);
    assert!(read(got).await.unwrap() == bytes(LARGE), "other bytes");
    assert_eq!(store.count(Op::Get), 6);
    assert!((2..=4).contains(&store.busiest()), "{}", store.busiest());
    let part = 5..(LARGE as u64 - 5);
    let got = s3.get(&p("a"), Some(part.clone()), None).await.unwrap();
    assert_eq!((got.range.clone(), got.is_proven), (part, false));
    assert!(
        read(got).await.unwrap() == bytes(LARGE)[5..LARGE - 5],
        "other bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_one_request_at_a_time_is_one() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", bytes(LARGE));
    let options = Options {
        requests: 1,
        ..Options::default()
    };
    let got = below(&store, &options)
        .get(&p("a"), None, None)
        .await
        .unwrap();
    assert!(read(got).await.unwrap() == bytes(LARGE), "other bytes");
    assert_eq!((store.count(Op::Get), store.busiest()), (1, 1));
}

/// Readers that do not read keep others from nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p9_many_large_bodies_share_the_room() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", bytes(LARGE));
    let s3 = below(&store, &Options::default());
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut got = s3.get(&p("a"), None, None).await.unwrap();
        got.body.next().await.unwrap().unwrap();
        idle.push(got);
    }
    let got = s3.get(&p("a"), None, None).await.unwrap();
    assert!(read(got).await.unwrap() == bytes(LARGE), "other bytes");
    for got in idle {
        drop(got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_version_that_is_replaced_amid_a_large_body_is_stale() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", bytes(LARGE));
    let s3 = below(&store, &Options::default());
    let mut got = s3.get(&p("a"), None, None).await.unwrap();
    got.body.next().await.unwrap().unwrap();
    store.place("p/a", vec![7; LARGE]);
    assert_eq!(read(got).await.unwrap_err().kind(), Kind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_wrong_bytes_of_the_right_length_are_not_read_to_their_end() {
    let store = S3Server::start(Habits::default());
    for size in [1, 100_000, LARGE] {
        // Rot: the ETag is that of other bytes.
        store.change("p/rot", bytes(size), |o| o.etag = "0".repeat(32));
        let crc = STANDARD.encode([9; 8]);
        store.change("p/crc", bytes(size), |o| o.crc64nvme = Some(crc));
        let s3 = below(&store, &Options::default());
        for key in ["rot", "crc"] {
            let got = s3.get(&p(key), None, None).await.unwrap();
            assert!(got.is_proven);
            let (mut body, mut came) = (got.body, 0);
            let error = loop {
                match body.next().await.unwrap() {
                    Ok(bytes) => came += bytes.len(),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), Kind::Corrupt, "{key}");
            assert!(
                came <= size.saturating_sub(64 << 10),
                "{key}: {came} of {size}"
            );
        }
    }
}

#[tokio::test]
async fn p1_what_proves_a_body_is_what_the_store_kept() {
    let store = S3Server::start(Habits::default());
    let body = bytes(300_000);
    let sum = STANDARD.encode(crc64nvme(&body));
    // The ETag of an object that came in parts is no hash.
    store.change("p/crc", body.clone(), |o| {
        (o.etag, o.crc64nvme) = (format!("{}-2", "0".repeat(32)), Some(sum));
    });
    store.change("p/parts", body.clone(), |o| {
        o.etag = format!("{}-2", "0".repeat(32))
    });
    store.place("p/md5", body.clone());
    let s3 = below(&store, &Options::default());
    for (key, is_proven) in [("crc", true), ("parts", false), ("md5", true)] {
        let got = s3.get(&p(key), None, None).await.unwrap();
        assert_eq!(got.is_proven, is_proven, "{key}");
        assert!(read(got).await.unwrap() == body, "{key}");
    }
    // A hash of ours or the store's goes to whoever publishes the file.
    let sha256 = crate::support::upload(&body).sha256;
    store.change("p/sha", body.clone(), |o| {
        o.sha256 = Some(STANDARD.encode(sha256.0))
    });
    let got = s3.get(&p("sha"), None, None).await.unwrap();
    assert_eq!((got.meta.sha256, got.is_proven), (Some(sha256), false));
}

fn crc64nvme(bytes: &[u8]) -> [u8; 8] {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x9a6c_9329_ac4b_c9b5 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).to_be_bytes()
}
