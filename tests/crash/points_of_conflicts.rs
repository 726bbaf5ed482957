//! Killed while a conflict is settled: it is settled after the next start, or still there, and
//! nothing is left that somebody has to clean (promise P5).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use super::common::{Lab, Mount, Server, eventually, is_mounted, put};

/// A mount with one conflict, and what it was made of.
fn with_conflict<'a>(lab: &'a Lab, server: &Server, args: &[&str]) -> Mount<'a> {
    let mount = lab.mount("mnt", args);
    eventually("listed", || mount.path("both.bin").exists());
    let file = File::create(mount.path("both.bin")).unwrap();
    file.write_all_at(OURS, 0).unwrap();
    fs::write(server.root.join("both.bin"), THEIRS).unwrap();
    fs::write(server.root.join("marker.bin"), b"marker").unwrap();
    eventually("the news came", || mount.path("marker.bin").exists());
    drop(file);
    mount.flush();
    assert_eq!(conflicts(&mount), 1);
    mount
}

const OURS: &[u8] = b"written here";
const THEIRS: &[u8] = b"written there, which is longer";

fn conflicts(mount: &Mount<'_>) -> usize {
    mount.status()["conflicts"].as_array().unwrap().len()
}

fn settle(lab: &Lab, verb: &str, mount: &Mount<'_>) -> bool {
    let path = mount.path("both.bin");
    let words = ["conflicts", verb, path.to_str().unwrap()];
    lab.run(words).status.success()
}

fn killed_at(point: &str, verb: &str) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("both.bin"), b"base");
    let args = ["--remote", server.url.as_str(), "--upload"];
    with_conflict(&lab, &server, &args).unmount();
    let env = [("LARDER_CRASH_AT", point)];
    let mount = lab.try_mount_with("mnt", &env, &args).ok().unwrap();
    assert!(!settle(&lab, verb, &mount), "{point} was never reached");
    eventually("the dead mount is detached", || !is_mounted(&mount.at));
    let mount = lab.mount("mnt", &args);
    if point == "settle.noted" {
        // Nothing had moved: the conflict is as it was.
        assert_eq!(conflicts(&mount), 1);
        assert_eq!(fs::read(mount.path("both.bin")).unwrap(), THEIRS);
        assert!(settle(&lab, verb, &mount));
    }
    let kept = if verb == "keep-mine" { OURS } else { THEIRS };
    mount.flush();
    assert_eq!(conflicts(&mount), 0, "{point}");
    assert_eq!(fs::read(mount.path("both.bin")).unwrap(), kept, "{point}");
    assert_eq!(fs::read(server.root.join("both.bin")).unwrap(), kept);
    let notes = mount.status()["notes"].to_string();
    let told = notes.contains("the conflict is ended");
    assert_eq!(told, point != "settle.noted", "{point}: {notes}");
    let at = mount.unmount();
    assert_eq!(fs::read(at.join("both.bin")).unwrap(), kept);
    for ours in ["conflicts", "staged", "orphans"] {
        let left = fs::read_dir(at.join(".larder").join(ours)).unwrap().count();
        assert_eq!(left, 0, "{point}: {ours}");
    }
}

#[test]
fn p5_killed_while_a_conflict_is_settled() {
    let placed = ["publish.renamed", "publish.row", "settle.placed"];
    for point in ["settle.noted", "settle.staged"].iter().chain(&placed) {
        eprintln!("crash at {point}");
        killed_at(point, "keep-mine");
    }
    killed_at("settle.dropped", "keep-theirs");
}

/// A version whose entry went with the index is kept where it is listed.
#[test]
fn p5_a_kept_version_without_an_entry_is_told_and_listed() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("both.bin"), b"base");
    let args = ["--remote", server.url.as_str(), "--upload"];
    let at = with_conflict(&lab, &server, &args).unmount();
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = fs::remove_file(at.join(".larder").join(name));
    }
    let mount = lab.mount("mnt", &args);
    let status = mount.status();
    let orphan = status["orphans"][0]["name"].as_str().unwrap();
    assert!(
        status["notes"]
            .to_string()
            .contains("has no entry any more")
    );
    assert_eq!(fs::read(at.join(".larder/orphans").join(orphan)).ok(), None);
    let at = mount.unmount();
    assert_eq!(
        fs::read(at.join(".larder/orphans").join(orphan)).unwrap(),
        OURS
    );
}
