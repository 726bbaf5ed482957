//! After a kill the next start says in a line each what it found and what became of it, in `status` and
//! in the log (promise P7).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::common::{Lab, Mount, bytes, eventually, is_mounted, put, signal};

fn notes(mount: &Mount<'_>) -> Vec<String> {
    let status = mount.status();
    let notes = status["notes"].as_array().unwrap().iter();
    notes
        .map(|note| note.as_str().unwrap().to_owned())
        .collect()
}

/// One line in `status`, and the same in the log.
#[track_caller]
fn told(notes: &[String], log: &Path, parts: &[&str]) {
    let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
    let found: Vec<_> = notes.iter().filter(|note| has_all(note)).collect();
    assert_eq!(found.len(), 1, "{parts:?}: {notes:#?}");
    let text = fs::read_to_string(log).unwrap();
    assert!(text.lines().any(has_all), "{parts:?}: {text}");
}

fn has_pieces(store: &Path) -> bool {
    let files = fs::read_dir(store.join(".larder/partial")).unwrap();
    files.flatten().count() > 1
}

#[test]
fn p7_a_start_after_a_kill_says_what_it_found_and_what_goes_on() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("both.bin"), b"base");
    put(&server.root.join("big.bin"), &bytes(1, 40 << 20));
    let store = lab.dir("store");
    let log = store.join(".larder/larder.log");
    let args = [
        "--remote",
        server.url.as_str(),
        "--upload",
        "--store",
        store.to_str().unwrap(),
    ];
    let mount = lab.mount("mnt", &args);
    eventually("listed", || mount.path("big.bin").exists());
    assert_eq!(notes(&mount), Vec::<String>::new());
    // A conflict.
    let file = File::create(mount.path("both.bin")).unwrap();
    file.write_all_at(b"ours", 0).unwrap();
    fs::write(server.root.join("both.bin"), b"theirs, longer").unwrap();
    put(&server.root.join("marker.bin"), b"marker");
    eventually("the news came", || mount.path("marker.bin").exists());
    drop(file);
    mount.flush();
    // Pieces of a large file.
    let big = File::open(mount.path("big.bin")).unwrap();
    big.read_exact_at(&mut [0; 4096], 0).unwrap();
    drop(big);
    eventually("its pieces are noted", || has_pieces(&store));
    // An upload that waits, and a writer in the middle.
    server.signal("-STOP");
    fs::write(mount.path("waits.bin"), b"closed").unwrap();
    let half = File::create(mount.path("half.bin")).unwrap();
    half.write_all_at(b"half of it", 0).unwrap();
    let pid = mount.pid();
    assert!(signal(pid, "-9"));
    eventually("the dead mount is detached", || !is_mounted(&mount.at));
    drop(half);
    server.signal("-CONT");
    let mount = lab.mount("mnt", &args);
    let lines = notes(&mount);
    for parts in [
        &["half.bin", "not closed by its writer", ".larder/orphans/"][..],
        &["unfinished files are kept", ": 1"],
        &["uploads that waited, and go on: 1"],
        &["downloads of which pieces are here", ": 1 ("],
        &[
            "conflicts that wait for a decision",
            "`larder conflicts`",
            ": 1",
        ],
        &["was not unmounted", "killed", "all that was closed is here"],
    ] {
        told(&lines, &log, parts);
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    mount.flush();
    assert_eq!(fs::read(server.root.join("waits.bin")).unwrap(), b"closed");
    mount.unmount();
    // After an end in order there is nothing to say but what is kept.
    let mount = lab.mount("mnt", &args);
    let lines = notes(&mount);
    assert!(
        lines.len() == 1 && lines[0].contains(".larder/orphans"),
        "{lines:#?}"
    );
}

#[test]
fn p7_every_change_that_a_kill_cut_short_is_told() {
    type Change = fn(&Path);
    let write: Change = |at| drop(fs::write(at.join("a.bin"), b"new and whole"));
    let rename: Change = |at| drop(fs::rename(at.join("a.bin"), at.join("b.bin")));
    let remove: Change = |at| drop(fs::remove_file(at.join("a.bin")));
    for (point, change, line) in [
        ("close.row", write, "closed just before the last end"),
        ("publish.renamed", write, "closed just before the last end"),
        ("rename.tree", rename, "it has its new name"),
        ("remove.aside", remove, "it is back"),
    ] {
        eprintln!("crash at {point}");
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        put(&server.root.join("a.bin"), b"old");
        let args = ["--remote", server.url.as_str(), "--upload"];
        let env = [("LARDER_CRASH_AT", point)];
        let mount = lab.try_mount_with("mnt", &env, &args).ok().unwrap();
        eventually("listed", || mount.path("a.bin").exists());
        fs::read(mount.path("a.bin")).unwrap();
        eventually("it is held", || mount.status()["held"]["files"] == 1);
        change(&mount.at);
        eventually("the dead mount is detached", || !is_mounted(&mount.at));
        let mount = lab.mount("mnt", &args);
        let lines = notes(&mount);
        let log = mount.unmount().join(".larder/larder.log");
        told(&lines, &log, &["a.bin", line]);
        told(&lines, &log, &["was not unmounted"]);
    }
}
