//! One machine: what it writes goes up under Lumibot's keys, what it has is not asked for again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::common::{Lab, bytes, eventually, put};
use super::{
    SPY, at_rest, boto3, cached, gets, key, lumibot, mounted, mounted_as, program, puts, store,
    tables,
};

#[test]
fn p13_a_table_goes_up_as_it_is_and_equal_bytes_go_up_once() {
    let lab = Lab::new();
    let store = store();
    let mount = mounted(&lab, "mnt", &store, &[]);
    let file = cached(&mount.at);
    tables("write", &file, "3");
    tables("same", &file, "3");
    mount.flush();
    let there = store.object(&key(SPY)).unwrap();
    assert_eq!(there.bytes, fs::read(&file).unwrap());
    // Somebody without a mount reads it.
    boto3(&store, "get", &key(SPY), &lab.path("copy"));
    tables("same", &lab.path("copy"), "3");
    let before = puts(&store);
    tables("write", &file, "3");
    mount.flush();
    assert_eq!(puts(&store), before, "the same bytes are not sent again");
    tables("write", &file, "4");
    mount.flush();
    assert_eq!(puts(&store), before + 1);
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
}

#[test]
fn p14_a_cold_read_is_one_request_and_a_warm_one_none() {
    let lab = Lab::new();
    let store = store();
    tables("write", &lab.path("made"), "5");
    boto3(&store, "put", &key(SPY), &lab.path("made"));
    for more in [&[][..], &["--no-passthrough"]] {
        let name = format!("mnt{}", more.len());
        let mount = mounted(&lab, &name, &store, &[&["--refresh", "1h"], more].concat());
        at_rest(&store);
        let (requests, before) = (store.requests(), gets(&store));
        tables("same", &cached(&mount.at), "5");
        eventually("it is kept", || mount.status()["held"]["files"] == 1);
        assert_eq!(gets(&store), before + 1);
        assert_eq!(store.requests(), requests + 1);
        tables("same", &cached(&mount.at), "5");
        assert_eq!(
            store.requests(),
            requests + 1,
            "a warm read asks for nothing"
        );
        drop(mount);
    }
    // And the folder alone has it, while the store is gone.
    drop(store);
    tables("same", &cached(&lab.path("mnt0")), "5");
}

#[test]
fn p6_what_is_held_is_read_while_the_store_is_gone_and_the_rest_is_a_miss() {
    let lab = Lab::new();
    let store = store();
    tables("write", &lab.path("made"), "5");
    boto3(&store, "put", &key(SPY), &lab.path("made"));
    boto3(
        &store,
        "put",
        &key("yahoo/other.parquet"),
        &lab.path("made"),
    );
    let mount = mounted(&lab, "mnt", &store, &["--refresh", "1s"]);
    tables("same", &cached(&mount.at), "5");
    drop(store);
    eventually("the rest is as if it were not there", || {
        let missed = fs::metadata(mount.path("yahoo/other.parquet"));
        missed.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    });
    tables("same", &cached(&mount.at), "5");
    tables("write", &mount.path("yahoo/new.parquet"), "6");
    tables("same", &mount.path("yahoo/new.parquet"), "6");
}

#[test]
fn p12_read_only_keeps_what_is_written_here() {
    let lab = Lab::new();
    let store = store();
    store.place(&key("yahoo/SPY.pickle"), "theirs");
    let endpoint = store.endpoint();
    let env = lumibot(&endpoint, "readonly", "v1");
    let mount = mounted_as(&lab, "mnt", &env, &[]);
    assert_eq!(fs::read(mount.path("yahoo/SPY.pickle")).unwrap(), b"theirs");
    tables("write", &cached(&mount.at), "7");
    fs::write(mount.path("yahoo/SPY.pickle"), "ours").unwrap();
    fs::remove_file(mount.path("yahoo/SPY.pickle")).unwrap();
    mount.sync();
    let at = mount.unmount();
    let mount = mounted_as(&lab, "mnt", &env, &[]);
    tables("same", &cached(&at), "7");
    assert!(!mount.path("yahoo/SPY.pickle").exists());
    assert_eq!(store.keys(), [key("yahoo/SPY.pickle")]);
    assert_eq!(
        store.object(&key("yahoo/SPY.pickle")).unwrap().bytes,
        "theirs"
    );
}

#[test]
fn each_version_is_a_world_of_its_own() {
    let lab = Lab::new();
    let store = store();
    let endpoint = store.endpoint();
    store.place("stage/cache/v1/yahoo/old.pickle", "1");
    store.place("stage/cache/v2/yahoo/new.pickle", "2");
    store.place("stage/cache/v20/yahoo/other.pickle", "3");
    let mount = mounted_as(&lab, "mnt", &lumibot(&endpoint, "rw", "v2"), &[]);
    let names = |at: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(at).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&mount.at), ["yahoo"]);
    assert_eq!(names(&mount.path("yahoo")), ["new.pickle"]);
}

/// What Lumibot and its libraries keep beside a table never leaves the machine.
#[test]
fn p4_temporary_names_locks_and_databases_stay_here() {
    let lab = Lab::new();
    let store = store();
    let mount = mounted(&lab, "mnt", &store, &[]);
    let file = cached(&mount.at);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    tables("temporary", &file, "8");
    tables("same", &file, "8");
    let mut holder = program("tables.py", ["lock".as_ref(), file.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    super::done(program("tables.py", ["locked".as_ref(), file.as_os_str()]));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    super::done(program(
        "tables.py",
        ["duckdb".as_ref(), mount.path("bars.duckdb").as_os_str()],
    ));
    for name in [
        "x.parquet.s3tmp",
        "x.parquet.s3key",
        "x.parquet.s3key.tmp",
        "x.duckdb.wal",
    ] {
        put(&mount.path(name), b"local");
    }
    mount.flush();
    assert_eq!(store.keys(), [key(SPY)]);
}

/// A sidecar tells of the table beside it: whoever sees it sees that table.
#[test]
fn p4_a_sidecar_goes_up_after_its_table() {
    let lab = Lab::new();
    let store = store();
    let mount = mounted(&lab, "mnt", &store, &["--uploads", "8"]);
    for round in 0..20_u8 {
        let table = bytes(u64::from(round), 300_000);
        put(&mount.path("x/a.parquet"), &table);
        put(&mount.path("x/a.parquet.meta.json"), &[round]);
        eventually("the sidecar is up", || {
            store
                .object(&key("x/a.parquet.meta.json"))
                .is_some_and(|s| s.bytes[0] == round)
        });
        assert!(store.object(&key("x/a.parquet")).unwrap().bytes == table);
    }
}

/// Killed while a table goes up: afterwards it is there whole, and was never there in part.
#[test]
fn p3_killed_during_an_upload_it_goes_up_after_the_next_start() {
    let lab = Lab::new();
    let store = store();
    let mount = mounted(&lab, "mnt", &store, &[]);
    put(&mount.path("small.parquet"), &bytes(1, 9_000));
    mount.flush();
    store.set(|habits| habits.delay = std::time::Duration::from_secs(2));
    let (small, large) = (bytes(2, 9_000), bytes(3, 40 << 20));
    put(&mount.path("small.parquet"), &small);
    put(&mount.path("large.parquet"), &large);
    eventually("they are on their way", || {
        mount.status()["outbox"]["uploading"] == 2
    });
    mount.kill();
    assert!(store.object(&key("large.parquet")).is_none());
    store.set(|habits| habits.delay = std::time::Duration::ZERO);
    let mount = mounted(&lab, "mnt", &store, &[]);
    mount.flush();
    assert!(store.object(&key("small.parquet")).unwrap().bytes == small);
    assert!(store.object(&key("large.parquet")).unwrap().bytes == large);
    assert_eq!(store.keys(), [key("large.parquet"), key("small.parquet")]);
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
}
