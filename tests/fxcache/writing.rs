//! Uploading to it.

use std::fs;

use super::common::{Lab, bytes, eventually, put};
use super::original::Original;

#[test]
fn p3_what_is_written_while_it_is_away_arrives() {
    let lab = Lab::new();
    put(&lab.path("original/old.bin"), b"old");
    let server = Original::start(&lab, &[]);
    let port = server.port().to_owned();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    assert!(mount.path("old.bin").exists());
    server.stop();
    fs::create_dir(mount.path("new")).unwrap();
    for n in 0..100 {
        fs::write(mount.path(format!("new/f{n}.pkl")), bytes(n, 2000)).unwrap();
    }
    let server = Original::start_at(&lab, &port, &[]);
    eventually("all have arrived", || {
        (0..100).all(|n| {
            fs::read(server.root.join(format!("new/f{n}.pkl")))
                .is_ok_and(|found| found == bytes(n, 2000))
        })
    });
    mount.flush();
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    // What went up is not fetched back.
    assert_eq!(fs::read(mount.path("new/f3.pkl")).unwrap(), bytes(3, 2000));
    assert_eq!(server.asked("GET /download?path=new"), 0);
}

/// Files that it cannot take stay here, are shown as such, and hold up nobody.
#[test]
fn p3_what_it_cannot_take_is_kept_here_and_said() {
    let lab = Lab::new();
    let server = Original::start(&lab, &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    fs::write(mount.path("empty.bin"), b"").unwrap();
    fs::write(mount.path("a..b.pkl"), b"dots").unwrap();
    fs::write(mount.path("good.pkl"), b"good").unwrap();
    let flushed = mount.verb(&["flush", "--wait"]);
    let said = String::from_utf8_lossy(&flushed.stdout);
    assert!(
        flushed.status.success() && said.contains("1 upload done"),
        "{said}"
    );
    assert!(said.contains("2 that the remote cannot take"), "{said}");
    assert_eq!(fs::read(server.root.join("good.pkl")).unwrap(), b"good");
    assert!(!server.root.join("empty.bin").exists());
    let outbox = mount.status()["outbox"].clone();
    assert_eq!(outbox["pending"], 0, "{outbox}");
    assert_eq!(outbox["refused"], 2, "{outbox}");
    let said = String::from_utf8(mount.verb(&["status"]).stdout).unwrap();
    assert!(said.contains("stay here"), "{said}");
    // And once they are not what it refuses any more, they go.
    fs::write(mount.path("empty.bin"), b"not empty").unwrap();
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("empty.bin")).unwrap(),
        b"not empty"
    );
    let at = mount.unmount();
    assert_eq!(fs::read(at.join("a..b.pkl")).unwrap(), b"dots");
}

#[test]
fn p5_changed_on_both_sides_keeps_both() {
    let lab = Lab::new();
    put(&lab.path("original/a.bin"), b"base");
    put(&lab.path("original/same.bin"), b"base");
    let server = Original::start(&lab, &[]);
    let port = server.port().to_owned();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), b"base");
    assert_eq!(fs::read(mount.path("same.bin")).unwrap(), b"base");
    server.stop();
    fs::write(mount.path("a.bin"), b"ours, and longer").unwrap();
    fs::write(mount.path("same.bin"), b"the same on both").unwrap();
    put(&lab.path("original/a.bin"), b"theirs");
    put(&lab.path("original/same.bin"), b"the same on both");
    let server = Original::start_at(&lab, &port, &[]);
    mount.flush();
    eventually("theirs has the path", || {
        fs::read(mount.path("a.bin")).is_ok_and(|found| found == b"theirs")
    });
    assert_eq!(fs::read(server.root.join("a.bin")).unwrap(), b"theirs");
    let kept = mount.status()["conflicts"].clone();
    assert_eq!(kept.as_array().unwrap().len(), 1, "{kept}");
    assert_eq!(kept[0]["path"], "a.bin");
}
