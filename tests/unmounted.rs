//! What people do to the plain folder while nothing is mounted (promise P7), on real mounts:
//! after an unmount, after a kill, and with the server away when it is mounted again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Lab, Mount, Server, bytes, eventually, put};

/// What a tree has under a path.
#[derive(Clone, PartialEq, Eq)]
enum Thing {
    Dir,
    Link(PathBuf),
    File { bytes: Vec<u8>, mode: u32 },
}

impl std::fmt::Debug for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Thing::Dir => write!(f, "a directory"),
            Thing::Link(to) => write!(f, "a link to {to:?}"),
            Thing::File { bytes, mode } => {
                let some = &bytes[..bytes.len().min(8)];
                write!(f, "{} bytes, {mode:o}, {some:?}…", bytes.len())
            }
        }
    }
}

/// Everything in a tree, ours left out.
fn tree(root: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut found = BTreeMap::new();
    let mut work = vec![PathBuf::new()];
    while let Some(dir) = work.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let (path, at) = (dir.join(entry.file_name()), entry.path());
            if entry.file_name() == ".larder" {
                continue;
            }
            let facts = fs::symlink_metadata(&at).unwrap();
            let thing = if facts.is_dir() {
                work.push(path.clone());
                Thing::Dir
            } else if facts.is_symlink() {
                Thing::Link(fs::read_link(&at).unwrap())
            } else {
                Thing::File {
                    bytes: fs::read(&at).unwrap(),
                    mode: facts.permissions().mode() & 0o777,
                }
            };
            found.insert(path, thing);
        }
    }
    found
}

fn file(bytes: Vec<u8>) -> Thing {
    Thing::File { bytes, mode: 0o644 }
}

/// The mount shows all that the folder had, and of the remote's `also`, and nothing else.
fn assert_shows(mount: &Mount<'_>, folder: &BTreeMap<PathBuf, Thing>, also: &[(&str, Thing)]) {
    let mut expected = folder.clone();
    for (path, thing) in also {
        for dir in Path::new(path).ancestors().skip(1) {
            if !dir.as_os_str().is_empty() {
                expected.entry(dir.to_owned()).or_insert(Thing::Dir);
            }
        }
        expected.insert(PathBuf::from(path), thing.clone());
    }
    let shown = tree(&mount.at);
    for (path, thing) in &expected {
        let found = shown.get(path);
        assert!(found == Some(thing), "{path:?}: {found:?} is not {thing:?}");
    }
    for path in shown.keys() {
        assert!(expected.contains_key(path), "{path:?} is not to be there");
    }
}

/// Every file of the folder is at the server, but for those that stay.
fn assert_went_up(server: &Server, folder: &BTreeMap<PathBuf, Thing>, stays: &[&str]) {
    for (path, thing) in folder {
        let (Thing::File { bytes, .. }, false) = (thing, stays.iter().any(|s| path.ends_with(s)))
        else {
            continue;
        };
        let there = fs::read(server.root.join(path)).ok();
        assert!(there.as_ref() == Some(bytes), "{path:?} at the server");
    }
    for name in stays {
        let all = tree(&server.root);
        assert!(all.keys().all(|path| !path.ends_with(name)), "{name}");
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// Other bytes of the same length, the time as it was.
fn rewrite_keeping_time(path: &Path, content: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, content).unwrap();
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// How the mount before ended, and how the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Unmounted,
    Killed,
    KilledAndServerAway,
}

fn odd(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

const HELD: [&str; 14] = [
    "keep/a.bin",
    "keep/b.bin",
    "change/size.bin",
    "change/time.bin",
    "change/older.bin",
    "change/inode.bin",
    "gone/held.bin",
    "gone.bin",
    "names/from.bin",
    "move/x.bin",
    "chmod.bin",
    "whole/1.bin",
    "whole/sub/2.bin",
    "dead/a.bin",
];

fn by_hand(at: &Path) {
    let p = |name: &str| at.join(name);
    // Added.
    put(&p("new.bin"), b"new");
    put(&p("new dir/deep/er.bin"), &bytes(50, 70_000));
    put(&p("empty new"), b"");
    put(&p("half.tmp"), b"stays");
    fs::create_dir(p("empty dir")).unwrap();
    put(&at.join(odd(b"line\nbreak")), b"newline");
    put(&at.join(odd(b"not \xff\xfe text")), b"bytes");
    symlink("keep/a.bin", p("link")).unwrap();
    symlink("/nowhere", p("keep/dangling")).unwrap();
    // Changed.
    rewrite_keeping_time(&p("change/size.bin"), &bytes(60, 999));
    fs::write(p("change/time.bin"), bytes(61, 1000)).unwrap();
    fs::write(p("change/older.bin"), bytes(62, 500)).unwrap();
    set_time(&p("change/older.bin"), 1_000_000_000);
    // Same size and time, another file.
    let time = fs::metadata(p("change/inode.bin"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(p("change/new"), bytes(63, 1000)).unwrap();
    File::open(p("change/new"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::rename(p("change/new"), p("change/inode.bin")).unwrap();
    fs::set_permissions(p("chmod.bin"), fs::Permissions::from_mode(0o755)).unwrap();
    // Removed.
    fs::remove_file(p("gone/held.bin")).unwrap();
    fs::remove_file(p("gone.bin")).unwrap();
    fs::remove_dir_all(p("dead")).unwrap();
    fs::remove_dir(p("local empty")).unwrap();
    fs::remove_file(p("mine/removed.bin")).unwrap();
    // Renamed.
    fs::rename(p("names/from.bin"), p("names/to.bin")).unwrap();
    fs::create_dir(p("moved")).unwrap();
    fs::rename(p("move/x.bin"), p("moved/x.bin")).unwrap();
    fs::rename(p("whole"), p("entire")).unwrap();
    fs::rename(p("mine/dir"), p("mine/dir2")).unwrap();
    fs::rename(p("scratch"), p("scratch2")).unwrap();
    fs::rename(p("local link"), p("local link 2")).unwrap();
}

fn what_people_did(end: End) {
    let lab = Lab::new();
    let root = lab.dir("srv");
    for (n, name) in HELD.iter().enumerate() {
        put(&root.join(name), &bytes(n as u64, 1000));
    }
    put(&root.join("far/never.bin"), &bytes(40, 1000));
    let server = lab.serve("srv", &[]);
    let port = server.port();
    let url = server.url.clone();
    let args = ["--remote", url.as_str(), "--upload"];
    let mount = lab.mount("mnt", &args);
    eventually("all is listed", || {
        mount.status()["known"]["files"] == HELD.len() + 1
    });
    for (n, name) in HELD.iter().enumerate() {
        assert_eq!(fs::read(mount.path(name)).unwrap(), bytes(n as u64, 1000));
    }
    put(&mount.path("mine/a.bin"), b"a");
    put(&mount.path("mine/removed.bin"), b"removed");
    put(&mount.path("mine/dir/sub/b.bin"), b"b");
    put(&mount.path("scratch/dir/x.tmp"), b"x");
    fs::create_dir(mount.path("local empty")).unwrap();
    symlink("mine", mount.path("local link")).unwrap();
    mount.flush();
    eventually("all is held", || {
        mount.status()["held"]["files"] == HELD.len() + 4
    });
    let at = match end {
        End::Unmounted => mount.unmount(),
        _ => mount.kill(),
    };
    by_hand(&at);
    let folder = tree(&at);
    let mut gone: Vec<_> = [
        ("gone/held.bin", 6),
        ("gone.bin", 7),
        ("names/from.bin", 8),
        ("move/x.bin", 9),
        ("whole/1.bin", 11),
        ("whole/sub/2.bin", 12),
        ("dead/a.bin", 13),
        ("far/never.bin", 40),
    ]
    .map(|(name, seed)| (name, file(bytes(seed, 1000))))
    .to_vec();
    gone.push(("mine/removed.bin", file(b"removed".to_vec())));
    gone.push(("mine/dir/sub/b.bin", file(b"b".to_vec())));
    let mut server = Some(server);
    if end == End::KilledAndServerAway {
        server.take().unwrap().kill();
    }
    let mount = lab.mount("mnt", &args);
    if end == End::KilledAndServerAway {
        eventually("it is known to be away", || {
            mount.status()["remotes"][0]["state"] == "away"
        });
        // What the folder has is there; the rest is hidden, as it cannot be read.
        let shown = tree(&mount.at);
        for (path, thing) in &folder {
            assert!(shown.get(path) == Some(thing), "{path:?} away");
        }
        for (path, _) in &gone {
            assert!(!shown.contains_key(Path::new(path)), "{path} away");
        }
        server = Some(lab.serve_at("srv", &port, &[]));
        eventually("it is back", || {
            mount.status()["remotes"][0]["state"] == "online"
        });
        eventually("names are shown", || mount.path("far/never.bin").exists());
    }
    let server = server.unwrap();
    assert_shows(&mount, &folder, &gone);
    mount.flush();
    assert_went_up(&server, &folder, &["half.tmp", "x.tmp"]);
    assert_shows(&mount, &folder, &gone);
    let status = mount.status();
    assert_eq!(status["conflicts"].as_array().unwrap().len(), 0, "{status}");
    assert_eq!(status["orphans"].as_array().unwrap().len(), 0, "{status}");
    // And it is all in the folder again, whole.
    let at = mount.unmount();
    let again = tree(&at);
    for (path, thing) in &folder {
        assert!(again.get(path) == Some(thing), "{path:?} afterwards");
    }
    // Nothing happened since: nothing counts as changed.
    let mount = lab.mount("mnt", &args);
    let puts = server.stats()["put"].clone();
    assert_shows(&mount, &folder, &gone);
    mount.flush();
    assert_eq!(server.stats()["put"], puts);
}

#[test]
fn p7_what_people_did_after_an_unmount() {
    what_people_did(End::Unmounted);
}

#[test]
fn p7_what_people_did_after_a_kill() {
    what_people_did(End::Killed);
}

#[test]
fn p7_what_people_did_and_the_server_is_away() {
    what_people_did(End::KilledAndServerAway);
}

/// A name that became another kind of thing: the folder's is shown and works; the remote's yields.
fn another_kind(end: End) {
    let lab = Lab::new();
    let root = lab.dir("srv");
    for name in [
        "file",
        "far file",
        "linked",
        "dir/in/a.bin",
        "dir/b.bin",
        "far dir/c.bin",
    ] {
        put(&root.join(name), name.as_bytes());
    }
    let server = lab.serve("srv", &["--allow-delete"]);
    let args = [
        "--remote",
        server.url.as_str(),
        "--upload",
        "--propagate-deletes",
    ];
    let mount = lab.mount("mnt", &args);
    eventually("all is listed", || mount.status()["known"]["files"] == 6);
    for name in ["file", "linked", "dir/in/a.bin", "dir/b.bin"] {
        assert_eq!(fs::read(mount.path(name)).unwrap(), name.as_bytes());
    }
    put(&mount.path("mine/file"), b"mine");
    put(&mount.path("mine/dir/file"), b"mine");
    symlink("x", mount.path("mine/link")).unwrap();
    mount.flush();
    eventually("all is held", || mount.status()["held"]["files"] == 6);
    let at = match end {
        End::Unmounted => mount.unmount(),
        _ => mount.kill(),
    };
    for name in ["file", "far file", "linked", "mine/file", "mine/link"] {
        let _ = fs::remove_file(at.join(name));
    }
    for name in ["dir", "mine/dir"] {
        fs::remove_dir_all(at.join(name)).unwrap();
    }
    put(&at.join("file/local.bin"), b"local");
    put(&at.join("far file/deep/local.bin"), b"local");
    symlink("file", at.join("linked")).unwrap();
    fs::write(at.join("dir"), b"was a directory").unwrap();
    fs::write(at.join("far dir"), b"was a directory").unwrap();
    put(&at.join("mine/file/local.bin"), b"local");
    fs::write(at.join("mine/dir"), b"was a directory").unwrap();
    fs::write(at.join("mine/link"), b"was a link").unwrap();
    let folder = tree(&at);
    let before = tree(&server.root);
    let mount = lab.mount("mnt", &args);
    assert_shows(&mount, &folder, &[]);
    // What is at the remote stays there, and each is told.
    eventually("each is told", || {
        let status = mount.status().to_string();
        ["file", "far file", "linked", "dir", "far dir"]
            .iter()
            .all(|name| status.contains(&format!("{name}: ")))
    });
    mount.sync();
    assert_shows(&mount, &folder, &[]);
    // They are used like any other.
    put(&mount.path("file/more.bin"), b"more");
    fs::rename(mount.path("file/local.bin"), mount.path("file/renamed.bin")).unwrap();
    fs::write(mount.path("dir"), b"written anew").unwrap();
    fs::create_dir(mount.path("far file/another")).unwrap();
    assert_eq!(fs::read(mount.path("linked/more.bin")).unwrap(), b"more");
    eventually("what can go up went up", || {
        fs::read(server.root.join("mine/link")).is_ok_and(|b| b == b"was a link")
    });
    for (path, thing) in before {
        assert!(
            tree(&server.root).get(&path) == Some(&thing),
            "{path:?} at the server"
        );
    }
    let folder = tree(&mount.at);
    let at = mount.unmount();
    assert_eq!(tree(&at), folder);
    let mount = lab.mount("mnt", &args);
    assert_shows(&mount, &folder, &[]);
    // Taken away again, the remote's is there again once it is asked for.
    fs::remove_dir_all(mount.path("far file")).unwrap();
    let restored = lab.run([OsStr::new("restore"), mount.path("far file").as_os_str()]);
    assert!(restored.status.success());
    eventually("it is back", || {
        fs::read(mount.path("far file")).is_ok_and(|b| b == b"far file")
    });
}

#[test]
fn p7_a_name_that_became_another_kind_of_thing() {
    another_kind(End::Unmounted);
}

#[test]
fn p7_a_name_that_became_another_kind_of_thing_after_a_kill() {
    another_kind(End::Killed);
}

/// The remote turned a file into a directory and the other way about, and the folder has what
/// it held of before: that is nobody's work, and the remote's is shown.
#[test]
fn p7_another_kind_at_the_remote_is_followed() {
    let lab = Lab::new();
    let root = lab.dir("srv");
    put(&root.join("file"), b"file");
    put(&root.join("dir/in/a.bin"), b"a");
    let server = lab.serve("srv", &[]);
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = lab.mount("mnt", &args);
    eventually("it is listed", || mount.status()["known"]["files"] == 2);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"file");
    assert_eq!(fs::read(mount.path("dir/in/a.bin")).unwrap(), b"a");
    eventually("both are held", || mount.status()["held"]["files"] == 2);
    mount.unmount();
    fs::remove_file(root.join("file")).unwrap();
    put(&root.join("file/now/a/directory"), b"1");
    fs::remove_dir_all(root.join("dir")).unwrap();
    put(&root.join("dir"), b"2");
    let mount = lab.mount("mnt", &args);
    eventually("the directory is shown", || {
        fs::read(mount.path("file/now/a/directory")).is_ok_and(|b| b == b"1")
    });
    eventually("the file is shown", || {
        fs::read(mount.path("dir")).is_ok_and(|b| b == b"2")
    });
    mount.flush();
    assert_eq!(mount.status()["dirty"]["files"], 0);
    let at = mount.unmount();
    assert_eq!(fs::read(at.join("file/now/a/directory")).unwrap(), b"1");
    assert_eq!(fs::read(at.join("dir")).unwrap(), b"2");
}

/// What was read is there when the folder is a plain one, though its reader ended just before.
#[test]
fn p7_what_was_read_a_moment_before_the_unmount_is_in_the_folder() {
    const FILES: u64 = 60;
    let lab = Lab::new();
    let root = lab.dir("srv");
    for n in 0..FILES {
        put(&root.join(format!("{n}.bin")), &bytes(n, 200_000));
    }
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    eventually("all are listed", || {
        mount.status()["known"]["files"] == FILES
    });
    std::thread::scope(|scope| {
        for n in 0..FILES {
            let path = mount.path(format!("{n}.bin"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == bytes(n, 200_000)));
        }
    });
    let at = mount.unmount();
    for n in 0..FILES {
        let kept = fs::read(at.join(format!("{n}.bin")));
        assert!(kept.is_ok_and(|kept| kept == bytes(n, 200_000)), "{n}");
    }
}

/// A file that was saved beside itself and renamed, as editors do, or written where it is, without
/// going up: whoever removes it from the plain folder has the remote's again.
#[test]
fn p7_what_was_saved_here_and_removed_by_hand_is_the_remotes_again() {
    let lab = Lab::new();
    for name in ["renamed", "written"] {
        put(&lab.path(format!("srv/{name}.bin")), b"theirs");
    }
    let server = lab.serve("srv", &[]);
    let args = ["--remote", server.url.as_str()];
    let mount = lab.mount("mnt", &args);
    let at = |name: &str| mount.path(format!("{name}.bin"));
    eventually("both are listed", || mount.status()["known"]["files"] == 2);
    fs::write(mount.path("x.tmp"), b"mine").unwrap();
    fs::rename(mount.path("x.tmp"), at("renamed")).unwrap();
    fs::write(at("written"), b"mine").unwrap();
    let folder = mount.unmount();
    for name in ["renamed.bin", "written.bin"] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), b"mine");
        fs::remove_file(folder.join(name)).unwrap();
    }
    let mount = lab.mount("mnt", &args);
    for name in ["renamed.bin", "written.bin"] {
        assert_eq!(fs::read(mount.path(name)).unwrap(), b"theirs");
    }
}
