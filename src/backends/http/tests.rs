//! The client against a scripted server: each failure has its kind, within its deadline.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;

pub(super) mod script;

use self::script::{Act, Server};
use super::*;
use crate::backends::memory::upload_of;
use crate::object::{Change, Sha256};

/// Long enough for a busy machine to do what it can do at once.
const DEADLINE: Duration = Duration::from_secs(1);
/// What a call may take that runs into its deadline, however it is made up.
const LIMIT: Duration = Duration::from_secs(6);

fn http(url: &str, key: Option<&str>) -> Http {
    let times = Timeouts {
        connect: DEADLINE,
        answer: DEADLINE,
        stall: DEADLINE,
        pause: DEADLINE,
        grace: DEADLINE,
        publish: DEADLINE,
    };
    let key = key.map(|key| Secret::new(key).unwrap());
    Http::new(&RemoteUrl::parse(url).unwrap(), key, times).unwrap()
}

fn key() -> RelPath {
    RelPath::new(b"d/a \xff").unwrap()
}

fn v(text: &str) -> Version {
    Version::new(text).unwrap()
}

const FACTS: &str = "etag: \"v1\"\r\nx-mtime-ns: 7\r\n";

fn say(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}\r\n{body}").into_bytes()
}

/// 200 with the facts of version v1 and a length.
fn file(length: usize, body: &str) -> Vec<u8> {
    say(
        "200 OK",
        &format!("{FACTS}content-length: {length}\r\n"),
        body,
    )
}

fn problem(status: &str, title: &str, detail: &str) -> Vec<u8> {
    let body = format!("{{\"title\":\"{title}\",\"status\":0,\"detail\":\"{detail}\"}}");
    let length = body.len();
    let headers = format!("content-type: application/problem+json\r\ncontent-length: {length}\r\n");
    say(status, &headers, &body)
}

async fn read(download: Download) -> Result<Vec<u8>> {
    let mut body = download.body;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

async fn get(act: Act, range: Option<ByteRange>, version: Option<&str>) -> Result<Vec<u8>> {
    let server = Server::new(act).await;
    let begun = Instant::now();
    let version = version.map(v);
    let got = server.http().get(&key(), range, version.as_ref()).await;
    let outcome = match got {
        Ok(download) => read(download).await,
        Err(error) => Err(error),
    };
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    if let Err(error) = &outcome {
        let text = error.to_string();
        assert!(
            !text.contains("sesame") && text.lines().count() == 1,
            "{text}"
        );
    }
    outcome
}

async fn get_kind(act: Act) -> Kind {
    get(act, None, Some("v1")).await.unwrap_err().kind()
}

#[tokio::test]
async fn a_file_comes_whole_and_the_request_says_what_is_wanted() {
    let server = Server::new(Act::Say(file(5, "hello"))).await;
    let got = server
        .http()
        .get(&key(), None, Some(&v("v1")))
        .await
        .unwrap();
    assert_eq!((got.meta.size, got.meta.mtime_ns), (5, 7));
    assert_eq!((got.meta.version.as_str(), got.range.clone()), ("v1", 0..5));
    assert_eq!(read(got).await.unwrap(), b"hello");
    let heard = server.heard();
    for wanted in [
        "GET /v1/files/d/a%20%FF HTTP/1.1\r\n",
        "if-match: \"v1\"\r\n",
        "accept-encoding: identity\r\n",
        "x-api-key: sesame\r\n",
    ] {
        assert!(heard.contains(wanted), "{wanted}\n{heard}");
    }
}

#[tokio::test]
async fn p1_a_body_that_is_not_the_file_is_corrupt() {
    let html = "content-type: text/html\r\ncontent-length: 15\r\n";
    let html = say("200 OK", html, "<html>hi</html>");
    let no_length = say("200 OK", FACTS, "hello");
    let gzip = format!("{FACTS}content-length: 5\r\ncontent-encoding: gzip\r\n");
    let weak = "etag: W/\"v1\"\r\nx-mtime-ns: 7\r\ncontent-length: 5\r\n";
    let no_time = "etag: \"v1\"\r\ncontent-length: 5\r\n";
    let bad_time = "etag: \"v1\"\r\nx-mtime-ns: now\r\ncontent-length: 5\r\n";
    let cases = [
        ("short", file(9, "hello")),
        ("HTML", html),
        ("no length", no_length),
        ("compressed", say("200 OK", &gzip, "hello")),
        ("weak tag", say("200 OK", weak, "hello")),
        ("no time", say("200 OK", no_time, "hello")),
        ("bad time", say("200 OK", bad_time, "hello")),
    ];
    for (name, answer) in cases {
        assert_eq!(get_kind(Act::Say(answer)).await, Kind::Corrupt, "{name}");
    }
    // What follows a body of the promised length is not part of it.
    let long = get(Act::Say(file(5, "hello and more")), None, None).await;
    assert_eq!(long.unwrap(), b"hello");
}

#[tokio::test]
async fn p8_another_version_is_stale() {
    let other = say(
        "200 OK",
        "etag: \"v2\"\r\nx-mtime-ns: 7\r\ncontent-length: 5\r\n",
        "hello",
    );
    assert_eq!(get_kind(Act::Say(other)).await, Kind::Stale);
    let failed = problem("412 Precondition Failed", "other version", "");
    assert_eq!(get_kind(Act::Say(failed)).await, Kind::Stale);
}

#[tokio::test]
async fn p6_a_server_that_falls_silent_is_left_in_time() {
    let headless = Act::Hold(Vec::new());
    assert_eq!(get_kind(headless).await, Kind::TimedOut);
    assert_eq!(
        get_kind(Act::Hold(b"HTTP/1.1 200 OK\r\n".to_vec())).await,
        Kind::TimedOut
    );
    assert_eq!(get_kind(Act::Hold(file(9, "hello"))).await, Kind::TimedOut);
    let stuck_problem = "content-type: application/problem+json\r\ncontent-length: 99\r\n";
    let stuck_problem = say("503 Service Unavailable", stuck_problem, "{");
    assert_eq!(get_kind(Act::Hold(stuck_problem)).await, Kind::Unavailable);
}

#[tokio::test]
async fn p6_a_server_that_is_not_there_is_offline() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let http = http(&format!("http://{gone}"), None);
    let error = http.get(&key(), None, None).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Offline, "{error}");
    assert_eq!(http.capabilities().await.unwrap_err().kind(), Kind::Offline);
    for act in [
        Act::Say(Vec::new()),
        Act::Reset(Vec::new()),
        Act::Reset(file(9, "hello")),
        Act::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ] {
        assert_eq!(get_kind(act).await, Kind::Offline);
    }
}

#[tokio::test]
async fn every_status_has_its_kind() {
    let table = [
        ("307 Temporary Redirect", Kind::Io),
        ("400 Bad Request", Kind::Invalid),
        ("401 Unauthorized", Kind::Unauthorized),
        ("403 Forbidden", Kind::Unauthorized),
        ("404 Not Found", Kind::NotFound),
        ("405 Method Not Allowed", Kind::Unsupported),
        ("409 Conflict", Kind::Exists),
        ("413 Content Too Large", Kind::NoSpace),
        ("418 I'm a teapot", Kind::Io),
        ("429 Too Many Requests", Kind::Unavailable),
        ("500 Internal Server Error", Kind::Unavailable),
        ("502 Bad Gateway", Kind::Unavailable),
        ("503 Service Unavailable", Kind::Unavailable),
        ("504 Gateway Timeout", Kind::Unavailable),
        ("507 Insufficient Storage", Kind::NoSpace),
    ];
    for (status, kind) in table {
        let answer = problem(status, "title", "detail");
        assert_eq!(get_kind(Act::Say(answer)).await, kind, "{status}");
    }
}

#[tokio::test]
async fn p10_a_redirect_is_not_followed() {
    let other = Server::new(Act::Say(file(5, "hello"))).await;
    let headers = format!(
        "location: http://{}/\r\ncontent-length: 0\r\n",
        other.address
    );
    let error = get(Act::Say(say("302 Found", &headers, "")), None, None).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(other.heard(), "");
}

#[tokio::test]
async fn p10_what_a_server_says_is_cut_and_cleaned() {
    let long = problem(
        "503 Service Unavailable",
        "a\\u001b[2J\\nb",
        &"x".repeat(5000),
    );
    let error = get(Act::Say(long), None, None).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a[2Jb: xxx"), "{text}");
    assert!(text.len() < 400 && !text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn p2_only_a_larder_server_can_say_that_there_is_no_file() {
    let ours = Server::new(Act::Say(say(
        "404 Not Found",
        "content-type: application/problem+json\r\ncontent-length: 9\r\n",
        "",
    )))
    .await;
    assert_eq!(ours.http().head(&key()).await.unwrap(), None);
    let other = say(
        "404 Not Found",
        "content-type: text/html\r\ncontent-length: 9\r\n",
        "",
    );
    let other = Server::new(Act::Say(other)).await;
    assert_eq!(
        other.http().head(&key()).await.unwrap_err().kind(),
        Kind::Io
    );
}

#[tokio::test]
async fn p1_a_part_is_exactly_the_part_asked_for() {
    let part = |range: &str, length: usize, body: &str| {
        let headers = format!("{FACTS}content-range: {range}\r\ncontent-length: {length}\r\n");
        Act::Say(say("206 Partial Content", &headers, body))
    };
    let good = get(part("bytes 2-4/9", 3, "abc"), Some(2..5), Some("v1")).await;
    assert_eq!(good.unwrap(), b"abc");
    let cut = get(part("bytes 7-8/9", 2, "ab"), Some(7..50), None).await;
    assert_eq!(cut.unwrap(), b"ab");
    for (range, length) in [
        ("bytes 3-5/9", 3),
        ("bytes 2-5/9", 4),
        ("bytes 2-4/4", 3),
        ("bytes 2-4/*", 3),
        ("2-4/9", 3),
        ("bytes 2-4/9", 4),
    ] {
        let bad = get(part(range, length, "abcd"), Some(2..5), None).await;
        assert_eq!(bad.unwrap_err().kind(), Kind::Corrupt, "{range} {length}");
    }
    // A server that ignores ranges serves those that ask for everything.
    let all = get(Act::Say(file(5, "hello")), Some(0..9), None).await;
    assert_eq!(all.unwrap(), b"hello");
    let some = get(Act::Say(file(5, "hello")), Some(1..2), None).await;
    assert_eq!(some.unwrap_err().kind(), Kind::Unsupported);
}

async fn list(body: &str) -> (Result<Cursor>, Vec<Listed>) {
    let answer = say("200 OK", "content-type: application/x-ndjson\r\n", body);
    let server = Server::new(Act::Say(answer)).await;
    let (batches, mut taken) = mpsc::channel(10);
    let cursor = server.http().list(batches).await;
    let mut all = Vec::new();
    while let Some(batch) = taken.recv().await {
        all.extend(batch);
    }
    (cursor, all)
}

fn line(path: &str) -> String {
    format!("{{\"path\":\"{path}\",\"size\":1,\"mtime_ns\":2,\"etag\":\"v\"}}\n")
}

const END: &str = "{\"epoch\":\"e\",\"seq\":9}\n";

#[tokio::test]
async fn p10_hostile_names_and_names_out_of_order_are_refused_one_by_one() {
    let names = ["a", "../b", "c", "b", "c", ".larder/x", "d"];
    let body = names.map(line).concat() + END;
    let (cursor, all) = list(&body).await;
    assert_eq!(cursor.unwrap().seq, 9);
    let shown: Vec<_> = all
        .iter()
        .map(|listed| match listed {
            Listed::Object(object) => object.key.to_string(),
            Listed::Refused { shown, .. } => format!("!{shown}"),
        })
        .collect();
    assert_eq!(shown, ["a", "!../b", "c", "!b", "!c", "!.larder/x", "d"]);
}

#[tokio::test]
async fn p1_a_listing_without_its_end_is_corrupt() {
    for body in [
        line("a"),
        String::new(),
        "<html>\n".into(),
        line("a") + END + END,
    ] {
        assert_eq!(
            list(&body).await.0.unwrap_err().kind(),
            Kind::Corrupt,
            "{body}"
        );
    }
}

async fn changes(act: Act, wait: Duration) -> Result<Changes> {
    let server = Server::new(act).await;
    let since = Cursor {
        epoch: "e".into(),
        seq: 3,
    };
    let changes = server.http().changes(&since, wait).await;
    let heard = server.heard();
    assert!(
        heard.contains("/v1/changes?epoch=e&since=3&wait="),
        "{heard}"
    );
    changes
}

#[tokio::test]
async fn changes_are_a_delta_a_relist_or_an_error() {
    let body = line("a") + "{\"seq\":8,\"path\":\"b\",\"deleted\":true}\n" + END;
    match changes(Act::Say(say("200 OK", "", &body)), Duration::ZERO)
        .await
        .unwrap()
    {
        Changes::Delta { changes, cursor } => {
            assert_eq!((changes.len(), cursor.seq), (2, 9));
            assert_eq!(
                changes[1],
                Change::Deleted(RelPath::new(b"b").unwrap(), wire::parse_revision("e:8"))
            );
        }
        Changes::Relist => panic!("relist"),
    }
    let other = say("200 OK", "", "{\"epoch\":\"f\",\"seq\":9}\n");
    let gone = problem("410 Gone", "another epoch", "");
    for relist in [other, gone] {
        let relist = changes(Act::Say(relist), Duration::ZERO).await.unwrap();
        assert!(matches!(relist, Changes::Relist));
    }
    let back = say("200 OK", "", "{\"epoch\":\"e\",\"seq\":2}\n");
    let back = changes(Act::Say(back), Duration::ZERO).await;
    assert_eq!(back.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn p6_a_long_poll_waits_as_long_as_asked_and_a_grace() {
    let (begun, wait) = (Instant::now(), Duration::from_millis(900));
    let held = changes(Act::Hold(Vec::new()), wait).await;
    assert_eq!(held.unwrap_err().kind(), Kind::TimedOut);
    assert!(begun.elapsed() >= wait + DEADLINE);
    let held = changes(Act::Hold(say("200 OK", "", &line("a"))), Duration::ZERO).await;
    assert_eq!(held.unwrap_err().kind(), Kind::TimedOut);
}

async fn put(act: Act, upload: Upload, only: Precondition) -> (Result<Meta>, String) {
    let server = Server::new(act).await;
    let begun = Instant::now();
    let meta = server.http().put(&key(), upload, only).await;
    assert!(begun.elapsed() < LIMIT);
    (meta, server.heard())
}

#[tokio::test]
async fn an_upload_says_its_length_digest_time_and_precondition() {
    let stored = say("201 Created", &format!("{FACTS}content-length: 0\r\n"), "");
    let sent = upload_of(b"hello", 7);
    let digest = wire::digest_header(&sent.sha256);
    let only = Precondition::Matches(v("v0"));
    let (meta, heard) = put(Act::Say(stored.clone()), sent.clone(), only).await;
    let meta = meta.unwrap();
    assert_eq!((meta.size, meta.version.as_str()), (5, "v1"));
    assert_eq!(meta.sha256, Some(sent.sha256));
    for wanted in [
        "PUT /v1/files/d/a%20",
        "content-length: 5\r\n",
        "x-mtime-ns: 7\r\n",
        "if-match: \"v0\"\r\n",
        &format!("content-digest: {digest}\r\n"),
        "\r\n\r\nhello",
    ] {
        assert!(heard.contains(wanted), "{wanted}\n{heard}");
    }
    assert!(!heard.contains("chunked"), "{heard}");
    let empty = put(Act::Say(stored), upload_of(b"", 7), Precondition::Absent).await;
    assert_eq!(empty.0.unwrap().size, 0);
    assert!(empty.1.contains("if-none-match: *\r\n"), "{}", empty.1);
    assert!(empty.1.contains("content-length: 0\r\n"), "{}", empty.1);
}

#[tokio::test]
async fn p5_what_becomes_of_an_upload_is_told_truly() {
    let sent = || upload_of(b"hello", 7);
    let wrong = wire::digest_header(&Sha256([1; 32]));
    let wrong = format!("{FACTS}repr-digest: {wrong}\r\ncontent-length: 0\r\n");
    let cases = [
        (problem("412 Precondition Failed", "t", ""), Kind::Conflict),
        (
            problem("400 Bad Request", "digest mismatch", ""),
            Kind::Corrupt,
        ),
        (
            problem("409 Conflict", "a directory is there", ""),
            Kind::Exists,
        ),
        (
            say("201 Created", "content-length: 0\r\n", ""),
            Kind::Corrupt,
        ),
        (say("201 Created", &wrong, ""), Kind::Corrupt),
        (Vec::new(), Kind::Offline),
    ];
    for (answer, kind) in cases {
        let (meta, _) = put(Act::Say(answer), sent(), Precondition::None).await;
        assert_eq!(meta.unwrap_err().kind(), kind);
    }
    let (meta, _) = put(Act::Hold(Vec::new()), sent(), Precondition::None).await;
    assert_eq!(meta.unwrap_err().kind(), Kind::TimedOut);
}

/// `size` zero bytes. The hash does not matter where nobody reads that far.
fn large(size: u64) -> Upload {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    Upload {
        file: Arc::new(file.into()),
        size,
        ..upload_of(b"", 7)
    }
}

#[tokio::test]
async fn p6_a_server_that_stops_reading_is_left_in_time() {
    let sent = large(32 << 20);
    let (meta, _) = put(Act::Deaf, sent, Precondition::None).await;
    assert_eq!(meta.unwrap_err().kind(), Kind::TimedOut);
}

#[tokio::test]
async fn p5_a_refusal_before_the_end_of_an_upload_is_heard() {
    let failed = problem("412 Precondition Failed", "t", "");
    let server = Server::new(Act::Interrupt(failed)).await;
    let put = server
        .http()
        .put(&key(), large(32 << 20), Precondition::Absent)
        .await;
    assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn p4_a_file_that_shrank_is_not_uploaded() {
    let mut sent = upload_of(b"hello", 7);
    sent.size = 6;
    let (meta, _) = put(Act::Hold(Vec::new()), sent, Precondition::None).await;
    let error = meta.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("shorter"), "{error}");
}

#[tokio::test]
async fn deleting_what_is_gone_succeeds_and_another_version_is_a_conflict() {
    let table = [
        (say("204 No Content", "", ""), None),
        (problem("404 Not Found", "t", ""), None),
        (problem("403 Forbidden", "t", ""), Some(Kind::Unauthorized)),
    ];
    for (answer, kind) in table {
        let server = Server::new(Act::Say(answer)).await;
        let deleted = server.http().delete(&key(), Some(&v("v1"))).await;
        assert_eq!(deleted.err().map(|e| e.kind()), kind);
        assert!(server.heard().contains("if-match: \"v1\"\r\n"));
    }
    let failed = || Act::Say(problem("412 Precondition Failed", "t", ""));
    let missing = problem("404 Not Found", "t", "");
    for (found, kind) in [(file(5, ""), Some(Kind::Conflict)), (missing, None)] {
        let server = Server::each(vec![failed(), Act::Say(found)]).await;
        let deleted = server.http().delete(&key(), Some(&v("v1"))).await;
        assert_eq!(deleted.err().map(|e| e.kind()), kind);
    }
}

#[tokio::test]
async fn what_a_server_can_do_is_learned_and_strangers_are_told_apart() {
    let info = |version: u32| {
        let body = format!(
            "{{\"server\":\"larder/1\",\"version\":{version},\"epoch\":\"e\",\"seq\":1,\
             \"files\":0,\"bytes\":0,\"capabilities\":[\"changes\",\"put\"]}}"
        );
        let length = body.len();
        Act::Say(say(
            "200 OK",
            &format!("content-length: {length}\r\n"),
            &body,
        ))
    };
    let can = Server::new(info(1))
        .await
        .http()
        .capabilities()
        .await
        .unwrap();
    let known = Capabilities {
        put: true,
        conditional_put: true,
        delete: false,
        changes: true,
        listing: true,
        probe: false,
        copy: false,
        page: None,
    };
    assert_eq!(can, known);
    let epoch = Server::new(info(1)).await.http().epoch().await;
    assert_eq!(epoch.unwrap().as_deref(), Some("e"));
    let newer = Server::new(info(2)).await.http().capabilities().await;
    assert_eq!(newer.unwrap_err().kind(), Kind::Unsupported);
    let html = say("200 OK", "content-length: 6\r\n", "<html>");
    let html = Server::new(Act::Say(html))
        .await
        .http()
        .capabilities()
        .await;
    assert_eq!(html.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn p10_a_server_that_does_not_speak_tls_is_offline_for_https() {
    let server = Server::new(Act::Say(file(5, "hello"))).await;
    let http = http(&format!("https://{}", server.address), Some("sesame"));
    let error = http.get(&key(), None, None).await.err().unwrap();
    assert!(error.kind().is_away(), "{error}");
    assert!(!server.heard().contains("sesame"));
}
