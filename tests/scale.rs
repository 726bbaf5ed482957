//! Many files behind one server, on a real mount: what must not grow with their number,
//! and what must be right for every one of them.
//!
//! `make test` does it with a few thousand; `packaging/scale.sh` with 63,000 files of
//! 6.5 GB in the path shapes of an FXCACHE, and prints the figures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Lab, Mount, bytes, get};
use serde_json::Value;

/// A daemon may take this much memory, however many files there are.
const MEMORY_KB: u64 = 200 << 10;

fn setting(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

/// Prints how long something took, and gives that back.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed();
    println!("{what}: {:.2} s", took.as_secs_f64());
    (result, took)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(600),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Files in the shapes that an FXCACHE has.
fn fxcache(root: &Path, files: usize, mean: usize) {
    const PAIRS: [&str; 7] = [
        "EURUSD", "GBPUSD", "USDJPY", "AUDUSD", "USDCHF", "NZDUSD", "EURGBP",
    ];
    let noise = bytes(5002, 3 * mean);
    let mut chance = 5002_u64;
    let mut next = || {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (chance >> 33) as usize
    };
    let mut made = std::collections::HashSet::new();
    for n in 0..files {
        let (pair, id) = (PAIRS[n % 7], next());
        let path = match n % 12 {
            0..4 => format!("TB/{pair}_{id:08x}{n}.pkl"),
            4 | 5 => format!("MT/result_0x{id:08x}{n}.pkl"),
            6 | 7 => format!("FIT/opt_{pair}_{n}.pkl"),
            8 => format!("TT/cached_{id:08x}{n}.pkl"),
            9 | 10 => format!("oanda-london-tf_M{}/{pair}/prices_{id:08x}{n}.pkl", n % 60),
            _ => format!("8/oanda/{pair}/meta_{n}.json"),
        };
        let path = root.join(path);
        let parent = path.parent().unwrap();
        if made.insert(parent.to_owned()) {
            fs::create_dir_all(parent).unwrap();
        }
        let size = (next() % (2 * mean)).max(8);
        let from = next() % mean;
        let mut body = noise[from..from + size].to_vec();
        // No two alike.
        body[..8].copy_from_slice(&(n as u64).to_le_bytes());
        fs::write(path, body).unwrap();
    }
}

/// Runs a command of the system that has to succeed; gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        printed.chars().take(2000).collect::<String>()
    );
    printed
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// `diff -r`, which prints nothing when nothing differs.
fn same(a: &Path, b: &Path) {
    let printed = run(Command::new("diff")
        .args(["-r", "-x", ".larder"])
        .arg(a)
        .arg(b));
    assert_eq!(printed, "");
}

/// How many files `find` finds.
fn count(at: &Path) -> usize {
    let printed = run(Command::new("find")
        .arg(at)
        .args(["-type", "f", "-printf", "x"]));
    printed.len()
}

fn memory_kb(mount: &Mount<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn p14_many_files_are_listed_copied_and_then_cost_nothing() {
    let files = setting("LARDER_SCALE_FILES", 3_000);
    let lab = Lab::new();
    let real = lab.dir("srv");
    timed("making the files", || {
        fxcache(&real, files, setting("LARDER_SCALE_MEAN", 4_000));
    });
    let (server, _) = timed("first scan of the server", || {
        let server = lab.serve("srv", &[]);
        let info = || serde_json::from_str::<Value>(&get(&format!("{}/v1/info", server.url)));
        wait_until("the server knows all files", || {
            info().unwrap()["files"] == files
        });
        server
    });
    let flags = ["--remote", &server.url, "--min-free", "0B"];
    let (mount, _) = timed("first mount and its listing", || {
        let mount = lab.mount("mnt", &flags);
        wait_until("all files are listed", || {
            mount.status()["known"]["files"] == files
        });
        mount
    });
    let at = mount.unmount();

    let (mount, took) = timed("second mount until it answers", || {
        let mount = lab.mount("mnt", &flags);
        assert!(fs::read_dir(&at).unwrap().count() > 0);
        mount
    });
    assert!(took < Duration::from_secs(1), "{took:?}");
    let (found, _) = timed("find -type f", || count(&at));
    assert_eq!(found, files);

    let (first, second) = (lab.path("first"), lab.path("second"));
    timed("first cp -a", || copy(&at, &first));
    timed("diff -r", || same(&first, &real));
    fs::remove_dir_all(&first).unwrap();
    wait_until("all files are kept", || {
        mount.status()["held"]["files"] == files
    });
    let before = server.requests();
    assert_eq!(before, files as u64 + 1, "one request a file, one listing");
    timed("second cp -a", || copy(&at, &second));
    assert_eq!(server.requests(), before, "a warm copy asks for nothing");
    fs::remove_dir_all(&second).unwrap();

    let memory = memory_kb(&mount);
    println!("most memory of the daemon: {memory} KiB");
    assert!(memory < MEMORY_KB, "{memory} KiB");
    let at = mount.unmount();
    timed("diff -r of the plain folder", || same(&at, &real));
}
