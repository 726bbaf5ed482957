//! Removals and renames that a kill cuts short: an older version, which the remote still has,
//! shows under no name of theirs; what was acknowledged is under one at least (promise P3).

use std::fs;
use std::io;
use std::path::Path;

use super::common::{Lab, Mount, bytes, eventually, is_mounted, put};
use super::points::exchange;

/// What the remote has under a name, and what was written here over it and never went up.
fn versions(name: &str) -> (Vec<u8>, Vec<u8>) {
    let seed = name.bytes().map(u64::from).sum::<u64>();
    (bytes(seed, 5000), bytes(seed + 1, 4000))
}

/// What a name has to be after the kill.
enum Now {
    /// What was written here over the remote's.
    Ours(&'static str),
    /// What the remote has, for nobody wrote over it.
    Theirs(&'static str),
    Gone,
}

use Now::{Gone, Ours, Theirs};

struct Case {
    points: &'static [&'static str],
    /// Written anew before; all others are only at the remote.
    ours: &'static [&'static str],
    work: fn(&Path) -> io::Result<()>,
    after: &'static [(&'static str, Now)],
}

fn mounted<'a>(lab: &'a Lab, url: &str, point: Option<&str>) -> Mount<'a> {
    let args = ["--remote", url, "--min-free", "1MiB"];
    let env: Vec<_> = point.map(|p| ("LARDER_CRASH_AT", p)).into_iter().collect();
    lab.try_mount_with("mnt", &env, &args).unwrap_or_else(|o| {
        panic!("{}", String::from_utf8_lossy(&o.stderr));
    })
}

fn found(mount: &Mount<'_>, name: &str) -> Option<Vec<u8>> {
    match fs::read(mount.path(name)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn held(mount: &Mount<'_>) -> usize {
    mount.status()["held"]["files"].as_u64().unwrap() as usize
}

const NAMES: &[&str] = &["a.bin", "b.bin", "d/in.bin", "d/under/deep.bin"];

fn check(case: &Case, mount: &Mount<'_>, when: &str) {
    for (name, now) in case.after {
        let expected = match now {
            Ours(of) => Some(versions(of).1),
            Theirs(of) => Some(versions(of).0),
            Gone => None,
        };
        let found = found(mount, name);
        assert!(
            found == expected,
            "{name}, {when}: {:?} bytes instead of {:?}",
            found.map(|f| f.len()),
            expected.map(|e| e.len())
        );
    }
}

fn play(case: &Case) {
    for point in case.points {
        eprintln!("killed at {point}");
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        for name in NAMES {
            put(&server.root.join(name), &versions(name).0);
        }
        let mount = mounted(&lab, &server.url, Some(point));
        for name in NAMES {
            eventually("it is listed", || mount.path(name).exists());
        }
        for name in case.ours {
            fs::write(mount.path(name), versions(name).1).unwrap();
        }
        eventually("all are in place", || held(&mount) == case.ours.len());
        let done = (case.work)(&mount.at);
        assert!(done.is_err(), "{point} was never reached");
        eventually("the dead mount is detached", || !is_mounted(&mount.at));
        let mount = mounted(&lab, &server.url, None);
        check(case, &mount, "at once");
        mount.sync();
        check(case, &mount, "later");
        // Nothing of it is done once more, or comes back, at the start after that.
        let at = mount.unmount();
        let left: Vec<_> = fs::read_dir(at.join(".larder/removing")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mount = mounted(&lab, &server.url, None);
        check(case, &mount, "after another start");
        mount.unmount();
        for name in NAMES {
            let there = fs::read(server.root.join(name)).unwrap();
            assert!(there == versions(name).0, "{name} changed at the remote");
        }
    }
}

#[test]
fn p3_an_unlink_cut_short_shows_no_older_version() {
    play(&Case {
        points: &["remove.aside"],
        ours: &["a.bin"],
        work: |at| fs::remove_file(at.join("a.bin")),
        after: &[("a.bin", Ours("a.bin"))],
    });
    play(&Case {
        points: &["unlink.row"],
        ours: &["a.bin"],
        work: |at| fs::remove_file(at.join("a.bin")),
        after: &[("a.bin", Gone)],
    });
}

#[test]
fn p3_a_rename_cut_short_shows_no_older_version() {
    play(&Case {
        points: &["rename.settled", "rename.noted"],
        ours: &["a.bin", "b.bin"],
        work: |at| fs::rename(at.join("a.bin"), at.join("b.bin")),
        after: &[("a.bin", Ours("a.bin")), ("b.bin", Ours("b.bin"))],
    });
    play(&Case {
        points: &["rename.tree", "rename.row"],
        ours: &["a.bin", "b.bin"],
        work: |at| fs::rename(at.join("a.bin"), at.join("b.bin")),
        after: &[("a.bin", Gone), ("b.bin", Ours("a.bin"))],
    });
    play(&Case {
        points: &["rename.tree"],
        ours: &["a.bin"],
        work: |at| fs::rename(at.join("a.bin"), at.join("new.bin")),
        after: &[("a.bin", Gone), ("new.bin", Ours("a.bin"))],
    });
}

/// Nothing of it is stored, and what it replaces is all there is of that version.
#[test]
fn p3_a_rename_of_what_is_not_here_takes_nothing_before_it_is_done() {
    let case = |points, after| Case {
        points,
        ours: &["b.bin"],
        work: |at| fs::rename(at.join("a.bin"), at.join("b.bin")),
        after,
    };
    play(&case(
        &["remove.aside", "rename.tree"],
        &[("a.bin", Theirs("a.bin")), ("b.bin", Ours("b.bin"))],
    ));
    play(&case(
        &["rename.row"],
        &[("a.bin", Gone), ("b.bin", Theirs("a.bin"))],
    ));
}

#[test]
fn p3_a_directorys_rename_cut_short_shows_no_older_version() {
    let case = |points, after| Case {
        points,
        ours: &["d/in.bin", "d/under/deep.bin"],
        work: |at| fs::rename(at.join("d"), at.join("e")),
        after,
    };
    play(&case(
        &["rename.noted"],
        &[
            ("d/in.bin", Ours("d/in.bin")),
            ("d/under/deep.bin", Ours("d/under/deep.bin")),
            ("e/in.bin", Gone),
        ],
    ));
    play(&case(
        &["rename.tree", "rename.row"],
        &[
            ("d/in.bin", Gone),
            ("d/under/deep.bin", Gone),
            ("e/in.bin", Ours("d/in.bin")),
            ("e/under/deep.bin", Ours("d/under/deep.bin")),
        ],
    ));
}

#[test]
fn p3_an_exchange_cut_short_shows_no_older_version() {
    let case = |points, after| Case {
        points,
        ours: &["a.bin", "d/in.bin"],
        work: |at| exchange(&at.join("a.bin"), &at.join("d/in.bin")),
        after,
    };
    play(&case(
        &["rename.noted"],
        &[("a.bin", Ours("a.bin")), ("d/in.bin", Ours("d/in.bin"))],
    ));
    play(&case(
        &["exchange.tree"],
        &[("a.bin", Ours("d/in.bin")), ("d/in.bin", Ours("a.bin"))],
    ));
}

/// In the folder beneath, while it is mounted: what has the name is removed, whatever it is.
#[test]
fn p3_what_was_changed_by_hand_is_removed_like_anything_else() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("a.bin"), b"theirs");
    let (store, url) = (lab.dir("store"), server.url.as_str());
    let args = [
        "--remote",
        url,
        "--min-free",
        "1MiB",
        "--store",
        store.to_str().unwrap(),
    ];
    let mount = lab.mount("mnt", &args);
    eventually("it is listed", || mount.path("a.bin").exists());
    fs::write(mount.path("a.bin"), b"ours").unwrap();
    eventually("it is in place", || store.join("a.bin").exists());
    fs::write(store.join("a.bin"), b"by hand, and longer").unwrap();
    fs::remove_file(mount.path("a.bin")).unwrap();
    assert!(found(&mount, "a.bin").is_none());
    assert!(!store.join("a.bin").exists());
    mount.unmount();
    assert!(found(&lab.mount("mnt", &args), "a.bin").is_none());
}

/// What went up and was not answered is ours under its name, whatever becomes of the name since.
#[test]
fn p5_a_rename_cut_short_forgets_nothing_that_was_sent() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("a.bin"), b"theirs");
    let (port, url) = (server.port(), server.url.clone());
    let args = ["--remote", &url, "--upload", "--min-free", "1MiB"];
    let mounted = |point| {
        let env: Vec<_> = [("LARDER_CRASH_AT", point)].into();
        lab.try_mount_with("mnt", &env, &args).unwrap()
    };
    let mount = mounted("upload.answered");
    eventually("it is listed", || mount.path("a.bin").exists());
    let _ = fs::write(mount.path("a.bin"), b"sent, and not answered");
    eventually("it was killed", || !is_mounted(&mount.at));
    assert_eq!(
        fs::read(server.root.join("a.bin")).unwrap(),
        b"sent, and not answered"
    );
    drop(mount);
    server.kill();

    let mount = mounted("rename.tree");
    fs::remove_file(mount.path("a.bin")).unwrap();
    fs::write(mount.path("a.bin"), b"made anew").unwrap();
    let renamed = fs::rename(mount.path("a.bin"), mount.path("b.bin"));
    assert!(renamed.is_err(), "it is killed in the middle");
    eventually("it was killed", || !is_mounted(&mount.at));
    drop(mount);

    let _server = lab.serve_at("srv", &port, &[]);
    let mount = lab.mount("mnt", &args);
    mount.flush();
    assert_eq!(found(&mount, "a.bin"), None);
    assert_eq!(found(&mount, "b.bin").as_deref(), Some(&b"made anew"[..]));
    fs::write(mount.path("a.bin"), b"and once more").unwrap();
    mount.flush();
    assert_eq!(mount.status()["conflicts"], serde_json::json!([]));
    assert_eq!(
        found(&mount, "a.bin").as_deref(),
        Some(&b"and once more"[..])
    );
}
