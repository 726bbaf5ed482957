//! Bad days: bad places, full disks, servers that are gone, silent or lying, broken indexes.
//! Each gives one clear line, nothing hangs, nothing is lost, and the mount works afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "bad_days/disk.rs"]
mod disk;
#[path = "bad_days/dying.rs"]
mod dying;
#[path = "bad_days/full.rs"]
mod full;
#[path = "bad_days/keys.rs"]
mod keys;
#[path = "bad_days/places.rs"]
mod places;

#[path = "bad_days/bodies.rs"]
mod bodies;
#[path = "bad_days/endless.rs"]
mod endless;
#[path = "bad_days/index.rs"]
mod index;
#[path = "bad_days/liar.rs"]
mod liar;
#[path = "bad_days/listings.rs"]
mod listings;
#[path = "bad_days/room.rs"]
mod room;
#[path = "bad_days/servers.rs"]
mod servers;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Mount;

pub const SECOND: Duration = Duration::from_secs(1);
/// Longer than any deadline that a person may run into.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs to its end, or fails: nothing may hang.
#[track_caller]
pub fn ends(command: &mut Command) -> Output {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let readers = [
        drain(child.stdout.take().unwrap()),
        drain(child.stderr.take().unwrap()),
    ];
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            give_up(&mut child);
            panic!("hangs: {name}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap());
    Output {
        status,
        stdout,
        stderr,
    }
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// One that waits in the kernel does not even die; nobody waits for it.
fn give_up(child: &mut Child) {
    let _ = child.kill();
}

/// The one line of complaint of a command that failed.
#[track_caller]
pub fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("os error"), "{text}");
    let line = text.trim_end().strip_prefix("larder: ");
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// What `cat` gives of a file, as far as it comes, and what it complains of.
#[track_caller]
pub fn cat(path: &Path) -> (Vec<u8>, String) {
    let output = ends(Command::new("cat").arg(path));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    (output.stdout, said)
}

/// What `status` shows to people.
#[track_caller]
pub fn shown(mount: &Mount<'_>) -> String {
    let output = ends(mount.lab.larder().arg("status").arg(&mount.at));
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The notes of `status`.
pub fn notes(mount: &Mount<'_>) -> Vec<String> {
    let status = mount.status();
    let notes = status["notes"].as_array().unwrap();
    notes
        .iter()
        .map(|n| n.as_str().unwrap().to_owned())
        .collect()
}

/// `away`, `online` or `connecting`.
pub fn state(mount: &Mount<'_>) -> String {
    let status = mount.status();
    status["remotes"][0]["state"].as_str().unwrap().to_owned()
}

pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}
