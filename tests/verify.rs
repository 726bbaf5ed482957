//! `larder verify` on real folders, mounted and not: rot is found and fetched anew, what people did is
//! told, and a remote is compared with what is here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{Lab, Mount, bytes, eventually, put};
use serde_json::Value;

/// What `larder verify` said, and its exit code.
fn verify(lab: &Lab, words: &[&str]) -> (Value, i32) {
    let output = lab.run([&["verify", "--json"], words].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{complaint}"));
    (value, output.status.code().unwrap())
}

/// The names that were found to be `what`.
fn names<'a>(found: &'a Value, what: &str) -> Vec<&'a str> {
    let faults = found["faults"].as_array().unwrap().iter();
    let mut names: Vec<_> = faults
        .filter(|f| f["what"] == what)
        .map(|f| f["path"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// One byte turns, and nothing else shows it: what a disk does now and then.
fn rot(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, before.len() / 2).unwrap();
    file.write_all_at(&[!byte[0]], before.len() / 2).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

fn listed<'a>(lab: &'a Lab, args: &[&str]) -> Mount<'a> {
    let mount = lab.mount("mnt", args);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

fn read_all(mount: &Mount<'_>, names: &[&str]) {
    for name in names {
        fs::read(mount.path(name)).unwrap();
    }
    eventually("all are held", || {
        mount.status()["held"]["files"] == names.len()
    });
}

#[test]
fn p1_rot_is_found_mounted_and_not_and_fetched_anew() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let names_of = ["d/a.bin", "d/b.bin", "c.bin"];
    for (n, name) in names_of.iter().enumerate() {
        put(&server.root.join(name), &bytes(n as u64, 50_000));
    }
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = listed(&lab, &args);
    read_all(&mount, &names_of);
    let at = mount.at.display().to_string();
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["good"], code), (&3.into(), 0), "{found}");
    let folder = mount.unmount();
    rot(&folder.join("d/b.bin"));
    // Not mounted: told, and nothing is changed.
    for _ in 0..2 {
        let (found, code) = verify(&lab, &[&at]);
        assert_eq!(code, 1);
        assert_eq!(names(&found, "rotten"), ["d/b.bin"], "{found}");
        assert_eq!((&found["good"], &found["rotten"]), (&2.into(), &1.into()));
    }
    let (found, code) = verify(&lab, &[&format!("{at}/c.bin")]);
    assert_eq!((&found["files"], code), (&1.into(), 0));
    let refused = lab.run(["verify", "--repair", &at]);
    assert_eq!(refused.status.code(), Some(2));
    let mount = listed(&lab, &args);
    let path = mount.path("d/b.bin");
    assert_ne!(fs::read(&path).unwrap(), bytes(1, 50_000));
    let open = File::open(&path).unwrap();
    let (found, code) = verify(&lab, &[&format!("{at}/d")]);
    assert_eq!((names(&found, "rotten"), code), (vec!["d/b.bin"], 1));
    let (found, code) = verify(&lab, &["--repair", &at]);
    assert_eq!((&found["repaired"], code), (&1.into(), 0), "{found}");
    assert_eq!(fs::read(&path).unwrap(), bytes(1, 50_000));
    drop(open);
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["good"], code), (&3.into(), 0), "{found}");
    // Nothing of it went up.
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("d/b.bin")).unwrap(),
        bytes(1, 50_000)
    );
    let folder = mount.unmount();
    assert_eq!(fs::read(folder.join("d/b.bin")).unwrap(), bytes(1, 50_000));
}

#[test]
fn p1_rot_stays_where_nobody_else_has_the_file() {
    let lab = Lab::new();
    let server = lab.serve("srv", &["--allow-delete"]);
    put(&server.root.join("a.bin"), &bytes(1, 9000));
    let args = ["--remote", server.url.as_str()];
    let mount = listed(&lab, &args);
    read_all(&mount, &["a.bin"]);
    let at = mount.at.display().to_string();
    let folder = mount.unmount();
    rot(&folder.join("a.bin"));
    let mount = listed(&lab, &args);
    server.kill();
    let (found, code) = verify(&lab, &["--repair", &at]);
    assert_eq!((names(&found, "rotten"), code), (vec!["a.bin"], 1));
    assert!(found["faults"][0]["more"].is_string(), "{found}");
    // Bad bytes are better than none as long as there are no others.
    assert_eq!(fs::read(mount.unmount().join("a.bin")).unwrap().len(), 9000);
}

#[test]
fn p7_what_people_did_is_told_and_taken_over_by_the_next_mount() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for (n, name) in ["same.bin", "changed.bin", "gone.bin"].iter().enumerate() {
        put(&server.root.join(name), &bytes(n as u64, 4000));
    }
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = listed(&lab, &args);
    read_all(&mount, &["same.bin", "changed.bin", "gone.bin"]);
    let at = mount.at.display().to_string();
    let folder = mount.unmount();
    fs::write(folder.join("changed.bin"), b"by hand").unwrap();
    fs::remove_file(folder.join("gone.bin")).unwrap();
    put(&folder.join("new/new.bin"), b"put there");
    put(&folder.join("new.bin"), b"put there");
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!(code, 1);
    assert_eq!(names(&found, "changed"), ["changed.bin"]);
    assert_eq!(names(&found, "missing"), ["gone.bin"]);
    assert_eq!(names(&found, "new"), ["new.bin", "new/new.bin"]);
    assert_eq!(found["good"], 1);
    let mount = listed(&lab, &args);
    eventually("the folder was compared", || {
        mount.status()["notes"]
            .to_string()
            .contains("while it was not mounted")
    });
    mount.flush();
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["files"], code), (&4.into(), 0), "{found}");
    assert_eq!(
        fs::read(server.root.join("changed.bin")).unwrap(),
        b"by hand"
    );
    assert_eq!(fs::read(mount.path("gone.bin")).unwrap(), bytes(2, 4000));
}

#[test]
fn p1_a_copy_of_unknown_hash_is_noted_and_the_next_look_tells() {
    let lab = Lab::new();
    let origin = lab.dir("origin");
    put(&origin.join("a.bin"), &bytes(1, 5000));
    let time = fs::metadata(origin.join("a.bin"))
        .unwrap()
        .modified()
        .unwrap();
    let copy = lab.dir("mnt").join("a.bin");
    put(&copy, &bytes(1, 5000));
    File::options()
        .write(true)
        .open(&copy)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let url = format!("file://{}", origin.display());
    let mount = listed(&lab, &["--remote", &url]);
    let at = mount.at.display().to_string();
    eventually("the copy is taken for the remote's file", || {
        mount.status()["held"]["files"] == 1 && mount.status()["local_only"]["files"] == 0
    });
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["noted"], code), (&1.into(), 0), "{found}");
    let (found, _) = verify(&lab, &[&at]);
    assert_eq!(found["good"], 1);
    // What waits to go up, or stays here, is read, and nothing is claimed of it.
    fs::write(mount.path("mine.bin"), b"mine").unwrap();
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["unknown"], code), (&1.into(), 0), "{found}");
    let folder = mount.unmount();
    rot(&folder.join("a.bin"));
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!(
        (names(&found, "rotten"), code),
        (vec!["a.bin"], 1),
        "{found}"
    );
    // The noted hash goes with the bytes: it is no claim about what the remote has.
    fs::remove_file(folder.join("a.bin")).unwrap();
    fs::write(origin.join("a.bin"), bytes(2, 5000)).unwrap();
    File::options()
        .write(true)
        .open(origin.join("a.bin"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    let mount = listed(&lab, &["--remote", &url]);
    mount.sync();
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), bytes(2, 5000));
}

#[test]
fn p8_a_file_that_has_a_newer_version_is_told_apart() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("a.bin"), &bytes(1, 5000));
    let mount = listed(&lab, &["--remote", &server.url]);
    read_all(&mount, &["a.bin"]);
    let at = mount.at.display().to_string();
    put(&server.root.join("a.bin"), &bytes(2, 6000));
    eventually("the newer version is known", || {
        mount.sync();
        fs::metadata(mount.path("a.bin")).is_ok_and(|facts| facts.len() == 6000)
    });
    let (found, code) = verify(&lab, &[&at]);
    assert_eq!((&found["older"], code), (&1.into(), 0), "{found}");
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), bytes(2, 6000));
    eventually("the newer version is here", || {
        verify(&lab, &[&at]).0["good"] == 1
    });
}

#[test]
fn p5_what_another_remote_has_is_not_only_here() {
    let lab = Lab::new();
    let urls = ["one", "two"].map(|name| {
        put(&lab.path(name).join(format!("{name}.bin")), b"x");
        format!("file://{}", lab.path(name).display())
    });
    let mount = listed(&lab, &["--remote", &urls[0], "--remote", &urls[1]]);
    mount.sync();
    read_all(&mount, &["one.bin", "two.bin"]);
    let at = mount.at.display().to_string();
    let (found, code) = verify(&lab, &["--remote", &at]);
    for one in found["remotes"].as_array().unwrap() {
        let of = (&one["same"], &one["elsewhere"], &one["only_here"]);
        assert_eq!(of, (&1.into(), &1.into(), &0.into()), "{found}");
    }
    assert_eq!(code, 0);
}

#[test]
fn p5_a_remote_is_compared_name_by_name() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for name in [
        "held.bin",
        "cold.bin",
        "hidden.bin",
        "drift.bin",
        "lost.bin",
    ] {
        put(&server.root.join(name), &bytes(name.len() as u64, 3000));
    }
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = listed(&lab, &args);
    read_all(&mount, &["held.bin", "drift.bin"]);
    fs::remove_file(mount.path("hidden.bin")).unwrap();
    let at = mount.at.display().to_string();
    let (found, code) = verify(&lab, &["--remote", &at]);
    let of = &found["remotes"][0];
    assert_eq!(
        (&of["same"], &of["not_held"], &of["hidden"]),
        (&4.into(), &2.into(), &1.into()),
        "{found}"
    );
    assert_eq!(code, 0);
    // An index that is wrong about its remote, which no news of that puts right.
    let folder = mount.unmount();
    let index = rusqlite::Connection::open(folder.join(".larder/index.db")).unwrap();
    for edit in [
        "UPDATE replicas SET version = 'another' WHERE key = CAST('drift.bin' AS BLOB)",
        "DELETE FROM replicas WHERE key = CAST('held.bin' AS BLOB)",
        "UPDATE replicas SET key = CAST('nowhere.bin' AS BLOB) WHERE key = CAST('lost.bin' AS BLOB)",
    ] {
        assert_eq!(index.execute(edit, []).unwrap(), 1, "{edit}");
    }
    drop(index);
    let mount = listed(&lab, &args);
    let (found, code) = verify(&lab, &["--remote", &at]);
    assert_eq!(code, 1);
    assert_eq!(
        names(&found, "unknown-here"),
        ["drift.bin", "held.bin", "lost.bin"],
        "{found}"
    );
    assert_eq!(names(&found, "gone-there"), ["nowhere.bin"]);
    assert_eq!(names(&found, "only-here"), ["held.bin"]);
    let (found, _) = verify(&lab, &["--remote", &format!("{at}/held.bin")]);
    assert_eq!(found["remotes"][0]["unknown_here"], 1, "{found}");
    let text = mount.verb(&["verify", "--remote"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("is there, and not known here"), "{text}");
    // Away: that is not an answer.
    server.kill();
    let (found, code) = verify(&lab, &["--remote", &at]);
    assert!(found["remotes"][0]["error"].is_string());
    assert_eq!(code, 2);
}
