//! Keys that are not the right one, and hosts that are not there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Instant;

use crate::common::{Lab, eventually, put};
use crate::{DEADLINE, SECOND, complaint, ends, shown, state};

fn key(lab: &Lab, name: &str, key: &str) -> PathBuf {
    let path = lab.path(name);
    put(&path, key.as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn p6_a_host_that_is_not_there_does_not_keep_the_mount_from_starting() {
    let lab = Lab::new();
    put(&lab.path("mnt/mine.bin"), b"mine");
    // Taken, and nobody listens.
    let taken = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&taken, &any).unwrap();
    let port = std::net::TcpStream::from(taken.try_clone().unwrap())
        .local_addr()
        .unwrap()
        .port();
    let urls = [
        format!("http://127.0.0.1:{port}"),
        "http://no-such-host.invalid:5002".into(),
    ];
    for url in urls {
        let begun = Instant::now();
        let mount = lab.mount("mnt", &["--remote", &url, "--upload"]);
        assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
        assert_eq!(fs::read(mount.path("mine.bin")).unwrap(), b"mine");
        eventually("it is known to be away", || state(&mount) == "away");
        let why = mount.status()["remotes"][0]["last_error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(shown(&mount).contains("away for"), "{}", shown(&mount));
        assert!(
            !why.is_empty() && !shown(&mount).contains("os error"),
            "{}",
            shown(&mount)
        );
        assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 1);
        fs::write(mount.path("mine.bin"), b"mine again").unwrap();
        let flushed = ends(lab.larder().args(["flush", "--wait"]).arg(&mount.at));
        assert!(!flushed.status.success());
        let at = mount.unmount();
        assert_eq!(fs::read(at.join("mine.bin")).unwrap(), b"mine again");
        fs::write(at.join("mine.bin"), b"mine").unwrap();
        let doctor = ends(lab.larder().arg("doctor").arg(&at).args(["--remote", &url]));
        assert!(!doctor.status.success());
        assert!(
            said(&doctor).contains("check the address"),
            "{}",
            said(&doctor)
        );
    }
}

#[test]
fn p3_a_wrong_key_is_said_and_what_waits_goes_up_with_the_right_one() {
    let lab = Lab::new();
    put(&lab.path("srv/theirs.bin"), b"theirs");
    let (right, wrong) = (key(&lab, "right", "sesame"), key(&lab, "wrong", "barley"));
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let server = lab.serve("srv", &["--key-file", right]);
    let remote = ["--remote", &server.url, "--upload", "--key-file"];
    let with = |key| [&remote[..], &[key]].concat();
    let mount = lab.mount("mnt", &with(wrong));
    eventually("all is listed", || mount.path("theirs.bin").exists());
    assert_eq!(
        fs::read(mount.path("theirs.bin")).unwrap(),
        b"theirs",
        "reads need no key"
    );
    fs::write(mount.path("mine.bin"), b"mine").unwrap();
    eventually("the refusal is known", || {
        mount.status()["outbox"]["oldest_error"]
            .as_str()
            .is_some_and(|e| e.contains("check the key"))
    });
    assert!(
        shown(&mount).contains("refuses uploads: check the key"),
        "{}",
        shown(&mount)
    );
    assert_eq!(mount.status()["outbox"]["pending"], 1);
    let begun = Instant::now();
    let flushed = ends(lab.larder().args(["flush", "--wait"]).arg(&mount.at));
    assert!(!flushed.status.success() && begun.elapsed() < DEADLINE);
    assert!(
        said(&flushed).contains("1 upload still pending"),
        "{}",
        said(&flushed)
    );
    assert!(
        said(&flushed).contains("check the key"),
        "{}",
        said(&flushed)
    );
    let doctor = ends(
        lab.larder()
            .arg("doctor")
            .arg(lab.dir("new"))
            .args(with(wrong)),
    );
    assert!(!doctor.status.success());
    assert!(
        said(&doctor).contains("uploads are wanted but it refuses them: set its key"),
        "{}",
        said(&doctor)
    );
    assert!(!said(&doctor).contains("barley") && !shown(&mount).contains("barley"));
    mount.unmount();
    assert!(!server.root.join("mine.bin").exists());
    let begun = Instant::now();
    let mount = lab.mount("mnt", &with(right));
    eventually("it goes up", || {
        fs::read(server.root.join("mine.bin")).is_ok_and(|b| b == b"mine")
    });
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    eventually("nothing waits", || mount.status()["outbox"]["pending"] == 0);
}

#[test]
fn p6_a_key_that_does_not_even_read_is_said_everywhere() {
    let lab = Lab::new();
    put(&lab.path("srv/theirs.bin"), b"theirs");
    let (right, wrong) = (key(&lab, "right", "sesame"), key(&lab, "wrong", "barley"));
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let server = lab.serve("srv", &["--key-file", right, "--read-key-file", right]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--key-file", wrong]);
    eventually("it is known", || state(&mount) == "away");
    assert!(
        shown(&mount).contains("401") && shown(&mount).contains("check the key"),
        "{}",
        shown(&mount)
    );
    let line = complaint(&ends(lab.larder().arg("sync").arg(&mount.at)));
    assert_eq!(line.matches(&server.url).count(), 1, "{line}");
    assert!(line.contains("check the key"), "{line}");
    let doctor = ends(lab.larder().arg("doctor").arg(lab.dir("new")).args([
        "--remote",
        &server.url,
        "--key-file",
        wrong,
    ]));
    assert!(
        said(&doctor).contains("set the key with --key-file"),
        "{}",
        said(&doctor)
    );
    mount.unmount();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--key-file", right]);
    eventually("with the right one it comes", || {
        fs::read(mount.path("theirs.bin")).is_ok_and(|b| b == b"theirs")
    });
}
