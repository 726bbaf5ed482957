//! Requests a second of `larder serve` and of a stand-in of an FXCACHE server (Flask), over the
//! same files, by the same clients, in turns, in one run: `make bench`.
//!
//! Prints the figures and their ratios, and fails when one is below its goal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a benchmark"
)]

#[path = "mount/client.rs"]
mod client;
#[path = "../tests/fxcache/stand_in.rs"]
mod stand_in;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Client, get};
use stand_in::StandIn;

/// Small files, as many as such a folder has, and some of the usual size.
const SMALL: usize = 63_000;
const USUAL: usize = 200;
const USUAL_BYTES: usize = 100_000;
/// Clients at a time, and for how long; each server has this many turns.
const CLIENTS: usize = 4;
const TURN: Duration = Duration::from_secs(2);
const TURNS: usize = 3;

/// What is asked, and how many times faster ours has to be.
struct Task {
    name: &'static str,
    goal: f64,
    request: fn(usize) -> String,
}

const TASKS: [Task; 3] = [
    Task {
        name: "/exists",
        goal: 10.0,
        request: |n| get(&format!("/exists?path={}", small(n % (SMALL * 2)))),
    },
    Task {
        name: "/exists_batch (500)",
        goal: 10.0,
        request: batch,
    },
    Task {
        name: "/download (100 KB)",
        goal: 5.0,
        request: |n| get(&format!("/download?path=usual/{}.pkl", n % USUAL)),
    },
];

fn small(n: usize) -> String {
    format!("TB/EURUSD_{}/strategy_{n}.pkl", n % 97)
}

/// Half of the names exist.
fn batch(n: usize) -> String {
    let mut body = String::from("{\"paths\":[");
    for i in 0..500 {
        let comma = if i == 0 { "" } else { "," };
        let name = small((n * 500 + i * 7) % (SMALL * 2));
        write!(body, "{comma}\"{name}\"").unwrap();
    }
    body.push_str("]}");
    let length = body.len();
    format!(
        "POST /exists_batch HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Requests a second of all clients together.
fn turn(url: &str, task: &Task) -> f64 {
    let address = url.strip_prefix("http://").unwrap();
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|threads| {
        for c in 0..CLIENTS {
            let (done, answers) = (&done, &answers);
            threads.spawn(move || {
                let mut client = Client::new(address);
                // Made before, so that making them is not measured.
                let requests: Vec<String> =
                    (0..256).map(|i| (task.request)(i * CLIENTS + c)).collect();
                let mut turn = requests.iter().cycle();
                while !done.load(Ordering::Relaxed) {
                    client.ask(turn.next().unwrap()).unwrap();
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(TURN);
        done.store(true, Ordering::Relaxed);
    });
    answers.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn fill(root: &Path) {
    for n in 0..SMALL {
        let path = root.join(small(n));
        if n < 97 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        std::fs::write(path, b"x").unwrap();
    }
    std::fs::create_dir(root.join("usual")).unwrap();
    for n in 0..USUAL {
        let content = vec![u8::try_from(n).unwrap(); USUAL_BYTES];
        std::fs::write(root.join(format!("usual/{n}.pkl")), content).unwrap();
    }
}

/// Our server, everything seen.
fn ours(root: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["serve", "--host", "127.0.0.1", "--port", "0"])
        .arg(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut url = None;
    for line in lines.by_ref().map_while(Result::ok) {
        if let (true, Some(at)) = (line.starts_with("serving"), line.find("http")) {
            url = Some(line[at..].trim().to_owned());
        }
        if line.contains("index is current") {
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    (child, url.expect("an address"))
}

fn refreshed(url: &str) {
    let address = url.strip_prefix("http://").unwrap();
    let mut client = Client::new(address);
    loop {
        client.ask(&get("/refresh/status")).unwrap();
        if String::from_utf8_lossy(&client.body).contains("complete") {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn main() {
    let theirs_root = tempfile::tempdir().unwrap();
    let ours_root = tempfile::tempdir().unwrap();
    fill(theirs_root.path());
    fill(ours_root.path());
    let theirs = StandIn::serve(theirs_root.path(), &[]);
    let (mut child, url) = ours(ours_root.path());
    refreshed(&theirs.url);
    println!("{SMALL} small files, {CLIENTS} clients, the best of {TURNS} turns of {TURN:?} each");
    println!(
        "{:<22}{:>12}{:>12}{:>8}{:>7}",
        "requests a second", "stand-in", "larder", "ratio", "goal"
    );
    let mut missed = false;
    for task in &TASKS {
        // One turn each that does not count: caches fill, threads start.
        turn(&theirs.url, task);
        turn(&url, task);
        let (mut there, mut here) = (0.0_f64, 0.0_f64);
        for _ in 0..TURNS {
            there = there.max(turn(&theirs.url, task));
            here = here.max(turn(&url, task));
        }
        let ratio = here / there;
        let (name, goal) = (task.name, task.goal);
        println!("{name:<22}{there:>12.0}{here:>12.0}{ratio:>7.1}x{goal:>6.0}x");
        missed |= ratio < goal;
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(!missed, "a ratio is below its goal");
}
