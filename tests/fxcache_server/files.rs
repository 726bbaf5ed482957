//! Files: downloads in whole and in part, uploads that are whole or nothing.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{bytes, eventually};
use crate::support::Site;

/// Check 5.
#[tokio::test]
async fn ranges_conditions_and_heads() {
    let site = Site::new(&[]).await;
    let path = "/download?path=TB/a.pkl";
    let whole = site.client.get(path).await;
    assert_eq!(whole.body, b"hello");
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "5"),
        ("content-disposition", "inline; filename=a.pkl"),
        ("last-modified", "Fri, 20 Nov 2026 14:57:59 GMT"),
        ("cache-control", "no-cache"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    let tag = whole.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 2);

    let get =
        async |name: &str, value: &str| site.client.ask("GET", path, &[(name, value)], b"").await;
    let part = get("range", "bytes=1-2").await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"el"[..]));
    assert_eq!(part.header("content-range"), "bytes 1-2/5");
    assert_eq!(get("range", "bytes=-2").await.body, b"lo");
    assert_eq!(get("range", "bytes=3-").await.body, b"lo");
    let outside = get("range", "bytes=9-").await;
    assert_eq!(outside.error().0, 416);
    assert_eq!(outside.header("content-range"), "bytes */5");
    let both = [("range", "bytes=1-2"), ("if-range", "\"other\"")];
    let answer = site.client.ask("GET", path, &both, b"").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (200, &b"hello"[..])
    );

    for (name, value) in [
        ("if-none-match", tag.as_str()),
        ("if-modified-since", whole.header("last-modified")),
    ] {
        let same = get(name, value).await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{name}");
    }
    let head = site.client.ask("HEAD", path, &[], b"").await;
    assert_eq!(head.header("content-length"), "5");
    assert_eq!(head.header("etag"), tag);
    assert!(head.body.is_empty());
    let empty = site.client.get("/download?path=empty.bin").await;
    assert_eq!(
        (empty.status.as_u16(), empty.header("content-length")),
        (200, "0")
    );
    for absent in ["no", "TB", "."] {
        let answer = site.client.get(&format!("/download?path={absent}")).await;
        assert_eq!(answer.error(), (404, "File not found".to_owned()));
    }
}

/// Check 6.
#[tokio::test]
async fn p8_an_upload_is_known_at_once() {
    let site = Site::new(&[]).await;
    let answer = site
        .client
        .post("/upload?path=NEW/./deep//f.bin", b"123")
        .await;
    let text = "{\"path\":\"NEW/deep/f.bin\",\"size\":3,\"status\":\"ok\"}\n";
    assert_eq!(String::from_utf8(answer.body).unwrap(), text);
    assert_eq!(fs::read(site.path("NEW/deep/f.bin")).unwrap(), b"123");
    assert!(site.client.exists("NEW/deep/f.bin").await);
    // The newest wins, and its time is now.
    let before = fs::metadata(site.path("TB/a.pkl"))
        .unwrap()
        .modified()
        .unwrap();
    site.client.post("/upload?path=TB/a.pkl", b"other").await;
    assert_eq!(
        site.client.get("/download?path=TB/a.pkl").await.body,
        b"other"
    );
    let age = fs::metadata(site.path("TB/a.pkl"))
        .unwrap()
        .modified()
        .unwrap()
        .elapsed();
    assert!(age.is_ok_and(|age| age < crate::common::SOON), "{before:?}");
    // Names that cannot be files, in the original's words but for where the folder is.
    for (path, text) in [
        ("TB", "[Errno 21] Is a directory: 'TB'"),
        (".", "[Errno 21] Is a directory: '.'"),
        ("TB/a.pkl/x", "[Errno 17] File exists: 'TB/a.pkl/x'"),
    ] {
        let answer = site
            .client
            .post(&format!("/upload?path={path}"), b"x")
            .await;
        assert_eq!(answer.error(), (500, text.to_owned()));
    }
    let long = "x".repeat(300);
    let (status, text) = site
        .client
        .post(&format!("/upload?path={long}"), b"x")
        .await
        .error();
    assert_eq!(
        (status, &text[..29]),
        (500, "[Errno 36] File name too long")
    );
}

/// Check 7.
#[tokio::test]
async fn an_empty_upload_is_none() {
    let site = Site::new(&[]).await;
    let answer = site.client.post("/upload?path=TB/a.pkl", b"").await;
    assert_eq!(answer.body, b"{\"error\":\"Empty body\"}\n");
    assert_eq!(answer.status, 400);
    assert_eq!(fs::read(site.path("TB/a.pkl")).unwrap(), b"hello");
    site.client.post("/upload?path=nothing", b"").await;
    assert!(!site.path("nothing").exists());
}

/// Check 8.
#[tokio::test]
async fn p1_large_uploads_arrive_bit_by_bit() {
    let site = Site::new(&[]).await;
    let content = bytes(8, 20 << 20);
    let file = site.lab.path("big");
    fs::write(&file, &content).unwrap();
    for (name, header) in [
        ("expected", "Expect: 100-continue"),
        ("chunked", "Transfer-Encoding: chunked"),
    ] {
        let url = format!("{}/upload?path=big/{name}", site.client.url);
        let sent = Command::new("curl")
            .args(["-fsS", "--max-time", "60", "-X", "POST", "-H", header, "-T"])
            .arg(&file)
            .arg(&url)
            .output()
            .unwrap();
        assert!(
            sent.status.success(),
            "{}",
            String::from_utf8_lossy(&sent.stderr)
        );
        assert!(
            fs::read(site.path(&format!("big/{name}"))).unwrap() == content,
            "{name}"
        );
        let back = site.client.get(&format!("/download?path=big/{name}")).await;
        assert!(back.body == content, "{name}");
    }
}

/// Check 9, its first half.
#[tokio::test]
async fn p1_a_client_that_dies_changes_nothing() {
    let site = Site::new(&[]).await;
    let address = site.client.url.strip_prefix("http://").unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    let head = "POST /upload?path=TB/a.pkl HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    half.write_all(head.as_bytes()).unwrap();
    half.write_all(&[b'x'; 400_000]).unwrap();
    let uploads = site.path(".larder/uploads");
    eventually("the upload has begun", || {
        fs::read_dir(&uploads).unwrap().count() == 1
    });
    drop(half);
    eventually("what came of it is gone", || {
        fs::read_dir(&uploads).unwrap().count() == 0
    });
    assert_eq!(
        site.client.get("/download?path=TB/a.pkl").await.body,
        b"hello"
    );
    assert_eq!(fs::read(site.path("TB/a.pkl")).unwrap(), b"hello");
}

/// Check 9, its second half.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p1_readers_never_see_a_mixture() {
    let site = Site::new(&[]).await;
    let versions: [Vec<u8>; 2] = [bytes(1, 150_000), bytes(2, 90_000)];
    let path = "/upload?path=hot.bin";
    site.client.post(path, &versions[0]).await;
    let done = AtomicBool::new(false);
    let read = async || {
        let mut seen = [0, 0];
        while !done.load(Ordering::Relaxed) {
            let answer = site.client.get("/download?path=hot.bin").await;
            assert_eq!(answer.status, 200);
            let which = versions.iter().position(|whole| *whole == answer.body);
            seen[which.expect("a whole version")] += 1;
        }
        seen
    };
    let write = async {
        for turn in 1..=200 {
            let answer = site.client.post(path, &versions[turn % 2]).await;
            assert_eq!(answer.status, 200);
        }
        done.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) = tokio::join!(read(), read(), write);
    assert!(first[0] + second[0] > 0 && first[1] + second[1] > 0);
}
