//! P12: deletes stay here unless they are told to travel; renames of files and directories.

use std::fs;

use super::common::{FRESH, Lab, Mount, bytes, eventually, put, within};
use super::proxy::Proxy;
use super::{is_absent, names, set};

fn listed<'a>(lab: &'a Lab, name: &str, args: &[&str]) -> Mount<'a> {
    let mount = lab.mount(name, args);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

#[test]
fn p12_rm_stays_here_survives_remount_and_can_be_taken_back() {
    let lab = Lab::new();
    for n in 0..5 {
        put(&lab.path(format!("srv/run/sub/{n}.bin")), &bytes(n, 1000));
    }
    put(&lab.path("srv/run/top.bin"), b"top");
    put(&lab.path("srv/other.bin"), b"other");
    let server = lab.serve("srv", &["--allow-delete"]);
    let args = ["--remote", &server.url, "--upload"];
    let mount = listed(&lab, "mnt", &args);
    assert_eq!(
        fs::read(mount.path("run/sub/1.bin")).unwrap(),
        bytes(1, 1000)
    );
    fs::remove_dir_all(mount.path("run")).unwrap();
    assert_eq!(names(&mount.at), set(&["other.bin"]));
    mount.flush();
    mount.unmount();
    let mount = listed(&lab, "mnt", &args);
    mount.sync();
    assert_eq!(names(&mount.at), set(&["other.bin"]));
    assert!(is_absent(&mount.path("run/top.bin")));
    for n in 0..5 {
        let there = lab.path(format!("srv/run/sub/{n}.bin"));
        assert_eq!(fs::read(there).unwrap(), bytes(n, 1000));
    }
    assert_eq!(server.stats()["delete"].as_u64().unwrap_or_default(), 0);
    assert_eq!(mount.status()["hidden"], 6);
    let restored = lab.run([mount.path("run/sub")].iter().fold(
        vec!["restore".into()],
        |mut args: Vec<std::ffi::OsString>, path| {
            args.push(path.into());
            args
        },
    ));
    assert!(restored.status.success(), "{restored:?}");
    within(FRESH, "it is back", || mount.path("run").exists());
    assert_eq!(names(&mount.path("run")), set(&["sub"]));
    assert_eq!(
        fs::read(mount.path("run/sub/1.bin")).unwrap(),
        bytes(1, 1000)
    );
    let restored = lab
        .larder()
        .arg("restore")
        .arg(mount.path("run"))
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    within(FRESH, "the rest is back", || {
        mount.path("run/top.bin").exists()
    });
    assert_eq!(fs::read(mount.path("run/top.bin")).unwrap(), b"top");
    let none = lab
        .larder()
        .arg("restore")
        .arg(mount.path("run"))
        .output()
        .unwrap();
    assert!(!none.status.success());
}

#[test]
fn p12_deletes_travel_when_told_to() {
    let lab = Lab::new();
    for n in 0..20 {
        put(
            &lab.path(format!("srv/run/{}/{n}.bin", n % 3)),
            &bytes(n, 1000),
        );
    }
    put(&lab.path("srv/one.bin"), b"one");
    let server = lab.serve("srv", &["--allow-delete"]);
    let url = server.url.as_str();
    let a = listed(
        &lab,
        "a",
        &["--remote", url, "--upload", "--propagate-deletes"],
    );
    let b = listed(&lab, "b", &["--remote", url, "--upload"]);
    assert_eq!(fs::read(b.path("run/1/1.bin")).unwrap(), bytes(1, 1000));
    assert_eq!(names(&b.at), set(&["one.bin", "run"]));
    fs::remove_file(a.path("one.bin")).unwrap();
    within(FRESH, "one file is gone there", || {
        is_absent(&b.path("one.bin"))
    });
    fs::remove_dir_all(a.path("run")).unwrap();
    within(FRESH, "a tree is gone there", || {
        is_absent(&b.path("run")) && names(&b.at).is_empty()
    });
    a.flush();
    assert!(!server.root.join("run").exists());
    // The name is free again, for both.
    put(&a.path("run/1/1.bin"), b"new");
    within(FRESH, "it is there again", || {
        fs::read(b.path("run/1/1.bin")).is_ok_and(|bytes| bytes == b"new")
    });
}

/// Renames of held files, of files nobody read, and of a directory of both.
fn renames(propagate: bool) {
    let lab = Lab::new();
    for n in 0..30 {
        put(&lab.path(format!("srv/dir/sub/{n}.bin")), &bytes(n, 2000));
    }
    put(&lab.path("srv/far.bin"), b"far");
    put(&lab.path("srv/held.bin"), b"held");
    put(&lab.path("srv/target.bin"), b"target");
    let server = lab.serve("srv", &["--allow-delete"]);
    let mut args = vec!["--remote", server.url.as_str(), "--upload"];
    args.extend(propagate.then_some("--propagate-deletes"));
    let a = listed(&lab, "a", &args);
    let b = listed(&lab, "b", &["--remote", &server.url]);
    assert_eq!(fs::read(a.path("held.bin")).unwrap(), b"held");
    assert_eq!(fs::read(a.path("dir/sub/3.bin")).unwrap(), bytes(3, 2000));
    fs::rename(a.path("far.bin"), a.path("far2.bin")).unwrap();
    fs::rename(a.path("held.bin"), a.path("target.bin")).unwrap();
    fs::rename(a.path("dir"), a.path("moved")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(&a.at), set(&["far2.bin", "moved", "target.bin"]));
        assert_eq!(fs::read(a.path("far2.bin")).unwrap(), b"far");
        assert_eq!(fs::read(a.path("target.bin")).unwrap(), b"held");
        for n in 0..30 {
            let path = a.path(format!("moved/sub/{n}.bin"));
            assert_eq!(fs::read(path).unwrap(), bytes(n, 2000));
        }
        a.flush();
        a.sync();
    }
    let there = |name: &str| fs::read(server.root.join(name));
    assert_eq!(there("far2.bin").unwrap(), b"far");
    assert_eq!(there("target.bin").unwrap(), b"held");
    assert_eq!(there("moved/sub/7.bin").unwrap(), bytes(7, 2000));
    assert_eq!(server.root.join("dir/sub/7.bin").exists(), !propagate);
    assert_eq!(server.root.join("held.bin").exists(), !propagate);
    let gone = match propagate {
        true => set(&["far2.bin", "moved", "target.bin"]),
        false => set(&[
            "dir",
            "far.bin",
            "far2.bin",
            "held.bin",
            "moved",
            "target.bin",
        ]),
    };
    within(FRESH, "the other mount sees it", || names(&b.at) == gone);
    assert_eq!(fs::read(b.path("moved/sub/9.bin")).unwrap(), bytes(9, 2000));
    assert_eq!(fs::read(b.path("target.bin")).unwrap(), b"held");
    assert_eq!(a.status()["conflicts"].as_array().unwrap().len(), 0);
}

#[test]
fn p12_renames_leave_the_old_names_at_the_server() {
    renames(false);
}

#[test]
fn p12_renames_take_the_old_names_along_when_told_to() {
    renames(true);
}

/// While the server is away: what programs save beside a file and rename over it is deleted, or gets
/// another name, and two files change places.
#[test]
fn p12_what_was_saved_and_then_deleted_or_renamed_takes_its_old_name_along() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let lab = Lab::new();
    for name in ["gone", "moved", "left", "right"] {
        put(&lab.path(format!("srv/{name}.bin")), name.as_bytes());
    }
    let server = lab.serve("srv", &["--allow-delete"]);
    let wire = Proxy::to(&server.url);
    let args = ["--remote", &wire.url, "--upload", "--propagate-deletes"];
    let mount = listed(&lab, "mnt", &args);
    let at = |name: &str| mount.path(format!("{name}.bin"));
    for name in ["left", "right"] {
        assert_eq!(fs::read(at(name)).unwrap(), name.as_bytes());
    }
    wire.cut();
    for name in ["gone", "moved"] {
        fs::write(mount.path("x.tmp"), b"saved").unwrap();
        fs::rename(mount.path("x.tmp"), at(name)).unwrap();
    }
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("moved"), at("new")).unwrap();
    let (left, right) = (at("left"), at("right"));
    eventually("what was read is in its place, and changes it", || {
        renameat_with(CWD, &left, CWD, &right, RenameFlags::EXCHANGE).is_ok()
    });
    wire.open();
    mount.flush();
    let all = set(&["left.bin", "new.bin", "right.bin"]);
    assert_eq!(names(&mount.at), all);
    let mut there = names(&server.root);
    there.retain(|name| name != ".larder");
    assert_eq!(there, all);
    for (name, content) in [("new", "saved"), ("left", "right"), ("right", "left")] {
        let there = fs::read(server.root.join(format!("{name}.bin"))).unwrap();
        assert_eq!(there, content.as_bytes());
    }
    assert_eq!(mount.status()["hidden"], 0);
}

#[test]
fn p12_a_rename_without_uploads_stays_here() {
    let lab = Lab::new();
    put(&lab.path("srv/d/far.bin"), b"far");
    let server = lab.serve("srv", &["--allow-delete"]);
    let mount = listed(
        &lab,
        "mnt",
        &["--remote", &server.url, "--propagate-deletes"],
    );
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    mount.sync();
    assert_eq!(names(&mount.at), set(&["e"]));
    assert_eq!(fs::read(mount.path("e/far.bin")).unwrap(), b"far");
    assert_eq!(fs::read(lab.path("srv/d/far.bin")).unwrap(), b"far");
    assert!(!lab.path("srv/e").exists());
}
