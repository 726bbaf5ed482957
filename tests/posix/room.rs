//! What is kept, and what goes first (promise P11).

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::common::{Lab, Mount, Server, bytes, eventually, put};
use crate::{READ_PATHS, listed, plain};

const EACH: usize = 100_000;

fn scene(lab: &Lab, files: u64) -> Server {
    for n in 0..files {
        put(&lab.dir("srv").join(name(n)), &bytes(n, EACH));
    }
    lab.serve("srv", &[])
}

fn name(n: u64) -> String {
    format!("d{}/f{n}.bin", n % 2)
}

fn read(mount: &Mount<'_>, n: u64) {
    assert!(fs::read(mount.path(name(n))).unwrap() == bytes(n, EACH));
}

fn held(mount: &Mount<'_>) -> u64 {
    mount.status()["held"]["files"].as_u64().unwrap()
}

/// What `larder ls` says of each file.
fn states(mount: &Mount<'_>) -> Vec<(String, String)> {
    let output = mount.verb(&["ls", "--recursive", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let word = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let lines: Vec<Value> = match serde_json::from_str(&text) {
        Ok(Value::Array(lines)) => lines,
        _ => text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect(),
    };
    lines
        .iter()
        .filter(|line| word(line, "kind") == "file")
        .map(|line| (word(line, "path"), word(line, "state")))
        .collect()
}

fn is_held(mount: &Mount<'_>, n: u64) -> bool {
    let states = states(mount);
    let (_, state) = states.iter().find(|(path, _)| *path == name(n)).unwrap();
    state == "clean"
}

/// Uses are remembered by the second.
fn next_second() {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let begun = now();
    eventually("the clock goes on", || now() > begun);
}

#[test]
fn p11_the_least_recently_used_files_go_first() {
    let lab = Lab::new();
    let server = scene(&lab, 8);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--max-files", "5"]);
    listed(&mount, &server);
    (0..3).for_each(|n| read(&mount, n));
    next_second();
    read(&mount, 3);
    next_second();
    // Used again: not the oldest any more.
    read(&mount, 0);
    read(&mount, 4);
    eventually("all are kept at the limit", || held(&mount) == 5);
    next_second();
    read(&mount, 5);
    eventually("down to the low mark", || held(&mount) <= 4);
    for (n, expected) in [(0, true), (1, false), (2, false), (4, true), (5, true)] {
        assert_eq!(is_held(&mount, n), expected, "{n}: {:?}", states(&mount));
    }
    assert_eq!(plain::files(&mount.at).len(), 8, "all of them stay listed");
    (0..8).for_each(|n| read(&mount, n));
    eventually("within the limit again", || held(&mount) <= 5);
    let at = mount.unmount();
    assert!(plain::files(&at).len() <= 5);
}

#[test]
fn p11_bytes_are_bounded_and_what_is_not_safe_elsewhere_stays() {
    for (_, flags) in READ_PATHS {
        let lab = Lab::new();
        let server = scene(&lab, 12);
        let args: Vec<_> = ["--remote", &server.url, "--max-size", "500000"]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let mount = lab.mount("mnt", &args);
        listed(&mount, &server);
        // Written here and sent nowhere: nobody else has them.
        put(&mount.path("mine/a"), &bytes(100, 200_000));
        put(&mount.path("mine/b"), &bytes(101, 200_000));
        let mut open = File::open(mount.path(name(0))).unwrap();
        for n in 0..12 {
            read(&mount, n);
        }
        // What was read has its place only a moment after its readers have it.
        eventually("within the limit, and open files stay", || {
            mount.status()["held"]["bytes"].as_u64() <= Some(500_000) && is_held(&mount, 0)
        });
        let mut content = Vec::new();
        open.read_to_end(&mut content).unwrap();
        assert!(content == bytes(0, EACH));
        assert!(fs::read(mount.path("mine/a")).unwrap() == bytes(100, 200_000));
        drop(open);
        let at = mount.unmount();
        assert!(fs::read(at.join("mine/b")).unwrap() == bytes(101, 200_000));
        let left: u64 = plain::files(&at).values().map(|(size, _)| size).sum();
        assert!(left <= 600_000, "{left}");
    }
}

#[test]
fn p11_free_space_is_left_for_others() {
    let lab = Lab::new();
    let server = scene(&lab, 4);
    let free = mount_free(&lab.path("srv"));
    // More than the disk has: whatever is fetched has to go again.
    let min_free = format!("{}GiB", (free >> 30) + 1000);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--min-free", &min_free]);
    listed(&mount, &server);
    put(&mount.path("mine"), b"mine");
    (0..4).for_each(|n| read(&mount, n));
    eventually("nothing is kept that need not be", || held(&mount) == 1);
    assert_eq!(fs::read(mount.path("mine")).unwrap(), b"mine");
    (0..4).for_each(|n| read(&mount, n));
}

fn mount_free(at: &Path) -> u64 {
    let space = rustix::fs::statvfs(at).unwrap();
    space.f_bavail * space.f_frsize
}

#[test]
fn p11_evict_drops_bytes_and_keeps_names() {
    for (_, flags) in READ_PATHS {
        let lab = Lab::new();
        let server = scene(&lab, 6);
        let args: Vec<_> = ["--remote", &server.url]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let mount = lab.mount("mnt", &args);
        listed(&mount, &server);
        (0..6).for_each(|n| read(&mount, n));
        put(&mount.path("d0/mine"), b"mine");
        eventually("all are kept", || held(&mount) == 7);
        let evict = |args: &[&str]| lab.run(["evict"].iter().chain(args));
        let one = mount.path(name(1));
        assert!(evict(&[one.to_str().unwrap()]).status.success());
        assert_eq!(held(&mount), 6);
        assert!(!is_held(&mount, 1));
        assert_eq!(fs::metadata(&one).unwrap().len(), EACH as u64);
        // Somebody reads it: it stays, and that is said.
        let open = File::open(mount.path(name(3))).unwrap();
        let stayed = evict(&[mount.path("d1").to_str().unwrap()]);
        assert!(is_held(&mount, 3));
        assert!(!is_held(&mount, 5));
        let said = String::from_utf8_lossy(&stayed.stdout).into_owned()
            + &String::from_utf8_lossy(&stayed.stderr);
        assert!(!said.is_empty());
        drop(open);
        evict(&["--all", mount.at.to_str().unwrap()]);
        assert_eq!(held(&mount), 1, "what only this machine has stays");
        assert_eq!(fs::read(mount.path("d0/mine")).unwrap(), b"mine");
        let gets = server.stats()["get"].as_u64().unwrap();
        (0..6).for_each(|n| read(&mount, n));
        assert_eq!(server.stats()["get"].as_u64().unwrap(), gets + 6);
        assert!(
            evict(&[mount.path("nothing").to_str().unwrap()])
                .status
                .code()
                != Some(0)
        );
    }
}

#[test]
fn p11_a_stream_keeps_nothing_after_the_last_close() {
    for (_, flags) in READ_PATHS {
        let lab = Lab::new();
        let server = scene(&lab, 4);
        put(&server.root.join("big.bin"), &bytes(50, 3 << 20));
        let args: Vec<_> = ["--remote", &server.url, "--stream", "--upload"]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let mount = lab.mount("mnt", &args);
        listed(&mount, &server);
        (0..4).for_each(|n| read(&mount, n));
        assert!(fs::read(mount.path("big.bin")).unwrap() == bytes(50, 3 << 20));
        // Two readers of one file: the second has it while the first lasts.
        let mut first = File::open(mount.path("big.bin")).unwrap();
        assert!(fs::read(mount.path("big.bin")).unwrap() == bytes(50, 3 << 20));
        let mut content = Vec::new();
        first.read_to_end(&mut content).unwrap();
        assert!(content == bytes(50, 3 << 20));
        drop(first);
        // Read, changed and written.
        put(&mount.path("new.bin"), &bytes(60, 10_000));
        let file = File::options()
            .write(true)
            .open(mount.path(name(1)))
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 5).unwrap();
        drop(file);
        mount.flush();
        let mut changed = bytes(1, EACH);
        changed[5..12].copy_from_slice(b"changed");
        assert!(fs::read(server.root.join(name(1))).unwrap() == changed);
        assert!(fs::read(server.root.join("new.bin")).unwrap() == bytes(60, 10_000));
        eventually("nothing is held", || held(&mount) == 0);
        assert!(fs::read(mount.path(name(1))).unwrap() == changed);
        let at = mount.at.clone();
        let partials = || plain::files(&at.join(".larder/partial"));
        drop(mount.unmount());
        assert_eq!(plain::files(&at).len(), 0);
        assert!(partials().is_empty(), "{:?}", partials());
    }
}
