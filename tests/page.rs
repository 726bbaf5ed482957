//! The page for people: its facts, its rules, and how it looks in a real browser.
//!
//! `make test-page` runs what needs Chromium; nothing else here does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "page/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::process::Command;

use common::{Lab, Server, eventually, get, put};
use serde_json::Value;

/// A name that would be a program if it were not taken for text.
pub const EVIL: &str = "<img src=x onerror=document.title='owned'>\u{202e}\"'&.pkl";

pub fn curl(server: &Server, args: &[&str], path: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10"])
        .args(args)
        .arg(format!("{}{path}", server.url))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub fn facts(server: &Server) -> Value {
    serde_json::from_str(&get(&format!("{}/v1/page", server.url))).unwrap()
}

/// A server with a little history.
pub fn busy(lab: &Lab) -> Server {
    let root = lab.dir("FXCACHE");
    put(&root.join("TB/EURUSD_5m.pkl"), &common::bytes(1, 104_000));
    put(&root.join(EVIL), b"evil");
    for n in 0..40 {
        put(
            &root.join(format!("FIT/opt_{n}.pkl")),
            &common::bytes(n, 20_000),
        );
    }
    let server = lab.serve("FXCACHE", &[]);
    eventually("everything was seen", || {
        facts(&server)["index"]["scanned"] == true
    });
    curl(
        &server,
        &["-o", "/dev/null"],
        "/download?path=TB/EURUSD_5m.pkl",
    );
    let evil = format!("path={EVIL}");
    let form = ["-G", "-o", "/dev/null", "--data-urlencode", &evil];
    curl(&server, &form, "/download");
    curl(
        &server,
        &["--data-binary", "12345"],
        "/upload?path=MT/result_0xabc.pkl",
    );
    curl(
        &server,
        &["-H", "Origin: http://evil.example", "-d", "x"],
        "/upload?path=TB/x",
    );
    server
}

#[test]
fn the_page_has_its_facts() {
    let lab = Lab::new();
    let server = busy(&lab);
    let facts = facts(&server);
    assert_eq!(facts["name"], "FXCACHE");
    assert_eq!(facts["url"], server.url);
    assert_eq!(facts["files"], 43);
    assert_eq!(facts["bytes"], 104_000 + 4 + 40 * 20_000 + 5);
    assert_eq!(facts["index"]["scanned"], true);
    assert_eq!(facts["index"]["present"], true);
    assert_eq!(
        (&facts["downloads"], &facts["uploads"]),
        (&2.into(), &1.into())
    );
    let recent = facts["recent"].as_array().unwrap();
    let of = |i: usize| {
        (
            recent[i]["what"].as_str().unwrap(),
            recent[i]["path"].as_str().unwrap(),
        )
    };
    assert_eq!(of(0), ("upload", "MT/result_0xabc.pkl"));
    assert_eq!(of(1), ("download", EVIL));
    assert_eq!(of(2), ("download", "TB/EURUSD_5m.pkl"));
    assert_eq!(recent[2]["bytes"], 104_000);
    let client = &facts["clients"][0];
    assert_eq!(client["address"], "127.0.0.1");
    assert!(client["agent"].as_str().unwrap().starts_with("curl/"));
    let error = &facts["errors"][0];
    assert_eq!(error["status"], 403);
    assert!(error["why"].as_str().unwrap().contains("--open-writes"));
    // Where the folder is on the server's disk is nobody's business.
    assert!(
        !facts
            .to_string()
            .contains(lab.path("FXCACHE").to_str().unwrap())
    );
}

#[test]
fn p10_the_page_may_do_nothing_but_show() {
    let lab = Lab::new();
    let server = lab.serve("root", &[]);
    let head = curl(&server, &["-i"], "/").to_lowercase();
    for rule in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(head.contains(rule), "{rule}");
    }
    assert!(!head.contains("unsafe"));
}

#[test]
fn p9_what_happened_is_remembered_for_a_while_only() {
    let lab = Lab::new();
    let server = lab.serve("root", &[]);
    for n in 0..80 {
        curl(
            &server,
            &["--data-binary", "x"],
            &format!("/upload?path=f{n}"),
        );
        curl(
            &server,
            &["-H", "Origin: http://evil.example", "-d", "x"],
            "/upload?path=x",
        );
    }
    let facts = facts(&server);
    assert_eq!(facts["recent"].as_array().unwrap().len(), 60);
    assert_eq!(facts["recent"][0]["path"], "f79");
    assert_eq!(facts["errors"].as_array().unwrap().len(), 30);
    assert_eq!(facts["clients"].as_array().unwrap().len(), 1);
    assert_eq!(facts["uploads"], 80);
}

#[test]
fn p10_the_facts_need_the_read_key_and_the_page_does_not() {
    let lab = Lab::new();
    let key = lab.path("key");
    fs::write(&key, "reader").unwrap();
    let server = lab.serve("root", &["--read-key-file", key.to_str().unwrap()]);
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl(&server, &status, "/"), "200");
    assert_eq!(curl(&server, &status, "/v1/page"), "401");
    let with = [&status[..], &["-H", "X-API-Key: reader"]].concat();
    assert_eq!(curl(&server, &with, "/v1/page"), "200");
}
