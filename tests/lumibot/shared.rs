//! Several machines at one bucket, with and without a mount.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::common::{Lab, bytes, eventually, put};
use super::{SPY, boto3, cached, gets, key, mounted, program, store, tables};

/// Lists the bucket again as often as may be.
const SOON: [&str; 2] = ["--refresh", "1s"];

#[test]
fn p8_what_others_put_there_is_seen_within_the_interval_and_at_once_when_asked() {
    let lab = Lab::new();
    let store = store();
    let a = mounted(&lab, "a", &store, &SOON);
    let b = mounted(&lab, "b", &store, &["--refresh", "1h"]);
    let name = "thetadata/option/option_chains/SPY_2025-09-15.parquet";
    tables("write", &lab.path("made"), "1");
    boto3(&store, "put", &key(name), &lab.path("made"));
    let listed = |at: &Path| {
        let chains = fs::read_dir(at.join("thetadata/option/option_chains"));
        chains.is_ok_and(|c| {
            c.flatten()
                .any(|e| e.file_name() == "SPY_2025-09-15.parquet")
        })
    };
    // A chain is found by listing its directory, before anything is opened.
    eventually("the listing has it", || listed(&a.at));
    assert!(!listed(&b.at));
    b.sync();
    assert!(listed(&b.at));
    tables("same", &b.path(name), "1");
    // Replaced by somebody, and taken away.
    tables("write", &lab.path("made"), "2");
    boto3(&store, "put", &key(name), &lab.path("made"));
    b.sync();
    tables("same", &b.path(name), "2");
    store.remove(&key(name));
    b.sync();
    assert!(!b.path(name).exists());
}

#[test]
fn p13_a_time_that_says_how_fresh_a_file_is_travels() {
    let lab = Lab::new();
    let store = store();
    let a = mounted(&lab, "a", &store, &[]);
    let b = mounted(&lab, "b", &store, &[]);
    let name = "polygon/SPY_splits.parquet";
    tables("write", &a.path(name), "1");
    a.flush();
    let touch = |when: &str| {
        let mut command = Command::new("touch");
        assert!(
            command
                .args(["-d", when])
                .arg(a.path(name))
                .status()
                .unwrap()
                .success()
        );
        let facts = fs::metadata(a.path(name)).unwrap();
        (facts.mtime(), facts.mtime_nsec())
    };
    let seen = || {
        let facts = fs::metadata(b.path(name)).unwrap();
        (facts.mtime(), facts.mtime_nsec())
    };
    for when in ["yesterday 12:34:56.789012345", "2 days ago 01:02:03.5"] {
        // Stores tell to the second when something arrived.
        eventually("a second has passed since the last arrival", || {
            let last = store.object(&key(name)).unwrap().modified;
            last.elapsed()
                .is_ok_and(|age| age > Duration::from_millis(1100))
        });
        let then = touch(when);
        a.flush();
        b.sync();
        eventually("its time is known before it is read", || seen() == then);
        tables("same", &b.path(name), "1");
        assert_eq!(seen(), then, "and fetching it does not change it");
    }
}

#[test]
fn p1_a_table_that_is_rewritten_all_the_time_is_read_whole() {
    let lab = Lab::new();
    let store = store();
    let a = mounted(&lab, "a", &store, &[]);
    let b = mounted(&lab, "b", &store, &SOON);
    let (here, there) = (a.path("x/SPY.parquet"), b.path("x/SPY.parquet"));
    tables("write", &here, "0");
    a.flush();
    b.sync();
    let over = lab.path("over");
    let reader = program(
        "tables.py",
        ["valid".as_ref(), there.as_os_str(), over.as_os_str()],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    tables("many", &here, "500");
    a.flush();
    b.sync();
    fs::write(&over, "").unwrap();
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    tables("same", &there, "499");
    assert_eq!(a.status()["conflicts"].as_array().unwrap().len(), 0);
}

#[test]
fn p12_removing_the_folder_on_one_machine_removes_it_there_alone() {
    let lab = Lab::new();
    let store = store();
    let (a, b) = (
        mounted(&lab, "a", &store, &[]),
        mounted(&lab, "b", &store, &[]),
    );
    tables("write", &cached(&a.at), "1");
    put(&a.path("thetadata/more.parquet"), &bytes(1, 5_000));
    a.flush();
    b.sync();
    assert!(cached(&b.at).exists());
    fs::remove_dir_all(b.path("thetadata")).unwrap();
    b.flush();
    b.sync();
    assert!(!b.path("thetadata").exists());
    a.sync();
    tables("same", &cached(&a.at), "1");
    assert_eq!(store.keys(), [key("thetadata/more.parquet"), key(SPY)]);
    // Lumibot's development version deletes what it has before it looks for it.
    let restored = lab
        .larder()
        .arg("restore")
        .arg(b.path("thetadata"))
        .output();
    assert!(restored.unwrap().status.success());
    tables("same", &cached(&b.at), "1");
    fs::remove_file(cached(&b.at)).unwrap();
    tables("write", &cached(&b.at), "2");
    b.flush();
    a.sync();
    tables("same", &cached(&a.at), "2");
    assert_eq!(b.status()["conflicts"].as_array().unwrap().len(), 0);
}

#[test]
fn p5_of_two_machines_that_write_one_table_neither_loses_its_own() {
    let lab = Lab::new();
    let store = store();
    let hourly = ["--refresh", "1h"];
    let (a, b) = (
        mounted(&lab, "a", &store, &hourly),
        mounted(&lab, "b", &store, &hourly),
    );
    put(&a.path("known"), b"before");
    a.flush();
    b.sync();
    assert_eq!(fs::read(b.path("known")).unwrap(), b"before");
    // Both at once, without hearing of the other.
    for (name, by_a, by_b) in [
        ("known", "a's rows", "b's own rows"),
        ("new", "of a", "made by b"),
    ] {
        fs::write(a.path(name), by_a).unwrap();
        fs::write(b.path(name), by_b).unwrap();
    }
    a.flush();
    b.flush();
    let mut kept = 0;
    for (mine, other) in [(&a, &b), (&b, &a)] {
        let conflicts = mine.status()["conflicts"].clone();
        for conflict in conflicts.as_array().unwrap() {
            let path = conflict["path"].as_str().unwrap();
            let winner = store.object(&key(path)).unwrap().bytes;
            mine.sync();
            other.sync();
            assert_eq!(fs::read(mine.path(path)).unwrap(), winner);
            assert_eq!(fs::read(other.path(path)).unwrap(), winner);
            kept += 1;
        }
    }
    assert_eq!(kept, 2, "one of two is kept for each");
    let (a_at, b_at) = (a.unmount(), b.unmount());
    let everywhere: Vec<Vec<u8>> = [&a_at, &b_at]
        .iter()
        .flat_map(|at| {
            let aside = fs::read_dir(at.join(".larder/conflicts"))
                .unwrap()
                .flatten();
            aside
                .map(|entry| fs::read(entry.path()).unwrap())
                .collect::<Vec<_>>()
        })
        .chain(["known", "new"].map(|name| store.object(&key(name)).unwrap().bytes.to_vec()))
        .collect();
    for version in ["a's rows", "b's own rows", "of a", "made by b"] {
        assert!(
            everywhere.iter().any(|b| b == version.as_bytes()),
            "{version} is lost"
        );
    }
}

/// A LAN server first, the bucket second; either may be away.
#[test]
fn p6_behind_a_server_of_the_house_the_bucket_stands_in() {
    let lab = Lab::new();
    let store = store();
    let server = lab.serve("srv", &[]);
    let remotes = ["--remote", &server.url, "--upload"];
    let a = mounted(&lab, "a", &store, &remotes);
    eventually("both are listed", || {
        a.status()["remotes"][1]["listed"] == true
    });
    tables("write", &cached(&a.at), "1");
    put(&a.path("yahoo/b.pickle"), &bytes(1, 70_000));
    a.flush();
    assert_eq!(
        fs::read(server.root.join(SPY)).unwrap(),
        store.object(&key(SPY)).unwrap().bytes
    );
    // A machine that comes later asks the house, and the bucket for nothing but its listing.
    let b = mounted(
        &lab,
        "b",
        &store,
        &["--remote", &server.url, "--refresh", "1h"],
    );
    eventually("both are listed", || {
        b.status()["remotes"][1]["listed"] == true
    });
    let before = gets(&store);
    tables("same", &cached(&b.at), "1");
    assert_eq!(gets(&store), before);
    // The house goes dark: the same names, from the bucket.
    let (root, port) = (server.root.clone(), server.port());
    server.kill();
    eventually("it is known to be away", || {
        b.status()["remotes"][0]["state"] == "away"
    });
    assert!(fs::read(b.path("yahoo/b.pickle")).unwrap() == bytes(1, 70_000));
    assert_eq!(gets(&store), before + 1);
    // What is written meanwhile is in the bucket at once, and in the house when it is back.
    put(&a.path("yahoo/later.pickle"), &bytes(2, 3_000));
    eventually("the bucket has it", || {
        store.object(&key("yahoo/later.pickle")).is_some()
    });
    let _server = lab.serve_at("srv", &port, &[]);
    a.flush();
    assert!(fs::read(root.join("yahoo/later.pickle")).unwrap() == bytes(2, 3_000));
    eventually("b sees it", || b.path("yahoo/later.pickle").exists());
    assert!(fs::read(b.path("yahoo/later.pickle")).unwrap() == bytes(2, 3_000));
    for mount in [&a, &b] {
        assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    }
}
