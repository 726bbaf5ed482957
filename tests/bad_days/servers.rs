//! Servers whose directory goes away, and servers that fall silent.

use std::fs::{self, File};
use std::process::Command;
use std::time::Instant;

use crate::common::{Lab, Mount, Server, bytes, eventually, is_mounted, put};
use crate::{DEADLINE, SECOND, ends, errno, shown, state};

/// A mount that holds `held.bin` of what is served, and not `d/far.bin`.
fn scene<'a>(lab: &'a Lab, more: &[&str]) -> (Server, Mount<'a>) {
    put(&lab.path("srv/held.bin"), &bytes(1, 5000));
    put(&lab.path("srv/d/far.bin"), &bytes(2, 5000));
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &[&["--remote", &server.url], more].concat());
    eventually("all is listed", || mount.path("d/far.bin").exists());
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    eventually("one is held", || mount.status()["held"]["files"] == 1);
    (server, mount)
}

#[test]
fn p12_a_served_directory_that_went_away_deletes_nothing_and_comes_back() {
    for more in [
        &["--upload"][..],
        &["--upload", "--propagate-deletes", "--offline", "error"],
    ] {
        let lab = Lab::new();
        let (server, mount) = scene(&lab, more);
        let away = lab.path("away");
        fs::rename(&server.root, &away).unwrap();
        // Whoever asks finds out, and says why.
        assert_ne!(errno(File::open(mount.path("d/far.bin"))), 0);
        eventually("it is known to be away", || state(&mount) == "away");
        assert!(
            shown(&mount).contains("the served directory is not there"),
            "{}",
            shown(&mount)
        );
        assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
        fs::write(mount.path("new.bin"), b"new").unwrap();
        assert_eq!(
            mount.status()["remotes"][0]["files"],
            2,
            "nothing counts as deleted"
        );
        // Something else in its place is not it either.
        fs::create_dir(&server.root).unwrap();
        put(&server.root.join("other.bin"), b"other");
        mount.verb(&["sync"]);
        assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
        assert_eq!(errno(fs::metadata(mount.path("other.bin"))), libc::ENOENT);
        assert!(!server.root.join("new.bin").exists());
        fs::remove_dir_all(&server.root).unwrap();
        fs::rename(&away, &server.root).unwrap();
        eventually("it is back", || state(&mount) == "online");
        assert_eq!(fs::read(mount.path("d/far.bin")).unwrap(), bytes(2, 5000));
        eventually("what was written goes up", || {
            fs::read(server.root.join("new.bin")).is_ok_and(|b| b == b"new")
        });
    }
}

#[test]
fn p12_a_served_directory_that_was_removed_takes_nothing_here_along() {
    let lab = Lab::new();
    let (server, mount) = scene(&lab, &[]);
    fs::remove_dir_all(&server.root).unwrap();
    assert_ne!(errno(File::open(mount.path("d/far.bin"))), 0);
    // Each file may have been seen to go while the directory was still there; but not "held"
    // ones that are gone because the whole of it is.
    eventually("it is known to be away", || state(&mount) == "away");
    let at = mount.unmount();
    assert!(!is_mounted(&at));
    assert!(fs::read_dir(at).unwrap().count() >= 1);
}

#[test]
fn p6_a_server_that_accepts_and_never_answers_hangs_nobody() {
    let lab = Lab::new();
    let (server, mount) = scene(&lab, &["--upload", "--offline", "error"]);
    server.signal("-STOP");
    let begun = Instant::now();
    let listed = ends(Command::new("ls").arg("-laR").arg(&mount.at));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("far.bin"));
    assert_eq!(fs::metadata(mount.path("d/far.bin")).unwrap().len(), 5000);
    assert_eq!(
        errno(fs::metadata(mount.path("nobody-has-it"))),
        libc::ENOENT
    );
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(errno(File::open(mount.path("d/far.bin"))), libc::EIO);
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(errno(File::open(mount.path("d/far.bin"))), libc::EIO);
    assert!(
        begun.elapsed() < SECOND,
        "away is known: {:?}",
        begun.elapsed()
    );
    assert!(shown(&mount).contains("away for"), "{}", shown(&mount));
    fs::write(mount.path("new.bin"), b"new").unwrap();
    let begun = Instant::now();
    let at = mount.unmount();
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(fs::read(at.join("new.bin")).unwrap(), b"new");
    // A server that is silent from the start.
    let begun = Instant::now();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(fs::read(mount.path("new.bin")).unwrap(), b"new");
    let doctor = ends(
        lab.larder()
            .arg("doctor")
            .arg(lab.dir("x"))
            .args(["--remote", &server.url]),
    );
    assert!(!doctor.status.success());
    server.signal("-CONT");
    eventually("it goes up", || {
        fs::read(server.root.join("new.bin")).is_ok_and(|b| b == b"new")
    });
}
