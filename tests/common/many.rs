//! Many files at once: made, copied, compared and counted by the system's own tools.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Lab, Mount, bytes};

pub fn setting(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

/// Prints how long something took, and gives that back.
pub fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed();
    println!("{what}: {:.2} s", took.as_secs_f64());
    (result, took)
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(600),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A mount at `mnt` of a server with so many files, listed.
pub fn mount_all<'a>(lab: &'a Lab, flags: &[&str], files: usize) -> Mount<'a> {
    let (mount, _) = timed("first mount and its listing", || {
        let mount = lab.mount("mnt", flags);
        wait_until("all files are listed", || {
            mount.status()["known"]["files"] == files
        });
        mount
    });
    mount
}

/// Files in the shapes that an FXCACHE has.
pub fn fxcache(root: &Path, files: usize, mean: usize) {
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

pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// `diff -r`, which prints nothing when nothing differs.
pub fn same(a: &Path, b: &Path) {
    let printed = run(Command::new("diff")
        .args(["-r", "-x", ".larder"])
        .arg(a)
        .arg(b));
    assert_eq!(printed, "");
}

/// How many files `find` finds.
pub fn count(at: &Path) -> usize {
    let printed = run(Command::new("find")
        .arg(at)
        .args(["-type", "f", "-printf", "x"]));
    printed.len()
}
