//! P5, P13 and the outbox: what goes up, once, in order, and what never does.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use super::common::{Lab, Mount, Server, bytes, eventually, put};
use super::names;
use super::proxy::Proxy;

fn listed<'a>(lab: &'a Lab, url: &str) -> Mount<'a> {
    let mount = lab.mount("mnt", &["--remote", url, "--upload"]);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    mount
}

fn puts(server: &Server) -> u64 {
    server.stats()["put"].as_u64().unwrap_or_default()
}

fn no_conflict(mount: &Mount<'_>) {
    let status = mount.status();
    assert_eq!(status["conflicts"].as_array().unwrap().len(), 0, "{status}");
}

#[test]
fn p5_two_thousand_small_files_go_up() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = listed(&lab, &server.url);
    let name = |n: u64| format!("run/{:02}/f{n}.pkl", n % 20);
    for n in 0..2000 {
        put(&mount.path(name(n)), &bytes(n, 300));
    }
    mount.flush();
    for n in 0..2000 {
        assert_eq!(fs::read(server.root.join(name(n))).unwrap(), bytes(n, 300));
    }
    // A connection that the server had closed meanwhile costs a repetition, and nothing else.
    assert!(puts(&server) < 2200, "{}", puts(&server));
    no_conflict(&mount);
}

#[test]
fn p5_the_last_of_many_rewrites_is_what_the_server_has() {
    for delay in [None, Some(std::time::Duration::from_millis(35))] {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let mount = listed(&lab, &server.url);
        for n in 0..50 {
            let size = if n % 10 == 0 { 3 << 20 } else { 20_000 };
            fs::write(mount.path("cut.bin"), bytes(n, size)).unwrap();
            // Under a name that would go up by itself.
            fs::write(mount.path("next.bin"), bytes(n + 100, size)).unwrap();
            fs::rename(mount.path("next.bin"), mount.path("moved.bin")).unwrap();
            let mut log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(mount.path("log.txt"))
                .unwrap();
            writeln!(log, "line {n}").unwrap();
            drop(log);
            if let Some(delay) = delay {
                // The pace of somebody's pipeline: uploads begin between two writes.
                std::thread::sleep(delay * (n % 7) as u32);
            }
        }
        mount.flush();
        no_conflict(&mount);
        let there = |name: &str| fs::read(server.root.join(name)).unwrap();
        assert!(there("cut.bin") == bytes(49, 20_000));
        assert!(there("moved.bin") == bytes(149, 20_000));
        let log: String = (0..50).map(|n| format!("line {n}\n")).collect();
        assert_eq!(there("log.txt"), log.as_bytes());
        assert_eq!(fs::read_dir(mount.path(".")).unwrap().count(), 3);
    }
}

#[test]
fn p5_an_answer_that_was_lost_makes_no_duplicate_and_no_conflict() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let mount = listed(&lab, &wire.url);
    for round in 0..3 {
        wire.lose_answers(1);
        fs::write(mount.path("a.bin"), bytes(round, 10_000)).unwrap();
        mount.flush();
        assert_eq!(wire.lost_answers(), round + 1);
        assert_eq!(
            fs::read(server.root.join("a.bin")).unwrap(),
            bytes(round, 10_000)
        );
        no_conflict(&mount);
    }
    assert_eq!(puts(&server), 3);
}

#[test]
fn p5_written_again_after_a_lost_answer_is_no_conflict() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let mount = listed(&lab, &wire.url);
    // The server gets the first version, and the mount never hears of it.
    wire.lose_answers(1000);
    fs::write(mount.path("a.bin"), bytes(1, 10_000)).unwrap();
    eventually("the server has it", || server.root.join("a.bin").exists());
    wire.cut();
    fs::write(mount.path("a.bin"), bytes(2, 10_000)).unwrap();
    let at = mount.kill();
    wire.lose_answers(0);
    wire.open();
    let mount = lab.mount("mnt", &["--remote", &wire.url, "--upload"]);
    assert_eq!(fs::read(at.join("a.bin")).unwrap(), bytes(2, 10_000));
    mount.flush();
    no_conflict(&mount);
    assert_eq!(
        fs::read(server.root.join("a.bin")).unwrap(),
        bytes(2, 10_000)
    );
}

#[test]
fn p13_a_rewrite_with_the_same_bytes_uploads_nothing() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("theirs.bin"), &bytes(7, 40_000));
    let mount = listed(&lab, &server.url);
    fs::write(mount.path("ours.bin"), bytes(8, 40_000)).unwrap();
    mount.flush();
    assert_eq!(
        fs::read(mount.path("theirs.bin")).unwrap(),
        bytes(7, 40_000)
    );
    eventually("it is held", || mount.status()["held"]["files"] == 2);
    let before = puts(&server);
    for _ in 0..2 {
        fs::write(mount.path("ours.bin"), bytes(8, 40_000)).unwrap();
        fs::write(mount.path("theirs.bin"), bytes(7, 40_000)).unwrap();
        fs::write(mount.path("next.tmp"), bytes(8, 40_000)).unwrap();
        fs::rename(mount.path("next.tmp"), mount.path("ours.bin")).unwrap();
        mount.flush();
    }
    assert_eq!(puts(&server), before);
    no_conflict(&mount);
}

#[test]
fn p13_times_travel_up() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = listed(&lab, &server.url);
    fs::write(mount.path("a.bin"), b"abc").unwrap();
    mount.flush();
    let written = fs::metadata(mount.path("a.bin")).unwrap();
    let there = fs::metadata(server.root.join("a.bin")).unwrap();
    assert_eq!(
        (there.mtime(), there.mtime_nsec()),
        (written.mtime(), written.mtime_nsec())
    );
    let touched = Command::new("touch")
        .args(["-d", "2001-02-03 04:05:06.789012345 UTC"])
        .arg(mount.path("a.bin"))
        .status()
        .unwrap();
    assert!(touched.success());
    mount.flush();
    for path in [server.root.join("a.bin"), mount.path("a.bin")] {
        let facts = fs::metadata(path).unwrap();
        assert_eq!(
            (facts.mtime(), facts.mtime_nsec()),
            (981_173_106, 789_012_345)
        );
    }
    no_conflict(&mount);
}

#[test]
fn p4_temporary_names_never_leave() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = lab.mount(
        "mnt",
        &["--remote", &server.url, "--upload", "--exclude", "scratch/"],
    );
    let local = [
        "a.tmp",
        "b.lock",
        "c.db-wal",
        "c.db-shm",
        "c.db-journal",
        "d.part",
        "scratch/e.bin",
    ];
    for name in local {
        put(&mount.path(name), b"stays");
    }
    put(&mount.path("final.pkl.tmp"), b"final");
    fs::rename(mount.path("final.pkl.tmp"), mount.path("final.pkl")).unwrap();
    put(&mount.path("was.pkl"), b"published");
    mount.flush();
    fs::rename(mount.path("was.pkl"), mount.path("was.pkl.tmp")).unwrap();
    mount.flush();
    let mut there = names(&server.root);
    there.remove(".larder");
    assert_eq!(there, super::set(&["final.pkl", "was.pkl"]));
    assert_eq!(fs::read(server.root.join("final.pkl")).unwrap(), b"final");
    assert_eq!(puts(&server), 2);
    for name in local {
        assert_eq!(fs::read(mount.path(name)).unwrap(), b"stays");
    }
    assert_eq!(fs::read(mount.path("was.pkl.tmp")).unwrap(), b"published");
}

#[test]
fn p5_deleted_while_it_goes_up_it_does_not_come_back() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = listed(&lab, &server.url);
    let mut left = Vec::new();
    for n in 0..40u32 {
        let path = mount.path(format!("f{n}.bin"));
        fs::write(&path, bytes(n.into(), 30_000)).unwrap();
        // Before, during and after the upload, which begins a tenth of a second after the close.
        std::thread::sleep(std::time::Duration::from_millis(u64::from(n) * 4 + 40));
        fs::remove_file(&path).unwrap();
        left.push(path);
    }
    mount.flush();
    mount.sync();
    put(&server.root.join("marker"), b"x");
    eventually("the feed is past all of it", || {
        mount.path("marker").exists()
    });
    for path in left {
        assert!(super::is_absent(&path), "{}", path.display());
    }
}
