//! `larder serve` as a bucket: boto3 and the real program.
//!
//! The clients are in `tests/serve_s3/`; `packaging/python-tools.sh` makes their environment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;
#[path = "common/python.rs"]
mod python;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use common::{Lab, put};

/// Runs a program of `tests/serve_s3/`; it checks what it gets, and fails if it is not right.
fn run<S: AsRef<OsStr>>(
    name: &str,
    words: impl IntoIterator<Item = S>,
    env: &[(&str, &str)],
) -> String {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve_s3");
    let mut command = Command::new(python::python());
    command
        .arg("-B")
        .arg(programs.join(name))
        .args(words)
        .stdin(Stdio::null())
        .env_clear()
        .envs(env.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn boto3(words: &[&str]) -> String {
    run("client.py", words, &[])
}

/// One check against a server of its own without a key.
fn check(name: &str) -> (Lab, std::path::PathBuf) {
    let lab = Lab::new();
    let server = lab.serve("srv", &["--allow-delete"]);
    boto3(&[name, &server.url]);
    drop(server);
    let root = lab.path("srv");
    (lab, root)
}

/// Nothing of ours is left of uploads that ended, whichever way.
fn nothing_is_left(root: &Path) {
    let left = fs::read_dir(root.join(".larder/uploads")).unwrap();
    assert_eq!(left.count(), 0);
}

/// All files beneath a directory but ours.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with(".larder") => {}
                true => left.push(path),
                false => found.push(path.strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

/// Section 10, check 14 of what Lumibot needs: its own manager, with no client but its own.
#[test]
fn p1_lumibot_has_its_bucket_here() {
    let lab = Lab::new();
    let server = lab.serve("srv", &["--allow-delete"]);
    let env = [
        ("AWS_ENDPOINT_URL_S3", server.url.as_str()),
        ("AWS_ACCESS_KEY_ID", "anything"),
        ("AWS_SECRET_ACCESS_KEY", "anything"),
    ];
    for which in ["manager", "development"] {
        let cache = lab.dir(which);
        let words = [
            OsStr::new(which),
            cache.as_os_str(),
            OsStr::new("my-bucket"),
        ];
        run("cache_manager.py", words, &env);
    }
    let folder = "thetadata/stock/minute/ohlc";
    for name in [
        "stock_SPY_minute_ohlc.parquet",
        "stock_QQQ_minute_ohlc.parquet",
    ] {
        let here = server.root.join("stage/cache/v3").join(folder).join(name);
        let there = lab.path("manager").join(folder).join(name);
        assert_eq!(fs::read(here).unwrap(), fs::read(there).unwrap());
    }
    nothing_is_left(&server.root);
}

#[test]
fn p1_objects_are_read_and_written_under_any_name() {
    let (_lab, root) = check("objects");
    assert_eq!(fs::read(root.join("#1 100%")).unwrap(), b"#1 100%");
    let name = "gr\u{fc}\u{df}e/\u{65e5}\u{672c}";
    assert_eq!(fs::read(root.join(name)).unwrap(), name.as_bytes());
}

#[test]
fn p5_of_conditional_writers_one_wins() {
    let (_lab, root) = check("conditions");
    nothing_is_left(&root);
}

#[test]
fn p10_names_and_links_lead_nowhere_else() {
    let lab = Lab::new();
    let outside = lab.dir("outside");
    put(&outside.join("secret"), b"secret");
    symlink(&outside, lab.dir("srv").join("link")).unwrap();
    let server = lab.serve("srv", &["--allow-delete"]);
    boto3(&["names", &server.url]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(
        files(&server.root).len(),
        1 + 1,
        "{:?}",
        files(&server.root)
    );
    nothing_is_left(&server.root);
}

/// With the S3 clients that pyarrow and polars bring along, none of which is boto3.
#[test]
fn p1_tables_are_kept_in_it_as_in_a_bucket() {
    let lab = Lab::new();
    put(&lab.path("key"), b"hunter2-the-writer");
    let key = lab.path("key").display().to_string();
    let open = lab.serve("open", &["--allow-delete"]);
    let closed = lab.serve("closed", &["--allow-delete", "--key-file", &key]);
    for server in [open, closed] {
        let address = server.url.trim_start_matches("http://");
        run("tables.py", [address, "hunter2-the-writer"], &[]);
        nothing_is_left(&server.root);
    }
}

#[test]
fn p13_times_are_kept_both_ways() {
    let (_lab, root) = check("times");
    let time = fs::metadata(root.join("t")).unwrap().modified().unwrap();
    let written = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    assert_eq!(time, written);
}

#[test]
fn p2_listings_come_in_pages_from_the_index() {
    check("listing");
}

#[test]
fn p1_parts_become_a_file_in_one_step() {
    let (_lab, root) = check("multipart");
    assert_eq!(files(&root), ["m/big", "m/copy", "m/x"]);
}

#[test]
fn p1_half_an_upload_leaves_no_file() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let id = boto3(&["half", &server.url]);
    let parts = || {
        fs::read_dir(lab.path("srv/.larder/uploads"))
            .unwrap()
            .count()
    };
    assert_eq!(parts(), 2);
    server.kill();
    assert_eq!(files(&lab.path("srv")), [""; 0]);
    let server = lab.serve("srv", &[]);
    assert_eq!(parts(), 0, "what was left is removed at the start");
    boto3(&["gone", &server.url, id.trim()]);
}

#[test]
fn p12_deletions_must_be_allowed() {
    let (_lab, root) = check("deletes");
    assert_eq!(files(&root), ["d/3", "d/4"]);
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    boto3(&["kept", &server.url]);
}

#[test]
fn p10_the_secret_is_the_key_and_stands_in_no_log() {
    let lab = Lab::new();
    put(&lab.path("key"), b"hunter2-the-writer");
    put(&lab.path("read-key"), b"hunter3-the-reader");
    let key = lab.path("key").display().to_string();
    let server = lab.serve("srv", &["--key-file", &key]);
    boto3(&["keys", &server.url, "hunter2-the-writer"]);
    let page = common::get(&format!("{}/v1/page", server.url));
    assert!(page.contains("\"status\":403"), "{page}");
    assert!(
        !page.contains("hunter") && !page.to_lowercase().contains("signature="),
        "{page}"
    );
    drop(server);
    let readers = lab.path("read-key").display().to_string();
    let both = ["--key-file", &key, "--read-key-file", &readers];
    let log = fs::File::create(lab.path("log")).unwrap();
    let flags = [&both[..], &["--log", "debug"]].concat();
    let server = lab.serve_logged("other", "0", &flags, log);
    boto3(&[
        "readers",
        &server.url,
        "hunter2-the-writer",
        "hunter3-the-reader",
    ]);
    drop(server);
    let log = fs::read_to_string(lab.path("log")).unwrap();
    assert!(log.contains("a signature does not fit"), "{log}");
    assert!(!log.contains("hunter") && !log.contains("ERROR"), "{log}");
}

#[test]
fn the_folder_has_one_name_if_it_is_given_one() {
    let lab = Lab::new();
    let server = lab.serve("srv", &["--s3-bucket", "mine"]);
    boto3(&["buckets", &server.url, "mine"]);
    assert_eq!(files(&server.root), ["k"]);
}

#[test]
fn p8_all_protocols_see_the_same_files() {
    check("languages");
}

#[test]
fn p1_bodies_in_pieces_are_put_together() {
    check("chunked");
    let lab = Lab::new();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    put(&lab.path("cert.pem"), made.cert.pem().as_bytes());
    put(
        &lab.path("key.pem"),
        made.signing_key.serialize_pem().as_bytes(),
    );
    put(&lab.path("secret"), b"hunter2-the-writer");
    let path = |name: &str| lab.path(name).display().to_string();
    let (cert, key, secret) = (path("cert.pem"), path("key.pem"), path("secret"));
    let tls = [
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--key-file",
        &secret,
    ];
    let server = lab.serve("srv", &tls);
    boto3(&["secure", &server.url, &cert, "hunter2-the-writer"]);
}
