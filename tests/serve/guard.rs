//! Keys, limits, TLS, one server a directory.

use larder::error::Kind;
use larder::object::Version;
use larder::secret::Secret;
use larder::server::start;
use larder::wire::Line;
use reqwest::{Method, StatusCode};

use crate::support::*;

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_writes_need_the_key_and_guessing_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::over(dir, |config| config.key = secret("right")).await;
    let put = async |header: &str, value: &str| {
        let request = site.file(Method::PUT, "a").header(header, value).body("1");
        request.send().await.unwrap().status()
    };
    let bare = site.put("a", b"1").await;
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(header(&bare, "www-authenticate"), "Bearer");
    assert_eq!(put("x-api-key", "wrong").await, StatusCode::UNAUTHORIZED);
    assert_eq!(put("x-api-key", "right").await, StatusCode::CREATED);
    assert_eq!(put("authorization", "Bearer right").await, StatusCode::OK);
    assert_eq!(put("authorization", "bearer right").await, StatusCode::OK);
    // Reads stay open, and say what the asker may do.
    assert_eq!(site.bytes("a").await, b"1");
    assert_eq!(site.info().await.capabilities, ["batch", "changes"]);
    for _ in 0..9 {
        assert_eq!(put("x-api-key", "guess").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        put("x-api-key", "right").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(site.bytes("a").await, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_read_key_guards_everything() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"1");
    let site = Site::over(dir, |config| {
        config.key = secret("writer");
        config.read_key = secret("reader");
    })
    .await;
    for path in [
        "/v1/info",
        "/v1/index",
        "/v1/changes?epoch=x&since=0",
        "/v1/stats",
        "/v1/files/a",
    ] {
        let bare = site.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(bare.status(), StatusCode::UNAUTHORIZED, "{path}");
        for key in ["reader", "writer"] {
            let request = site.ask(Method::GET, path).header("x-api-key", key);
            let status = request.send().await.unwrap().status();
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{path} {key}");
        }
    }
    let request = site.file(Method::PUT, "b").header("x-api-key", "reader");
    let status = request.body("2").send().await.unwrap().status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = site
        .batch(&[Line::wanted(&key("a"), &Version::new("v").unwrap())])
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_without_a_key_this_machine_writes_but_no_web_page() {
    let site = Site::new().await;
    assert_eq!(site.put("a", b"1").await.status(), StatusCode::CREATED);
    let all = ["batch", "changes", "put", "delete"];
    assert_eq!(site.info().await.capabilities, all);
    let request = site.file(Method::PUT, "b").header("origin", "http://evil");
    let status = request.body("2").send().await.unwrap().status();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        site.server
            .notes()
            .iter()
            .any(|note| note.contains("no key"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_deletes_must_be_allowed() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"1");
    let site = Site::over(dir, |config| config.allow_delete = false).await;
    let delete = site.file(Method::DELETE, "a").send().await.unwrap();
    assert_eq!(delete.status(), StatusCode::FORBIDDEN);
    assert!(site.path("a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_of_a_directory_is_refused() {
    let site = Site::new().await;
    let Err(error) = start(config(site.dir.path())).await else {
        panic!("two servers share an index");
    };
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains(&std::process::id().to_string()));
    let mut taken = config(tempfile::tempdir().unwrap().path());
    taken.port = site.server.addr().port();
    let Err(error) = start(taken).await else {
        panic!("two servers share a port");
    };
    assert_eq!(error.kind(), Kind::Busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_those_who_wait() {
    let site = Site::new().await;
    let info = site.info().await;
    let path = format!(
        "/v1/changes?epoch={}&since={}&wait=60",
        info.epoch, info.seq
    );
    let waiting = tokio::spawn(site.ask(Method::GET, &path).send());
    eventually("the question waits", async || {
        site.server.stats().changes == 1
    })
    .await;
    let start = std::time::Instant::now();
    site.server.stop().await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_tls_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"1");
    let keys = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, secret) = (keys.path().join("cert.pem"), keys.path().join("key.pem"));
    write(&cert, made.cert.pem().as_bytes());
    write(&secret, made.signing_key.serialize_pem().as_bytes());
    let site = Site::over(dir, |config| config.tls = Some((cert, secret))).await;
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let _ = client();
    let client = reqwest::Client::builder()
        .tls_certs_only([trusted])
        .resolve("localhost", site.server.addr())
        .build()
        .unwrap();
    let url = |scheme| {
        let port = site.server.addr().port();
        format!("{scheme}://localhost:{port}/v1/files/a")
    };
    let response = client.get(url("https")).send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), "1");
    assert!(client.get(url("http")).send().await.is_err());
    assert!(site.server.url().starts_with("https://"));

    let mut bad = config(site.dir.path());
    bad.tls = Some((site.path("a"), site.path("a")));
    let error = start(bad).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_served_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path(), "size=2m");
    write(&dir.path().join("a"), b"1");
    mount.read_only();
    let state = tempfile::tempdir().unwrap();
    let place = state.path().to_owned();
    let site = Site::over(dir, |config| config.state_dir = Some(place)).await;
    assert_eq!(site.bytes("a").await, b"1");
    assert_eq!(site.put("b", b"2").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(site.info().await.capabilities, ["batch", "changes"]);
    assert!(site.server.notes()[0].contains("for reading only"));
    let Site { dir, server, .. } = site;
    server.stop().await;
    drop(mount);
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_more_connections_than_allowed_wait_for_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"1");
    let site = Site::over(dir, |config| config.connections = 2).await;
    let idle = tokio::net::TcpStream::connect(site.server.addr()).await;
    let other = tokio::net::TcpStream::connect(site.server.addr()).await;
    let ask = tokio::spawn(site.file(Method::GET, "a").send());
    drop((idle, other));
    assert_eq!(ask.await.unwrap().unwrap().status(), StatusCode::OK);
}
