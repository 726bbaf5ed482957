//! Remotes that are directories, and several remotes in one mount.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::common::{Lab, bytes, eventually, put, within};
use super::{is_absent, names, set};

fn file_url(path: &std::path::Path) -> String {
    format!("file://{}", path.display())
}

#[test]
fn a_directory_is_a_remote_too() {
    let lab = Lab::new();
    let nas = lab.dir("nas");
    put(&nas.join("d/a.bin"), &bytes(1, 2 << 20));
    put(&nas.join("empty"), b"");
    let url = file_url(&nas);
    let mount = lab.mount("mnt", &["--remote", &url, "--upload", "--refresh", "2s"]);
    eventually("it is listed", || mount.path("d/a.bin").exists());
    assert_eq!(fs::read(mount.path("d/a.bin")).unwrap(), bytes(1, 2 << 20));
    assert_eq!(fs::read(mount.path("empty")).unwrap(), b"");
    put(&mount.path("up/b.bin"), &bytes(2, 5000));
    mount.flush();
    assert_eq!(fs::read(nas.join("up/b.bin")).unwrap(), bytes(2, 5000));
    // Asked for, then by itself.
    assert!(is_absent(&mount.path("asked.bin")));
    put(&nas.join("asked.bin"), b"asked");
    fs::write(nas.join("d/a.bin"), bytes(3, 100)).unwrap();
    mount.sync();
    assert_eq!(fs::read(mount.path("asked.bin")).unwrap(), b"asked");
    assert_eq!(fs::read(mount.path("d/a.bin")).unwrap(), bytes(3, 100));
    fs::remove_file(nas.join("asked.bin")).unwrap();
    put(&nas.join("later.bin"), b"later");
    within(Duration::from_secs(6), "the interval brings it", || {
        is_absent(&mount.path("asked.bin")) && mount.path("later.bin").exists()
    });
    // Both change the same file.
    fs::write(nas.join("up/b.bin"), bytes(4, 5001)).unwrap();
    fs::write(mount.path("up/b.bin"), bytes(5, 5002)).unwrap();
    eventually("the conflict is shown", || {
        mount.status()["conflicts"].as_array().unwrap().len() == 1
    });
    assert_eq!(fs::read(nas.join("up/b.bin")).unwrap(), bytes(4, 5001));
    // Away and back.
    fs::rename(&nas, lab.path("nas.away")).unwrap();
    let sync = mount.verb(&["sync"]);
    assert!(!sync.status.success());
    assert_eq!(mount.status()["remotes"][0]["state"], "away");
    within(Duration::from_secs(1), "what is not here is hidden", || {
        is_absent(&mount.path("later.bin"))
    });
    fs::rename(lab.path("nas.away"), &nas).unwrap();
    within(Duration::from_secs(6), "it is back", || {
        fs::read(mount.path("later.bin")).is_ok_and(|b| b == b"later")
    });
}

#[test]
fn p6_reads_fall_over_to_the_second_remote() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for n in 0..4 {
        put(&server.root.join(format!("d/{n}.bin")), &bytes(n, 20_000));
    }
    put(&server.root.join("only-server.bin"), b"server");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(server.root.join("d"))
        .arg(lab.dir("nas"))
        .status()
        .unwrap();
    assert!(copied.success());
    put(&lab.path("nas/only-nas.bin"), b"nas");
    let url = file_url(&lab.path("nas"));
    let mount = lab.mount("mnt", &["--remote", &server.url, "--remote", &url]);
    let all = set(&["d", "only-nas.bin", "only-server.bin"]);
    eventually("both are listed", || names(&mount.at) == all);
    assert_eq!(fs::read(mount.path("d/0.bin")).unwrap(), bytes(0, 20_000));
    assert_eq!(fs::read(mount.path("only-nas.bin")).unwrap(), b"nas");
    assert!(server.stats()["get"].as_u64().unwrap() >= 1);
    server.kill();
    // At once, before anybody has noticed, and after.
    assert_eq!(fs::read(mount.path("d/1.bin")).unwrap(), bytes(1, 20_000));
    eventually("the server is known to be away", || {
        mount.status()["remotes"][0]["state"] == "away"
    });
    assert_eq!(mount.status()["remotes"][1]["state"], "online");
    assert_eq!(fs::read(mount.path("d/2.bin")).unwrap(), bytes(2, 20_000));
    within(Duration::from_secs(1), "what only it has is hidden", || {
        names(&mount.at) == set(&["d", "only-nas.bin"])
    });
    assert_eq!(names(&mount.path("d")).len(), 4);
}
