//! Disks without room for a name, disks that die, and stores that somebody else has his hands in.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, Mount, Server, bytes, eventually, put};
use crate::disk::Disk;
use crate::{complaint, ends, errno, state};

fn is_there(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|found| found == content)
}

fn name(n: u64) -> String {
    format!("f{n:03}.bin")
}

fn stored<'a>(store: &'a str, url: &'a str) -> [&'a str; 4] {
    ["--store", store, "--remote", url]
}

/// Copies as a user does; whether that was said to have worked.
fn copies(from: &Path, to: &Path) -> bool {
    ends(Command::new("cp").arg(from).arg(to)).status.success()
}

#[test]
fn p11_a_disk_without_room_for_names_takes_none_and_loses_none() {
    let lab = Lab::new();
    for n in 0..80 {
        put(&lab.path("srv").join(name(n)), &bytes(n, 3000));
    }
    let server = lab.serve("srv", &[]);
    let disk = Disk::with_inodes(&lab, "disk", 60);
    let store = disk.at.to_str().unwrap();
    let more = ["--upload", "--min-free", "0"];
    let args = [&stored(store, &server.url)[..], &more].concat();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    // Whatever does not fit is read all the same, or an error; what is read is right.
    for n in 0..80 {
        let read = fs::read(mount.path(name(n)));
        assert!(read.map_or_else(
            |e| e.raw_os_error() == Some(libc::ENOSPC),
            |b| b == bytes(n, 3000)
        ));
    }
    // Of what is written here, what was said to be there is.
    let source = lab.path("source");
    let mut taken = Vec::new();
    for n in 0..80 {
        fs::write(&source, bytes(1000 + n, 500)).unwrap();
        if copies(&source, &mount.path(format!("mine{n:03}"))) {
            taken.push(n);
        }
    }
    assert!(!taken.is_empty());
    for n in &taken {
        assert!(
            is_there(&mount.path(format!("mine{n:03}")), &bytes(1000 + n, 500)),
            "{n}"
        );
    }
    disk.remount("nr_inodes=1000");
    eventually("all goes on", || copies(&source, &mount.path("after")));
    mount.flush();
    for n in &taken {
        assert!(
            is_there(
                &server.root.join(format!("mine{n:03}")),
                &bytes(1000 + n, 500)
            ),
            "{n}"
        );
    }
    for n in 0..80 {
        assert!(is_there(&mount.path(name(n)), &bytes(n, 3000)), "{n}");
    }
    mount.nothing_waits();
}

fn write_synced(mount: &Mount<'_>) {
    let mut synced = File::create(mount.path("synced.bin")).unwrap();
    synced.write_all(b"synced").unwrap();
    synced.sync_all().unwrap();
}

/// What was synced, and goes up; what the server has; and not what came too late.
#[track_caller]
fn has_what_it_had(mount: &Mount<'_>, server: &Server) {
    assert!(
        is_there(&mount.path("synced.bin"), b"synced"),
        "{}",
        mount.status()
    );
    mount.flush();
    assert!(is_there(&server.root.join("synced.bin"), b"synced"));
    for n in 0..4 {
        assert!(is_there(&mount.path(name(n)), &bytes(n, 50_000)), "{n}");
    }
    assert_eq!(errno(fs::metadata(mount.path("late.bin"))), libc::ENOENT);
}

#[test]
fn p3_a_disk_that_dies_hangs_nobody_and_keeps_what_was_synced() {
    let lab = Lab::new();
    for n in 0..4 {
        put(&lab.path("srv").join(name(n)), &bytes(n, 50_000));
    }
    let server = lab.serve("srv", &[]);
    let disk = Disk::mortal(&lab, "disk");
    let store = disk.at.to_str().unwrap().to_owned();
    let more = ["--min-free", "0"];
    let args = [&stored(&store, &server.url)[..], &more].concat();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    assert!(is_there(&mount.path(name(0)), &bytes(0, 50_000)));
    write_synced(&mount);
    let source = lab.path("source");
    fs::write(&source, b"late").unwrap();
    let daemon = format!("/proc/{}", mount.pid());
    disk.die();
    // Everything ends, with what is right or with an error.
    for n in 0..4 {
        let read = ends(Command::new("cat").arg(mount.path(name(n))));
        assert!(bytes(n, 50_000).starts_with(&read.stdout), "{n}");
        assert!(!read.status.success() || read.stdout.len() == 50_000, "{n}");
    }
    assert!(
        !copies(&source, &mount.path("late.bin")),
        "nothing can have been kept"
    );
    let status = ends(lab.larder().arg("status").arg(&mount.at));
    if !status.status.success() {
        let line = complaint(&status);
        assert!(line.contains(&store), "it is the disk: {line}");
    }
    ends(Command::new("ls").arg("-la").arg(&mount.at));
    ends(Command::new("rm").arg("-f").arg(mount.path(name(1))));
    mount.nothing_waits();
    ends(lab.larder().arg("umount").arg(&mount.at));
    drop(mount);
    eventually("the daemon has ended", || !Path::new(&daemon).exists());
    disk.leave();
    // Whoever mounts the disk again has what it had.
    let _disk = Disk::mortal(&lab, "disk");
    let mount = lab.mount("mnt", &[&args[..], &["--upload"]].concat());
    mount.sync();
    has_what_it_had(&mount, &server);
}

#[test]
fn p3_a_disk_that_turns_read_only_is_read_on_and_keeps_what_it_had() {
    let lab = Lab::new();
    for n in 0..4 {
        put(&lab.path("srv").join(name(n)), &bytes(n, 50_000));
    }
    let server = lab.serve("srv", &[]);
    let disk = Disk::mortal(&lab, "disk");
    let store = disk.at.to_str().unwrap().to_owned();
    let more = ["--min-free", "0", "--upload"];
    let args = [&stored(&store, &server.url)[..], &more].concat();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    assert!(is_there(&mount.path(name(0)), &bytes(0, 50_000)));
    server.signal("-STOP");
    write_synced(&mount);
    let source = lab.path("source");
    fs::write(&source, b"late").unwrap();
    disk.fail();
    server.signal("-CONT");
    // Closed, whether or not it has got its name by now.
    assert_eq!(fs::read(mount.path("synced.bin")).unwrap(), b"synced");
    for n in 0..4 {
        let read = fs::read(mount.path(name(n)));
        assert!(
            read.as_ref().is_ok_and(|read| *read == bytes(n, 50_000)),
            "{n}: {:?}; {}",
            read.map(|read| read.len()),
            mount.status()
        );
    }
    assert!(!copies(&source, &mount.path("late.bin")));
    // A user is told why.
    assert_eq!(errno(File::create(mount.path("late.bin"))), libc::EROFS);
    assert!(fs::remove_file(mount.path(name(1))).is_err());
    assert!(mount.path(name(1)).exists());
    let status = mount.status();
    let why = status["store_error"].as_str();
    assert!(
        why.is_some_and(|why| why.starts_with("Read-only file system")),
        "{status}"
    );
    assert_eq!(status["outbox"]["pending"], 1, "{status}");
    mount.nothing_waits();
    mount.unmount();
    disk.leave();
    // Whoever has it repaired has what it had.
    let _disk = Disk::mortal(&lab, "disk");
    let mount = lab.mount("mnt", &args);
    mount.sync();
    has_what_it_had(&mount, &server);
    assert!(mount.status()["store_error"].is_null());
}

/// Nobody should; the next mount takes it over as if it had been done while nothing was mounted.
#[test]
fn p7_a_store_that_is_changed_by_hand_beneath_its_mount() {
    let lab = Lab::new();
    for n in 0..8 {
        put(&lab.path("srv").join(name(n)), &bytes(n, 20_000));
    }
    let server = lab.serve("srv", &[]);
    let store = lab.dir("store");
    let more = ["--upload", "--prefetch", "0"];
    let args = [&stored(store.to_str().unwrap(), &server.url)[..], &more].concat();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    for n in 0..6 {
        assert!(is_there(&mount.path(name(n)), &bytes(n, 20_000)));
    }
    eventually("all are held", || mount.status()["held"]["files"] == 6);
    let by_hand = |n: u64| bytes(100 + n, 15_000 + n as usize);
    // Rewritten in place, replaced, cut, removed, made a directory, and a new one.
    fs::write(store.join(name(0)), by_hand(0)).unwrap();
    put(&store.join("draft"), &by_hand(1));
    fs::rename(store.join("draft"), store.join(name(1))).unwrap();
    let cut = File::options()
        .write(true)
        .open(store.join(name(2)))
        .unwrap();
    cut.set_len(7).unwrap();
    fs::remove_file(store.join(name(3))).unwrap();
    fs::remove_file(store.join(name(4))).unwrap();
    fs::create_dir(store.join(name(4))).unwrap();
    put(&store.join("new.bin"), b"new");
    let versions = |n: u64| match n {
        0 | 1 => vec![bytes(n, 20_000), by_hand(n)],
        2 => vec![bytes(n, 20_000), bytes(n, 20_000)[..7].to_vec()],
        _ => vec![bytes(n, 20_000)],
    };
    for n in 0..8 {
        let read = ends(Command::new("cat").arg(mount.path(name(n))));
        let known = versions(n);
        // The kernel may have the length from before.
        let right = known
            .iter()
            .any(|v| v.starts_with(&read.stdout) || read.stdout.starts_with(v));
        assert!(
            right && (n < 5 || read.status.success()),
            "{n}: {} bytes",
            read.stdout.len()
        );
    }
    fs::write(mount.path("mine.bin"), b"mine").unwrap();
    mount.flush();
    mount.nothing_waits();
    for n in 0..8 {
        let there = fs::read(server.root.join(name(n))).unwrap();
        assert!(
            versions(n).contains(&there),
            "{n}: {} bytes at the server",
            there.len()
        );
    }
    let _ = mount.unmount();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    eventually("what was done by hand is there, and goes up", || {
        [0, 1].iter().all(|n| {
            is_there(&mount.path(name(*n)), &by_hand(*n))
                && is_there(&server.root.join(name(*n)), &by_hand(*n))
        })
    });
    eventually("also what is new or shorter", || {
        is_there(&server.root.join("new.bin"), b"new")
            && is_there(&server.root.join(name(2)), &bytes(2, 20_000)[..7])
    });
    // Removed is not held any more, and not deleted.
    for n in [3, 5, 6, 7] {
        assert!(is_there(&mount.path(name(n)), &bytes(n, 20_000)), "{n}");
        assert!(
            is_there(&server.root.join(name(n)), &bytes(n, 20_000)),
            "{n}"
        );
    }
    assert!(fs::metadata(mount.path(name(4))).unwrap().is_dir());
    assert!(is_there(&mount.path("mine.bin"), b"mine"));
    assert_eq!(state(&mount), "online");
}

/// Whether the mount works in all its parts.
fn works(mount: &Mount<'_>, n: u64, root: &Path) {
    let content = bytes(n, 900);
    let (here, there) = (format!("works{n}"), root.join(format!("works{n}")));
    eventually("files are written", || {
        fs::write(mount.path(&here), &content).is_ok()
    });
    eventually("and go up", || is_there(&there, &content));
    eventually("others are read", || {
        is_there(&mount.path(name(n)), &bytes(n, 3000))
    });
}

#[test]
fn p7_an_index_that_somebody_locks_or_removes_amid_a_mount() {
    let lab = Lab::new();
    for n in 0..6 {
        put(&lab.path("srv").join(name(n)), &bytes(n, 3000));
    }
    let server = lab.serve("srv", &[]);
    let store = lab.dir("store");
    let more = ["--upload"];
    let args = [&stored(store.to_str().unwrap(), &server.url)[..], &more].concat();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    works(&mount, 0, &server.root);
    let index = store.join(".larder/index.db");
    let source = lab.path("source");
    fs::write(&source, b"while it was locked").unwrap();
    let locked = rusqlite::Connection::open(&index).unwrap();
    let _ = locked.execute_batch("PRAGMA busy_timeout = 1000; BEGIN IMMEDIATE");
    let said = copies(&source, &mount.path("locked.bin"));
    assert!(is_there(&mount.path(name(0)), &bytes(0, 3000)));
    let _ = locked.execute_batch("ROLLBACK");
    drop(locked);
    assert!(!said || is_there(&mount.path("locked.bin"), b"while it was locked"));
    works(&mount, 1, &server.root);
    mount.nothing_waits();
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(store.join(format!(".larder/index.db{end}")));
    }
    // What is open stays as it is until the end.
    let said = copies(&source, &mount.path("removed.bin"));
    ends(Command::new("ls").arg("-la").arg(&mount.at));
    assert!(is_there(&mount.path(name(1)), &bytes(1, 3000)));
    mount.nothing_waits();
    mount.unmount();
    let mount = lab.mount("mnt", &args);
    mount.sync();
    for n in 0..2 {
        assert!(is_there(&mount.path(format!("works{n}")), &bytes(n, 900)));
    }
    assert!(!said || is_there(&mount.path("removed.bin"), b"while it was locked"));
    works(&mount, 2, &server.root);
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
}
