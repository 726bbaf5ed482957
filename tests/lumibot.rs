//! Lumibot's contract, on real mounts over a bucket: its variables, its keys, and what its users
//! do with the folder. What the variables mean is asked of Lumibot's own code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;
#[path = "lumibot/folder.rs"]
mod folder;
#[path = "lumibot/meaning.rs"]
mod meaning;
#[path = "lumibot/profile.rs"]
mod profile;
#[path = "common/python.rs"]
mod python;
#[path = "common/s3.rs"]
mod s3;
#[path = "lumibot/shared.rs"]
mod shared;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Lab, Mount, eventually};
use s3::{BUCKET, Habits, KEY, Op, S3Server, SECRET};

/// Where most checks look.
const SPY: &str = "thetadata/stock/minute/ohlc/stock_SPY_minute_ohlc.parquet";

/// A program of `tests/lumibot/`, to be run.
fn program<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lumibot")
        .join(name);
    let mut command = Command::new(python::python());
    command.arg("-B").arg(file).args(words).stdin(Stdio::null());
    command
}

/// Runs it; it fails if something is not right.
fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn tables(verb: &str, file: &Path, word: &str) -> String {
    done(program(
        "tables.py",
        [OsStr::new(verb), file.as_os_str(), OsStr::new(word)],
    ))
}

/// What Lumibot's users set, for the bucket of `store`.
fn lumibot<'a>(endpoint: &'a str, mode: &'a str, version: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("LUMIBOT_CACHE_BACKEND", "s3"),
        ("LUMIBOT_CACHE_MODE", mode),
        ("LUMIBOT_CACHE_S3_BUCKET", BUCKET),
        ("LUMIBOT_CACHE_S3_PREFIX", "stage/cache"),
        ("LUMIBOT_CACHE_S3_VERSION", version),
        ("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", KEY),
        ("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", SECRET),
        ("AWS_ENDPOINT_URL_S3", endpoint),
    ]
}

fn mounted_as<'a>(lab: &'a Lab, name: &str, env: &[(&str, &str)], more: &[&str]) -> Mount<'a> {
    let args = [&["--profile", "lumibot"], more].concat();
    let mount = lab.try_mount_with(name, env, &args);
    let mount = mount.unwrap_or_else(|output| {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    });
    eventually("the bucket is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

/// A mount as Lumibot's users have it, in `readwrite`.
fn mounted<'a>(lab: &'a Lab, name: &str, store: &S3Server, more: &[&str]) -> Mount<'a> {
    let endpoint = store.endpoint();
    mounted_as(lab, name, &lumibot(&endpoint, "readwrite", "v1"), more)
}

fn key(path: &str) -> String {
    format!("stage/cache/v1/{path}")
}

/// Waits until nothing more is learned of what is there.
fn at_rest(store: &S3Server) -> u64 {
    let mut last = store.requests();
    eventually("the store is left in peace", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = store.requests();
        std::mem::replace(&mut last, now) == now
    });
    last
}

fn boto3(store: &S3Server, verb: &str, key: &str, file: &Path) {
    let words = [
        OsStr::new(verb),
        OsStr::new(BUCKET),
        OsStr::new(key),
        file.as_os_str(),
    ];
    let mut command = program("bucket.py", words);
    command.env("AWS_ENDPOINT_URL_S3", store.endpoint());
    command.env("AWS_ACCESS_KEY_ID", KEY);
    command.env("AWS_SECRET_ACCESS_KEY", SECRET);
    done(command);
}

fn cached(at: &Path) -> PathBuf {
    at.join(SPY)
}

fn gets(store: &S3Server) -> u64 {
    store.count(Op::Get)
}

fn puts(store: &S3Server) -> u64 {
    store.count(Op::Put)
}

fn store() -> S3Server {
    S3Server::start(Habits::default())
}
