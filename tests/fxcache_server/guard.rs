//! What the original lets anybody do, and this does not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::common::{Lab, put};
use crate::support::{Site, fill};

/// Check 12.
#[tokio::test]
async fn p10_nothing_is_reached_through_links() {
    let site = Site::new(&[]).await;
    let outside = site.lab.dir("outside");
    put(&outside.join("secret"), b"secret");
    symlink(&outside, site.path("l")).unwrap();
    symlink(outside.join("secret"), site.path("f")).unwrap();
    symlink("/etc", site.path("etc")).unwrap();
    site.client.post("/refresh?mode=full", b"").await;
    site.client.refreshed().await;
    for path in ["l/secret", "f", "etc/hostname", "l"] {
        let answer = site.client.get(&format!("/download?path={path}")).await;
        assert!([403, 404].contains(&answer.status.as_u16()), "{path}");
        assert!(!site.client.exists(path).await, "{path}");
        site.client
            .post(&format!("/upload?path={path}"), b"evil")
            .await;
        assert!(!String::from_utf8_lossy(&answer.body).contains("/etc/"));
    }
    site.client.post("/upload?path=l/new", b"evil").await;
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Check 13.
#[tokio::test]
async fn p10_what_is_ours_is_neither_served_nor_overwritten() {
    let lab = Lab::new();
    let root = lab.dir("root");
    fill(&root);
    put(&root.join(".fxcache_index.db"), b"index");
    let site = Site::start(lab, &["--allow-delete"]);
    site.client.refreshed().await;
    for name in [
        ".fxcache_index.db",
        ".fxcache_index.db-wal",
        ".larder/serve.db",
        ".LARDER/serve.db",
        ".larder",
    ] {
        let answer = site.client.get(&format!("/download?path={name}")).await;
        assert_eq!(answer.error(), (404, "File not found".to_owned()), "{name}");
        let answer = site
            .client
            .post(&format!("/upload?path={name}"), b"evil")
            .await;
        assert_eq!(answer.error().0, 403, "{name}");
        for method in ["GET", "PUT", "DELETE"] {
            let answer = site
                .client
                .ask(method, &format!("/v1/files/{name}"), &[], b"evil")
                .await;
            assert!(
                answer.status.is_client_error(),
                "{method} {name}: {}",
                answer.status
            );
        }
        assert!(!site.client.exists(name).await);
    }
    assert_eq!(fs::read(site.path(".fxcache_index.db")).unwrap(), b"index");
    assert!(!site.path(".fxcache_index.db-wal").exists() && !site.path(".LARDER").exists());
    let listing = site.client.get("/v1/index").await;
    assert!(!String::from_utf8_lossy(&listing.body).contains("fxcache_index"));
    // Other names with a dot are files like any other.
    assert_eq!(site.client.get("/download?path=.dot").await.body, b"d");
    assert_eq!(
        site.client.post("/upload?path=.other", b"1").await.status,
        200
    );
}

#[tokio::test]
async fn p10_writing_needs_the_key_as_soon_as_there_is_one() {
    let lab = Lab::new();
    fill(&lab.dir("root"));
    let key = lab.path("key");
    fs::write(&key, "right").unwrap();
    let site = Site::start(lab, &["--key-file", key.to_str().unwrap()]);
    site.client.refreshed().await;
    for path in ["/upload?path=n", "/refresh", "/rebuild", "/debug/log"] {
        let answer = site.client.post(path, b"{\"machine\":\"m\"}").await;
        assert_eq!(
            answer.error(),
            (
                401,
                "this server needs a key: send it as X-API-Key".to_owned()
            )
        );
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let with = [("X-API-Key", "right")];
    let answer = site.client.ask("POST", "/upload?path=n", &with, b"1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(site.client.get("/download?path=n").await.body, b"1");
}

#[tokio::test]
async fn p10_without_a_key_no_web_page_writes_unless_that_was_said() {
    let site = Site::new(&[]).await;
    let page = [("Origin", "http://evil.example")];
    let answer = site.client.ask("POST", "/upload?path=n", &page, b"1").await;
    let (status, text) = answer.error();
    assert_eq!(status, 403);
    assert!(text.contains("--open-writes"), "{text}");
    assert!(!site.path("n").exists());
    let site = Site::new(&["--open-writes"]).await;
    let answer = site.client.ask("POST", "/upload?path=n", &page, b"1").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn p10_a_read_key_guards_every_answer() {
    let lab = Lab::new();
    fill(&lab.dir("root"));
    let key = lab.path("key");
    fs::write(&key, "reader").unwrap();
    let site = Site::start(lab, &["--read-key-file", key.to_str().unwrap()]);
    let with = [("Authorization", "Bearer reader")];
    for path in [
        "/health",
        "/exists?path=TB/a.pkl",
        "/download?path=TB/a.pkl",
        "/refresh/status",
        "/debug/log",
        "/debug/log/list",
        "/debug/compare",
        "/v1/page",
    ] {
        assert_eq!(site.client.get(path).await.status, 401, "{path}");
        assert_ne!(
            site.client.ask("GET", path, &with, b"").await.status,
            401,
            "{path}"
        );
    }
    assert_eq!(site.client.batch("{\"paths\":[]}").await.status, 401);
}

/// No answer but `/health` may say where the folder is.
#[tokio::test]
async fn p10_errors_have_no_absolute_paths() {
    let site = Site::new(&[]).await;
    let long = "y/".repeat(2100);
    let root = site.root.to_str().unwrap().to_owned();
    for (method, path) in [
        ("GET", "/download?path=TB"),
        ("GET", "/nothing"),
        ("GET", "/upload?path=x"),
        ("PUT", "/upload?path=x"),
        ("POST", "/upload?path=TB"),
        ("POST", "/upload?path=TB/a.pkl/x/y"),
        ("POST", "/upload?path=.larder/x"),
        ("POST", &format!("/upload?path={long}z")),
        ("DELETE", "/exists?path=x"),
    ] {
        let answer = site.client.ask(method, path, &[], b"x").await;
        assert!(
            answer.status.as_u16() >= 400,
            "{method} {path}: {}",
            answer.status
        );
        let text = String::from_utf8(answer.body).unwrap();
        assert!(
            !text.contains(&root) && text.contains("\"error\""),
            "{text}"
        );
    }
    let answer = site.client.ask("PUT", "/upload?path=x", &[], b"x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (405, "POST")
    );
}

/// Whatever is sent, the server answers, and goes on answering.
#[tokio::test]
async fn p10_nonsense_is_answered_and_survived() {
    let site = Site::new(&[]).await;
    let address = site.client.url.strip_prefix("http://").unwrap().to_owned();
    let deep = format!("{{\"paths\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let batch = |body: &str| {
        let length = body.len();
        format!(
            "POST /exists_batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    for text in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /exists?path=%zz%&&=&path HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("GET /exists?path={} HTTP/1.1\r\nHost: x\r\n\r\n", "%ff".repeat(9000)),
        "GET /download?path=TB/a.pkl HTTP/1.1\r\nHost: x\r\nRange: bytes=99999999999999999999-\r\n\r\n".to_owned(),
        "POST /upload?path=x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /upload?path=x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        batch(&deep),
        batch("{\"paths\":[\"\\ud800\"]}"),
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 5"), "{text:.80}: {}", String::from_utf8_lossy(&said));
    }
    assert!(site.client.exists("TB/a.pkl").await);
    assert!(!site.path("x").exists());
}
