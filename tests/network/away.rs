//! P6: a remote that is away is a normal state; P2: absence is never made up.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::common::{Lab, Mount, bytes, eventually, put, within};
use super::proxy::Proxy;
use super::{errno, is_absent, names, set};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any deadline that a person may run into.
const DEADLINE: Duration = Duration::from_secs(15);

fn state(mount: &Mount<'_>) -> String {
    mount.status()["remotes"][0]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn is_away(mount: &Mount<'_>) -> bool {
    state(mount) == "away"
}

/// A mount that knows `held.bin` (held), `far.bin` and `d/far.bin` (not).
fn settled<'a>(lab: &'a Lab, url: &str, more: &[&str]) -> Mount<'a> {
    let mut args = vec!["--remote", url];
    args.extend(more);
    let mount = lab.mount("mnt", &args);
    eventually("all is listed", || mount.path("d/far.bin").exists());
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    eventually("one is held", || mount.status()["held"]["files"] == 1);
    mount
}

fn served(lab: &Lab) {
    put(&lab.path("srv/held.bin"), &bytes(1, 5000));
    put(&lab.path("srv/far.bin"), &bytes(2, 5000));
    put(&lab.path("srv/d/far.bin"), &bytes(3, 5000));
}

fn hidden(mount: &Mount<'_>) -> bool {
    names(&mount.at) == set(&["d", "held.bin"])
        && names(&mount.path("d")).is_empty()
        && is_absent(&mount.path("far.bin"))
        && is_absent(&mount.path("d/far.bin"))
        && errno(File::open(mount.path("far.bin"))) == libc::ENOENT
}

fn shown(mount: &Mount<'_>) -> bool {
    names(&mount.at).is_superset(&set(&["d", "far.bin", "held.bin"]))
        && names(&mount.path("d")) == set(&["far.bin"])
        && fs::metadata(mount.path("far.bin")).is_ok()
        && fs::metadata(mount.path("d/far.bin")).is_ok()
}

#[test]
fn p6_what_cannot_be_read_is_hidden_and_comes_back() {
    let lab = Lab::new();
    served(&lab);
    let server = lab.serve("srv", &[]);
    let port = server.port();
    let mount = settled(&lab, &server.url, &["--upload"]);
    assert!(shown(&mount));
    // Somebody is in a directory: the kernel keeps what it knows of it.
    let inside = File::open(mount.path("d")).unwrap();
    let before = mount.status()["now_ms"].as_i64().unwrap();
    server.kill();
    within(5 * SECOND, "it is known to be away", || is_away(&mount));
    within(SECOND, "names are hidden", || hidden(&mount));
    let remote = mount.status()["remotes"][0].clone();
    assert!(remote["since_ms"].as_i64().unwrap() >= before, "{remote}");
    assert!(
        !remote["last_error"].as_str().unwrap().is_empty(),
        "{remote}"
    );
    // What is here works; what is written waits; a hidden name can be made again.
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    put(&mount.path("made/here.bin"), b"while away");
    fs::write(mount.path("far.bin"), b"made again").unwrap();
    assert_eq!(fs::read(mount.path("far.bin")).unwrap(), b"made again");
    let pending = mount.status()["outbox"]["pending"].as_u64().unwrap();
    assert_eq!(pending, 2);
    let begun = Instant::now();
    assert!(!mount.verb(&["flush", "--wait"]).status.success());
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    let server = lab.serve_at("srv", &port, &[]);
    within(5 * SECOND, "it is back", || state(&mount) == "online");
    within(SECOND, "names are shown again", || shown(&mount));
    assert_eq!(fs::read(mount.path("d/far.bin")).unwrap(), bytes(3, 5000));
    eventually("what waited went up", || {
        fs::read(server.root.join("made/here.bin")).is_ok_and(|b| b == b"while away")
            && fs::read(server.root.join("far.bin")).is_ok_and(|b| b == b"made again")
    });
    eventually("nothing is pending", || {
        mount.status()["outbox"]["pending"] == 0
    });
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    drop(inside);
}

#[test]
fn p6_offline_error_keeps_names_and_fails_opens() {
    let lab = Lab::new();
    served(&lab);
    let server = lab.serve("srv", &[]);
    let mount = settled(&lab, &server.url, &["--offline", "error"]);
    server.kill();
    within(5 * SECOND, "it is known to be away", || is_away(&mount));
    assert!(shown(&mount));
    let begun = Instant::now();
    assert_eq!(errno(File::open(mount.path("far.bin"))), libc::EIO);
    assert_eq!(errno(File::open(mount.path("d/far.bin"))), libc::EIO);
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
}

#[test]
fn p6_a_server_that_stops_answering_hangs_nobody() {
    let lab = Lab::new();
    served(&lab);
    let server = lab.serve("srv", &[]);
    let mount = settled(&lab, &server.url, &["--upload"]);
    server.signal("-STOP");
    let begun = Instant::now();
    let open = File::open(mount.path("far.bin"));
    let took = begun.elapsed();
    assert_eq!(errno(open), libc::ENOENT);
    assert!(took < DEADLINE, "{took:?}");
    within(DEADLINE, "it is known to be away", || is_away(&mount));
    within(SECOND, "names are hidden", || hidden(&mount));
    mount.nothing_waits();
    let begun = Instant::now();
    fs::write(mount.path("new.bin"), b"new").unwrap();
    assert_eq!(fs::read(mount.path("new.bin")).unwrap(), b"new");
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    server.signal("-CONT");
    within(DEADLINE, "it is back", || state(&mount) == "online");
    within(SECOND, "names are shown again", || {
        fs::metadata(mount.path("far.bin")).is_ok() && fs::metadata(mount.path("d/far.bin")).is_ok()
    });
    assert_eq!(fs::read(mount.path("far.bin")).unwrap(), bytes(2, 5000));
    eventually("it went up", || {
        fs::read(server.root.join("new.bin")).is_ok_and(|b| b == b"new")
    });
}

#[test]
fn p6_a_stalled_body_ends_within_the_deadline_and_what_came_is_used() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    put(&server.root.join("big.bin"), &bytes(1, 16 << 20));
    let mount = lab.mount("mnt", &["--remote", &wire.url, "--offline", "error"]);
    eventually("it is listed", || mount.path("big.bin").exists());
    wire.slow(1 << 20);
    let file = File::open(mount.path("big.bin")).unwrap();
    let mut part = vec![0; 3 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 0).unwrap();
    wire.stall();
    let begun = Instant::now();
    let mut part = vec![0; 4096];
    let read = std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 15 << 20);
    let right = part == bytes(1, 16 << 20)[15 << 20..][..4096];
    assert!(read.is_err() || right, "wrong bytes were read");
    assert_eq!(errno(read), libc::EIO);
    assert!(begun.elapsed() < 2 * DEADLINE, "{:?}", begun.elapsed());
    mount.nothing_waits();
    wire.cut();
    wire.open();
    let before = wire.down();
    eventually("the rest comes", || {
        fs::read(mount.path("big.bin")).is_ok_and(|b| b == bytes(1, 16 << 20))
    });
    assert!(wire.down() - before < 16 << 20, "it began anew");
}

#[test]
fn p6_a_mount_starts_without_its_server() {
    let lab = Lab::new();
    served(&lab);
    let server = lab.serve("srv", &[]);
    let port = server.port();
    let mount = settled(&lab, &server.url, &[]);
    mount.unmount();
    let url = server.url.clone();
    server.kill();
    put(&lab.path("mnt/local.bin"), b"put here by hand");
    let begun = Instant::now();
    let mount = lab.mount("mnt", &["--remote", &url, "--offline", "error"]);
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(
        names(&mount.at),
        set(&["d", "far.bin", "held.bin", "local.bin"])
    );
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    assert_eq!(
        fs::read(mount.path("local.bin")).unwrap(),
        b"put here by hand"
    );
    assert!(is_absent(&mount.path("nobody-has-it")));
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(errno(File::open(mount.path("far.bin"))), libc::EIO);
    mount.unmount();
    let mount = lab.mount("mnt", &["--remote", &url]);
    within(5 * SECOND, "it is known to be away", || is_away(&mount));
    within(SECOND, "names are hidden", || {
        names(&mount.at) == set(&["d", "held.bin", "local.bin"])
    });
    let _server = lab.serve_at("srv", &port, &[]);
    within(5 * SECOND, "all comes back", || {
        fs::read(mount.path("d/far.bin")).is_ok_and(|b| b == bytes(3, 5000))
    });
}

#[test]
fn p2_a_first_mount_never_says_falsely_that_a_file_is_not_there() {
    let lab = Lab::new();
    for n in 0..3000 {
        put(&lab.path(format!("srv/{:02}/file-{n}.pkl", n % 50)), b"x");
    }
    put(&lab.path("srv/zz/last.pkl"), b"last");
    let server = lab.serve("srv", &[]);
    eventually("all is scanned", || {
        super::common::get(&format!("{}/v1/info", server.url)).contains("\"files\":3001")
    });
    let wire = Proxy::to(&server.url);
    wire.slow(60 << 10);
    let mount = lab.mount("mnt", &["--remote", &wire.url]);
    assert_eq!(mount.status()["remotes"][0]["listed"], false);
    assert_eq!(fs::read(mount.path("zz/last.pkl")).unwrap(), b"last");
    assert_eq!(names(&mount.path("07")).len(), 60);
    assert!(is_absent(&mount.path("07/nobody-has-it")));
    assert_eq!(mount.status()["remotes"][0]["listed"], true);
}

#[test]
fn p2_larder_ls_lists_what_is_there_or_says_that_it_does_not_know() {
    let lab = Lab::new();
    let all: Vec<_> = (0..2000).map(|n| format!("file-{n:04}.pkl")).collect();
    for name in &all {
        put(&lab.path("srv").join(name), b"x");
    }
    let server = lab.serve("srv", &[]);
    eventually("all is scanned", || {
        super::common::get(&format!("{}/v1/info", server.url)).contains("\"files\":2000")
    });
    let wire = Proxy::to(&server.url);
    wire.slow(100 << 10);
    let mount = lab.mount("mnt", &["--remote", &wire.url]);
    assert_eq!(mount.status()["remotes"][0]["listed"], false);
    let output = mount.verb(&["ls"]);
    assert!(output.status.success());
    assert_eq!(output.stdout.split(|b| *b == b'\n').count(), all.len() + 1);
    drop(mount);
    let away = lab.mount("away", &["--remote", "http://127.0.0.1:9"]);
    fs::write(away.path("mine.bin"), b"mine").unwrap();
    let output = away.verb(&["ls"]);
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!((output.status.code(), shown.lines().count()), (Some(1), 1));
    assert!(shown.contains("mine.bin"), "{shown}");
    assert!(said.contains("127.0.0.1:9: was not listed yet"), "{said}");
}

#[test]
fn p2_p6_a_first_mount_without_its_server_shows_the_folder() {
    let lab = Lab::new();
    put(&lab.path("mnt/mine.bin"), b"mine");
    put(&lab.path("srv/theirs.bin"), b"theirs");
    let server = lab.serve("srv", &[]);
    server.signal("-STOP");
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let begun = Instant::now();
    assert_eq!(fs::read(mount.path("mine.bin")).unwrap(), b"mine");
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let begun = Instant::now();
    let missing = fs::metadata(mount.path("theirs.bin"));
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    assert!(missing.is_err());
    within(DEADLINE, "the folder is listed", || {
        fs::read_dir(&mount.at).is_ok() && names(&mount.at) == set(&["mine.bin"])
    });
    server.signal("-CONT");
    within(DEADLINE, "theirs came", || {
        fs::read(mount.path("theirs.bin")).is_ok_and(|b| b == b"theirs")
            && names(&mount.at) == set(&["mine.bin", "theirs.bin"])
    });
}

#[test]
fn p6_unmounting_while_the_server_hangs_is_quick() {
    let lab = Lab::new();
    served(&lab);
    let server = lab.serve("srv", &[]);
    let mount = settled(&lab, &server.url, &["--upload"]);
    server.signal("-STOP");
    fs::write(mount.path("new.bin"), b"new").unwrap();
    let mut reader = Command::new("cat")
        .arg(mount.path("far.bin"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    reader.wait().unwrap();
    let begun = Instant::now();
    let at = mount.unmount();
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(fs::read(at.join("new.bin")).unwrap(), b"new");
    server.signal("-CONT");
    let _mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    eventually("it went up after all", || {
        fs::read(server.root.join("new.bin")).is_ok_and(|b| b == b"new")
    });
}
