//! A store without room: readers, writers and the index meet a full disk.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::common::{Lab, Mount, Server, bytes, eventually, put};
use crate::disk::Disk;
use crate::{cat, complaint, ends, errno, notes};

const READ_PATHS: [&[&str]; 2] = [&[], &["--no-passthrough"]];

/// A mount over a small disk, which can be looked at beside it.
fn scene<'a>(lab: &'a Lab, size: &str, more: &[&str]) -> (Disk, Server, Mount<'a>) {
    let disk = Disk::new(lab, "disk", size);
    put(&lab.path("srv/old.bin"), &bytes(1, 100_000));
    let server = lab.serve("srv", &[]);
    let store = disk.at.to_str().unwrap();
    let args = [
        "--store",
        store,
        "--remote",
        &server.url,
        "--upload",
        "--min-free",
        "0",
    ];
    let mount = lab.mount("mnt", &[&args, more].concat());
    eventually("all is listed", || mount.path("old.bin").exists());
    (disk, server, mount)
}

/// What `close()` says, which `drop` does not tell.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and nobody else has it.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes pieces of `content` until one fails; returns how much went.
fn write_until_full(file: &mut File, content: &[u8]) -> (usize, i32) {
    let mut done = 0;
    while done < content.len() {
        let end = content.len().min(done + 50_000);
        match file.write(&content[done..end]) {
            Ok(n) => done += n,
            Err(error) => return (done, error.raw_os_error().unwrap()),
        }
    }
    (done, 0)
}

fn is_there(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|b| b == content)
}

/// Everything works, without a remount.
#[track_caller]
fn works(mount: &Mount<'_>, server: &Server) {
    let content = bytes(99, 20_000);
    eventually("files can be written", || {
        fs::write(mount.path("works.bin"), &content).is_ok()
    });
    eventually("and go up", || {
        is_there(&server.root.join("works.bin"), &content)
    });
    assert!(is_there(&mount.path("old.bin"), &bytes(1, 100_000)));
    mount.nothing_waits();
}

#[test]
fn p11_a_file_that_does_not_fit_is_an_error_and_leaves_the_room_to_others() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        let big = bytes(2, 6 << 20);
        put(&lab.path("srv/big.bin"), &big);
        let (disk, server, mount) = scene(&lab, "3m", flags);
        let (came, said) = cat(&mount.path("big.bin"));
        assert!(said.contains("No space left on device"), "{said}");
        assert!(came.len() < big.len() && big.starts_with(&came));
        assert!(
            !disk.at.join("big.bin").exists(),
            "nothing half is in the tree"
        );
        eventually("nor is anything kept of it", || {
            fs::read_dir(disk.at.join(".larder/partial"))
                .unwrap()
                .count()
                == 0
        });
        works(&mount, &server);
        disk.remount("size=12m");
        assert!(is_there(&mount.path("big.bin"), &big));
        eventually("it is kept", || is_there(&disk.at.join("big.bin"), &big));
    }
}

#[test]
fn p11_readers_and_writers_get_the_room_of_what_is_clean() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        for n in 0..8 {
            put(&lab.path(format!("srv/f{n}.bin")), &bytes(10 + n, 1 << 20));
        }
        let (disk, server, mount) = scene(&lab, "4m", flags);
        for n in 0..8 {
            let (came, said) = cat(&mount.path(format!("f{n}.bin")));
            assert!(came == bytes(10 + n, 1 << 20), "{n}: {said}");
        }
        let mine = bytes(3, 2 << 20);
        fs::write(mount.path("mine.bin"), &mine).unwrap();
        assert!(is_there(&mount.path("mine.bin"), &mine));
        eventually("it goes up", || {
            is_there(&server.root.join("mine.bin"), &mine)
        });
        mount.flush();
        drop(disk.fill(0));
        for n in 0..8 {
            let (came, said) = cat(&mount.path(format!("f{n}.bin")));
            assert!(came == bytes(10 + n, 1 << 20), "{n}: {said}");
        }
        assert_eq!(mount.status()["orphans"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn p4_what_a_full_disk_cut_short_replaces_nothing() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        let (disk, server, mount) = scene(&lab, "6m", flags);
        fs::write(mount.path("mine.bin"), bytes(2, 50_000)).unwrap();
        mount.flush();
        let (mine, new, content) = (
            mount.path("mine.bin"),
            mount.path("new.bin"),
            bytes(3, 1 << 20),
        );
        mount.verb(&["evict", "--all"]);
        for path in [&mine, &new] {
            let ballast = disk.fill(400_000);
            let mut file = File::create(path).unwrap();
            let (done, why) = write_until_full(&mut file, &content);
            assert_eq!(why, libc::ENOSPC);
            assert!(done > 0);
            assert_eq!(errno(close(file)), libc::ENOSPC);
            fs::remove_file(ballast).unwrap();
            eventually("it is reported", || {
                let orphans = mount.status()["orphans"].as_array().unwrap().clone();
                orphans.iter().any(|o| {
                    o["name"]
                        .as_str()
                        .unwrap()
                        .ends_with(path.file_name().unwrap().to_str().unwrap())
                })
            });
        }
        assert!(
            is_there(&mine, &bytes(2, 50_000)),
            "the old version is back"
        );
        eventually("the new name is gone", || {
            errno(fs::metadata(&new)) == libc::ENOENT
        });
        let notes = notes(&mount);
        assert!(
            notes
                .iter()
                .any(|n| n.contains("mine.bin: could not be written")
                    && n.contains(".larder/orphans/")),
            "{notes:?}"
        );
        works(&mount, &server);
        mount.flush();
        assert!(is_there(&server.root.join("mine.bin"), &bytes(2, 50_000)));
        assert!(!server.root.join("new.bin").exists());
        // The names are as good as any.
        for path in [&mine, &new] {
            fs::write(path, &content).unwrap();
        }
        mount.flush();
        assert!(is_there(&server.root.join("mine.bin"), &content));
        assert!(is_there(&server.root.join("new.bin"), &content));
    }
}

#[test]
fn p4_a_writer_that_puts_right_what_failed_publishes() {
    let lab = Lab::new();
    let (disk, server, mount) = scene(&lab, "6m", &[]);
    let content = bytes(3, 1 << 20);
    let ballast = disk.fill(400_000);
    let mut file = File::create(mount.path("again.bin")).unwrap();
    let mut anew = File::create(mount.path("anew.bin")).unwrap();
    let (done, why) = write_until_full(&mut file, &content);
    assert_eq!(why, libc::ENOSPC);
    assert_eq!(write_until_full(&mut anew, &content).1, libc::ENOSPC);
    fs::remove_file(ballast).unwrap();
    file.write_all(&content[done..]).unwrap();
    close(file).unwrap();
    anew.set_len(0).unwrap();
    anew.write_all_at(b"short", 0).unwrap();
    close(anew).unwrap();
    mount.flush();
    assert!(is_there(&server.root.join("again.bin"), &content));
    assert!(is_there(&server.root.join("anew.bin"), b"short"));
    assert_eq!(mount.status()["orphans"].as_array().unwrap().len(), 0);
}

#[test]
fn p4_a_file_that_grew_in_place_into_a_full_disk_is_held_back() {
    let lab = Lab::new();
    let (disk, server, mount) = scene(&lab, "6m", &[]);
    assert!(is_there(&mount.path("old.bin"), &bytes(1, 100_000)));
    eventually("it is kept", || mount.status()["held"]["files"] == 1);
    // Open for reading, it is not evicted to make room.
    let reader = File::open(mount.path("old.bin"));
    drop(reader);
    let mut file = File::options()
        .append(true)
        .open(mount.path("old.bin"))
        .unwrap();
    let ballast = disk.fill(200_000);
    let content = bytes(3, 1 << 20);
    let (done, why) = write_until_full(&mut file, &content);
    assert_eq!(why, libc::ENOSPC);
    assert_eq!(errno(close(file)), libc::ENOSPC);
    fs::remove_file(ballast).unwrap();
    eventually("it is held back", || {
        mount.status()["outbox"]["held_back"] == 1
    });
    fs::write(mount.path("other.bin"), b"other").unwrap();
    eventually("others go up", || {
        is_there(&server.root.join("other.bin"), b"other")
    });
    assert!(is_there(&server.root.join("old.bin"), &bytes(1, 100_000)));
    let whole = [bytes(1, 100_000), content.clone()].concat();
    assert!(is_there(&mount.path("old.bin"), &whole[..100_000 + done]));
    fs::write(mount.path("old.bin"), &whole).unwrap();
    mount.flush();
    assert!(is_there(&server.root.join("old.bin"), &whole));
    assert_eq!(mount.status()["outbox"]["held_back"], 0);
}

#[test]
fn p3_a_close_that_cannot_be_noted_fails_and_blocks_nothing() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        let (disk, server, mount) = scene(&lab, "4m", flags);
        fs::write(mount.path("mine.bin"), b"first").unwrap();
        mount.flush();
        mount.verb(&["evict", "--all"]);
        let names = ["mine.bin", "new.bin", "three.bin", "four.bin", "five.bin"];
        let open = names.map(|name| {
            let mut file = File::create(mount.path(name)).unwrap();
            file.write_all(b"second").unwrap();
            file
        });
        let mut ballast = disk.fill(0);
        let closed = open.map(|file| {
            let closed = errno(close(file));
            // What the index had put by is used up.
            ballast = disk.fill(0);
            closed
        });
        assert!(closed.contains(&libc::ENOSPC), "{closed:?}");
        assert!(closed.iter().all(|c| [0, libc::ENOSPC].contains(c)));
        assert!(fs::read_dir(&mount.at).unwrap().count() <= 6);
        fs::remove_file(ballast).unwrap();
        works(&mount, &server);
        for (name, closed) in names.into_iter().zip(closed) {
            // Whatever close() said holds.
            let there = || fs::read(mount.path(name)).ok();
            if closed == 0 {
                eventually("it is as it was closed", || {
                    there().as_deref() == Some(b"second")
                });
            } else if name == "mine.bin" {
                let known: [&[u8]; 2] = [b"first", b"second"];
                eventually("a version is there", || {
                    there().is_some_and(|b| known.contains(&&b[..]))
                });
            }
        }
        for name in names {
            let content = b"third!";
            eventually("the name can be written", || {
                fs::write(mount.path(name), content).is_ok()
            });
            eventually("and goes up", || is_there(&server.root.join(name), content));
            assert!(is_there(&mount.path(name), content));
        }
        let at = mount.unmount();
        assert!(
            fs::read_dir(&at).unwrap().count() == 0,
            "the store is elsewhere"
        );
        assert!(is_there(&disk.at.join("mine.bin"), b"third!"));
    }
}

#[test]
fn p11_what_a_user_removes_makes_room() {
    let lab = Lab::new();
    let (disk, server, mount) = scene(&lab, "4m", &[]);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    // Nobody else has them: nothing can be evicted.
    server.signal("-STOP");
    let mut n = 0;
    // The last one may fail as late as in its `close()`, which `fs::write` does not listen to.
    let write = |n: u64| {
        let mut file = File::create(mount.path(format!("mine-{n}.bin")))?;
        file.write_all(&bytes(n, 200_000))?;
        close(file)
    };
    while write(n).is_ok() {
        n += 1;
    }
    assert!(n > 5, "{n}");
    drop(disk.fill(0));
    for n in 0..n {
        let found = fs::read(mount.path(format!("mine-{n}.bin")));
        assert!(
            found
                .as_ref()
                .is_ok_and(|found| *found == bytes(n, 200_000)),
            "{n}: {:?}; {}",
            found.map(|found| found.len()),
            mount.status()
        );
    }
    fs::remove_file(mount.path("mine-0.bin")).unwrap();
    fs::remove_file(mount.path("mine-1.bin")).unwrap();
    assert_eq!(errno(fs::metadata(mount.path("mine-0.bin"))), libc::ENOENT);
    fs::write(mount.path("small.bin"), b"small").unwrap();
    server.signal("-CONT");
    eventually("all go up", || {
        (2..n).all(|n| {
            is_there(
                &server.root.join(format!("mine-{n}.bin")),
                &bytes(n, 200_000),
            )
        }) && is_there(&server.root.join("small.bin"), b"small")
    });
    // It may have been on its way up; it is gone here all the same.
    mount.sync();
    assert_eq!(errno(fs::metadata(mount.path("mine-0.bin"))), libc::ENOENT);
}

#[test]
fn a_store_that_is_full_at_the_start_says_so_in_one_line() {
    let lab = Lab::new();
    let (disk, server, mount) = scene(&lab, "3m", &[]);
    assert!(is_there(&mount.path("old.bin"), &bytes(1, 100_000)));
    let at = mount.unmount();
    let ballast = disk.fill(0);
    let store = disk.at.to_str().unwrap();
    let args = ["--store", store, "--remote", &server.url, "--min-free", "0"];
    let mut command = lab.larder();
    let mounted = ends(command.arg("mount").arg(&at).args(args));
    if mounted.status.success() {
        // What SQLite left had room enough.
        let mount = Mount {
            lab: &lab,
            at: at.clone(),
        };
        assert!(is_there(&mount.path("old.bin"), &bytes(1, 100_000)));
        mount.unmount();
    } else {
        let line = complaint(&mounted);
        assert!(line.starts_with(store) && line.contains("full"), "{line}");
    }
    fs::remove_file(ballast).unwrap();
    let mount = lab.mount("mnt", &args);
    assert!(is_there(&mount.path("old.bin"), &bytes(1, 100_000)));
}
