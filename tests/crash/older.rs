//! The index of an older Larder, and a broken one, taken over at a start that is killed at every step:
//! nothing that waits in it is lost, and what was found broken is said (promises P3, P5, P7, P11).

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::common::{Lab, Mount, Server, bytes, eventually, is_mounted, put};

/// How an index is taken back from each layout to the one before it.
const BACK: [&str; 4] = [
    include_str!("../../src/index/tests/layout_1.sql"),
    include_str!("../../src/index/tests/layout_2.sql"),
    include_str!("../../src/index/tests/layout_3.sql"),
    include_str!("../../src/index/tests/layout_4.sql"),
];

const OURS: &[u8] = b"written here";
const THEIRS: &[u8] = b"written there, which is longer";
/// Written here while the server does not answer.
const WAITING: [(&str, u64); 3] = [("new.bin", 31), ("over.bin", 32), ("d/deep.bin", 33)];
const LAST: &str = "last.bin";

fn args(server: &Server) -> [String; 5] {
    let args = ["--remote", &server.url, "--upload", "--min-free", "1MiB"];
    args.map(str::to_owned)
}

fn mount<'a>(lab: &'a Lab, server: &Server, point: Option<&str>) -> Option<Mount<'a>> {
    let env: Vec<_> = point.map(|p| ("LARDER_CRASH_AT", p)).into_iter().collect();
    let args = args(server);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match lab.try_mount_with("mnt", &env, &args) {
        Ok(mount) => Some(mount),
        Err(_) if point.is_some() => None,
        Err(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A folder with something of everything that an index may lose, left by a killed daemon; the server
/// does not answer.
fn left(lab: &Lab) -> (Server, PathBuf) {
    let server = lab.serve("srv", &[]);
    for (n, name) in ["held.bin", "gone.bin", "over.bin"].iter().enumerate() {
        put(&server.root.join(name), &bytes(n as u64, 9000));
    }
    put(&server.root.join("both.bin"), b"base");
    let at = mount(lab, &server, None).unwrap();
    eventually("listed", || at.path("both.bin").exists());
    let file = fs::File::create(at.path("both.bin")).unwrap();
    file.write_all_at(OURS, 0).unwrap();
    fs::write(server.root.join("both.bin"), THEIRS).unwrap();
    fs::write(server.root.join("marker.bin"), b"marker").unwrap();
    eventually("the news came", || at.path("marker.bin").exists());
    drop(file);
    at.flush();
    assert_eq!(fs::read(at.path("held.bin")).unwrap(), bytes(0, 9000));
    eventually("it is held", || at.status()["held"]["files"] == 1);
    fs::remove_file(at.path("gone.bin")).unwrap();
    server.signal("-STOP");
    for (name, seed) in WAITING {
        put(&at.path(name), &bytes(seed, 20_000));
    }
    eventually("all are in place", || at.status()["held"]["files"] == 4);
    at.kill();
    // Closed, and killed before it has its name.
    let at = mount(lab, &server, Some("close.row")).unwrap();
    let _ = fs::write(at.path(LAST), bytes(40, 7000));
    eventually("the dead mount is detached", || !is_mounted(&at.at));
    (server, at.at.clone())
}

fn index(at: &Path) -> PathBuf {
    at.join(".larder/index.db")
}

/// Which layout the index has now, and what waits in it; looked at elsewhere, for a look ends its log.
fn look(lab: &Lab, at: &Path) -> (i64, String) {
    let copy = lab.dir("copy").join("index.db");
    for end in ["", "-wal"] {
        let end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        let _ = fs::remove_file(end(&copy));
        let _ = fs::copy(end(&index(at)), end(&copy));
    }
    let db = Connection::open(&copy).unwrap();
    let layout = db.pragma_query_value(None, "user_version", |row| row.get(0));
    let waits = "SELECT group_concat(line, ';') FROM (
        SELECT concat_ws(' ', 'out', id, remote, node, hex(key), base, generation) AS line FROM outbox
        UNION ALL SELECT concat_ws(' ', 'staged', id, node, closed, size, mtime_ns) FROM staged
        UNION ALL SELECT concat_ws(' ', 'conflict', id, hex(path), file) FROM conflicts
        UNION ALL SELECT concat_ws(' ', 'hidden', hex(key), base) FROM replicas WHERE node IS NULL
        UNION ALL SELECT concat_ws(' ', 'node', id, parent, hex(name), held, dirty, version) FROM nodes
        ORDER BY line)";
    let waits = db.query_row(waits, [], |row| row.get(0));
    (layout.unwrap(), waits.unwrap())
}

/// A start that dies at `point`, and what the folder is then.
fn killed_at(lab: &Lab, server: &Server, at: &Path, point: &str) {
    eprintln!("crash at {point}");
    assert!(mount(lab, server, Some(point)).is_none(), "{point}");
    eventually("nothing is mounted", || !is_mounted(at));
    assert_eq!(fs::read(at.join("held.bin")).unwrap(), bytes(0, 9000));
    for (name, seed) in WAITING {
        assert_eq!(fs::read(at.join(name)).unwrap(), bytes(seed, 20_000));
    }
}

/// What was acknowledged is there without the server, and eviction takes nothing of it.
fn has_what_was_written(mount: &Mount<'_>) {
    mount
        .lab
        .larder()
        .arg("evict")
        .arg("--all")
        .arg(&mount.at)
        .output()
        .unwrap();
    for (name, seed) in WAITING {
        assert_eq!(fs::read(mount.path(name)).unwrap(), bytes(seed, 20_000));
    }
}

fn goes_up(mount: &Mount<'_>, server: &Server, names: &[(&str, u64, usize)]) {
    server.signal("-CONT");
    mount.flush();
    for (name, seed, len) in names {
        eventually(&format!("{name} is up"), || {
            fs::read(server.root.join(name)).is_ok_and(|there| there == bytes(*seed, *len))
        });
    }
    assert_eq!(fs::read(server.root.join("both.bin")).unwrap(), THEIRS);
    assert_eq!(fs::read(mount.path("both.bin")).unwrap(), THEIRS);
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(0, 9000));
    assert_eq!(
        fs::read(server.root.join("gone.bin")).unwrap(),
        bytes(1, 9000)
    );
}

#[test]
fn p3_killed_while_an_older_index_is_taken_over() {
    let points = [
        ("migrate.columns", 1),
        ("migrate.moving", 2),
        ("migrate.outbox", 3),
        ("migrate.sums", 3),
        ("migrate.arriving", 4),
        ("migrate.version", 4),
    ];
    for layout in 1..=4 {
        let lab = Lab::new();
        let (server, at) = left(&lab);
        let db = Connection::open(index(&at)).unwrap();
        for back in BACK[layout - 1..].iter().rev() {
            db.execute_batch(back).unwrap();
        }
        drop(db);
        let before = look(&lab, &at);
        assert_eq!(before.0, layout as i64);
        for (point, _) in points.iter().filter(|(_, until)| layout <= *until) {
            killed_at(&lab, &server, &at, point);
            assert_eq!(look(&lab, &at), before, "{point}");
        }
        killed_at(&lab, &server, &at, "migrate.committed");
        assert_eq!(look(&lab, &at), (BACK.len() as i64 + 1, before.1));
        let mount = mount(&lab, &server, None).unwrap();
        assert_eq!(fs::read(mount.path(LAST)).unwrap(), bytes(40, 7000));
        assert_eq!(mount.status()["held"]["files"], 5);
        has_what_was_written(&mount);
        assert!(!mount.path("gone.bin").exists());
        let aside = mount.status()["conflicts"].clone();
        assert_eq!(aside[0]["size"], OURS.len(), "{aside}");
        let up = WAITING.map(|(name, seed)| (name, seed, 20_000));
        goes_up(&mount, &server, &[&up[..], &[(LAST, 40, 7000)]].concat());
        let aside = mount.status()["conflicts"].clone();
        assert_eq!(aside.as_array().unwrap().len(), 1, "{aside}");
        // It is still hidden, and comes back when that is asked for.
        mount.sync();
        assert!(!mount.path("gone.bin").exists());
        let path = mount.path("gone.bin");
        let restored = lab.larder().arg("restore").arg(&path).output().unwrap();
        assert!(restored.status.success());
        // The kernel is told behind the answer that the name is there again.
        eventually("it is shown again", || path.exists());
        assert_eq!(fs::read(&path).unwrap(), bytes(1, 9000));
        mount.unmount();
    }
}

#[test]
fn p7_killed_while_a_broken_index_is_set_aside() {
    let lab = Lab::new();
    let (server, at) = left(&lab);
    // Else the first page is read from the log.
    let db = Connection::open(index(&at)).unwrap();
    db.pragma_update(None, "wal_checkpoint", "TRUNCATE").ok();
    drop(db);
    let file = fs::File::options().write(true).open(index(&at)).unwrap();
    file.write_all_at(&bytes(7, 100), 0).unwrap();
    for point in [
        "aside.marked",
        "aside.renamed",
        "aside.cleared",
        "index.created",
    ] {
        killed_at(&lab, &server, &at, point);
    }
    let mounted = mount(&lab, &server, None).unwrap();
    let said = |mount: &Mount<'_>| {
        mount.status()["notes"]
            .to_string()
            .matches("the index was broken")
            .count()
    };
    assert_eq!(said(&mounted), 1);
    has_what_was_written(&mounted);
    // What was closed and had no name yet, and what a conflict kept, are listed.
    let orphans = mounted.status()["orphans"].to_string();
    assert!(orphans.contains("\"size\":7000"), "{orphans}");
    assert!(
        orphans.contains(&format!("\"size\":{}", OURS.len())),
        "{orphans}"
    );
    goes_up(
        &mounted,
        &server,
        &[("new.bin", 31, 20_000), ("d/deep.bin", 33, 20_000)],
    );
    // Which version it was written over is not known any more: both are kept, unless the remote's was
    // listed before the folder was compared, for then it counts as changed since.
    eventually("one has the path, and ours is nowhere lost", || {
        let there = fs::read(server.root.join("over.bin")).unwrap();
        let is_kept = mounted.status()["conflicts"][0]["size"] == 20_000;
        there == bytes(32, 20_000) || (there == bytes(2, 9000) && is_kept)
    });
    mounted.unmount();
    let aside = fs::read_dir(at.join(".larder")).unwrap().flatten();
    let aside = aside.filter(|e| e.file_name().to_string_lossy().contains("corrupt"));
    assert_eq!(aside.count(), 1);
    let again = mount(&lab, &server, None).unwrap();
    assert_eq!(said(&again), 0);
}

/// Killed between a download's name and its row, the remote having another version by the next start:
/// what is in the folder is an older version of the remote's, and nobody's write.
#[test]
fn p5_a_download_cut_short_never_replaces_a_newer_version() {
    for point in ["hydrate.noted", "hydrate.renamed"] {
        eprintln!("crash at {point}");
        for is_newer in [false, true] {
            let lab = Lab::new();
            let server = lab.serve("srv", &[]);
            put(&server.root.join("a.bin"), &bytes(1, 5000));
            let at = mount(&lab, &server, Some(point)).unwrap();
            eventually("listed", || at.path("a.bin").exists());
            let _ = fs::read(at.path("a.bin"));
            eventually("the dead mount is detached", || !is_mounted(&at.at));
            assert_eq!(at.at.join("a.bin").exists(), point == "hydrate.renamed");
            server.signal("-STOP");
            if is_newer {
                // As the news would have been noted before the folder was compared.
                let db = Connection::open(index(&at.at)).unwrap();
                let news = "UPDATE nodes SET version = 'newer', size = 6000, mtime_ns = mtime_ns + 1 WHERE name = x'612e62696e';
                            UPDATE replicas SET version = 'newer', size = 6000, mtime_ns = mtime_ns + 1;";
                db.execute_batch(news).unwrap();
            }
            put(&server.root.join("a.bin"), &bytes(2, 6000));
            let mount = mount(&lab, &server, None).unwrap();
            let is_kept = point == "hydrate.renamed" && !is_newer;
            assert_eq!(mount.status()["held"]["files"], u64::from(is_kept));
            assert_eq!(mount.status()["dirty"]["files"], 0);
            server.signal("-CONT");
            mount.sync();
            mount.flush();
            eventually("the newer one is shown", || {
                fs::read(mount.path("a.bin")).is_ok_and(|read| read == bytes(2, 6000))
            });
            assert_eq!(fs::read(server.root.join("a.bin")).unwrap(), bytes(2, 6000));
            assert_eq!(mount.status()["conflicts"], serde_json::json!([]));
            mount.unmount();
        }
    }
}
