//! Renames and new times: the bucket copies what it has, and no bytes pass through here.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::backends::{Backend as _, Conditions, Copying, Options};
use larder::error::Kind;
use larder::object::{Precondition, Version};

use crate::common::{Lab, Mount, eventually, is_mounted, put};
use crate::s3::{Habits, Op, S3Server};
use crate::support::{below, bytes, p};

/// Nothing is listed but at the start and when it is asked for.
const HOURLY: [&str; 3] = ["--upload", "--refresh", "1h"];

fn try_mount<'a>(lab: &'a Lab, store: &S3Server, crash: &str, more: &[&str]) -> Option<Mount<'a>> {
    let url = format!("{}&region=us-east-1", store.url("p"));
    let args = [&["--remote", &url], &HOURLY[..], more].concat();
    let mut env = S3Server::env().to_vec();
    if !crash.is_empty() {
        env.push(("LARDER_CRASH_AT", crash));
    }
    lab.try_mount_with("m", &env, &args).ok()
}

fn mount<'a>(lab: &'a Lab, store: &S3Server, more: &[&str]) -> Mount<'a> {
    let mount = try_mount(lab, store, "", more).unwrap();
    eventually("the bucket is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

/// An object as rclone leaves it: with its time, and without our hash.
fn foreign(store: &S3Server, key: &str, bytes: &[u8]) {
    let kept = [("mtime".to_owned(), "1234567890.123456789".to_owned())];
    store.change(key, bytes.to_vec(), |o| o.metadata = kept.into());
}

fn time(path: &Path) -> (i64, i64) {
    let facts = fs::metadata(path).unwrap();
    (facts.mtime(), facts.mtime_nsec())
}

fn conflicts(mount: &Mount<'_>) -> usize {
    mount.status()["conflicts"].as_array().unwrap().len()
}

/// What carries bytes: down, and up.
fn carried(store: &S3Server) -> [u64; 3] {
    [Op::Get, Op::Put, Op::Part].map(|op| store.count(op))
}

/// Has the mount find out how the store copies, so that what follows can be counted.
fn tried(mount: &Mount<'_>, store: &S3Server) {
    fs::rename(mount.path("first"), mount.path("first-moved")).unwrap();
    mount.flush();
    assert_eq!(store.object("p/first-moved").unwrap().bytes, "first");
}

fn stored(store: &S3Server, key: &str) -> (Vec<u8>, String) {
    let object = store.object(key).unwrap();
    (object.bytes.to_vec(), object.metadata["mtime"].clone())
}

#[test]
fn p13_a_renamed_file_that_was_never_read_goes_up_without_its_bytes() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    // Nobody learned the time that the listing does not tell.
    store.fail(Op::Head, 3, "InternalError");
    foreign(&store, "p/d/a + ü%.json", b"{}");
    mount.sync();
    eventually("it is not learned", || store.count(Op::Head) >= 3);
    let before = (carried(&store), store.count(Op::Copy));
    fs::create_dir(mount.path("e")).unwrap();
    fs::rename(mount.path("d/a + ü%.json"), mount.path("e/b #.json")).unwrap();
    mount.flush();
    assert_eq!((carried(&store), store.count(Op::Copy) - 1), before);
    let time_there = "1234567890.123456789".to_owned();
    assert_eq!(stored(&store, "p/e/b #.json"), (b"{}".to_vec(), time_there));
    let there = store.object("p/e/b #.json").unwrap();
    assert_eq!(there.content_type.as_deref(), Some("application/json"));
    // The old name stays there, and is not shown.
    assert!(store.object("p/d/a + ü%.json").is_some());
    let moved = mount.path("e/b #.json");
    eventually("it has its time", || {
        time(&moved) == (1_234_567_890, 123_456_789)
    });
    mount.sync();
    assert!(!mount.path("d/a + ü%.json").exists());
    assert_eq!(fs::read(&moved).unwrap(), b"{}");
    assert_eq!(time(&moved), (1_234_567_890, 123_456_789));
    assert_eq!(store.keys().len(), 4, "{:?}", store.keys());
}

#[test]
fn p12_a_directory_that_is_renamed_unread_takes_its_old_names_along() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    for n in 0..60 {
        foreign(&store, &format!("p/run/{}/{n}.bin", n % 3), &[n; 9]);
    }
    foreign(&store, "p/run/manifest.json", b"all of them");
    let mount = mount(&lab, &store, &["--propagate-deletes"]);
    tried(&mount, &store);
    let before = (carried(&store), store.count(Op::Copy));
    fs::rename(mount.path("run"), mount.path("kept")).unwrap();
    mount.flush();
    assert_eq!((carried(&store), store.count(Op::Copy) - 61), before);
    let keys = store.keys();
    assert!(
        !keys.iter().any(|key| key.starts_with("p/run/")),
        "{keys:?}"
    );
    assert_eq!(keys.len(), 62);
    mount.sync();
    for n in 0..60u8 {
        let moved = mount.path(format!("kept/{}/{n}.bin", n % 3));
        assert_eq!(fs::read(&moved).unwrap(), [n; 9]);
        assert_eq!(time(&moved), (1_234_567_890, 123_456_789));
    }
    assert_eq!(conflicts(&mount), 0);
}

#[test]
fn p8_a_file_that_changed_there_before_it_was_copied_is_the_new_one() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    foreign(&store, "p/a", b"old");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    foreign(&store, "p/a", b"newer");
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    eventually("it is not what was listed", || {
        mount.status()["outbox"]["oldest_attempts"] == 1
    });
    assert!(store.object("p/b").is_none());
    mount.sync();
    mount.flush();
    assert_eq!(store.object("p/b").unwrap().bytes, "newer");
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"newer");
    assert_eq!(conflicts(&mount), 0);
}

/// Somebody else took the new name, which no listing told.
fn taken(habits: Habits) {
    let (lab, store) = (Lab::new(), S3Server::start(habits));
    store.place("p/first", "first");
    foreign(&store, "p/unread", b"ours, never read");
    foreign(&store, "p/equal", b"equal");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    store.place("p/taken", "theirs");
    store.place("p/same", "equal");
    fs::rename(mount.path("unread"), mount.path("taken")).unwrap();
    fs::rename(mount.path("equal"), mount.path("same")).unwrap();
    eventually("the conflict is told", || conflicts(&mount) == 1);
    mount.flush();
    let conflict = mount.status()["conflicts"][0].clone();
    assert_eq!(conflict["path"], "taken");
    assert_eq!(store.object("p/taken").unwrap().bytes, "theirs");
    assert_eq!(fs::read(mount.path("taken")).unwrap(), b"theirs");
    assert_eq!(fs::read(mount.path("same")).unwrap(), b"equal");
    let kept = conflict["kept_at"].as_str().unwrap().to_owned();
    let at = mount.unmount();
    assert_eq!(fs::read(at.join(kept)).unwrap(), b"ours, never read");
}

#[test]
fn p5_a_copy_replaces_nobody_elses_file() {
    taken(Habits::default());
}

#[test]
fn p5_a_copy_replaces_nobody_elses_file_where_conditions_do_not_count() {
    taken(Habits {
        conditions: false,
        ..Habits::default()
    });
}

#[test]
fn p5_a_store_that_heeds_conditions_of_writes_alone_gets_the_bytes() {
    let habits = Habits {
        copy_conditions: false,
        ..Habits::default()
    };
    taken(habits);
    let (lab, store) = (Lab::new(), S3Server::start(habits));
    store.place("p/first", "first");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    // The trial, which leaves nothing.
    assert_eq!(store.count(Op::Copy), 1);
    assert_eq!(store.keys(), ["p/first", "p/first-moved"]);
}

#[test]
fn p3_a_store_that_makes_no_copies_is_asked_once() {
    for conditions in [true, false] {
        let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
        store.set(|habits| (habits.copies, habits.conditions) = (false, conditions));
        store.place("p/first", "first");
        foreign(&store, "p/d/a", b"a");
        let mount = mount(&lab, &store, &[]);
        tried(&mount, &store);
        fs::rename(mount.path("d"), mount.path("e")).unwrap();
        mount.flush();
        let time_there = "1234567890.123456789".to_owned();
        assert_eq!(stored(&store, "p/e/a"), (b"a".to_vec(), time_there));
        assert_eq!(store.count(Op::Copy), 1);
        mount.unmount();
    }
}

fn touch(path: &Path, seconds: u64) {
    let then = SystemTime::UNIX_EPOCH + Duration::new(seconds, 500_000_000);
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(then).unwrap();
}

/// Sets the time by name: the file is not opened, so nothing has to come down.
fn touch_unread(path: &Path, seconds: u64) {
    let date = format!("--date=@{seconds}.5");
    let done = std::process::Command::new("touch")
        .args(["-h", &date])
        .arg(path)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn p13_a_new_time_goes_up_without_the_bytes() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    foreign(&store, "p/read", b"read");
    foreign(&store, "p/rewritten", b"rewritten");
    foreign(&store, "p/unread", b"unread");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    assert_eq!(fs::read(mount.path("read")).unwrap(), b"read");
    assert_eq!(fs::read(mount.path("rewritten")).unwrap(), b"rewritten");
    let before = (carried(&store), store.count(Op::Copy));
    touch(&mount.path("read"), 1_600_000_001);
    fs::write(mount.path("rewritten"), b"rewritten").unwrap();
    touch(&mount.path("rewritten"), 1_600_000_002);
    touch_unread(&mount.path("unread"), 1_600_000_003);
    mount.flush();
    assert_eq!((carried(&store), store.count(Op::Copy) - 3), before);
    assert_eq!(stored(&store, "p/read").1, "1600000001.5");
    assert_eq!(stored(&store, "p/rewritten").1, "1600000002.5");
    assert_eq!(stored(&store, "p/unread").1, "1600000003.5");
    assert_eq!(conflicts(&mount), 0);
}

#[test]
fn p13_a_file_that_came_in_parts_is_copied_and_keeps_its_bytes_here() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    let mount = mount(&lab, &store, &[]);
    tried(&mount, &store);
    let large = bytes(17 << 20);
    put(&mount.path("large.bin"), &large);
    mount.flush();
    let before = carried(&store);
    assert_eq!(before[2], 3);
    fs::rename(mount.path("large.bin"), mount.path("moved.bin")).unwrap();
    mount.flush();
    let there = store.object("p/moved.bin").unwrap();
    assert!(there.bytes == large);
    // Its version is another, which the mount knows: nothing comes again.
    assert_ne!(there.etag, store.object("p/large.bin").unwrap().etag);
    mount.sync();
    assert!(fs::read(mount.path("moved.bin")).unwrap() == large);
    assert_eq!(carried(&store), before);
    assert_eq!(conflicts(&mount), 0);
}

/// A mount that dies at `point` while `a`, which was never read, goes up as `b`.
fn killed(lab: &Lab, store: &S3Server, point: &str) {
    let mount = try_mount(lab, store, point, &["--propagate-deletes"]).unwrap();
    eventually("it is listed", || mount.path("a").exists());
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    eventually("the dead mount is detached", || !is_mounted(&mount.at));
}

#[test]
fn p3_a_copy_that_was_cut_short_is_no_conflict() {
    for point in ["upload.begin", "upload.answered", "upload.row"] {
        let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
        foreign(&store, "p/a", b"never read");
        killed(&lab, &store, point);
        assert_eq!(store.object("p/b").is_some(), point != "upload.begin");
        assert!(store.object("p/a").is_some(), "{point}");
        let mount = mount(&lab, &store, &["--propagate-deletes"]);
        mount.flush();
        assert_eq!(store.keys(), ["p/b"], "{point}");
        assert_eq!(store.count(Op::Get), 0, "{point}");
        let time_there = "1234567890.123456789".to_owned();
        assert_eq!(
            stored(&store, "p/b"),
            (b"never read".to_vec(), time_there),
            "{point}"
        );
        assert_eq!(conflicts(&mount), 0, "{point}");
        mount.sync();
        assert_eq!(fs::read(mount.path("b")).unwrap(), b"never read");
        mount.unmount();
    }
}

#[test]
fn p5_what_is_written_over_a_copy_that_was_cut_short_replaces_it() {
    for point in ["upload.begin", "upload.answered"] {
        let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
        foreign(&store, "p/a", b"never read");
        killed(&lab, &store, point);
        fs::write(lab.path("m/b"), b"written without the mount").unwrap();
        let mount = mount(&lab, &store, &["--propagate-deletes"]);
        eventually("it goes up", || {
            let there = store.object("p/b");
            there.is_some_and(|b| b.bytes == "written without the mount")
        });
        mount.flush();
        assert_eq!(conflicts(&mount), 0, "{point}");
        let found = fs::read(mount.path("b")).unwrap();
        assert_eq!(found, b"written without the mount");
        mount.unmount();
    }
}

fn options(heeds: bool) -> Options {
    Options {
        upload: true,
        conditions: Conditions {
            known: Some(heeds),
            learned: None,
        },
        ..Options::default()
    }
}

fn copying(size: u64) -> Copying {
    Copying {
        from: p("a"),
        version: Version::new("5").unwrap(),
        size,
        mtime_ns: 1,
        sha256: None,
    }
}

#[tokio::test]
async fn what_is_too_large_for_one_request_is_not_asked_for() {
    let store = S3Server::start(Habits::default());
    let s3 = below(&store, &options(false));
    let large = copying((5 << 30) + 1);
    let copy = s3.copy(&p("b"), large, Precondition::None).await;
    assert_eq!(copy.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(store.requests(), 0);
    assert!(s3.capabilities().await.unwrap().copy);
}

#[tokio::test]
async fn p5_keys_that_may_not_copy_are_found_out_and_leave_nothing() {
    let store = S3Server::start(Habits::default());
    store.fail(Op::Copy, 1, "AccessDenied");
    let s3 = below(&store, &options(true));
    let copy = s3.copy(&p("b"), copying(1), Precondition::Absent).await;
    assert_eq!(copy.unwrap_err().kind(), Kind::Unsupported);
    assert!(!s3.capabilities().await.unwrap().copy);
    assert_eq!((store.count(Op::Copy), store.keys()), (1, vec![]));
}

#[tokio::test]
async fn p3_an_error_behind_a_good_status_is_one() {
    let body =
        "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>m</Message></Error>";
    let headers = format!("content-length: {}\r\n", body.len());
    let url = crate::faults::says(crate::faults::say("200 OK", &headers, body), false);
    let s3 = crate::support::at(&url, &options(false));
    let copy = s3.copy(&p("b"), copying(1), Precondition::None).await;
    assert_eq!(copy.unwrap_err().kind(), Kind::Unavailable);
}

#[test]
fn p8_a_file_that_is_read_while_it_is_copied_is_read_whole() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.place("p/first", "first");
    for n in 0..6 {
        // Its version names no bytes, and its copy has another.
        store.change(&format!("p/d/{n}"), bytes((17 << 20) + n), |o| {
            o.etag = format!("{n}-3");
        });
    }
    let mount = mount(&lab, &store, &["--propagate-deletes"]);
    tried(&mount, &store);
    store.set(|habits| habits.delay = Duration::from_millis(30));
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    for n in 0..6 {
        let read = fs::read(mount.path(format!("e/{n}"))).unwrap();
        assert!(read == bytes((17 << 20) + n), "{n}");
    }
    mount.flush();
    let keys = store.keys();
    assert!(!keys.iter().any(|key| key.starts_with("p/d/")), "{keys:?}");
    for n in 0..6 {
        let there = store.object(&format!("p/e/{n}")).unwrap();
        assert!(there.bytes == bytes((17 << 20) + n), "{n}");
    }
    assert_eq!(conflicts(&mount), 0);
}

#[test]
fn p5_a_copy_that_was_cut_short_under_another_version_is_no_conflict() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    foreign(&store, "p/a", b"in parts");
    let kept = store.object("p/a").unwrap().metadata;
    store.change("p/a", "in parts", |o| {
        (o.metadata, o.etag) = (kept, "abc-2".into());
    });
    killed(&lab, &store, "upload.answered");
    assert_ne!(store.object("p/b").unwrap().etag, "abc-2");
    let mount = mount(&lab, &store, &["--propagate-deletes"]);
    mount.flush();
    assert_eq!(store.keys(), ["p/b"]);
    assert_eq!(conflicts(&mount), 0);
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"in parts");
}

#[test]
fn p13_a_new_time_of_a_file_that_came_in_parts_leaves_its_version() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    let mount = mount(&lab, &store, &[]);
    put(&mount.path("large.bin"), &bytes(17 << 20));
    mount.flush();
    let before = store.object("p/large.bin").unwrap();
    touch(&mount.path("large.bin"), 1_600_000_001);
    mount.flush();
    let now = store.object("p/large.bin").unwrap();
    assert_eq!(now.metadata["mtime"], "1600000001.5");
    // Whoever has it need not fetch it again.
    assert_eq!(now.etag, before.etag);
}
