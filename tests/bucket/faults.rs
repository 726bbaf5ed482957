//! What goes wrong, and how it is told.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use larder::backends::{Backend as _, Options, Timeouts};
use larder::error::{Error, Kind};
use larder::object::Precondition;

use crate::s3::{BUCKET, Habits, KEY, Op, S3Server, SECRET};
use crate::support::{access, at, below, p, read, upload, with};

fn quick() -> Options {
    let second = Duration::from_millis(700);
    Options {
        timeouts: Timeouts {
            connect: second,
            answer: second,
            stall: second,
            pause: second,
            grace: second,
            publish: second,
        },
        ..Options::default()
    }
}

fn one_clear_line(error: &Error) -> String {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains(SECRET) && !text.contains(KEY), "{text}");
    text
}

#[tokio::test]
async fn every_code_has_its_kind_and_says_what_to_do() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", "x");
    let s3 = below(&store, &quick());
    let table = [
        ("SlowDown", Kind::Unavailable, "SlowDown"),
        ("InternalError", Kind::Unavailable, "InternalError"),
        (
            "ServiceUnavailable",
            Kind::Unavailable,
            "ServiceUnavailable",
        ),
        ("RequestTimeout", Kind::Unavailable, "RequestTimeout"),
        ("ExpiredToken", Kind::Unauthorized, "aws sso login"),
        (
            "InvalidAccessKeyId",
            Kind::Unauthorized,
            "LARDER_S3_ACCESS_KEY_ID",
        ),
        (
            "SignatureDoesNotMatch",
            Kind::Unauthorized,
            "the secret is not",
        ),
        ("AccessDenied", Kind::Denied, "may list and read"),
        ("RequestTimeTooSkewed", Kind::Unauthorized, "clock"),
        ("NoSuchBucket", Kind::Io, "no such bucket"),
        ("PermanentRedirect", Kind::Invalid, "another region"),
        ("InvalidObjectState", Kind::Denied, "archive"),
        ("NoSuchKey", Kind::NotFound, "no such file"),
        ("NotImplemented", Kind::Unsupported, "NotImplemented"),
        ("EntityTooLarge", Kind::Unsupported, "size"),
    ];
    for (code, kind, part) in table {
        store.fail(Op::Get, 1, code);
        let error = s3.get(&p("a"), None, None).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert!(one_clear_line(&error).contains(part), "{code}: {error}");
    }
    for (code, kind) in [
        ("BadDigest", Kind::Corrupt),
        ("ConditionalRequestConflict", Kind::Unavailable),
    ] {
        store.fail(Op::Put, 1, code);
        let put = s3.put(&p("b"), upload(b"x"), Precondition::None).await;
        assert_eq!(put.unwrap_err().kind(), kind, "{code}");
    }
}

#[tokio::test]
async fn p10_wrong_keys_and_wrong_buckets_are_told_without_the_keys() {
    let store = S3Server::start(Habits::default());
    let wrong = with(&store.url("p"), access("not-the-secret"), &quick());
    let error = wrong.capabilities().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let text = one_clear_line(&error);
    assert!(
        text.contains("secret is not") && !text.contains("not-the-secret"),
        "{text}"
    );
    let url = store.url("p").replace(BUCKET, "another");
    let error = at(&url, &quick()).capabilities().await.unwrap_err();
    assert!(one_clear_line(&error).contains("no such bucket"), "{error}");
}

/// A server that says the same to everybody; then it holds the line, or hangs up.
pub fn says(answer: Vec<u8>, holds: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for socket in listener.incoming().flatten().take(8) {
            let mut socket = socket;
            let mut heard = Vec::new();
            let mut buffer = [0; 4096];
            while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
                match socket.read(&mut buffer) {
                    Ok(n) if n > 0 => heard.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let _ = socket.write_all(&answer);
            if holds {
                held.push(socket);
            }
        }
    });
    format!("s3://bucket/p?endpoint={endpoint}&region=us-east-1")
}

pub fn say(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n{body}").into_bytes()
}

async fn get(answer: Vec<u8>, holds: bool) -> Error {
    let begun = Instant::now();
    let s3 = at(&says(answer, holds), &quick());
    let error = match s3.get(&p("a"), None, None).await {
        Ok(got) => read(got).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(begun.elapsed() < Duration::from_secs(10));
    one_clear_line(&error);
    error
}

const FACTS: &str =
    "etag: \"abc-1\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 9\r\n";

#[tokio::test]
async fn another_region_is_named_with_the_option_to_set() {
    let headers = "x-amz-bucket-region: eu-central-1\r\ncontent-length: 0\r\n";
    for status in ["301 Moved Permanently", "400 Bad Request"] {
        let error = get(say(status, headers, ""), false).await;
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("region=eu-central-1"), "{error}");
    }
    let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message>\
                <Region>garage</Region></Error>";
    let headers = format!("content-length: {}\r\n", body.len());
    let error = get(say("400 Bad Request", &headers, body), false).await;
    assert!(error.to_string().contains("region=garage"), "{error}");
}

#[tokio::test]
async fn p6_silence_and_broken_lines_end_in_time_and_are_no_files() {
    let table = [
        (Vec::new(), true, Kind::TimedOut),
        (Vec::new(), false, Kind::Offline),
        (say("200 OK", FACTS, "hello"), true, Kind::TimedOut),
        (say("200 OK", FACTS, "hello"), false, Kind::Offline),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false, Kind::Offline),
    ];
    for (answer, holds, kind) in table {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let error = get(answer, holds).await;
        assert_eq!(error.kind(), kind, "{shown}: {error}");
    }
}

#[tokio::test]
async fn p1_an_answer_without_its_facts_is_corrupt() {
    let page = say(
        "200 OK",
        "content-type: text/html\r\ncontent-length: 6\r\n",
        "<html>",
    );
    let error = get(page.clone(), false).await;
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let listed = at(&says(page, false), &quick()).capabilities().await;
    assert_eq!(listed.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn p6_a_store_that_is_not_there_is_offline() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let s3 = at(&format!("s3://bucket/p?endpoint=http://{gone}"), &quick());
    let error = s3.capabilities().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Offline, "{error}");
    one_clear_line(&error);
}
