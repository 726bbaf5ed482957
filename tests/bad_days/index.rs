//! Index files that are damaged, gone, or from another time (promise P7).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Lab, Mount, Server, bytes, eventually, put};
use crate::{complaint, ends, errno, notes};

const FILES: u64 = 40;

fn name(n: u64) -> String {
    format!("d{}/f{n}.bin", n % 3)
}

/// A folder that was mounted: half of the remote's files are held, one is new, one has another version.
fn left(lab: &Lab) -> (Server, PathBuf) {
    for n in 0..FILES {
        put(&lab.path("srv").join(name(n)), &bytes(n, 3000));
    }
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--prefetch", "0"]);
    eventually("all is listed", || mount.path(name(FILES - 1)).exists());
    for n in 0..FILES / 2 {
        assert_eq!(fs::read(mount.path(name(n))).unwrap(), bytes(n, 3000));
    }
    put(&mount.path("mine/new.bin"), b"new");
    fs::write(mount.path(name(0)), b"changed").unwrap();
    eventually("all are held", || {
        mount.status()["held"]["files"] == FILES / 2 + 1
    });
    let at = mount.unmount();
    (server, at)
}

fn index(at: &Path) -> PathBuf {
    at.join(".larder/index.db")
}

fn kept(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at.join(".larder")).unwrap();
    names
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with("index.db.corrupt-"))
        .collect()
}

/// Everything in the folder is there and read right, what was written here goes up, and no
/// version is lost.
#[track_caller]
fn is_whole(mount: &Mount<'_>, server: &Server, how: &str) {
    for n in 1..FILES {
        let read = fs::read(mount.path(name(n)));
        assert!(read.is_ok_and(|b| b == bytes(n, 3000)), "{how}: {n}");
    }
    eventually(&format!("{how}: what is new goes up"), || {
        fs::read(server.root.join("mine/new.bin")).is_ok_and(|b| b == b"new")
    });
    mount.flush();
    // Which version the changed one was based on is not known any more: both are kept.
    let there = fs::read(server.root.join(name(0))).unwrap();
    let conflicts = mount.status()["conflicts"].as_array().unwrap().clone();
    match conflicts.as_slice() {
        [] => assert_eq!(there, b"changed", "{how}"),
        [one] => {
            assert_eq!(there, bytes(0, 3000), "{how}");
            let store = mount.status()["store"].as_str().unwrap().to_owned();
            assert_eq!(one["size"], 7, "{how}: {store}");
            let id = one["id"].to_string();
            let taken = mount.verb(&["conflicts", "--keep-ours", &id]);
            assert!(taken.status.success(), "{how}");
            mount.flush();
            assert_eq!(
                fs::read(server.root.join(name(0))).unwrap(),
                b"changed",
                "{how}"
            );
        }
        more => panic!("{how}: {more:?}"),
    }
    assert_eq!(fs::read(mount.path(name(0))).unwrap(), b"changed", "{how}");
}

fn spoil(index: &Path, how: &str) {
    let len = fs::metadata(index).unwrap().len();
    let file = File::options().write(true).open(index).unwrap();
    match how {
        "empty" => file.set_len(0).unwrap(),
        "half" => file.set_len(len / 2).unwrap(),
        "one page" => file.set_len(4096).unwrap(),
        "odd" => file.set_len(len - 1234).unwrap(),
        "header" => file.write_all_at(&bytes(7, 100), 0).unwrap(),
        "first page" => file.write_all_at(&bytes(7, 3900), 100).unwrap(),
        "all" => file.write_all_at(&bytes(7, len as usize), 0).unwrap(),
        "middle" => {
            let from = (len / 4096 / 2) * 4096;
            file.write_all_at(&bytes(7, (len - from) as usize / 2), from)
                .unwrap();
        }
        "gone" => fs::remove_file(index).unwrap(),
        "log" => {
            for end in ["-wal", "-shm"] {
                let _ = fs::remove_file(index.with_extension(format!("db{end}")));
            }
        }
        "false log" => fs::write(index.with_extension("db-wal"), bytes(8, 50_000)).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn p7_a_broken_index_costs_a_rescan_and_no_file() {
    for (how, is_said) in [
        ("half", true),
        ("one page", true),
        ("header", true),
        ("first page", true),
        ("all", true),
        ("empty", false),
        ("gone", false),
        ("log", false),
        ("false log", false),
    ] {
        let lab = Lab::new();
        let (server, at) = left(&lab);
        spoil(&index(&at), how);
        let mounted =
            ends(
                lab.larder()
                    .arg("mount")
                    .arg(&at)
                    .args(["--remote", &server.url, "--upload"]),
            );
        let said = String::from_utf8(mounted.stderr).unwrap();
        assert!(mounted.status.success(), "{how}: {said}");
        let mount = Mount {
            lab: &lab,
            at: at.clone(),
        };
        let line = "the index was broken and is being rebuilt from the folder; the old one is .larder/index.db.corrupt-";
        assert_eq!(
            said.lines().filter(|l| l.contains(line)).count(),
            usize::from(is_said),
            "{how}: {said}"
        );
        assert_eq!(
            notes(&mount).iter().any(|n| n.contains(line)),
            is_said,
            "{how}"
        );
        is_whole(&mount, &server, how);
        mount.unmount();
        assert_eq!(kept(&at).len(), usize::from(is_said), "{how}");
        // Once is enough.
        let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
        assert!(!notes(&mount).iter().any(|n| n.contains(line)), "{how}");
        assert_eq!(
            fs::read(mount.path("mine/new.bin")).unwrap(),
            b"new",
            "{how}"
        );
    }
}

#[test]
fn p7_damage_that_a_start_does_not_see_is_rebuilt_by_the_next_one() {
    for how in ["middle", "odd"] {
        let lab = Lab::new();
        let (server, at) = left(&lab);
        spoil(&index(&at), how);
        let args = ["--remote", &server.url, "--upload"];
        let mount = lab.mount("mnt", &args);
        // Whoever runs into it is told; nothing hangs, and nothing is made up.
        ends(Command::new("find").arg(&mount.at).args(["-type", "f"]));
        for n in 1..FILES {
            match fs::read(mount.path(name(n))) {
                Ok(read) => assert!(read == bytes(n, 3000), "{how}: {n}"),
                Err(error) => assert_ne!(error.raw_os_error(), Some(libc::ENOENT), "{how}: {n}"),
            }
        }
        let damaged = notes(&mount)
            .iter()
            .any(|n| n.contains("the index is damaged; unmount and mount again"));
        let rebuilt = notes(&mount).iter().any(|n| n.contains("is being rebuilt"));
        assert!(
            damaged != rebuilt || how == "odd",
            "{how}: {:?}",
            notes(&mount)
        );
        let _ = mount.verb(&["umount"]);
        drop(mount);
        let mount = lab.mount("mnt", &args);
        if damaged {
            assert!(
                notes(&mount).iter().any(|n| n.contains("is being rebuilt")),
                "{how}"
            );
        }
        is_whole(&mount, &server, how);
        assert!(
            !notes(&mount)
                .iter()
                .any(|n| n.contains("the index is damaged")),
            "{how}"
        );
    }
}

#[test]
fn p7_an_index_of_a_newer_larder_is_refused_and_left_alone() {
    let lab = Lab::new();
    let (server, at) = left(&lab);
    let db = rusqlite::Connection::open(index(&at)).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    db.pragma_update(None, "journal_mode", "delete").unwrap();
    drop(db);
    let before = fs::read(index(&at)).unwrap();
    let mut command = lab.larder();
    let line = complaint(&ends(
        command
            .arg("mount")
            .arg(&at)
            .args(["--remote", &server.url]),
    ));
    assert!(
        line.starts_with(&format!(
            "{}: the index was made by a newer larder (layout 99",
            index(&at).display()
        )),
        "{line}"
    );
    assert!(
        line.contains("move the file away to have it rebuilt"),
        "{line}"
    );
    let after = rusqlite::Connection::open(index(&at)).unwrap();
    let rows: i64 = after
        .query_row("SELECT count(*) FROM nodes", [], |r| r.get(0))
        .unwrap();
    assert!(rows > FILES as i64 && fs::read(index(&at)).unwrap().len() == before.len());
    assert!(kept(&at).is_empty());
    drop(after);
    // As it says.
    fs::rename(index(&at), lab.path("away.db")).unwrap();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    is_whole(&mount, &server, "moved away");
}

#[test]
fn p7_an_index_that_cannot_be_opened_is_an_error_in_one_line() {
    let lab = Lab::new();
    let (server, at) = left(&lab);
    let db = index(&at);
    let aside = lab.path("aside.db");
    fs::rename(&db, &aside).unwrap();
    fs::create_dir(&db).unwrap();
    let mut command = lab.larder();
    let line = complaint(&ends(
        command
            .arg("mount")
            .arg(&at)
            .args(["--remote", &server.url]),
    ));
    assert!(line.starts_with(&format!("{}: ", db.display())), "{line}");
    fs::remove_dir(&db).unwrap();
    fs::rename(&aside, &db).unwrap();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    is_whole(&mount, &server, "put back");
    assert_eq!(
        errno(fs::metadata(mount.path("nobody-has-it"))),
        libc::ENOENT
    );
}
