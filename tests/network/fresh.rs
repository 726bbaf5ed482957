//! P8: what changes at the server is seen here within a second, whatever the kernel has cached.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::{Duration, Instant};

use super::common::{FRESH, Lab, Mount, bytes, eventually, put, within};
use super::proxy::Proxy;
use super::{errno, is_absent, names, set};

/// Mounts, with the page cache or with what the machine can do best.
fn mounted<'a>(lab: &'a Lab, url: &str, more: &[&str]) -> Mount<'a> {
    let mut args = vec!["--remote", url];
    args.extend(more);
    let mount = lab.mount("mnt", &args);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

fn follows_the_server(more: &[&str]) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let root = server.root.clone();
    put(&root.join("TB/kept.pkl"), &bytes(1, 3000));
    put(&root.join("TB/old.pkl"), &bytes(2, 3000));
    put(&root.join("top.bin"), b"one");
    let mount = mounted(&lab, &server.url, more);
    let dir = mount.path("TB");
    within(FRESH, "all are listed", || {
        fs::read_dir(&dir).is_ok() && names(&dir) == set(&["kept.pkl", "old.pkl"])
    });
    // A handle on the directory keeps its inode, and with it the kernel's copy of the listing.
    let inside = File::open(&dir).unwrap();

    // New, where nothing is cached of the name but the listing of its directory.
    put(&root.join("TB/new.pkl"), &bytes(3, 3000));
    within(FRESH, "ls shows a new file", || {
        names(&dir) == set(&["kept.pkl", "new.pkl", "old.pkl"])
    });
    // New, where the kernel remembers that there is none; at the root, and in a new directory.
    for name in ["TB/later.pkl", "top2.bin", "new/dir/x.bin"] {
        assert!(is_absent(&mount.path(name)));
        put(&root.join(name), name.as_bytes());
        within(FRESH, name, || {
            fs::read(mount.path(name)).is_ok_and(|b| b == name.as_bytes())
        });
    }
    // Changed, with the old bytes in the kernel's cache.
    for (seed, size) in [(10, 3000), (11, 3000), (12, 5)] {
        fs::write(root.join("TB/kept.pkl"), bytes(seed, size)).unwrap();
        within(FRESH, "stat shows the new size", || {
            fs::metadata(dir.join("kept.pkl")).unwrap().len() == size as u64
        });
        within(FRESH, "the new bytes are read", || {
            fs::read(dir.join("kept.pkl")).unwrap() == bytes(seed, size)
        });
    }
    // Only its time.
    let then = filetime(&root.join("TB/old.pkl"));
    within(FRESH, "stat shows the new time", || {
        let seen = fs::metadata(dir.join("old.pkl")).unwrap();
        (seen.mtime(), seen.mtime_nsec()) == then
    });
    // Renamed, then deleted.
    assert_eq!(fs::read(dir.join("old.pkl")).unwrap(), bytes(2, 3000));
    fs::rename(root.join("TB/old.pkl"), root.join("TB/moved.pkl")).unwrap();
    within(FRESH, "the name changed", || {
        is_absent(&dir.join("old.pkl")) && dir.join("moved.pkl").exists()
    });
    assert_eq!(fs::read(dir.join("moved.pkl")).unwrap(), bytes(2, 3000));
    fs::remove_file(root.join("TB/moved.pkl")).unwrap();
    within(FRESH, "a deleted file is gone from stat and ls", || {
        is_absent(&dir.join("moved.pkl"))
            && names(&dir) == set(&["kept.pkl", "later.pkl", "new.pkl"])
    });
    // Directories.
    fs::rename(root.join("new"), root.join("renamed")).unwrap();
    within(FRESH, "a directory's name changed", || {
        is_absent(&mount.path("new")) && mount.path("renamed/dir/x.bin").exists()
    });
    fs::remove_dir_all(root.join("renamed")).unwrap();
    within(FRESH, "a directory is gone", || {
        is_absent(&mount.path("renamed")) && names(&mount.at) == set(&["TB", "top.bin", "top2.bin"])
    });
    drop(inside);
    // What is gone there is gone from the plain folder, too.
    let at = mount.unmount();
    assert!(!at.join("TB/moved.pkl").exists() && !at.join("renamed").exists());
    assert_eq!(fs::read(at.join("TB/kept.pkl")).unwrap(), bytes(12, 5));
}

/// Gives the file an old time with a part of a second; returns it.
fn filetime(path: &std::path::Path) -> (i64, i64) {
    let status = std::process::Command::new("touch")
        .args(["-d", "2001-02-03 04:05:06.789012345 UTC"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
    (981_173_106, 789_012_345)
}

#[test]
fn p8_changes_at_the_server_are_seen_within_a_second() {
    follows_the_server(&[]);
}

#[test]
fn p8_changes_at_the_server_are_seen_within_a_second_through_the_page_cache() {
    follows_the_server(&["--no-passthrough"]);
}

#[test]
fn p8_an_open_file_keeps_its_version() {
    for more in [&[][..], &["--no-passthrough"]] {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let path = server.root.join("a.bin");
        put(&path, &bytes(1, 3 << 20));
        let mount = mounted(&lab, &server.url, more);
        let here = mount.path("a.bin");
        let mut old = File::open(&here).unwrap();
        let mut first = vec![0; 1000];
        old.read_exact(&mut first).unwrap();
        eventually("it is held", || mount.status()["held"]["files"] == 1);
        put(&server.root.join("a.new"), &bytes(2, 3 << 20));
        fs::rename(server.root.join("a.new"), &path).unwrap();
        within(FRESH + FRESH, "a new open gets the new version", || {
            fs::read(&here).unwrap() == bytes(2, 3 << 20)
        });
        let mut rest = Vec::new();
        old.read_to_end(&mut rest).unwrap();
        assert_eq!([first, rest].concat(), bytes(1, 3 << 20));
        let old = File::open(&here).unwrap();
        fs::remove_file(&path).unwrap();
        within(FRESH, "it is gone", || is_absent(&here));
        let mut all = vec![0; 3 << 20];
        old.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, bytes(2, 3 << 20));
    }
}

#[test]
fn p8_ranges_of_a_version_that_is_gone_are_stale() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let path = server.root.join("big.bin");
    put(&path, &bytes(1, 24 << 20));
    let mount = mounted(&lab, &wire.url, &["--no-passthrough"]);
    wire.slow(2 << 20);
    let file = File::open(mount.path("big.bin")).unwrap();
    let mut part = vec![0; 1000];
    file.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(part, bytes(1, 1000));
    put(&server.root.join("big.new"), &bytes(2, 24 << 20));
    fs::rename(server.root.join("big.new"), &path).unwrap();
    wire.cut();
    wire.open();
    let begun = Instant::now();
    let read = file.read_exact_at(&mut part, 20 << 20);
    assert_eq!(errno(read), libc::ESTALE);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    file.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(part, bytes(1, 1000));
    assert_eq!(fs::read(mount.path("big.bin")).unwrap(), bytes(2, 24 << 20));
}

#[test]
fn p8_how_long_a_new_file_takes_from_the_server_to_an_open_here() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("d/first"), b"x");
    let mount = mounted(&lab, &server.url, &[]);
    let mut took: Vec<Duration> = (0..100)
        .map(|n| {
            let name = format!("d/file-{n}");
            let here = mount.path(&name);
            assert!(is_absent(&here));
            let there = server.root.join(&name);
            fs::write(&there, b"new").unwrap();
            within(FRESH, &name, || fs::read(&here).is_ok_and(|b| b == b"new"))
        })
        .collect();
    took.sort();
    println!("new file to open: p50 {:?}, p99 {:?}", took[50], took[98]);
    assert!(took[50] < Duration::from_millis(500), "{:?}", took[50]);
}
