//! The program from outside: help, mistakes, configuration, exit codes. Nothing is mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program with nothing of this machine's environment.
fn larder(home: &std::path::Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("LARDER_RUNTIME_DIR", home.join("run"))
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    larder(home.path(), words).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of complaint of a run that failed with `code`.
fn complaint(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    let line = text.trim_end();
    line.strip_prefix("larder: ")
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned()
}

const VERBS: &[&str] = &[
    "mount",
    "umount",
    "status",
    "ls",
    "sync",
    "flush",
    "warm",
    "evict",
    "conflicts",
    "restore",
    "verify",
    "serve",
    "config",
    "doctor",
    "demo",
];

#[test]
fn every_verb_has_help() {
    let all = out(&run(&["--help"]));
    for verb in VERBS {
        assert!(all.contains(&format!("  {verb} ")), "{verb} is not listed");
        let output = run(&[verb, "--help"]);
        assert!(output.status.success(), "{verb}");
        let text = out(&output);
        assert!(
            text.contains("Usage: larder") && text.lines().next().unwrap().len() > 20,
            "{text}"
        );
    }
    assert!(
        !all.contains("guard") && !all.contains("background"),
        "{all}"
    );
    assert!(out(&run(&["--version"])).starts_with("larder 0."));
}

#[test]
fn mistakes_take_one_line_and_exit_2() {
    for (words, part) in [
        (&["mnt"][..], "unrecognized subcommand 'mnt'"),
        (&["mount", "x", "--uplod"], "'--upload'"),
        (&["restore"], "<PATHS>..."),
        (&["mount", "x", "--max-size"], "--max-size"),
        (&["status", "--watch=0"], "--watch"),
        (&["conflicts", "keep-mine"], "<PATH|ID>"),
    ] {
        let line = complaint(&run(words), 2);
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn bad_places_take_one_line_and_say_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(home.path().join("dir")).unwrap();
    let url = "http://127.0.0.1:9";
    for (words, part) in [
        (&["mount", "none", "--remote", url][..], "mkdir -p /"),
        (&["mount", "file", "--remote", url], "is not a directory"),
        (&["mount", "dir"], "--remote"),
        (
            &["mount", "dir", "--remote", "s3://bucket/x?uplaod"],
            "did you mean upload?",
        ),
        (
            &["mount", "dir", "--remote", "gopher://x"],
            "unknown kind of remote",
        ),
        (
            &["mount", "dir", "--remote", url, "--key-file", "nokey"],
            "key file nokey",
        ),
        (
            &["mount", "dir", "--remote", url, "--log", "larder=loud"],
            "larder=loud",
        ),
        (
            &["--config", "none.toml", "mount", "dir", "--remote", url],
            "none.toml",
        ),
        (&["umount", "dir"], "no larder is mounted at"),
        (&["umount"], "which mount?"),
        (&["mount"], "which folder?"),
        (
            &["mount", "--profile", "lumibot"],
            "Lumibot's remote cache is off (LUMIBOT_CACHE_BACKEND is not s3)",
        ),
        (
            &[
                "mount",
                "dir",
                "--remote",
                "file:///x?upload",
                "--read-only",
            ],
            "?upload contradicts read_only",
        ),
        (
            &["mount", "dir", "-r", "file:///x", "-r", "file:///x?rate=1M"],
            "is given twice",
        ),
        (&["status", "dir"], "larder mount"),
        (&["ls", "dir"], "larder status"),
        (&["warm", "dir"], "larder status"),
        (&["evict", "dir"], "larder status"),
        (&["restore", "dir"], "larder status"),
        (&["conflicts", "dir"], "larder mount"),
        (&["conflicts", "show", "dir/x"], "larder status"),
        (&["conflicts", "keep-theirs", "3"], "larder mount"),
        (&["serve", "none", "--port", "0"], "none"),
        (&["serve"], "larder serve DIR"),
    ] {
        let line = complaint(&larder(home.path(), words).output().unwrap(), 1);
        assert!(line.contains(part), "{words:?}: {line}");
        assert!(!line.contains("os error"), "{line}");
    }
}

#[test]
fn a_question_that_cannot_be_answered_exits_2() {
    let home = tempfile::tempdir().unwrap();
    let output = larder(home.path(), &["verify", "."]).output().unwrap();
    let line = complaint(&output, 2);
    assert!(line.contains("larder status"), "{line}");
}

#[test]
fn config_show_says_where_every_value_is_from() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config/larder");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("larder.toml"),
        "[mount]\nthreads = 2\nmin_free = \"2GiB\"\n",
    )
    .unwrap();
    let output = larder(home.path(), &["config", "show", "--max-size", "20G"])
        .env("REMOTE_FXCACHE_URL", "http://user:hush@10.0.0.2:5002")
        .env("REMOTE_FXCACHE_MODE", "stream")
        .env("LARDER_KEY", "sesame")
        .output()
        .unwrap();
    let text = out(&output);
    let line = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(line("threads").contains("2 # ") && line("threads").ends_with("larder.toml [mount]"));
    assert_eq!(line("max_size"), "max_size 20GiB # flag --max-size");
    assert_eq!(
        line("stream"),
        "stream true # environment REMOTE_FXCACHE_MODE"
    );
    assert_eq!(
        line("remote"),
        "remote http://10.0.0.2:5002 # environment REMOTE_FXCACHE_URL"
    );
    assert_eq!(line("uploads"), "uploads 4 # default");
    assert!(!text.contains("hush") && !text.contains("sesame"), "{text}");

    let json = larder(home.path(), &["config", "show", "--json"])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let min_free = json
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["name"] == "min_free")
        .unwrap();
    assert_eq!(min_free["value"], "2GiB");
}

#[test]
fn the_lumibot_profile_is_shown_and_mounts_in_lumibots_folder() {
    let home = tempfile::tempdir().unwrap();
    let on = |words: &[&str]| {
        let mut command = larder(home.path(), words);
        command
            .env("LUMIBOT_CACHE_BACKEND", " S3 ")
            .env("LUMIBOT_CACHE_MODE", "RW")
            .env("LUMIBOT_CACHE_S3_BUCKET", "bars")
            .env("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", "AKIA1")
            .env("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", "sesame");
        command
    };
    let output = on(&["config", "show", "--profile", "lumibot"]).output();
    let output = output.unwrap();
    let text = out(&output);
    for part in [
        "s3://bars/v1?upload=true",
        "# profile lumibot",
        "# environment LUMIBOT_CACHE_MODE",
        ".cache/lumibot/1.0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("sesame") && output.stderr.is_empty());
    // Nothing is made for a mount that cannot be.
    let output = on(&["mount", "--profile", "lumibot", "--log", "larder=loud"]).output();
    let line = complaint(&output.unwrap(), 1);
    assert!(line.contains("larder=loud"), "{line}");
    assert!(!home.path().join(".cache").exists());
    let mut wrong = on(&["mount", "--profile", "lumibot"]);
    let output = wrong.env("LUMIBOT_CACHE_MODE", "read-write").output();
    assert_eq!(
        complaint(&output.unwrap(), 1),
        "Unsupported LUMIBOT_CACHE_MODE 'read-write'. Expected one of: disabled, readwrite, readonly."
    );
    let output = on(&["umount", "--profile", "lumibot"]).output();
    let line = complaint(&output.unwrap(), 1);
    assert!(line.contains(".cache/lumibot"), "{line}");
}

#[test]
fn the_fxcache_server_variables_work_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let output = larder(home.path(), &["config", "show", "--serve"])
        .env("FXCACHE_PATH", "/srv/FXCACHE")
        .env("FXCACHE_SERVER_PORT", "5003")
        .env("FXCACHE_SERVER_HOST", "127.0.0.1")
        .output()
        .unwrap();
    let text = out(&output);
    for part in [
        "/srv/FXCACHE",
        "environment FXCACHE_PATH",
        "5003",
        "environment FXCACHE_SERVER_HOST",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let output = larder(home.path(), &["serve", "."])
        .env("FXCACHE_SERVER_PORT", "five")
        .output()
        .unwrap();
    let line = complaint(&output, 1);
    assert_eq!(
        line,
        "port = \"five\" (from environment FXCACHE_SERVER_PORT) is not usable: it must be a port from 0 to 65535"
    );
}

#[test]
fn bad_configuration_files_name_the_place() {
    let home = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("[mount]\nmaxsize = 1\n", "did you mean `max_size`?"),
        ("[mount\n", "line 1"),
        ("[mount]\nkey = \"sesame\"\n", "key_file"),
        (
            "[mount]\nremote = [{ url = \"http://a\", key = \"sesame\" }]\n",
            "{ key, url }",
        ),
        ("[mount]\noffline = \"maybe\"\n", "hide or error"),
    ] {
        std::fs::write(home.path().join("x.toml"), text).unwrap();
        let words = ["--config", "x.toml", "config", "show"];
        let line = complaint(&larder(home.path(), &words).output().unwrap(), 1);
        assert!(line.contains(part) && line.contains("x.toml"), "{line}");
        assert!(!line.contains("sesame"), "{line}");
    }
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let output = larder(home.path(), &["config", "show"])
        .env("LARDER_MAXSIZE", "1G")
        .output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("did you mean LARDER_MAX_SIZE?"), "{text}");
}

#[test]
fn doctor_checks_the_folder_and_the_remote() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("dir")).unwrap();
    // Nothing listens at the discard port.
    let words = ["doctor", "dir", "--remote", "http://127.0.0.1:9", "--json"];
    let output = larder(home.path(), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let named = |name: &str| {
        let found = checks
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == name);
        found.unwrap().clone()
    };
    assert_eq!(named("remote")["verdict"], "fail");
    assert!(
        named("remote")["advice"]
            .as_str()
            .unwrap()
            .contains("larder serve")
    );
    assert_eq!(named("mountpoint")["verdict"], "ok");
}

#[test]
fn serve_tells_its_address_and_stops_on_sigterm() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("cache")).unwrap();
    std::fs::write(home.path().join("cache/a.pkl"), "hello").unwrap();
    let words = ["serve", "cache", "--host", "127.0.0.1", "--port", "0"];
    let mut child = larder(home.path(), &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |part: &str| {
        let found = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("it never said {part:?}"))
    };
    let address = until("serving cache at http://127.0.0.1:");
    assert!(!address.ends_with(":0"), "{address}");
    until("the index is current: 1 file, 5 B");
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it does not stop");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn status_of_nothing_is_no_error() {
    let output = run(&["status", "--json"]);
    // Mounts of other users of this machine may be listed.
    assert!(out(&output).starts_with('['), "{}", out(&output));
}
