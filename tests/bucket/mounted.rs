//! A mount over a bucket whose store is not the best.

use std::fs;

use crate::common::{Lab, Mount, eventually, put};
use crate::s3::{Habits, Op, S3Server};

fn mount<'a>(lab: &'a Lab, store: &S3Server) -> Mount<'a> {
    let url = format!("{}&region=us-east-1", store.url("p"));
    let args = ["--remote", &url, "--upload"];
    let mount = lab.try_mount_with("m", &S3Server::env(), &args);
    mount.unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn words(mount: &Mount<'_>) -> String {
    String::from_utf8(mount.verb(&["status"]).stdout).unwrap()
}

#[test]
fn p5_a_weaker_guarantee_is_told_and_remembered() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    store.set(|habits| habits.conditions = false);
    store.place("p/theirs", "1");
    let mounted = mount(&lab, &store);
    put(&mounted.path("ours"), b"ours");
    mounted.flush();
    assert_eq!(store.object("p/ours").unwrap().bytes, "ours");
    let told = "its store ignores conditions";
    assert!(words(&mounted).contains(told), "{}", words(&mounted));
    // A version that nobody here has seen is not replaced.
    assert_eq!(fs::read(mounted.path("theirs")).unwrap(), b"1");
    store.place("p/theirs", "2");
    put(&mounted.path("theirs"), b"ours, from 1");
    eventually("the conflict is told", || {
        mounted.status()["conflicts"]
            .as_array()
            .is_some_and(|c| c.len() == 1)
    });
    assert_eq!(store.object("p/theirs").unwrap().bytes, "2");
    mounted.unmount();
    let before = store.count(Op::Put);
    let again = mount(&lab, &store);
    eventually("it is known again", || words(&again).contains(told));
    assert_eq!(
        (store.count(Op::Put), store.keys()),
        (before, vec!["p/ours".into(), "p/theirs".into()])
    );
}

#[test]
fn p1_rot_in_a_bucket_is_not_read_to_its_end() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    let rot = vec![b'x'; 100_000];
    store.change("p/rot", rot.clone(), |o| o.etag = "0".repeat(32));
    let mounted = mount(&lab, &store);
    assert!(fs::read(mounted.path("rot")).is_err());
    // What is stored there now is right.
    store.place("p/rot", rot.clone());
    mounted.sync();
    assert_eq!(fs::read(mounted.path("rot")).unwrap(), rot);
    assert_eq!(fs::read(mounted.unmount().join("rot")).unwrap(), rot);
}

/// It comes in pieces, which readers get; its name it gets when all of it was looked at.
#[test]
fn p1_rot_in_a_big_object_is_not_kept() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    let bytes = crate::support::bytes(12 << 20);
    store.change("p/rot.bin", bytes.clone(), |o| o.etag = "0".repeat(32));
    store.place("p/right.bin", bytes.clone());
    let mounted = mount(&lab, &store);
    eventually("both are listed", || mounted.path("rot.bin").exists());
    assert!(fs::read(mounted.path("right.bin")).unwrap() == bytes);
    eventually("it is kept", || mounted.status()["held"]["files"] == 1);
    let before = store.count(Op::Get);
    let _ = fs::read(mounted.path("rot.bin"));
    eventually("it is fetched again, and given up", || {
        store.count(Op::Get) >= before + 6
    });
    let at = mounted.unmount();
    assert!(!at.join("rot.bin").exists());
    assert!(fs::read(at.join("right.bin")).unwrap() == bytes);
}

/// What `find` shows below the mount.
fn found(mount: &Mount<'_>) -> Vec<String> {
    let mut find = std::process::Command::new("find");
    let output = find
        .arg(".")
        .args(["-mindepth", "1", "-type", "f", "-print0"]);
    let output = output.current_dir(&mount.at).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut all: Vec<_> = text.split_terminator('\0').map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn p10_keys_that_are_no_names_leave_the_others_as_they_are() {
    let (lab, store) = (Lab::new(), S3Server::start(Habits::default()));
    let long = "x".repeat(256);
    let bad = [
        "../up",
        "a/../../up",
        "..",
        ".",
        "./c",
        "a//b",
        "/etc/passwd",
        ".larder/index.db",
        "d/.larder/x",
        "full/",
        &long,
    ];
    let good = [
        "good",
        "d/in",
        "new\nline",
        "con\u{1b}[31mtrol",
        "back\\slash",
        "\u{fc}",
        "...",
        " ",
        "~",
        "-rf",
        "a b",
        "%2e%2e",
        "twice",
    ];
    for key in bad.iter().chain(&good) {
        store.place(&format!("p/{key}"), (*key).to_owned());
    }
    store.place("p/twice/in", "x");
    let mounted = mount(&lab, &store);
    mounted.sync();
    let mut expected: Vec<_> = good.map(|name| format!("./{name}")).into();
    expected.sort();
    assert_eq!(found(&mounted), expected);
    for name in good {
        assert_eq!(
            fs::read(mounted.path(name)).unwrap(),
            name.as_bytes(),
            "{name:?}"
        );
    }
    assert!(mounted.status()["remotes"][0]["refused_names"].as_u64() >= Some(8));
    assert!(!words(&mounted).contains('\u{1b}'));
    mounted.nothing_waits();
    let at = mounted.unmount();
    assert!(!lab.path("up").exists());
    assert_eq!(fs::read_dir(at).unwrap().count(), good.len() + 1);
}
