//! Clients that mean harm: names in every spelling, links that change, heads without end, guesses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::secret::Secret;
use reqwest::{Method, StatusCode};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::*;

/// Sends these bytes and gives what comes until the server closes, or is silent for long.
async fn raw(site: &Site, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.server.addr()).await.unwrap();
    let _ = stream.write_all(text).await;
    let mut said = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// A request as it stands, unlike those of clients that put paths right before they send them.
async fn asks(site: &Site, method: &str, target: &str) -> String {
    let length = match method {
        "PUT" | "POST" => "content-length: 1\r\n",
        _ => "",
    };
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{length}connection: close\r\n\r\n");
    raw(
        site,
        format!("{head}{}", if length.is_empty() { "" } else { "x" }).as_bytes(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_no_spelling_of_a_path_leads_out() {
    let around = tempfile::tempdir().unwrap();
    write(&around.path().join("secret"), b"outside of the tree");
    let inside = tempfile::tempdir_in(around.path()).unwrap();
    let site = Site::over(inside, |_| {}).await;
    write(&site.path("sub/a"), b"1");
    let ups = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "%e0%80%ae%e0%80%ae",
        "..%00",
        "..;",
        "..%5c..",
        "..\\..",
        "%uff0e%uff0e",
        "....",
        "sub%2f..%2f..",
    ];
    let absolute = around.path().join("secret");
    let absolute = absolute.to_str().unwrap().trim_start_matches('/');
    let mut paths: Vec<String> = ["/", "%2f", "%5c", "\\", "//", "/./", "%252f"]
        .iter()
        .flat_map(|slash| ups.iter().map(move |up| format!("{up}{slash}secret")))
        .collect();
    paths.extend(["/", "//", "%2f", "%2F%2f", "file:///"].map(|root| format!("{root}{absolute}")));
    for before in [
        "/v1/files/",
        "/v1/files/sub/../",
        "/download?path=",
        "/exists?path=",
        "/bucket/",
        "/",
        "http://x/v1/files/",
    ] {
        for path in &paths {
            let said = asks(&site, "GET", &format!("{before}{path}")).await;
            assert!(
                !said.contains("outside of the tree"),
                "{before}{path}: {said}"
            );
            assert!(said.starts_with("HTTP/1.1 "), "{before}{path}: {said:?}");
            assert!(!said.starts_with("HTTP/1.1 5"), "{before}{path}: {said}");
        }
    }
    for path in &paths {
        for (method, before) in [
            ("PUT", "/v1/files/"),
            ("DELETE", "/v1/files/"),
            ("POST", "/upload?path="),
            ("PUT", "/bucket/"),
            ("DELETE", "/bucket/"),
        ] {
            asks(&site, method, &format!("{before}{path}")).await;
        }
    }
    let names = std::fs::read_dir(around.path()).unwrap();
    assert_eq!(names.count(), 2, "something was written outside");
    let secret = std::fs::read(around.path().join("secret")).unwrap();
    assert_eq!(secret, b"outside of the tree");
    assert_eq!(site.bytes("sub/a").await, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_directory_that_becomes_a_link_amid_requests_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("a"), b"outside");
    let site = Site::with(&[("d/a", b"within!")]).await;
    let (link, dir) = (site.path("link"), site.path("d"));
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let stop = ended.clone();
    let swaps = std::thread::spawn(move || {
        let mut swaps = 0;
        while !stop.load(Ordering::Relaxed) {
            renameat_with(CWD, &link, CWD, &dir, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
        }
        swaps
    });
    let (mut got, mut n) = (0, 0);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        n += 1;
        let response = site.get("d/a").await;
        if response.status() == StatusCode::OK {
            assert_ne!(response.bytes().await.unwrap_or_default(), "outside");
            got += 1;
        }
        site.put(&format!("d/new{n}"), b"x").await;
    }
    ended.store(true, Ordering::Relaxed);
    assert!(swaps.join().unwrap() > 10 && n > 10, "{n}, {got}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_heads_without_end_are_refused() {
    let site = Site::with(&[("a", b"1")]).await;
    let start = "GET /v1/files/a HTTP/1.1\r\nhost: x\r\n";
    let many = "x: y\r\n".repeat(5_000);
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    let target = format!("GET /{} HTTP/1.1\r\nhost: x\r\n", "a".repeat(1 << 20));
    for head in [
        format!("{start}{many}\r\n"),
        format!("{start}{long}\r\n"),
        format!("{start}{many}"),
        format!("{target}\r\n"),
        "GET ".to_owned() + &" ".repeat(1 << 20),
        "\r\n".repeat(200_000),
    ] {
        let said = raw(&site, head.as_bytes()).await;
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(refused, "{head:.60}: {said}");
    }
    assert_eq!(site.bytes("a").await, b"1");
}

/// What is left out waits for its turn; who holds connections without asking anything loses them.
#[tokio::test(flavor = "multi_thread")]
async fn p9_slow_clients_hold_no_more_than_their_connections() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"1");
    let site = Site::over(dir, |config| config.connections = 8).await;
    let mut slow = Vec::new();
    for _ in 0..7 {
        let mut stream = TcpStream::connect(site.server.addr()).await.unwrap();
        stream
            .write_all(b"GET /v1/files/a HTTP/1.1\r\nho")
            .await
            .unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        // One that stays open would be one of the eight, too.
        assert!(
            hears(&mut from("127.0.0.1", &site).await)
                .await
                .ends_with("\r\n1")
        );
        for stream in &mut slow {
            stream.write_all(b"s").await.unwrap();
        }
    }
}

/// Connects from another address than the others.
async fn from(source: &str, site: &Site) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(site.server.addr()).await.unwrap()
}

/// What a client hears that asks on this connection.
async fn hears(stream: &mut TcpStream) -> String {
    let head = b"GET /v1/files/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut said = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut said)).await;
    read.unwrap().unwrap();
    String::from_utf8(said).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_one_address_cannot_take_all_connections() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"content");
    let site = Site::over(dir, |config| config.connections = 16).await;
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut stream = from("127.0.0.66", &site).await;
        stream.write_all(b"GET /v1/fi").await.unwrap();
        greedy.push(stream);
    }
    for _ in 0..40 {
        let said = hears(&mut from("127.0.0.66", &site).await).await;
        assert!(said.starts_with("HTTP/1.1 503 "), "{said:?}");
        assert!(said.contains("retry-after: 1\r\n"), "{said}");
        assert!(said.contains("this address has all"), "{said}");
        // Who comes from elsewhere does not notice.
        let said = hears(&mut from("127.0.0.67", &site).await).await;
        assert!(said.ends_with("content"), "{said}");
        assert_eq!(site.bytes("a").await, b"content");
    }
    // Even those that never ask, and do not go when they are told to.
    let mut deaf = Vec::new();
    for _ in 0..100 {
        deaf.push(from("127.0.0.66", &site).await);
    }
    assert_eq!(site.bytes("a").await, b"content");
    drop((greedy, deaf));
    let free = async || {
        let said = hears(&mut from("127.0.0.66", &site).await).await;
        said.ends_with("content")
    };
    eventually("what was left is free again", free).await;
}

/// Many clients behind a proxy on the same machine come from one address.
#[tokio::test(flavor = "multi_thread")]
async fn p9_a_proxy_on_the_servers_machine_may_have_all_connections() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"content");
    let site = Site::over(dir, |config| config.connections = 16).await;
    let mut proxied = Vec::new();
    for _ in 0..16 {
        proxied.push(from("127.0.0.1", &site).await);
    }
    for stream in &mut proxied {
        assert!(hears(stream).await.ends_with("content"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_no_answer_tells_a_right_key_from_a_wrong_one_for_long() {
    for path in ["/v1/info", "/v1/files/b", "/bucket/b", "/upload?path=b"] {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::over(dir, |config| {
            config.key = Some(Secret::new("right").unwrap())
        })
        .await;
        let method = match path {
            "/v1/info" => Method::GET,
            "/upload?path=b" => Method::POST,
            _ => Method::PUT,
        };
        let tried = async |key: &str| {
            let request = site.ask(method.clone(), path).header("x-api-key", key);
            let response = request.body("1").send().await.unwrap();
            (response.status(), response.text().await.unwrap())
        };
        for n in 0..20 {
            tried(&format!("guess{n}")).await;
        }
        let wrong = tried("still wrong").await;
        assert_eq!(
            tried("right").await,
            wrong,
            "{path} answers guesses for ever"
        );
    }
}
