//! The client itself, without a mount: what it makes of the server's answers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use larder::backends::fxcache::Fxcache;
use larder::backends::rate::Pace;
use larder::backends::url::RemoteUrl;
use larder::backends::{Backend, Found, Timeouts, Upload};
use larder::error::{Kind, Result};
use larder::object::{ByteRange, Precondition, Sha256};
use larder::path::RelPath;
use sha2::Digest as _;

use super::common::{Lab, bytes, put};
use super::original::Original;

fn client(url: &str) -> Fxcache {
    let url = RemoteUrl::parse(url).unwrap();
    Fxcache::new(&url, None, Timeouts::default(), Duration::from_secs(30)).unwrap()
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

async fn read(
    client: &Fxcache,
    path: &str,
    range: Option<ByteRange>,
) -> Result<(ByteRange, Vec<u8>)> {
    let mut got = client.get(&key(path), range, None).await?;
    let mut all = Vec::new();
    while let Some(chunk) = got.body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok((got.range, all))
}

fn upload(content: &[u8]) -> Upload {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    Upload {
        file: Arc::new(file.into()),
        size: content.len() as u64,
        mtime_ns: 1,
        sha256: Sha256(sha2::Sha256::digest(content).into()),
        pace: Pace::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_ranges_and_what_lies_beyond_the_end() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"hello");
    put(&lab.path("original/empty.bin"), b"");
    let server = Original::start(&lab, &[]);
    let client = client(&server.url);
    assert_eq!(read(&client, "a.bin", None).await.unwrap().1, b"hello");
    let part = read(&client, "a.bin", Some(1..3)).await.unwrap();
    assert_eq!(part, (1..3, b"el".to_vec()));
    let tail = read(&client, "a.bin", Some(3..100)).await.unwrap();
    assert_eq!(tail, (3..5, b"lo".to_vec()));
    // It answers 500 there.
    let beyond = read(&client, "a.bin", Some(50..60)).await.unwrap();
    assert_eq!(beyond, (5..5, Vec::new()));
    let none = read(&client, "empty.bin", Some(0..10)).await.unwrap();
    assert_eq!(none, (0..0, Vec::new()));
    let error = read(&client, "none.bin", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

/// It speaks this language too, and calls its versions otherwise: a file must not seem to have
/// changed once for each of the two.
#[tokio::test(flavor = "multi_thread")]
async fn p8_a_larder_in_its_place_is_told_by_its_first_answer() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"hello");
    let server = Original::start(&lab, &[]);
    let client = client(&server.url);
    assert!(client.head(&key("a.bin")).await.unwrap().is_some());
    let port = server.port().to_owned();
    server.stop();
    let _larder = lab.serve_at("original", &port, &[]);
    let looked = client.head(&key("a.bin")).await.unwrap_err();
    let got = client.get(&key("a.bin"), None, None).await.map(drop);
    assert_eq!(
        (looked.kind(), got.unwrap_err().kind()),
        (Kind::Offline, Kind::Offline)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_file_that_changes_between_its_parts_is_stale() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), &bytes(1, 5000));
    let server = Original::start(&lab, &[]);
    let client = client(&server.url);
    let before = client.head(&key("a.bin")).await.unwrap().unwrap();
    fs::write(server.root.join("a.bin"), bytes(2, 5000)).unwrap();
    let again = client
        .get(&key("a.bin"), Some(100..200), Some(&before.version))
        .await;
    assert_eq!(again.err().unwrap().kind(), Kind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_upload_is_compared_before_it_is_sent() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"hello");
    let server = Original::start(&lab, &[]);
    let client = client(&server.url);
    let (a, new) = (key("a.bin"), key("deep/er/new.bin"));
    let refused = client.put(&a, upload(b"ours"), Precondition::Absent).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Conflict);
    let seen = client.head(&a).await.unwrap().unwrap().version;
    let meta = client
        .put(&a, upload(b"ours"), Precondition::Matches(seen.clone()))
        .await
        .unwrap();
    assert_eq!(meta.size, 4);
    assert_eq!(
        client.head(&a).await.unwrap().unwrap().version,
        meta.version
    );
    let late = client
        .put(&a, upload(b"late"), Precondition::Matches(seen))
        .await;
    assert_eq!(late.unwrap_err().kind(), Kind::Conflict);
    client
        .put(&new, upload(b"new"), Precondition::Absent)
        .await
        .unwrap();
    assert_eq!(
        fs::read(server.root.join("deep/er/new.bin")).unwrap(),
        b"new"
    );
    for (path, content) in [("empty.bin", b"".as_slice()), ("a..b.bin", b"dots")] {
        let refused = client
            .put(&key(path), upload(content), Precondition::Absent)
            .await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported, "{path}");
    }
    // A file where a directory is needed, and the other way about.
    for path in ["a.bin/below.bin", "deep"] {
        let refused = client
            .put(&key(path), upload(b"x"), Precondition::Absent)
            .await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Exists, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_names_are_found_with_and_without_its_index() {
    let lab = Lab::new();
    put(&lab.path("original/TB/a.bin"), b"hello");
    for args in [&[][..], &["--index-file", "refuse"][..]] {
        let server = Original::start(&lab, args);
        let client = client(&server.url);
        let can = client.capabilities().await.unwrap();
        assert_eq!(can.listing, args.is_empty());
        assert!(matches!(
            client.find(&key("TB/a.bin")).await.unwrap(),
            Found::Object(meta) if meta.size == 5
        ));
        for none in ["TB/none.bin", "a..b.bin", "none"] {
            let found = client.find(&key(none)).await.unwrap();
            assert_eq!(found, Found::Nothing, "{none}");
        }
        let dir = client.find(&key("TB")).await.unwrap();
        assert_eq!(dir == Found::Directory, !args.is_empty());
    }
}

/// Answers every request with this.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_an_error_page_is_no_file_and_no_absence() {
    let cases = [
        (
            "HTTP/1.1 500 INTERNAL SERVER ERROR\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
            Kind::Unavailable,
        ),
        (
            "HTTP/1.1 404 NOT FOUND\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
            Kind::Unsupported,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
            Kind::Corrupt,
        ),
        // Longer and shorter than its version.
        (
            "HTTP/1.1 200 OK\r\nETag: \"1.5-5-1\"\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello!",
            Kind::Corrupt,
        ),
        (
            "HTTP/1.1 200 OK\r\nETag: \"1.5-6-1\"\r\nDate: Fri, 20 Nov 2026 14:57:59 GMT\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhell",
            Kind::Corrupt,
        ),
    ];
    for (answer, kind) in cases {
        let client = client(&answering(answer));
        let error = read(&client, "a.bin", None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{answer}");
        assert!(!error.to_string().contains("<html>"), "{error}");
    }
}
