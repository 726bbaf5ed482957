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
    mount.nothing_waits();
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

/// Takes the server's folder, its index included, back to what it was.
fn copied(from: &std::path::Path, to: &std::path::Path) {
    let _ = fs::remove_dir_all(to);
    assert!(
        ends(Command::new("cp").arg("-a").arg(from).arg(to))
            .status
            .success()
    );
}

#[test]
fn p8_a_server_that_was_put_back_from_a_backup_is_followed() {
    for restarts in [0, 1] {
        let lab = Lab::new();
        for n in 0..6 {
            put(&lab.path(format!("srv/f{n}.bin")), &bytes(n, 5000));
        }
        let mut server = lab.serve("srv", &[]);
        let port = server.port();
        let url = server.url.clone();
        let args = ["--remote", &url, "--offline", "error"];
        let mount = lab.mount("mnt", &args);
        eventually("all is listed", || mount.path("f5.bin").exists());
        for n in 0..6 {
            assert!(fs::read(mount.path(format!("f{n}.bin"))).unwrap() == bytes(n, 5000));
        }
        server.kill();
        copied(&lab.path("srv"), &lab.path("backup"));
        server = lab.serve_at("srv", &port, &[]);
        // Days go by.
        for n in 0..restarts {
            put(&server.root.join(format!("day{n}.bin")), &bytes(n, 900));
            eventually("it is seen", || mount.path(format!("day{n}.bin")).exists());
            server.kill();
            server = lab.serve_at("srv", &port, &[]);
        }
        for n in 0..3 {
            put(&server.root.join(format!("f{n}.bin")), &bytes(10 + n, 6000));
        }
        put(&server.root.join("late.bin"), b"late");
        fs::remove_file(server.root.join("f5.bin")).unwrap();
        eventually("the mount has heard of it", || {
            fs::read(mount.path("f2.bin")).is_ok_and(|b| b == bytes(12, 6000))
                && mount.path("late.bin").exists()
                && !mount.path("f5.bin").exists()
        });
        mount.unmount();
        server.kill();
        copied(&lab.path("backup"), &lab.path("srv"));
        // Its numbers are soon as high as they were.
        for n in 0..20 {
            put(&lab.path(format!("srv/other{n}.bin")), b"other");
        }
        for _ in 0..restarts {
            server = lab.serve_at("srv", &port, &[]);
            server.scanned();
            server.kill();
        }
        put(&lab.path("srv/new.bin"), b"new");
        let server = lab.serve_at("srv", &port, &[]);
        server.scanned();
        let mount = lab.mount("mnt", &args);
        eventually("what was there before is there again", || {
            fs::read(mount.path("new.bin")).is_ok_and(|b| b == b"new")
                && (0..6).all(|n| {
                    fs::read(mount.path(format!("f{n}.bin"))).is_ok_and(|b| b == bytes(n, 5000))
                })
        });
        eventually("what is gone is gone", || {
            errno(fs::metadata(mount.path("late.bin"))) == libc::ENOENT
        });
        put(&server.root.join("f1.bin"), &bytes(99, 100));
        eventually("changes come as ever", || {
            fs::read(mount.path("f1.bin")).is_ok_and(|b| b == bytes(99, 100))
        });
    }
}

/// Its disk is lost, and what people find elsewhere is put in its place.
#[test]
fn p3_what_is_held_goes_to_a_server_that_lost_it() {
    for while_mounted in [true, false] {
        let lab = Lab::new();
        let (server, mount) = scene(&lab, &["--upload"]);
        fs::write(mount.path("mine.bin"), b"mine").unwrap();
        fs::write(mount.path("left.tmp"), b"never goes up").unwrap();
        mount.flush();
        let (port, url) = (server.port(), server.url.clone());
        let args = ["--remote", &url, "--upload"];
        let mut mount = Some(mount);
        if !while_mounted {
            mount.take().unwrap().unmount();
        }
        server.kill();
        fs::remove_dir_all(lab.path("srv")).unwrap();
        put(&lab.path("srv/other.bin"), b"other");
        let server = lab.serve_at("srv", &port, &[]);
        let mount = mount.unwrap_or_else(|| lab.mount("mnt", &args));
        eventually("what is new is seen, and what is gone goes", || {
            fs::read(mount.path("other.bin")).is_ok_and(|b| b == b"other")
                && !mount.path("d").exists()
        });
        for (name, is) in [("held.bin", bytes(1, 5000)), ("mine.bin", b"mine".to_vec())] {
            eventually("it goes up", || {
                fs::read(server.root.join(name)).is_ok_and(|there| there == is)
            });
            assert_eq!(fs::read(mount.path(name)).unwrap(), is);
        }
        assert!(mount.path("left.tmp").exists() && !server.root.join("left.tmp").exists());
        assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
        // Who is known by now deletes as ever.
        mount.flush();
        fs::remove_file(server.root.join("held.bin")).unwrap();
        eventually("it is deleted", || !mount.path("held.bin").exists());
    }
}

/// Its index went, and nothing else: numbers begin anew, in another life.
#[test]
fn p8_a_server_with_a_new_index_is_listed_anew() {
    let lab = Lab::new();
    let (server, mount) = scene(&lab, &["--upload"]);
    let port = server.port();
    server.kill();
    fs::remove_dir_all(lab.path("srv/.larder")).unwrap();
    fs::remove_file(lab.path("srv/d/far.bin")).unwrap();
    put(&lab.path("srv/held.bin"), &bytes(7, 700));
    put(&lab.path("srv/new.bin"), b"new");
    let server = lab.serve_at("srv", &port, &[]);
    eventually("it is as it is there", || {
        fs::read(mount.path("held.bin")).is_ok_and(|b| b == bytes(7, 700))
            && fs::read(mount.path("new.bin")).is_ok_and(|b| b == b"new")
            && errno(fs::metadata(mount.path("d/far.bin"))) == libc::ENOENT
    });
    fs::write(mount.path("held.bin"), b"ours").unwrap();
    mount.flush();
    assert_eq!(fs::read(server.root.join("held.bin")).unwrap(), b"ours");
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
}
