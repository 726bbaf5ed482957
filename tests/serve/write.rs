//! Writing: uploads, their preconditions, deletes.

use std::os::unix::fs::MetadataExt;

use larder::wire::digest_header;
use reqwest::{Body, Method, StatusCode};
use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn p13_an_upload_keeps_its_bytes_and_its_time() {
    let site = Site::new().await;
    let request = site
        .file(Method::PUT, "new/deep/f%20%FF.bin")
        .header("x-mtime-ns", "1600000000123456789")
        .header("content-digest", digest_header(&sha256(b"abc")))
        .body("abc");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(header(&response, "x-mtime-ns"), "1600000000123456789");
    assert_eq!(
        header(&response, "repr-digest"),
        digest_header(&sha256(b"abc"))
    );
    let etag = header(&response, "etag");
    let got = site.get("new/deep/f%20%FF.bin").await;
    assert_eq!(header(&got, "etag"), etag);
    assert_eq!(got.bytes().await.unwrap(), "abc");
    assert_eq!(site.put("empty", b"").await.status(), StatusCode::CREATED);
    assert_eq!(std::fs::metadata(site.path("empty")).unwrap().size(), 0);
    assert_eq!(site.put("empty", b"1").await.status(), StatusCode::OK);
    assert_eq!(leftovers(&site), 0);
}

fn leftovers(site: &Site) -> usize {
    std::fs::read_dir(site.path(".larder/uploads"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_what_is_not_whole_is_not_accepted() {
    let site = Site::with(&[("a", b"old")]).await;
    let request = site
        .file(Method::PUT, "a")
        .header("content-digest", digest_header(&sha256(b"other")))
        .body("new");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.text().await.unwrap().contains("digest mismatch"));

    // A client that goes away in the middle.
    let mut half = tokio::net::TcpStream::connect(site.server.addr())
        .await
        .unwrap();
    half.write_all(b"PUT /v1/files/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .await
        .unwrap();
    half.write_all(&vec![7; 500_000]).await.unwrap();
    eventually("the upload has begun", async || leftovers(&site) == 1).await;
    drop(half);
    eventually("what came of it is gone", async || leftovers(&site) == 0).await;
    assert_eq!(site.bytes("a").await, b"old");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_chunked_and_large_uploads_arrive_exactly() {
    let site = Site::new().await;
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
    let pieces: Vec<_> = bytes.chunks(70_001).map(<[u8]>::to_vec).collect();
    let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    let request = site
        .file(Method::PUT, "big")
        .body(Body::wrap_stream(stream));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(site.bytes("big").await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_of_many_that_create_one_wins() {
    let site = Site::new().await;
    for round in 0..10 {
        let name = format!("d{round}/x");
        let tries = (0..12).map(|n| {
            let request = site.file(Method::PUT, &name).header("if-none-match", "*");
            request.body(format!("writer {n}")).send()
        });
        let answers = futures_util::future::join_all(tries).await;
        let mut created = 0;
        for answer in answers {
            match answer.unwrap().status() {
                StatusCode::CREATED => created += 1,
                status => assert_eq!(status, StatusCode::PRECONDITION_FAILED),
            }
        }
        assert_eq!(created, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_of_many_that_replace_one_version_one_wins() {
    let site = Site::with(&[("x", b"first")]).await;
    let mut etag = header(&site.get("x").await, "etag");
    for round in 0..10 {
        let tries = (0..12).map(|n| {
            let request = site.file(Method::PUT, "x").header("if-match", &etag);
            // The same length and the same time: only the version can tell them apart.
            let request = request.header("x-mtime-ns", "1600000000000000000");
            request.body(format!("{round:02} writer {n:02}")).send()
        });
        let answers = futures_util::future::join_all(tries).await;
        let mut winner = None;
        for answer in answers {
            let answer = answer.unwrap();
            match answer.status() {
                StatusCode::OK => assert!(winner.replace(header(&answer, "etag")).is_none()),
                status => assert_eq!(status, StatusCode::PRECONDITION_FAILED),
            }
        }
        let next = winner.unwrap();
        assert_ne!(next, etag);
        etag = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_readers_never_see_a_mixture_during_overwrites() {
    let site = Site::with(&[("x", &vec![0u8; 100_000])]).await;
    let writes = async {
        for round in 1..=60u8 {
            let status = site.put("x", &vec![round; 100_000]).await.status();
            assert_eq!(status, StatusCode::OK);
        }
    };
    let reads = async {
        let mut last = 0;
        while last < 60 {
            let response = site.get("x").await;
            assert_eq!(response.status(), StatusCode::OK);
            let digest = header(&response, "repr-digest");
            let bytes = response.bytes().await.unwrap();
            assert_eq!(bytes.len(), 100_000);
            assert!(bytes.iter().all(|b| *b == bytes[0]));
            assert_eq!(digest, digest_header(&sha256(&bytes)));
            assert!(bytes[0] >= last);
            last = bytes[0];
        }
    };
    tokio::join!(writes, reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_cannot_be_files_are_conflicts() {
    let site = Site::with(&[("d/f", b"1")]).await;
    assert_eq!(site.put("d", b"x").await.status(), StatusCode::CONFLICT);
    assert_eq!(site.put("d/f/x", b"x").await.status(), StatusCode::CONFLICT);
    let long = "n".repeat(256);
    assert_eq!(
        site.put(&long, b"x").await.status(),
        StatusCode::BAD_REQUEST
    );
    for (name, value) in [("if-match", "*"), ("x-mtime-ns", "soon")] {
        let request = site.file(Method::PUT, "y").header(name, value).body("x");
        let status = request.send().await.unwrap().status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}");
    }
    assert_eq!(leftovers(&site), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_delete_is_conditional_and_takes_empty_directories_along() {
    let site = Site::with(&[("d/e/f", b"1"), ("keep/g", b"2"), ("keep/h", b"3")]).await;
    let etag = header(&site.get("d/e/f").await, "etag");
    let delete = |name: &'static str, tag: &str| {
        let request = site.file(Method::DELETE, name).header("if-match", tag);
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(
        delete("d/e/f", "\"x\"").await,
        StatusCode::PRECONDITION_FAILED
    );
    let info = site.info().await;
    assert_eq!(delete("d/e/f", &etag).await, StatusCode::NO_CONTENT);
    assert!(!site.path("d").exists());
    let (changes, _) = site.changes(&info.epoch, info.seq, 0).await;
    assert_eq!(changes.len(), 1);
    assert!(is_deleted("d/e/f")(&changes[0]));
    let again = site.file(Method::DELETE, "d/e/f").send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    site.file(Method::DELETE, "keep/g").send().await.unwrap();
    assert!(site.path("keep/h").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_full_disk_takes_nothing_and_keeps_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path(), "size=2m");
    let site = Site::over(dir, |_| {}).await;
    assert_eq!(site.put("a", b"old").await.status(), StatusCode::CREATED);
    let full = site.put("a", &vec![1; 4 << 20]).await;
    assert_eq!(full.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(site.bytes("a").await, b"old");
    assert_eq!(leftovers(&site), 0);
    let Site { dir, server, .. } = site;
    server.stop().await;
    drop(mount);
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_part_of_a_file_is_not_taken_for_all_of_it() {
    let site = Site::with(&[("a", b"0123456789")]).await;
    let request = site.file(Method::PUT, "a");
    let request = request
        .header("content-range", "bytes 5-9/10")
        .body("56789");
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(site.bytes("a").await, b"0123456789");
}
