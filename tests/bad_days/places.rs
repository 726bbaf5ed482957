//! Mountpoints and stores that cannot be used.

use std::fs;

use crate::common::{Lab, Mount, bytes, eventually, is_mounted, mountinfo, put, signal};
use crate::disk::Disk;
use crate::{complaint, ends};

/// The complaint of a mount that cannot be.
#[track_caller]
fn refused(lab: &Lab, args: &[&str]) -> String {
    let mut command = lab.larder();
    command.arg("mount").args(args);
    let line = complaint(&ends(&mut command));
    let mounts = mountinfo();
    let at = format!(" {} ", lab.path(args[0]).display());
    assert!(
        !mounts
            .lines()
            .any(|l| l.contains(" larder:") && l.contains(&at))
    );
    line
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// A mount that works is seen to work.
#[track_caller]
fn works(mount: &Mount<'_>) {
    eventually("all is listed", || mount.path("a.bin").exists());
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), bytes(1, 5000));
}

#[test]
fn a_mountpoint_that_cannot_be_one_is_refused_in_one_line() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, 5000));
    let server = lab.serve("srv", &[]);
    let (none, file) = (lab.path("none"), lab.path("srv/a.bin"));
    let line = refused(&lab, &[text(&none), "--remote", &server.url]);
    assert!(
        line.contains("does not exist") && line.contains("mkdir -p"),
        "{line}"
    );
    let line = refused(&lab, &[text(&file), "--remote", &server.url]);
    assert!(line.contains("is not a directory"), "{line}");
    let line = refused(&lab, &[text(&lab.dir("mnt")), "--remote", "gopher://x"]);
    assert!(
        line.starts_with("gopher://x: unknown kind of remote; give http://"),
        "{line}"
    );
    assert!(!lab.path("mnt/.larder").exists(), "nothing was begun");

    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let again = ends(
        lab.larder()
            .arg("mount")
            .arg(&mount.at)
            .args(["--remote", &server.url]),
    );
    let line = complaint(&again);
    assert!(
        line.contains("is mounted already; `larder umount"),
        "{line}"
    );
    works(&mount);
}

#[test]
fn p7_a_dead_mount_is_detached_and_mounted_over() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, 5000));
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    works(&mount);
    put(&mount.path("mine.bin"), b"mine");
    let pid = mount.pid();
    // The guard first, so that nobody cleans up.
    let guard = guard_of(&mount);
    for pid in [guard, pid] {
        assert!(signal(pid, "-9"));
    }
    eventually("the mount is dead", || {
        fs::metadata(&mount.at).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    });
    assert!(is_mounted(&mount.at));
    let doctor = ends(
        lab.larder()
            .arg("doctor")
            .arg(&mount.at)
            .args(["--remote", &server.url]),
    );
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        found.contains("its daemon does not answer; run `larder umount"),
        "{found}"
    );
    let again = ends(
        lab.larder()
            .arg("mount")
            .arg(&mount.at)
            .args(["--remote", &server.url]),
    );
    assert!(again.status.success());
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(
        said.contains("a mount whose daemon was gone is detached"),
        "{said}"
    );
    works(&mount);
    assert_eq!(fs::read(mount.path("mine.bin")).unwrap(), b"mine");
    let at = mount.unmount();
    assert!(!is_mounted(&at));
    assert_eq!(fs::read(at.join("mine.bin")).unwrap(), b"mine");
}

/// The process that watches over the mount: the daemon's only child.
fn guard_of(mount: &Mount<'_>) -> u32 {
    let pid = mount.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks
            .filter_map(|t| fs::read_to_string(t.unwrap().path().join("children")).ok())
            .collect::<String>()
    };
    assert!(fs::metadata(&path).is_ok());
    let all = children();
    let mut each = all.split_whitespace().map(|p| p.parse().unwrap());
    let guard = each.next().unwrap();
    assert_eq!(each.next(), None, "{all}");
    guard
}

#[test]
fn a_store_that_is_in_use_is_refused_and_its_user_named() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, 5000));
    let server = lab.serve("srv", &[]);
    let (store, other) = (lab.dir("store"), lab.dir("other"));
    let mount = lab.mount("mnt", &["--store", text(&store), "--remote", &server.url]);
    works(&mount);
    let line = refused(
        &lab,
        &[
            text(&other),
            "--store",
            text(&store),
            "--remote",
            &server.url,
        ],
    );
    let pid = mount.pid();
    assert!(line.contains(text(&store)), "{line}");
    assert!(
        line.contains(&format!(
            "in use by pid {pid} mounted at {}",
            mount.at.display()
        )),
        "{line}"
    );
    // The mount itself, and a folder in it, are no stores either.
    for store in [mount.at.clone(), mount.path("sub")] {
        let _ = fs::create_dir(&store);
        let line = refused(
            &lab,
            &[
                text(&other),
                "--store",
                text(&store),
                "--remote",
                &server.url,
            ],
        );
        assert!(
            line.contains(&format!("is in the mount at {}", mount.at.display())),
            "{line}"
        );
    }
    let line = refused(&lab, &[text(&mount.path("sub")), "--remote", &server.url]);
    assert!(line.contains("is in the mount at"), "{line}");
    works(&mount);
    mount.unmount();
    let mount = lab.mount("other", &["--store", text(&store), "--remote", &server.url]);
    works(&mount);
}

#[test]
fn a_store_that_cannot_be_written_is_refused_and_named() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, 5000));
    let server = lab.serve("srv", &[]);
    let disk = Disk::new(&lab, "ro", "1m");
    disk.remount("ro");
    let remote = ["--remote", &server.url];
    let line = refused(&lab, &[text(&disk.at), remote[0], remote[1]]);
    assert!(
        line.starts_with(&format!("{}/.larder", disk.at.display())),
        "{line}"
    );
    assert!(
        line.contains("read-only; make it writable or choose another store"),
        "{line}"
    );
    // One that was a store before, seen through a read-only bind.
    let mount = lab.mount("used", &remote);
    works(&mount);
    let used = mount.unmount();
    let bound = Disk::bound(&lab, &used, "bound");
    bound.remount("ro,bind");
    let other = lab.dir("other");
    let line = refused(
        &lab,
        &[
            text(&other),
            "--store",
            text(&bound.at),
            remote[0],
            remote[1],
        ],
    );
    assert!(line.contains("read-only; make it writable"), "{line}");
    let doctor = ends(lab.larder().arg("doctor").arg(&bound.at).args(remote));
    assert!(!doctor.status.success());
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        found.contains("cannot be written; a store has to be written"),
        "{found}"
    );
    disk.remount("rw");
    let at = disk.at.clone();
    let mounted = ends(lab.larder().arg("mount").arg(&at).args(remote));
    assert!(mounted.status.success());
    works(&Mount { lab: &lab, at });
}

#[test]
fn a_larder_directory_on_another_file_system_is_refused() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, 5000));
    let server = lab.serve("srv", &[]);
    let at = lab.dir("mnt");
    for part in [".larder", ".larder/staged"] {
        let disk = Disk::new(&lab, &format!("mnt/{part}"), "1m");
        let line = refused(&lab, &[text(&at), "--remote", &server.url]);
        let expected = format!(
            "{}: another file system is mounted here; unmount it",
            disk.at.display()
        );
        assert_eq!(line, expected);
    }
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    works(&mount);
    let at = mount.unmount();
    fs::remove_dir_all(at.join(".larder")).unwrap();
    std::os::unix::fs::symlink(lab.dir("elsewhere"), at.join(".larder")).unwrap();
    let line = refused(&lab, &[text(&at), "--remote", &server.url]);
    assert!(
        line.contains(".larder: a symbolic link is in the way"),
        "{line}"
    );
    assert_eq!(fs::read_dir(lab.path("elsewhere")).unwrap().count(), 0);
}
