//! Many files behind one server, on a real mount: what must not grow with their number,
//! and what must be right for every one of them.
//!
//! `make test` does it with a few thousand; `packaging/scale.sh` with 63,000 files of
//! 6.5 GB in the path shapes of an FXCACHE, and prints the figures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::many::{copy, count, fxcache, mount_all, same, setting, timed, wait_until};
use common::{Lab, Mount, get};
use serde_json::Value;

/// A daemon may take this much memory, however many files there are.
const MEMORY_KB: u64 = 200 << 10;

fn memory_kb(mount: &Mount<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn p14_many_files_are_listed_copied_and_then_cost_nothing() {
    let files = setting("LARDER_SCALE_FILES", 3_000);
    let lab = Lab::new();
    let real = lab.dir("srv");
    timed("making the files", || {
        fxcache(&real, files, setting("LARDER_SCALE_MEAN", 4_000));
    });
    let (server, _) = timed("first scan of the server", || {
        let server = lab.serve("srv", &[]);
        let info = || serde_json::from_str::<Value>(&get(&format!("{}/v1/info", server.url)));
        wait_until("the server knows all files", || {
            info().unwrap()["files"] == files
        });
        server
    });
    let flags = ["--remote", &server.url, "--min-free", "0B"];
    let mount = mount_all(&lab, &flags, files);
    let at = mount.unmount();

    let (mount, took) = timed("second mount until it answers", || {
        let mount = lab.mount("mnt", &flags);
        assert!(fs::read_dir(&at).unwrap().count() > 0);
        mount
    });
    assert!(took < Duration::from_secs(1), "{took:?}");
    let (found, _) = timed("find -type f", || count(&at));
    assert_eq!(found, files);

    let (first, second) = (lab.path("first"), lab.path("second"));
    timed("first cp -a", || copy(&at, &first));
    timed("diff -r", || same(&first, &real));
    fs::remove_dir_all(&first).unwrap();
    wait_until("all files are kept", || {
        mount.status()["held"]["files"] == files
    });
    let before = server.requests();
    assert!(
        before <= files as u64 + 1,
        "{before}: one a file, one listing"
    );
    timed("second cp -a", || copy(&at, &second));
    assert_eq!(server.requests(), before, "a warm copy asks for nothing");
    fs::remove_dir_all(&second).unwrap();

    let memory = memory_kb(&mount);
    println!("most memory of the daemon: {memory} KiB");
    assert!(memory < MEMORY_KB, "{memory} KiB");
    let at = mount.unmount();
    timed("diff -r of the plain folder", || same(&at, &real));
}
