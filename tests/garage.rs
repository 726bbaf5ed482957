//! A bucket of a real object store that people run at home, Garage, behind real mounts. It takes
//! conditions on writes and does not check them, so this is also where the weaker guarantee of
//! such stores is held to its words.
//!
//! Run by `make test-garage`, which installs Garage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "suites/backend.rs"]
mod backend;
mod common;
#[path = "common/garage.rs"]
mod garage;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::many::{copy, count, fxcache, same, setting, timed, wait_until};
use common::{Lab, Mount, bytes, eventually, put};
use garage::{Garage, KEY, SECRET};
use larder::backends::url::RemoteUrl;
use larder::backends::{Options, connect};
use larder::secret::{AccessKey, Credentials, Secret};

const KEYS: [(&str, &str); 2] = [
    ("LARDER_S3_ACCESS_KEY_ID", KEY),
    ("LARDER_S3_SECRET_ACCESS_KEY", SECRET),
];

fn started(lab: &Lab) -> Garage {
    Garage::start(&lab.dir("garage"))
}

fn mounted<'a>(lab: &'a Lab, name: &str, url: &str, more: &[&str]) -> Mount<'a> {
    let args = [&["--remote", url], more].concat();
    let mount = lab.try_mount_with(name, &KEYS, &args);
    let mount = mount.unwrap_or_else(|output| {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    });
    wait_until("the bucket is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

fn requests(mount: &Mount<'_>) -> u64 {
    mount.status()["counts"]["requests"].as_u64().unwrap()
}

fn age(path: &Path, seconds: u64) {
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + seconds, 123_456_789);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(then)
        .unwrap();
}

fn time(path: &Path) -> (i64, i64) {
    let facts = fs::metadata(path).unwrap();
    (facts.mtime(), facts.mtime_nsec())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Garage: make test-garage"]
async fn conforms() {
    let lab = Lab::new();
    let garage = started(&lab);
    let credentials = Credentials {
        key: None,
        access: Some(AccessKey {
            id: KEY.to_owned(),
            secret: Secret::new(SECRET).unwrap(),
            session: None,
        }),
    };
    let url = RemoteUrl::parse(&garage.url("suite/deep")).unwrap();
    let options = Options {
        upload: true,
        ..Options::default()
    };
    let remote = connect(&url, &credentials, &options).unwrap();
    assert!(!remote.capabilities().await.unwrap().conditional_put);
    backend::conforms(remote).await;
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p13_what_one_mount_writes_the_other_reads_as_it_was() {
    let lab = Lab::new();
    let garage = started(&lab);
    let url = garage.url("team/v1");
    let a = mounted(&lab, "a", &url, &["--upload"]);
    let files = [
        ("d/small.parquet", 5_000),
        ("d/e/large.bin", 40 << 20),
        ("empty", 0),
        ("d/ü # +%.csv", 77),
    ];
    for (n, (name, size)) in files.iter().enumerate() {
        put(&a.path(name), &bytes(n as u64, *size));
        age(&a.path(name), n as u64);
    }
    a.flush();
    let sent = Instant::now();
    let status = a.status();
    let can = status["remotes"][0]["capabilities"].as_array().unwrap();
    assert!(!can.iter().any(|c| c == "conditional-put"), "{status}");
    let b = mounted(&lab, "b", &url, &[]);
    for (n, (name, size)) in files.iter().enumerate() {
        // Before it is fetched as well as after.
        eventually("its time is known", || {
            time(&b.path(name)) == time(&a.path(name))
        });
        assert!(fs::read(b.path(name)).unwrap() == bytes(n as u64, *size));
        assert_eq!(time(&b.path(name)), time(&a.path(name)), "{name}");
    }
    // Another time alone travels too, and brings no bytes. Stores tell arrivals to the second.
    eventually("a second has passed since the last arrival", || {
        sent.elapsed() > Duration::from_millis(1100)
    });
    age(&a.path("d/e/large.bin"), 99);
    a.flush();
    let before = b.status()["counts"]["bytes_down"].clone();
    b.sync();
    eventually("the new time is learned", || {
        time(&b.path("d/e/large.bin")) == time(&a.path("d/e/large.bin"))
    });
    assert!(fs::read(b.path("d/e/large.bin")).unwrap() == bytes(1, 40 << 20));
    assert_eq!(b.status()["counts"]["bytes_down"], before);
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p5_who_did_not_see_the_others_version_does_not_overwrite_it() {
    let lab = Lab::new();
    let garage = started(&lab);
    let url = garage.url("");
    let hourly = ["--upload", "--refresh", "1h"];
    let a = mounted(&lab, "a", &url, &hourly);
    let b = mounted(&lab, "b", &url, &hourly);
    put(&a.path("new"), b"by a");
    put(&a.path("seen"), b"first");
    a.flush();
    b.sync();
    assert_eq!(fs::read(b.path("seen")).unwrap(), b"first");
    fs::write(a.path("seen"), b"second, by a").unwrap();
    a.flush();
    // Nothing told b of either.
    fs::write(b.path("seen"), b"second, by b").unwrap();
    put(&b.path("fresh"), b"only b's");
    b.flush();
    let conflicts = b.status()["conflicts"].clone();
    assert_eq!(conflicts.as_array().unwrap().len(), 1, "{conflicts}");
    assert_eq!(conflicts[0]["path"], "seen");
    let kept = conflicts[0]["kept_at"].as_str().unwrap();
    assert_eq!(fs::read(b.path("seen")).unwrap(), b"second, by a");
    let at = b.unmount();
    assert_eq!(fs::read(at.join(kept)).unwrap(), b"second, by b");
    a.sync();
    assert_eq!(fs::read(a.path("seen")).unwrap(), b"second, by a");
    assert_eq!(fs::read(a.path("fresh")).unwrap(), b"only b's");
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p6_the_store_goes_away_and_comes_back() {
    let lab = Lab::new();
    let mut garage = started(&lab);
    let url = garage.url("x");
    let a = mounted(&lab, "a", &url, &["--upload"]);
    put(&a.path("held"), &bytes(1, 9_000));
    a.flush();
    garage.stop();
    put(&a.path("queued"), &bytes(2, 9_000));
    fs::write(a.path("held"), bytes(3, 9_000)).unwrap();
    assert!(fs::read(a.path("held")).unwrap() == bytes(3, 9_000));
    eventually("it is known to be away", || {
        a.status()["remotes"][0]["state"] == "away"
    });
    // The queue outlives the mount.
    let at = a.unmount();
    assert!(fs::read(at.join("queued")).unwrap() == bytes(2, 9_000));
    garage.run();
    let a = mounted(&lab, "a", &url, &["--upload"]);
    a.flush();
    let b = mounted(&lab, "b", &url, &[]);
    assert!(fs::read(b.path("held")).unwrap() == bytes(3, 9_000));
    assert!(fs::read(b.path("queued")).unwrap() == bytes(2, 9_000));
    assert_eq!(a.status()["conflicts"].as_array().unwrap().len(), 0);
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p12_what_is_removed_here_stays_there_unless_told_otherwise() {
    let lab = Lab::new();
    let garage = started(&lab);
    let url = garage.url("x");
    let a = mounted(&lab, "a", &url, &["--upload", "--propagate-deletes"]);
    for n in 0..5 {
        put(&a.path(format!("d/{n}")), &bytes(n, 100));
    }
    a.flush();
    let b = mounted(&lab, "b", &url, &["--upload"]);
    fs::remove_dir_all(b.path("d")).unwrap();
    b.flush();
    b.sync();
    assert!(!b.path("d").exists());
    a.sync();
    assert_eq!(count(&a.path("d")), 5);
    let restored = lab.larder().arg("restore").arg(b.path("d")).output();
    assert!(restored.unwrap().status.success());
    assert_eq!(count(&b.path("d")), 5);
    // A rename here is a copy there, and the old name goes when deletes do.
    fs::rename(a.path("d/0"), a.path("d/renamed")).unwrap();
    fs::remove_file(a.path("d/1")).unwrap();
    a.flush();
    b.sync();
    assert!(fs::read(b.path("d/renamed")).unwrap() == bytes(0, 100));
    assert!(!b.path("d/0").exists() && !b.path("d/1").exists());
    assert_eq!(count(&b.path("d")), 4);
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p14_many_objects_are_listed_read_and_then_cost_nothing() {
    let files = setting("LARDER_GARAGE_FILES", 1_000);
    let lab = Lab::new();
    let garage = started(&lab);
    let url = garage.url("fx");
    let real = lab.dir("real");
    fxcache(&real, files, setting("LARDER_GARAGE_MEAN", 2_000));
    let a = mounted(&lab, "a", &url, &["--upload", "--uploads", "16"]);
    timed("writing and sending all of them", || {
        copy(&real, &a.path("all"));
        a.flush();
    });
    let hourly = ["--refresh", "1h"];
    let (b, _) = timed("first listing", || mounted(&lab, "b", &url, &hourly));
    let at = b.at.clone();
    assert_eq!(b.status()["known"]["files"], files);
    timed("find", || assert_eq!(count(&at), files));
    let (first, second) = (lab.path("first"), lab.path("second"));
    timed("first cp -a", || copy(&at.join("all"), &first));
    timed("diff -r", || same(&first, &real));
    wait_until("all files are kept", || {
        b.status()["held"]["files"] == files
    });
    b.unmount();
    let again = [&["--remote", url.as_str()], &hourly[..]].concat();
    let b = lab.try_mount_with("b", &KEYS, &again);
    let b = b.unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    timed("find after a restart", || assert_eq!(count(&at), files));
    timed("second cp -a", || copy(&at.join("all"), &second));
    assert_eq!(requests(&b), 0, "a warm run asks for nothing");
    same(&second, &real);
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn p13_what_was_never_read_is_renamed_without_its_bytes() {
    let lab = Lab::new();
    let garage = started(&lab);
    let url = garage.url("y/z");
    let a = mounted(&lab, "a", &url, &["--upload"]);
    let files = [
        ("small + ü.csv", 5_000),
        ("large.bin", 20 << 20),
        ("empty", 0),
    ];
    for (n, (name, size)) in files.iter().enumerate() {
        put(&a.path("old").join(name), &bytes(n as u64, *size));
        age(&a.path("old").join(name), n as u64);
    }
    a.flush();
    let b = mounted(&lab, "b", &url, &["--upload", "--propagate-deletes"]);
    fs::rename(b.path("old"), b.path("new")).unwrap();
    b.flush();
    let counts = b.status()["counts"].clone();
    assert_eq!(
        (&counts["bytes_down"], &counts["bytes_up"]),
        (&0.into(), &0.into()),
        "{counts}"
    );
    let renamed = Instant::now();
    // Another time alone, of a file that is held.
    assert!(fs::read(b.path("new/large.bin")).unwrap() == bytes(1, 20 << 20));
    assert!(fs::read(b.path("new/small + ü.csv")).unwrap() == bytes(0, 5_000));
    age(&b.path("new/small + ü.csv"), 99);
    b.flush();
    assert_eq!(b.status()["counts"]["bytes_up"], 0);
    // Stores tell arrivals to the second.
    eventually("a second has passed since the last arrival", || {
        renamed.elapsed() > Duration::from_millis(1100)
    });
    a.sync();
    assert_eq!(count(&a.path("old")), 0);
    for (n, (name, size)) in files.iter().enumerate() {
        let moved = a.path("new").join(name);
        eventually("its time is known", || {
            time(&moved) == time(&b.path("new").join(name))
        });
        assert!(
            fs::read(&moved).unwrap() == bytes(n as u64, *size),
            "{name}"
        );
    }
    let small = a.path("new/small + ü.csv");
    assert_eq!(time(&small), (1_000_000_099, 123_456_789));
    assert_eq!(time(&a.path("new/large.bin")).0, 1_000_000_001);
    // A name that somebody took meanwhile stays theirs.
    put(&a.path("taken"), b"by a");
    a.flush();
    fs::rename(b.path("new/empty"), b.path("taken")).unwrap();
    b.flush();
    eventually("the conflict is told", || {
        b.status()["conflicts"].as_array().unwrap().len() == 1
    });
    assert_eq!(fs::read(b.path("taken")).unwrap(), b"by a");
}
