//! One kill at every place where a step is done and the next is not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use larder::crash::POINTS;

use super::common::{Lab, Mount, Server, bytes, eventually, is_mounted, put};
use super::held::Held;
use super::ledger::{Ledger, close, write};

/// How far a story came: the end, or the step that found the daemon gone.
type Told = Result<(), String>;

/// Everything that passes a point, in an order in which each is passed soon.
fn story(mount: &Mount<'_>, server: &Server, ledger: &mut Ledger) -> Told {
    let root = Held::new(&mount.at).ok_or("the root was not to be opened")?;
    let at = |name: &str| root.path(name);
    let new = bytes(11, 70_000);
    // The remote's own changes come in.
    fs::write(server.root.join("news.bin"), bytes(12, 100)).unwrap();
    ledger.given("news.bin", &bytes(12, 100));
    heard(&root, "news.bin")?;
    step("read", fs::read(at("r/cold.bin")))?;
    eventually("the file is kept, or the daemon is gone", || {
        !root.lives() || kept(mount) > 0
    });
    let evicted = mount
        .lab
        .larder()
        .arg("evict")
        .arg(mount.path("r/cold.bin"))
        .output();
    succeeded("evict", &evicted.unwrap())?;
    step("mkdir", fs::create_dir(at("a")))?;
    step(
        "write",
        ledger.run("a/new.bin", Some(new.clone()), || {
            write(&at("a/new.bin"), &new)
        }),
    )?;
    let longer = [new.clone(), bytes(13, 5000)].concat();
    step(
        "append",
        ledger.run_in_place("a/new.bin", longer, || {
            let mut file = OpenOptions::new().append(true).open(at("a/new.bin"))?;
            file.write_all(&bytes(13, 5000))?;
            close(file)
        }),
    )?;
    let over = bytes(14, 40_000);
    step(
        "replace",
        ledger.run("r/old.bin", Some(over.clone()), || {
            write(&at("r/old.bin"), &over)
        }),
    )?;
    let renamed = bytes(15, 30_000);
    for (tmp, name) in [("a/f.bin.tmp", "a/f.bin"), ("a/stage1", "r/swapped.bin")] {
        let staged = || write(&at(tmp), &renamed);
        step(
            "stage",
            match tmp.ends_with(".tmp") {
                // It never leaves, and is written where it is, as on any disk.
                true => ledger.run_in_place(tmp, renamed.clone(), staged),
                false => ledger.run(tmp, Some(renamed.clone()), staged),
            },
        )?;
        let changes = vec![(name.into(), Some(renamed.clone())), (tmp.into(), None)];
        step(
            "rename",
            ledger.run_all(changes, || fs::rename(at(tmp), at(name))),
        )?;
    }
    step(
        "rename of a directory",
        ledger.run_move("a", "b", || fs::rename(at("a"), at("b"))),
    )?;
    for name in ["r/gone.bin", "r/left.bin"] {
        let rewritten = bytes(16, 10_000);
        step(
            "rewrite",
            ledger.run(name, Some(rewritten.clone()), || {
                write(&at(name), &rewritten)
            }),
        )?;
    }
    let changes = vec![
        ("r/old.bin".into(), ledger.now("r/left.bin")),
        ("r/left.bin".into(), ledger.now("r/old.bin")),
    ];
    step(
        "exchange",
        ledger.run_all(changes, || exchange(&at("r/old.bin"), &at("r/left.bin"))),
    )?;
    step(
        "unlink",
        ledger.run("r/gone.bin", None, || fs::remove_file(at("r/gone.bin"))),
    )?;
    kill_a_writer(&root)?;
    conflict(&root, server, ledger)?;
    // Uploads: ends when all is up, or with the daemon.
    succeeded("flush", &mount.verb(&["flush", "--wait"]))
}

/// Two names change places.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

fn step<T>(what: &str, done: io::Result<T>) -> Told {
    done.map(|_| ()).map_err(|error| format!("{what}: {error}"))
}

fn succeeded(what: &str, output: &Output) -> Told {
    let told = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("{what}: {told}");
    output.status.success().then_some(()).ok_or_else(failed)
}

fn lives(root: &Held, what: &str) -> Told {
    root.lives().then_some(()).ok_or_else(|| what.to_owned())
}

fn kept(mount: &Mount<'_>) -> u64 {
    let output = mount.verb(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["held"]["files"].as_u64().unwrap_or_default()
}

fn heard(root: &Held, name: &str) -> Told {
    eventually("the news come, or the daemon is gone", || {
        !root.lives() || root.path(name).exists()
    });
    lives(root, "news")
}

/// A writer that is killed over an existing file.
fn kill_a_writer(root: &Held) -> Told {
    let create = |error| format!("create: {error}");
    let file = File::create(root.path("r/kept.bin")).map_err(create)?;
    let mut child = Command::new("sh")
        .args(["-c", "head -c 300000 /dev/zero; echo half; exec sleep 100"])
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("half of it is written, or the daemon is gone", || {
        !root.lives() || fs::metadata(root.path("r/kept.bin")).is_ok_and(|m| m.len() > 300_000)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the old version is back, or the daemon is gone", || {
        !root.lives() || fs::metadata(root.path("r/kept.bin")).is_ok_and(|m| m.len() == 20_000)
    });
    lives(root, "a killed writer")
}

/// Both sides write the same path.
fn conflict(root: &Held, server: &Server, ledger: &mut Ledger) -> Told {
    let create = |error| format!("create: {error}");
    let file = File::create(root.path("both.bin")).map_err(create)?;
    step("write", file.write_all_at(&bytes(21, 900), 0))?;
    fs::write(server.root.join("both.bin"), bytes(22, 1100)).unwrap();
    fs::write(server.root.join("marker.bin"), b"marker").unwrap();
    ledger.given("marker.bin", b"marker");
    heard(root, "marker.bin")?;
    step("close", close(file))?;
    ledger.given(BOTH_CLOSED, b"");
    Ok(())
}

/// A note in the ledger, not a file.
const BOTH_CLOSED: &str = "both.bin was closed";

/// Theirs has the path wherever ours was closed, and ours is kept.
fn check_conflict(mount: &Mount<'_>, server: &Server) {
    let (ours, theirs) = (bytes(21, 900), bytes(22, 1100));
    assert_eq!(fs::read(server.root.join("both.bin")).unwrap(), theirs);
    eventually("the mount shows theirs", || {
        fs::read(mount.path("both.bin")).is_ok_and(|found| found == theirs)
    });
    let aside = mount.status()["conflicts"].clone();
    assert_eq!(aside.as_array().unwrap().len(), 1, "{aside}");
    assert_eq!(aside[0]["size"], ours.len());
}

fn crashing<'a>(lab: &'a Lab, point: &str, args: &[&str]) -> Option<Mount<'a>> {
    lab.try_mount_with("mnt", &[("LARDER_CRASH_AT", point)], args)
        .ok()
}

fn one(point: &str) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mut ledger = Ledger::default();
    for (n, name) in ["old", "cold", "gone", "kept", "swapped", "left"]
        .iter()
        .enumerate()
    {
        let name = format!("r/{name}.bin");
        put(&server.root.join(&name), &bytes(n as u64, 20_000));
        ledger.given(&name, &bytes(n as u64, 20_000));
    }
    put(&server.root.join("both.bin"), b"base");
    let args = ["--remote", &server.url, "--upload", "--min-free", "1MiB"];
    // What happens at the start may happen before there is a mount to look at.
    if let Some(mount) = crashing(&lab, point, &args) {
        // The last point of all comes just after the answer that ends the story.
        let end = story(&mount, &server, &mut ledger).err();
        let end = end.unwrap_or_else(|| "its end".to_owned());
        let what = format!("{point} is reached, the dead mount detached; the story came to {end}");
        eventually(&what, || !is_mounted(&mount.at));
    }
    let closed = ledger.take(BOTH_CLOSED);
    // In between it is a plain directory.
    let plain = lab.path("mnt");
    put(&plain.join("between.txt"), point.as_bytes());
    ledger.given("between.txt", point.as_bytes());
    for entry in fs::read_dir(&plain).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    let mount = lab.mount("mnt", &args);
    mount.sync();
    ledger.check(&mount.at, |path| path != "both.bin");
    mount.flush();
    mount.sync();
    ledger.check(&mount.at, |path| path != "both.bin");
    ledger.check_server(&server.root, &mount.at, |path| path.ends_with(".tmp"));
    if closed {
        check_conflict(&mount, &server);
    }
    mount.unmount();
}

/// Points that only a second start reaches. Those of settling: `points_of_conflicts`; those of an index
/// that is older or broken: `older`.
const OF_RECOVERY: &[&str] = &["recover.published"];

fn share(part: usize, of: usize) {
    let others = ["settle.", "migrate.", "aside."];
    let elsewhere =
        |p: &str| OF_RECOVERY.contains(&p) || others.iter().any(|other| p.starts_with(other));
    let points = POINTS.iter().filter(|p| !elsewhere(p));
    for point in points.skip(part).step_by(of) {
        eprintln!("crash at {point}");
        one(point);
    }
    if part == 0 {
        for nth in [3, 8, 13, 21] {
            one(&format!("index.committed:{nth}"));
        }
    }
}

#[test]
fn p3_killed_at_every_step_first_third() {
    share(0, 3);
}

#[test]
fn p3_killed_at_every_step_second_third() {
    share(1, 3);
}

#[test]
fn p3_killed_at_every_step_last_third() {
    share(2, 3);
}

/// Killed in recovery itself, and once more.
#[test]
fn p3_killed_while_recovering() -> io::Result<()> {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("a.bin"), b"old");
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = crashing(&lab, "publish.renamed", &args).unwrap();
    eventually("listed", || mount.path("a.bin").exists());
    fs::write(mount.path("a.bin"), b"new and whole")?;
    eventually("the dead mount is detached", || !is_mounted(&mount.at));
    assert!(crashing(&lab, "recover.published", &args).is_none());
    let mount = lab.mount("mnt", &args);
    assert_eq!(fs::read(mount.path("a.bin"))?, b"new and whole");
    mount.flush();
    assert_eq!(fs::read(server.root.join("a.bin"))?, b"new and whole");
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    Ok(())
}
