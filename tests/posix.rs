//! The whole set of file operations, on real mounts: with the kernel reading held files
//! itself, through the page cache, and as an ordinary user.
//!
//! What a program may expect of a file system stands in `posix/checks.py`, which runs on
//! the mount. Here is what must be true around it: what the server has afterwards, and
//! what the plain folder has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;
#[path = "posix/fsx.rs"]
mod fsx;
#[path = "posix/mapped.rs"]
mod mapped;
#[path = "posix/others.rs"]
mod others;
#[path = "posix/pjdfstest.rs"]
mod pjdfstest;
#[path = "posix/plain.rs"]
mod plain;
#[path = "posix/readers.rs"]
mod readers;
#[path = "posix/room.rs"]
mod room;
#[path = "posix/slow.rs"]
mod slow;
#[path = "common/tools.rs"]
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Lab, Mount, Server, bytes, eventually, put};

/// The interpreter, for ordinary users too.
const PYTHON: &str = "/usr/bin/python3";

/// Both ways to read held files. Only root may ask for the first.
const READ_PATHS: [(&str, &[&str]); 2] =
    [("passthrough", &[]), ("page cache", &["--no-passthrough"])];

fn fill(root: &Path) {
    for (name, seed, len) in [
        ("held.bin", 1, 60_000),
        ("remote.bin", 2, 70_001),
        ("far1.bin", 3, 123_457),
        ("far2.bin", 4, 40_000),
        ("far3.bin", 5, 3_000_000),
        ("far4.bin", 6, 1_100_000),
        ("tree/a.bin", 7, 10_000),
        ("tree/b.bin", 8, 1),
        ("tree/deep/er/c.bin", 9, 65_536),
    ] {
        put(&root.join(name), &bytes(seed, len));
    }
    put(&root.join("empty.bin"), b"");
    put(&root.join("tree/empty.bin"), b"");
    put(&root.join(OsStr::from_bytes(b"server \xff\n\xfe")), b"odd");
}

/// A copy of what the server has at the start, times and all, in `dir`.
fn reference(dir: &Path, server: &Server) -> PathBuf {
    let copy = dir.join("ref");
    let done = Command::new("cp")
        .arg("-a")
        .arg(&server.root)
        .arg(&copy)
        .status()
        .unwrap();
    assert!(done.success());
    let _ = fs::remove_dir_all(copy.join(".larder"));
    copy
}

fn run_check(mut command: Command, name: &str, mount: &Path, reference: &Path) {
    // Beside the reference, for the source may be where only its owner may look.
    let script = reference.with_file_name("checks.py");
    fs::write(&script, include_str!("posix/checks.py")).unwrap();
    let output = command
        .arg(script)
        .arg(name)
        .arg(mount)
        .arg(reference)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn listed(mount: &Mount<'_>, server: &Server) {
    let files = plain::files(&server.root).len() as u64;
    eventually("every file is listed", || {
        mount.status()["known"]["files"].as_u64() >= Some(files)
    });
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn expect_read_path(mount: &Mount<'_>, expected: &str) {
    let path = mount.status()["read_path"].as_str().unwrap().to_owned();
    if is_root() {
        assert_eq!(path, expected, "is the kernel older than 6.9?");
    }
}

/// Runs one check on mounts of both kinds, then compares mount, server and folder.
fn on_both(name: &str, args: &[&str]) {
    for (read_path, flags) in READ_PATHS {
        let lab = Lab::new();
        let root = lab.dir("srv");
        fill(&root);
        if name == "listing" {
            (0..5000).for_each(|n| put(&root.join(format!("many/file_{n:05}")), b""));
        }
        let server = lab.serve("srv", &[]);
        let reference = reference(&lab.path(""), &server);
        let mut all = vec!["--remote", server.url.as_str()];
        all.extend(flags.iter().chain(args));
        let mount = lab.mount("mnt", &all);
        expect_read_path(&mount, read_path);
        listed(&mount, &server);
        println!("{name} with {read_path}");
        run_check(Command::new(PYTHON), name, &mount.at, &reference);
        if args.contains(&"--upload") {
            plain::assert_all_went_up(&mount, &server);
        }
        plain::assert_folder_is_what_was_mounted(mount);
    }
}

macro_rules! on_both {
    ($(fn $test:ident = $check:literal $(, $arg:literal)*;)*) => {
        $(#[test] fn $test() { on_both($check, &[$($arg),*]); })*
    };
}

on_both! {
    fn p1_reading_at_any_offset = "reading", "--upload";
    fn p13_writing_appending_cutting = "writing", "--upload";
    fn p13_two_processes_append_and_lose_no_line = "two_writers", "--upload";
    fn p13_renaming_files = "renaming", "--upload";
    fn p13_renaming_directories = "renaming_directories", "--upload";
    fn p13_removing_what_is_open = "removing", "--upload";
    fn p13_attributes_and_nanoseconds = "attributes", "--upload";
    fn p13_links_and_what_is_refused = "links", "--upload";
    fn p13_extended_attributes = "extended";
    fn p6_a_program_is_started_while_files_are_open = "executing", "--upload";
    fn p13_locks_between_processes = "locks", "--upload";
    fn p13_mapped_for_reading_and_writing = "mapped", "--upload";
    fn p13_direct_io = "direct", "--upload";
    fn p13_allocating_space = "allocating", "--upload";
    fn p10_names_of_any_bytes = "names", "--upload";
    fn p9_listing_while_files_are_removed = "listing", "--upload";
    fn p13_tools_that_know_nothing_of_us = "tools", "--upload";
    fn p8_an_open_file_keeps_its_version = "versions", "--upload";
    fn p2_read_only_refuses_every_change = "read_only", "--read-only";
}

#[test]
fn p13_an_ordinary_user_mounts_and_works() {
    let lab = Lab::new();
    fill(&lab.dir("srv"));
    let server = lab.serve("srv", &[]);
    let user = plain::User::mount(&server.url);
    let reference = reference(user.others(), &server);
    let status: serde_json::Value =
        serde_json::from_str(&user.larder(&["status", "--json"])).unwrap();
    assert_eq!(status["read_path"], "page cache", "{status}");
    run_check(
        user.command(PYTHON),
        "ordinary",
        &user.mountpoint(),
        &reference,
    );
    user.flush();
    // What only root may have is said in words, and is no failure.
    let doctor = user.larder(&["doctor", "--remote", &server.url]);
    assert!(!doctor.contains("FAIL"), "{doctor}");
    assert!(doctor.contains("passthrough"), "{doctor}");
    let at = user.unmount();
    assert_eq!(fs::read(at.join("secret")).unwrap(), b"changed");
    assert_eq!(fs::read(server.root.join("secret")).unwrap(), b"changed");
    // The machine's administrator decides who may let others in.
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"));
    let open = ["mount", "--remote", &server.url, "--allow-other"];
    let mount = user.try_larder(&open);
    let said = String::from_utf8_lossy(&mount.stderr);
    assert_eq!(mount.status.success(), allowed, "{said}");
    assert!(
        allowed || said.contains("`user_allow_other` in /etc/fuse.conf"),
        "{said}"
    );
    assert_eq!(
        said.trim_end().lines().count(),
        usize::from(!allowed),
        "{said}"
    );
    let doctor = user.try_larder(&["doctor", "--remote", &server.url, "--allow-other"]);
    assert_eq!(doctor.status.success(), allowed);
    if allowed {
        user.unmount();
    }
}
