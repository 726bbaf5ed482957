//! Two mounts of one server: what one does the other sees, and nobody's version is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "common/proxy.rs"]
mod proxy;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use common::{FRESH, Lab, Mount, Server, bytes, eventually, put, within};
use proxy::Proxy;
use serde_json::Value;

fn has(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|b| b == content)
}

fn is_absent(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

fn listed<'a>(lab: &'a Lab, name: &str, args: &[&str]) -> Mount<'a> {
    let mount = lab.mount(name, args);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

fn conflicts(mount: &Mount<'_>) -> Vec<Value> {
    let output = mount.verb(&["conflicts", "--json"]);
    assert!(output.status.success());
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["conflicts"].as_array().unwrap().clone()
}

fn state(mount: &Mount<'_>) -> Value {
    mount.status()["remotes"][0]["state"].clone()
}

#[test]
fn p8_what_one_mount_does_the_other_sees_within_a_second() {
    let lab = Lab::new();
    let server = lab.serve("srv", &["--allow-delete"]);
    let args = ["--remote", &server.url, "--upload", "--propagate-deletes"];
    let (a, b) = (listed(&lab, "a", &args), listed(&lab, "b", &args));
    let there = b.path("d/x.bin");
    assert!(is_absent(&there));
    put(&a.path("d/x.bin"), &bytes(1, 5000));
    within(FRESH, "created", || has(&there, &bytes(1, 5000)));
    fs::write(a.path("d/x.bin"), bytes(2, 6000)).unwrap();
    within(FRESH, "overwritten", || has(&there, &bytes(2, 6000)));
    // Back and forth: each writes on what the other wrote.
    for n in 3..9 {
        let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        fs::write(from.path("d/x.bin"), bytes(n, 5000)).unwrap();
        within(FRESH, "passed on", || {
            has(&to.path("d/x.bin"), &bytes(n, 5000))
        });
    }
    fs::rename(a.path("d/x.bin"), a.path("d/y.bin")).unwrap();
    within(FRESH, "renamed", || {
        is_absent(&there) && has(&b.path("d/y.bin"), &bytes(8, 5000))
    });
    let touched = Command::new("touch")
        .args(["-d", "2001-02-03 04:05:06.789012345 UTC"])
        .arg(a.path("d/y.bin"))
        .status()
        .unwrap();
    assert!(touched.success());
    within(FRESH, "touched", || {
        let facts = fs::metadata(b.path("d/y.bin")).unwrap();
        (facts.mtime(), facts.mtime_nsec()) == (981_173_106, 789_012_345)
    });
    assert!(has(&b.path("d/y.bin"), &bytes(8, 5000)));
    fs::remove_file(a.path("d/y.bin")).unwrap();
    within(FRESH, "deleted", || is_absent(&b.path("d/y.bin")));
    for mount in [&a, &b] {
        mount.flush();
        assert!(conflicts(mount).is_empty());
    }
}

/// Two mounts, one of which is cut off while both write `same.bin` (known before) and `new.bin`.
fn parted<'a>(
    lab: &'a Lab,
    more: &[&str],
    ours: [&[u8]; 2],
    theirs: [&[u8]; 2],
) -> (Server, Proxy, Mount<'a>, Mount<'a>) {
    put(&lab.path("srv/same.bin"), b"before");
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let mut args = vec!["--remote", wire.url.as_str(), "--upload"];
    args.extend(more);
    let a = listed(lab, "a", &["--remote", &server.url, "--upload"]);
    let b = listed(lab, "b", &args);
    assert_eq!(fs::read(b.path("same.bin")).unwrap(), b"before");
    wire.cut();
    eventually("b knows that it is alone", || state(&b) == "away");
    for (name, theirs, ours) in [
        ("same.bin", theirs[0], ours[0]),
        ("new.bin", theirs[1], ours[1]),
    ] {
        fs::write(a.path(name), theirs).unwrap();
        fs::write(b.path(name), ours).unwrap();
    }
    a.flush();
    wire.open();
    eventually("b is back", || state(&b) == "online");
    b.flush();
    (server, wire, a, b)
}

#[test]
fn p5_both_versions_exist_after_both_wrote() {
    let lab = Lab::new();
    let (server, _wire, a, b) = parted(&lab, &[], [b"b1", b"b2"], [b"from a 1", b"from a 2"]);
    let found = conflicts(&b);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(conflicts(&a).is_empty());
    for (name, theirs, ours) in [
        ("same.bin", b"from a 1", b"b1"),
        ("new.bin", b"from a 2", b"b2"),
    ] {
        assert_eq!(fs::read(server.root.join(name)).unwrap(), theirs);
        within(FRESH, name, || has(&b.path(name), theirs));
        let row = found.iter().find(|c| c["path"] == name).unwrap();
        assert_eq!(row["size"], ours.len());
        assert!(!row["remote"].as_str().unwrap().is_empty());
    }
    let status = b.status();
    assert_eq!(status["conflicts"].as_array().unwrap().len(), 2);
    let id = |name: &str| {
        let row = found.iter().find(|c| c["path"] == name).unwrap();
        row["id"].as_u64().unwrap().to_string()
    };
    let open = File::open(b.path("same.bin")).unwrap();
    assert!(
        b.verb(&["conflicts", "--keep-ours", &id("same.bin")])
            .status
            .success()
    );
    within(FRESH, "ours is back", || has(&b.path("same.bin"), b"b1"));
    let mut theirs = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut theirs, 0).unwrap();
    assert_eq!(&theirs, b"from a 1");
    assert!(
        b.verb(&["conflicts", "--keep-theirs", &id("new.bin")])
            .status
            .success()
    );
    b.flush();
    assert!(conflicts(&b).is_empty());
    assert_eq!(fs::read(server.root.join("same.bin")).unwrap(), b"b1");
    assert_eq!(fs::read(server.root.join("new.bin")).unwrap(), b"from a 2");
    within(FRESH, "the other sees it", || {
        has(&a.path("same.bin"), b"b1")
    });
    assert!(!b.verb(&["conflicts", "--keep-ours", "99"]).status.success());
    // The kept files lie in the folder, where a person finds them until they are settled.
    drop(open);
    let at = b.unmount();
    assert_eq!(
        fs::read_dir(at.join(".larder/conflicts")).unwrap().count(),
        0
    );
}

/// What a verb on conflicts printed. Errors are what it complained of.
fn conflict(lab: &Lab, words: &[&str]) -> Result<String, String> {
    let output = lab.run([&["conflicts"], words].concat());
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn p5_both_versions_are_shown_side_by_side_and_ours_can_take_the_path_back() {
    let lab = Lab::new();
    let (ours, theirs) = (b"one\nmine\nthree\n", b"one\ntheirs\nthree\n");
    let (server, _wire, a, b) = parted(&lab, &[], [ours, b"b2"], [theirs, b"from a 2"]);
    let path = b.path("same.bin").display().to_string();
    let text = conflict(&lab, &["show", &path]).unwrap();
    for part in [
        "15 bytes",
        "17 bytes",
        "this machine",
        "-theirs",
        "+mine",
        "keep-mine",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = conflict(
        &lab,
        &[
            "show",
            "same.bin",
            "--mount",
            b.at.to_str().unwrap(),
            "--json",
        ],
    );
    let json: Value = serde_json::from_str(&json.unwrap()).unwrap();
    assert_eq!(json["equal"], false);
    assert_eq!(json["first_difference"], 4);
    assert_eq!(
        (&json["mine"]["size"], &json["theirs"]["size"]),
        (&15.into(), &17.into())
    );
    assert_eq!(json["mine"]["sha256"].as_str().unwrap().len(), 64);
    // What was written here since would be lost by taking ours back: it is refused.
    let file = File::create(b.path("same.bin")).unwrap();
    let busy = conflict(&lab, &["keep-mine", &path]).unwrap_err();
    assert!(
        busy.contains("open for writing") && busy.lines().count() == 1,
        "{busy}"
    );
    drop(file);
    fs::write(b.path("same.bin"), theirs).unwrap();
    b.flush();
    assert!(
        conflict(&lab, &["keep-mine", &path])
            .unwrap()
            .contains("goes up")
    );
    assert_eq!(fs::read(b.path("same.bin")).unwrap(), ours);
    b.flush();
    assert_eq!(fs::read(server.root.join("same.bin")).unwrap(), ours);
    within(FRESH, "the other sees it", || {
        has(&a.path("same.bin"), ours)
    });
    let again = conflict(&lab, &["keep-mine", &path]).unwrap_err();
    assert!(again.contains("no such conflict"), "{again}");
    // The other one, whose file was deleted here meanwhile, comes back where it was.
    fs::remove_file(b.path("new.bin")).unwrap();
    assert!(conflict(&lab, &["keep-mine", b.path("new.bin").to_str().unwrap()]).is_ok());
    b.flush();
    assert_eq!(fs::read(server.root.join("new.bin")).unwrap(), b"b2");
    assert!(conflicts(&b).is_empty());
    let at = b.unmount();
    for ours in ["conflicts", "orphans", "staged"] {
        assert_eq!(
            fs::read_dir(at.join(".larder").join(ours)).unwrap().count(),
            0
        );
    }
}

#[test]
fn p5_a_number_that_is_another_ones_name_settles_nothing() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let b = listed(&lab, "b", &["--remote", &wire.url, "--upload"]);
    for (n, name) in ["2", "x"].into_iter().enumerate() {
        wire.cut();
        eventually("b knows that it is alone", || state(&b) == "away");
        fs::write(b.path(name), b"mine").unwrap();
        put(&server.root.join(name), b"theirs");
        wire.open();
        eventually("it is a conflict", || conflicts(&b).len() == n + 1);
    }
    let found: Vec<_> = conflicts(&b).iter().map(|c| c["id"].clone()).collect();
    assert_eq!(found, [2, 1]);
    let within = |words: &[&str]| {
        let mut command = lab.larder();
        command.arg("conflicts").args(words).current_dir(&b.at);
        command.output().unwrap()
    };
    let refused = within(&["keep-theirs", "2"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("write ./2 for the file, or x for"), "{said}");
    assert_eq!(conflicts(&b).len(), 2);
    assert!(within(&["keep-theirs", "./2"]).status.success());
    assert_eq!(conflicts(&b)[0]["path"], "x");
    assert!(within(&["keep-theirs", "2"]).status.success());
    assert!(conflicts(&b).is_empty());
}

#[test]
fn p5_a_third_version_is_not_overwritten_by_keeping_ours() {
    let lab = Lab::new();
    let (server, wire, a, b) = parted(&lab, &[], [b"b1", b"b2"], [b"from a 1", b"from a 2"]);
    let path = b.path("same.bin").display().to_string();
    assert_eq!(fs::read(&path).unwrap(), b"from a 1");
    wire.cut();
    eventually("b knows that it is alone", || state(&b) == "away");
    fs::write(a.path("same.bin"), b"a third one").unwrap();
    a.flush();
    conflict(&lab, &["keep-mine", &path]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"b1");
    wire.open();
    eventually("b is back", || state(&b) == "online");
    b.flush();
    assert_eq!(
        fs::read(server.root.join("same.bin")).unwrap(),
        b"a third one"
    );
    within(FRESH, "the third one is shown", || {
        has(Path::new(&path), b"a third one")
    });
    let ours = conflicts(&b);
    let ours = ours.iter().find(|c| c["path"] == "same.bin").unwrap();
    let kept = b.unmount().join(ours["kept_at"].as_str().unwrap());
    assert_eq!(fs::read(kept).unwrap(), b"b1");
}

#[test]
fn p5_conflicts_are_settled_in_a_folder_that_is_not_mounted() {
    let lab = Lab::new();
    let (server, wire, _a, b) = parted(&lab, &[], [b"b1", b"b2"], [b"from a 1", b"from a 2"]);
    let at = b.unmount();
    let folder = at.to_str().unwrap();
    let list: Value =
        serde_json::from_str(&conflict(&lab, &["list", folder, "--json"]).unwrap()).unwrap();
    assert_eq!(list["conflicts"].as_array().unwrap().len(), 2);
    let text = conflict(&lab, &["show", at.join("same.bin").to_str().unwrap()]).unwrap();
    assert!(text.contains("keep-theirs"), "{text}");
    conflict(&lab, &["keep-theirs", at.join("new.bin").to_str().unwrap()]).unwrap();
    conflict(&lab, &["keep-mine", "same.bin", "--mount", folder]).unwrap();
    assert_eq!(fs::read(at.join("same.bin")).unwrap(), b"b1");
    assert_eq!(
        fs::read_dir(at.join(".larder/conflicts")).unwrap().count(),
        0
    );
    // It goes up with the next mount.
    let b = listed(&lab, "b", &["--remote", &wire.url, "--upload"]);
    b.flush();
    assert!(conflicts(&b).is_empty());
    assert_eq!(fs::read(server.root.join("same.bin")).unwrap(), b"b1");
    assert_eq!(fs::read(server.root.join("new.bin")).unwrap(), b"from a 2");
    assert_eq!(fs::read(b.path("new.bin")).unwrap(), b"from a 2");
}

#[test]
fn p5_kept_versions_are_files_in_the_folder() {
    let lab = Lab::new();
    let (_server, _wire, _a, b) = parted(&lab, &[], [b"b1", b"b2"], [b"from a 1", b"from a 2"]);
    let kept: Vec<String> = conflicts(&b)
        .iter()
        .map(|c| c["kept_at"].as_str().unwrap().to_owned())
        .collect();
    let at = b.unmount();
    let mut found: Vec<_> = kept.iter().map(|k| fs::read(at.join(k)).unwrap()).collect();
    found.sort();
    assert_eq!(found, [b"b1", b"b2"]);
}

#[test]
fn p5_equal_bytes_are_no_conflict() {
    let lab = Lab::new();
    let same: [&[u8]; 2] = [b"the same", b"both wrote this"];
    let (server, _wire, a, b) = parted(&lab, &[], same, same);
    for mount in [&a, &b] {
        assert!(conflicts(mount).is_empty());
        assert_eq!(fs::read(mount.path("same.bin")).unwrap(), same[0]);
        assert_eq!(mount.status()["outbox"]["pending"], 0);
    }
    assert_eq!(fs::read(server.root.join("new.bin")).unwrap(), same[1]);
    // And each may go on from there.
    fs::write(b.path("new.bin"), b"b goes on").unwrap();
    within(FRESH, "a sees it", || has(&a.path("new.bin"), b"b goes on"));
    fs::write(a.path("same.bin"), b"a goes on").unwrap();
    within(FRESH, "b sees it", || {
        has(&b.path("same.bin"), b"a goes on")
    });
}

/// Each machine reaches but one of the two servers while both write.
#[test]
fn p8_where_each_of_two_machines_came_first_at_one_remote_both_show_the_first_remotes() {
    let lab = Lab::new();
    let (first, second) = (lab.serve("first", &[]), lab.serve("second", &[]));
    let (to_first, to_second) = (Proxy::to(&first.url), Proxy::to(&second.url));
    let args = |first, second| ["--remote", first, "--remote", second, "--upload"];
    let a = listed(&lab, "a", &args(&first.url, &to_second.url));
    let b = listed(&lab, "b", &args(&to_first.url, &second.url));
    to_first.cut();
    to_second.cut();
    let is = |mount: &Mount<'_>, remote: usize, state: &str| {
        mount.status()["remotes"][remote]["state"] == state
    };
    eventually("each knows", || is(&a, 1, "away") && is(&b, 0, "away"));
    fs::write(a.path("f.bin"), b"a's").unwrap();
    fs::write(b.path("f.bin"), b"b's own").unwrap();
    let (at_first, at_second) = (first.root.join("f.bin"), second.root.join("f.bin"));
    eventually("each has sent it to one", || {
        has(&at_first, b"a's") && has(&at_second, b"b's own")
    });
    to_first.open();
    to_second.open();
    eventually("all are back", || {
        is(&a, 1, "online") && is(&b, 0, "online")
    });
    for mount in [&a, &b] {
        mount.flush();
        within(FRESH, "the first one's", || {
            has(&mount.path("f.bin"), b"a's")
        });
        assert_eq!(conflicts(mount).len(), 1);
    }
    assert!(has(&at_first, b"a's") && has(&at_second, b"b's own"));
    // What is written from there on goes to both.
    fs::write(b.path("f.bin"), b"and on").unwrap();
    b.flush();
    within(FRESH, "passed on", || has(&a.path("f.bin"), b"and on"));
    assert!(has(&at_first, b"and on") && has(&at_second, b"and on"));
}

#[test]
fn p5_local_wins_where_it_is_asked_for() {
    let lab = Lab::new();
    let (server, _wire, a, b) = parted(
        &lab,
        &["--conflicts", "local-wins"],
        [b"b1", b"b2"],
        [b"from a 1", b"from a 2"],
    );
    assert!(conflicts(&b).is_empty());
    for (name, ours) in [("same.bin", b"b1"), ("new.bin", b"b2")] {
        assert_eq!(fs::read(server.root.join(name)).unwrap(), ours);
        assert_eq!(fs::read(b.path(name)).unwrap(), ours);
        within(FRESH, name, || has(&a.path(name), ours));
    }
}

#[test]
fn p5_deleted_there_and_changed_here_keeps_the_change() {
    let lab = Lab::new();
    put(&lab.path("srv/x.bin"), b"before");
    let server = lab.serve("srv", &["--allow-delete"]);
    let wire = Proxy::to(&server.url);
    let a = listed(
        &lab,
        "a",
        &["--remote", &server.url, "--upload", "--propagate-deletes"],
    );
    let b = listed(&lab, "b", &["--remote", &wire.url, "--upload"]);
    assert_eq!(fs::read(b.path("x.bin")).unwrap(), b"before");
    wire.cut();
    eventually("b knows that it is alone", || state(&b) == "away");
    fs::remove_file(a.path("x.bin")).unwrap();
    fs::write(b.path("x.bin"), b"changed").unwrap();
    a.flush();
    assert!(!server.root.join("x.bin").exists());
    wire.open();
    eventually("b is back", || state(&b) == "online");
    b.flush();
    assert_eq!(fs::read(server.root.join("x.bin")).unwrap(), b"changed");
    assert_eq!(fs::read(b.path("x.bin")).unwrap(), b"changed");
    assert!(conflicts(&b).is_empty());
}

#[test]
fn p12_changed_there_and_deleted_here_keeps_the_change() {
    let lab = Lab::new();
    put(&lab.path("srv/x.bin"), b"before");
    let server = lab.serve("srv", &["--allow-delete"]);
    let wire = Proxy::to(&server.url);
    let a = listed(
        &lab,
        "a",
        &["--remote", &wire.url, "--upload", "--propagate-deletes"],
    );
    let b = listed(&lab, "b", &["--remote", &server.url, "--upload"]);
    assert_eq!(fs::read(a.path("x.bin")).unwrap(), b"before");
    wire.cut();
    eventually("a knows that it is alone", || state(&a) == "away");
    fs::remove_file(a.path("x.bin")).unwrap();
    fs::write(b.path("x.bin"), b"changed").unwrap();
    b.flush();
    wire.open();
    eventually("a is back", || state(&a) == "online");
    a.flush();
    assert_eq!(fs::read(server.root.join("x.bin")).unwrap(), b"changed");
    within(FRESH, "it is shown again", || {
        has(&a.path("x.bin"), b"changed")
    });
}
