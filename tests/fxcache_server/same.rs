//! The same questions to both servers: status, fields, texts and bytes must be the same, but
//! for what is listed as different on purpose.

use serde_json::Value;

use crate::common::Lab;
use crate::stand_in::StandIn;
use crate::support::{Answer, Client, Site, fill};

type Question = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [u8],
);

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

const QUESTIONS: &[Question] = &[
    ("GET", "/exists?path=TB/a.pkl", &[], b""),
    ("GET", "/exists?path=./TB//a.pkl/", &[], b""),
    ("GET", "/exists?path=d/%C3%BC+b.bin", &[], b""),
    ("GET", "/exists?path=empty.bin", &[], b""),
    ("GET", "/exists?path=no", &[], b""),
    ("GET", "/exists?path=TB", &[], b""),
    ("GET", "/exists?path=.", &[], b""),
    ("GET", "/exists?path=%ff", &[], b""),
    ("GET", "/exists?path=a..b", &[], b""),
    ("GET", "/exists?path=/x", &[], b""),
    ("GET", "/exists?path=a%00b", &[], b""),
    ("GET", "/exists?path=", &[], b""),
    ("GET", "/exists", &[], b""),
    ("GET", "/exists?path=no&path=TB/a.pkl", &[], b""),
    ("GET", "/exists?path=.hid/z", &[], b""),
    (
        "POST",
        "/exists_batch",
        JSON,
        br#"{"paths":["./TB//a.pkl","no","TB/a.pkl","d/\u00fc b.bin"]}"#,
    ),
    ("POST", "/exists_batch", JSON, br#"{"paths":[]}"#),
    (
        "POST",
        "/exists_batch",
        JSON,
        br#"{"paths":["TB/a.pkl","../x"]}"#,
    ),
    (
        "POST",
        "/exists_batch",
        JSON,
        br#"{"paths":["TB/a.pkl",""]}"#,
    ),
    ("POST", "/exists_batch", JSON, br#"{"paths":"TB/a.pkl"}"#),
    ("POST", "/exists_batch", JSON, br#"{"path":["x"]}"#),
    ("POST", "/exists_batch", JSON, br#"{}"#),
    ("POST", "/exists_batch", JSON, b"nonsense"),
    ("POST", "/exists_batch", JSON, b""),
    ("POST", "/exists_batch", JSON, br#"["a"]"#),
    ("POST", "/exists_batch", JSON, br#"{"paths":[1]}"#),
    ("POST", "/exists_batch", &[], br#"{"paths":["TB/a.pkl"]}"#),
    ("GET", "/exists_batch", &[], b""),
    ("GET", "/download?path=TB/a.pkl", &[], b""),
    ("HEAD", "/download?path=TB/a.pkl", &[], b""),
    ("GET", "/download?path=empty.bin", &[], b""),
    ("GET", "/download?path=d/%C3%BC+b.bin", &[], b""),
    ("GET", "/download?path=.dot", &[], b""),
    ("GET", "/download?path=TB", &[], b""),
    ("GET", "/download?path=.", &[], b""),
    ("GET", "/download?path=no", &[], b""),
    ("GET", "/download?path=../x", &[], b""),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("Range", "bytes=1-2")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("Range", "bytes=-2")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("Range", "bytes=2-")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("Range", "bytes=0-99")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("Range", "bytes=1-2"), ("If-Range", "\"x\"")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("If-None-Match", "\"x\"")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("If-Modified-Since", "Fri, 20 Nov 2026 14:57:59 GMT")],
        b"",
    ),
    (
        "GET",
        "/download?path=TB/a.pkl",
        &[("If-Modified-Since", "Fri, 20 Nov 2026 14:57:58 GMT")],
        b"",
    ),
    ("POST", "/upload?path=NEW/./deep//f.bin", &[], b"123"),
    ("GET", "/download?path=NEW/deep/f.bin", &[], b""),
    (
        "POST",
        "/upload?path=NEW/deep/f.bin",
        &[("Content-Type", "multipart/form-data; boundary=x")],
        b"--x--",
    ),
    (
        "GET",
        "/download?path=NEW/deep/f.bin",
        &[("Range", "bytes=0-3")],
        b"",
    ),
    ("POST", "/upload?path=NEW/empty", &[], b""),
    ("POST", "/upload?path=a..b", &[], b"x"),
    ("POST", "/upload?path=", &[], b"x"),
    ("PUT", "/upload?path=x", &[], b"x"),
    ("POST", "/refresh?mode=bogus", &[], b""),
    ("GET", "/refresh", &[], b""),
    ("POST", "/refresh?mode=incremental", &[], b""),
    ("GET", "/nothing", &[], b""),
];

/// What both must say. HTML is where the original gave up; then the status is all there is.
fn said(answer: &Answer) -> (u16, Option<Value>, Vec<(String, String)>) {
    let is_html = answer.header("content-type").contains("html");
    let body = match (is_html, serde_json::from_slice(&answer.body)) {
        (false, Ok(json)) => Some(json),
        (false, Err(_)) => Some(String::from_utf8_lossy(&answer.body).into()),
        (true, _) => None,
    };
    let names = [
        "content-type",
        "content-length",
        "content-range",
        "last-modified",
        "cache-control",
        "accept-ranges",
    ];
    let headers = names.map(|name| (name.to_owned(), answer.header(name).to_owned()));
    let headers = headers.into_iter().filter(|_| !is_html);
    (answer.status.as_u16(), body, headers.collect())
}

#[tokio::test]
async fn both_servers_say_the_same() {
    let lab = Lab::new();
    let root = lab.dir("theirs");
    fill(&root);
    let theirs = StandIn::serve(&root, &[]);
    let theirs = (Client::new(&theirs.url), theirs);
    theirs.0.refreshed().await;
    let ours = Site::new(&[]).await;
    for (method, path, headers, body) in QUESTIONS {
        let there = said(&theirs.0.ask(method, path, headers, body).await);
        let mut here = said(&ours.client.ask(method, path, headers, body).await);
        if there.1.is_none() {
            (here.1, here.2) = (None, Vec::new());
        }
        // A date is of its second; the moment of an upload is not the same in both.
        let dates = |said: &mut (u16, Option<Value>, Vec<(String, String)>)| {
            if path.contains("NEW") {
                said.2.retain(|(name, _)| name != "last-modified");
            }
        };
        let mut there = there;
        dates(&mut there);
        dates(&mut here);
        // Not-modified answers of the original name a type that belongs to no body.
        if here.0 == 304 {
            here.2.clear();
            there.2.clear();
        }
        assert_eq!(here, there, "{method} {path} {headers:?}");
    }
    ours.client.refreshed().await;
    theirs.0.refreshed().await;
    for status in ["/refresh/status", "/health"] {
        let keys =
            |value: Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let (here, there) = (ours.client.get(status).await, theirs.0.get(status).await);
        assert_eq!(keys(here.json()), keys(there.json()), "{status}");
    }
}

/// On purpose: what the original answers with 500 and what it should not answer at all.
#[tokio::test]
async fn p10_where_both_differ() {
    let lab = Lab::new();
    let root = lab.dir("theirs");
    fill(&root);
    let server = StandIn::serve(&root, &[]);
    let theirs = Client::new(&server.url);
    theirs.refreshed().await;
    let ours = Site::new(&[]).await;
    let path = "/download?path=TB/a.pkl";
    for (range, here, there) in [("bytes=9-", 416, 500), ("bytes=0-0,2-3", 200, 500)] {
        let range = [("Range", range)];
        assert_eq!(ours.client.ask("GET", path, &range, b"").await.status, here);
        assert_eq!(theirs.ask("GET", path, &range, b"").await.status, there);
    }
    let text =
        "416 Requested Range Not Satisfiable: The server cannot provide the requested range.";
    let outside = [("Range", "bytes=9-")];
    for client in [&ours.client, &theirs] {
        assert_eq!(client.ask("GET", path, &outside, b"").await.error().1, text);
    }
    // Dot files that an upload or a full refresh would find, and the index itself.
    assert!(ours.client.exists(".dot").await && !theirs.exists(".dot").await);
    let index = "/download?path=.fxcache_index.db";
    assert_eq!(theirs.get(index).await.status, 200);
    assert_eq!(ours.client.get(index).await.status, 404);
}
