//! Listing and reading from it.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::common::{Lab, Mount, bytes, eventually, put};
use super::original::Original;

fn names(mount: &Mount<'_>, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(mount.path(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".larder")
        .collect();
    names.sort();
    names
}

fn missing(path: std::path::PathBuf) {
    assert_eq!(fs::read(path).unwrap_err().kind(), ErrorKind::NotFound);
}

fn rewritten_with_an_old_time(path: &std::path::Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(old).unwrap();
}

#[test]
fn p2_its_own_index_file_is_the_listing() {
    let lab = Lab::new();
    put(&lab.path("original/TB/a.pkl"), b"hello");
    put(&lab.path("original/d/\u{fc} b.bin"), &bytes(1, 300_000));
    put(&lab.path("original/empty.bin"), b"");
    let server = Original::start(&lab, &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    assert_eq!(names(&mount, "."), ["TB", "d", "empty.bin"]);
    assert_eq!(names(&mount, "TB"), ["a.pkl"]);
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), b"hello");
    assert_eq!(
        fs::read(mount.path("d/\u{fc} b.bin")).unwrap(),
        bytes(1, 300_000)
    );
    assert_eq!(fs::read(mount.path("empty.bin")).unwrap(), b"");
    let there = fs::metadata(server.root.join("TB/a.pkl")).unwrap();
    let here = fs::metadata(mount.path("TB/a.pkl")).unwrap();
    let apart = there
        .modified()
        .unwrap()
        .duration_since(here.modified().unwrap());
    // It tells times as floating-point numbers of seconds.
    assert!(apart.unwrap_or_else(|e| e.duration()) < Duration::from_micros(1));
    // Nobody asks again what is held, or was just said not to be there.
    for _ in 0..3 {
        missing(mount.path("none"));
    }
    assert_eq!(server.asked("/download?path=none"), 1);
    assert_eq!(server.asked("GET /download?path=TB/a.pkl"), 1);
    server.stop();
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), b"hello");
}

#[test]
fn p1_the_answer_is_believed_and_not_the_index() {
    let lab = Lab::new();
    for name in ["open.bin", "stat.bin", "gone.bin"] {
        put(&lab.path("original").join(name), b"short");
    }
    let server = Original::start(&lab, &[]);
    rewritten_with_an_old_time(&server.root.join("open.bin"), b"seventeen letters");
    rewritten_with_an_old_time(&server.root.join("stat.bin"), b"seventeen letters");
    fs::remove_file(server.root.join("gone.bin")).unwrap();
    server.refresh("incremental");
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    assert_eq!(names(&mount, "."), ["gone.bin", "open.bin", "stat.bin"]);
    assert_eq!(
        fs::read(mount.path("open.bin")).unwrap(),
        b"seventeen letters"
    );
    assert_eq!(fs::metadata(mount.path("open.bin")).unwrap().len(), 17);
    missing(mount.path("gone.bin"));
    // The index is still wrong, and stays without effect.
    server.refresh("incremental");
    mount.sync();
    assert_eq!(fs::metadata(mount.path("open.bin")).unwrap().len(), 17);
    assert_eq!(names(&mount, "."), ["open.bin", "stat.bin"]);
    assert_eq!(
        fs::read(mount.path("stat.bin")).unwrap(),
        b"seventeen letters"
    );
}

/// On its first start it has no index for up to an hour.
#[test]
fn p2_what_its_index_does_not_name_yet_is_found() {
    let lab = Lab::new();
    put(&lab.path("original/TB/a.pkl"), b"hello");
    put(&lab.path("original/TB/b.pkl"), b"world");
    let server = Original::start(&lab, &["--no-refresh"]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--refresh", "1s"]);
    assert!(names(&mount, ".").is_empty());
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), b"hello");
    missing(mount.path("TB/none.pkl"));
    server.refresh("full");
    eventually("the index is taken", || names(&mount, "TB").len() == 2);
    assert_eq!(fs::read(mount.path("TB/b.pkl")).unwrap(), b"world");
}

/// Without a listing: names are asked for, many at once, and answers are remembered.
#[test]
fn p2_without_an_index_file_names_are_asked_for() {
    for how in ["refuse", "damage"] {
        let lab = Lab::new();
        for n in 0..200 {
            put(&lab.path(format!("original/TB/f{n}.pkl")), &bytes(n, 1000));
        }
        let server = Original::start(&lab, &["--index-file", how]);
        let mount = lab.mount("mnt", &["--remote", &server.url]);
        // A directory without a listing shows what was asked for; that does not take long.
        assert!(names(&mount, ".").is_empty());
        assert_eq!(
            fs::read(mount.path("TB/f7.pkl")).unwrap(),
            bytes(7, 1000),
            "{how}"
        );
        assert_eq!(names(&mount, "TB"), ["f7.pkl"]);
        std::thread::scope(|scope| {
            for n in 0..100 {
                let path = mount.path(format!("TB/none{n}.pkl"));
                scope.spawn(move || missing(path));
            }
        });
        let batches = server.asked("/exists_batch");
        assert!(batches <= 60, "{batches} questions for 100 names at once");
        assert_eq!(server.asked("/download?path=TB/none"), 0);
        let before = server.asked("\"");
        missing(mount.path("TB/none3.pkl"));
        assert_eq!(fs::read(mount.path("TB/f7.pkl")).unwrap(), bytes(7, 1000));
        assert_eq!(server.asked("\""), before);
    }
}

#[test]
fn p8_without_an_index_file_changes_are_seen_after_the_refresh() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"one");
    put(&lab.path("original/b.bin"), b"there");
    let server = Original::start(&lab, &["--index-file", "refuse"]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--refresh", "1s"]);
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), b"one");
    assert_eq!(fs::read(mount.path("b.bin")).unwrap(), b"there");
    put(&server.root.join("a.bin"), b"two and more");
    fs::remove_file(server.root.join("b.bin")).unwrap();
    server.refresh("full");
    eventually("the new version is seen", || {
        fs::read(mount.path("a.bin")).is_ok_and(|found| found == b"two and more")
    });
    eventually("the file is gone", || !mount.path("b.bin").exists());
}

/// It writes in place: a reader must not take for whole what is just being written.
#[test]
fn p1_a_file_that_changed_just_now_is_looked_at_twice() {
    let lab = Lab::new();
    let server = Original::start(&lab, &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--refresh", "1s"]);
    for round in 0..20 {
        server.upload("a.bin", &bytes(round, 5000));
        eventually("the version is read", || {
            fs::read(mount.path("a.bin")).is_ok_and(|found| found == bytes(round, 5000))
        });
    }
    assert!(server.asked("HEAD /download?path=a.bin") > 0);
}

/// An error page, whatever its status, is no file and says nothing about one.
#[test]
fn p6_the_other_kind_of_server_may_take_its_place() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"hello");
    let server = Original::start(&lab, &[]);
    let (url, port) = (server.url.clone(), server.port().to_owned());
    let mount = lab.mount("mnt", &["--remote", &url, "--refresh", "1s"]);
    assert!(mount.path("a.bin").exists());
    server.stop();
    let native = lab.serve_at("original", &port, &[]);
    put(&native.root.join("new.bin"), b"from a larder");
    eventually("the new server is found", || {
        fs::read(mount.path("new.bin")).is_ok_and(|found| found == b"from a larder")
    });
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), b"hello");
}

#[test]
fn the_variables_of_its_own_client_are_enough() {
    let lab = Lab::new();
    put(&lab.path("original/TB/a.pkl"), b"hello");
    let server = Original::start(&lab, &[]);
    let env = [
        ("REMOTE_FXCACHE_URL", server.url.as_str()),
        ("REMOTE_FXCACHE_MODE", "cache"),
        ("REMOTE_FXCACHE_UPLOAD", "true"),
    ];
    let mount = lab.try_mount_with("mnt", &env, &[]).unwrap();
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), b"hello");
    fs::write(mount.path("TB/b.pkl"), b"built here").unwrap();
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("TB/b.pkl")).unwrap(),
        b"built here"
    );
}

#[test]
fn what_is_no_such_server_is_said_in_one_line() {
    let lab = Lab::new();
    let dir = lab.dir("page");
    let mut page = Command::new("python3")
        .args(["-c", "import http.server, sys; s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"])
        .current_dir(dir)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    let out = page.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut port).unwrap();
    let url = format!("http://127.0.0.1:{}", port.trim());
    let mount = lab.mount("mnt", &["--remote", &url]);
    eventually("status says it", || {
        let status = mount.status();
        let error = status["remotes"][0]["last_error"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        error.contains("larder server") && !error.contains('\n')
    });
    page.kill().unwrap();
    page.wait().unwrap();
}

/// Its index file is a database that anybody may have written to.
#[test]
fn p10_rows_that_are_no_names_leave_the_others_as_they_are() {
    let lab = Lab::new();
    let good = ["TB/a.pkl", "TB/ b.pkl", "TB/\u{fc}.pkl"];
    for name in good {
        put(&lab.path("original").join(name), name.as_bytes());
    }
    let made = Original::start(&lab, &[]);
    let root = made.root.clone();
    made.stop();
    let index = rusqlite::Connection::open(root.join(".fxcache_index.db")).unwrap();
    let long = format!("TB/{}", "x".repeat(256));
    let bad = [
        "../up",
        "TB/../../up",
        "/etc/passwd",
        "..",
        "",
        "TB//b",
        "TB/./b",
        ".larder/index.db",
        "TB/.larder/x",
        "nul\0byte",
        &long,
    ];
    for name in bad {
        let row = "INSERT OR REPLACE INTO files (path, size, mtime) VALUES (?1, 4, 1.7e9)";
        index.execute(row, [name]).unwrap();
    }
    drop(index);
    let server = Original::start(&lab, &["--no-refresh"]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    mount.sync();
    let mut expected = good.map(|name| name.trim_start_matches("TB/")).to_vec();
    expected.sort_unstable();
    assert_eq!(
        (names(&mount, "."), names(&mount, "TB")),
        (
            vec!["TB".into()],
            expected.iter().map(|n| (*n).to_owned()).collect()
        )
    );
    for name in good {
        let found = fs::read(mount.path(name));
        assert_eq!(found.ok().as_deref(), Some(name.as_bytes()), "{name:?}");
    }
    mount.nothing_waits();
    let at = mount.unmount();
    assert!(!lab.path("up").exists());
    assert_eq!(fs::read_dir(at.join("TB")).unwrap().count(), good.len());
}
