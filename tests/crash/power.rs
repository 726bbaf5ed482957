//! The power is cut (promises P3 and P4): what nobody synced may be shorter than its row
//! says, and rows may be missing. Played by hand: the daemon is killed, files are cut in place,
//! a row is taken away, and the next mount is told of a younger machine.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::common::{Lab, Mount, bytes, eventually, put};

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// What a power cut would do to the index: it lost a row, and the machine is another one by now.
fn play_power_cut(at: &Path, lost: &str) {
    let index = rusqlite::Connection::open(at.join(".larder/index.db")).unwrap();
    let id: i64 = index
        .query_row(
            "DELETE FROM nodes WHERE name = ?1 RETURNING id",
            [lost.as_bytes()],
            |row| row.get(0),
        )
        .unwrap();
    index
        .execute("DELETE FROM outbox WHERE node = ?1", [id])
        .unwrap();
    let changed = index.execute(
        "UPDATE meta SET value = value + 1 WHERE key = 'runs_boot'",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
}

/// Mounts as on a machine that was started `since` seconds after this one was.
fn mount_on_a_machine_started<'a>(lab: &'a Lab, since: u64, args: &[&str]) -> Mount<'a> {
    let at = lab.dir("mnt");
    let larder = lab.larder();
    let mut command = Command::new("unshare");
    command
        .args(["--time", "--boottime", &format!("-{since}")])
        .arg(larder.get_program())
        .arg("mount")
        .arg(&at)
        .args(args)
        .env_clear();
    for (name, value) in larder.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Mount { lab, at }
}

#[test]
fn p4_what_a_power_cut_left_is_not_published() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for name in ["over.bin", "edited.bin"] {
        put(&server.root.join(name), &bytes(1, 5000));
    }
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = lab.mount("mnt", &args);
    eventually("it is listed", || mount.path("over.bin").exists());
    assert_eq!(fs::read(mount.path("edited.bin")).unwrap(), bytes(1, 5000));
    eventually("it is held", || mount.status()["held"]["files"] == 1);
    server.signal("-STOP");
    for name in ["over.bin", "new.bin", "empty.bin", "whole.bin", "lost.bin"] {
        fs::write(mount.path(name), bytes(2, 200_000)).unwrap();
    }
    let edited = File::options()
        .write(true)
        .open(mount.path("edited.bin"))
        .unwrap();
    edited.write_all_at(&bytes(3, 9000), 0).unwrap();
    drop(edited);
    let mut synced = File::create(mount.path("synced.bin")).unwrap();
    synced.write_all(&bytes(4, 200_000)).unwrap();
    synced.sync_all().unwrap();
    drop(synced);
    let at = mount.kill();
    for (name, left) in [
        ("over.bin", 4096),
        ("new.bin", 8192),
        ("empty.bin", 0),
        ("edited.bin", 0),
    ] {
        let file = File::options().write(true).open(at.join(name)).unwrap();
        file.set_len(left).unwrap();
    }
    play_power_cut(&at, "lost.bin");
    let started = uptime() as u64 + 1;
    // Uptimes are told in hundredths of a second.
    eventually("the machine is on again", || {
        uptime() > started as f64 + 0.05
    });
    // What people do before they mount again is theirs.
    fs::write(at.join("by hand.bin"), b"by hand").unwrap();
    let mount = mount_on_a_machine_started(&lab, started, &args);
    eventually("each is told", || {
        let status = mount.status().to_string();
        ["over.bin", "new.bin", "empty.bin", "edited.bin", "lost.bin"]
            .iter()
            .all(|name| status.contains(&format!("{name}: was ")))
    });
    assert_eq!(mount.status()["orphans"].as_array().unwrap().len(), 4);
    server.signal("-CONT");
    let up = |name: &str| fs::read(server.root.join(name)).ok();
    eventually("what is whole goes up", || {
        up("whole.bin") == Some(bytes(2, 200_000))
            && up("synced.bin") == Some(bytes(4, 200_000))
            && up("by hand.bin") == Some(b"by hand".to_vec())
    });
    // The old versions are there again, and what had none is not.
    eventually("the old versions are back", || {
        ["over.bin", "edited.bin"]
            .iter()
            .all(|name| fs::read(mount.path(name)).is_ok_and(|b| b == bytes(1, 5000)))
    });
    for name in ["new.bin", "empty.bin"] {
        eventually("what never was whole is not there", || {
            !mount.path(name).exists()
        });
        assert_eq!(up(name), None);
    }
    // What nothing is known of stays here until it is written again.
    assert_eq!(fs::read(mount.path("lost.bin")).unwrap(), bytes(2, 200_000));
    assert_eq!(mount.status()["outbox"]["held_back"], 1);
    mount.verb(&["flush"]);
    assert_eq!(up("lost.bin"), None);
    fs::write(mount.path("lost.bin"), b"again").unwrap();
    mount.flush();
    assert_eq!(up("lost.bin"), Some(b"again".to_vec()));
    for name in ["over.bin", "edited.bin"] {
        assert_eq!(up(name), Some(bytes(1, 5000)));
    }
    // It is settled: what people do later is theirs.
    let at = mount.unmount();
    fs::write(at.join("whole.bin"), b"shorter").unwrap();
    let mount = lab.mount("mnt", &args);
    assert_eq!(fs::read(mount.path("whole.bin")).unwrap(), b"shorter");
    mount.flush();
    assert_eq!(up("whole.bin"), Some(b"shorter".to_vec()));
}
