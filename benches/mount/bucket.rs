//! A store that speaks S3 and takes 43 ms to begin each answer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Bench;
use crate::common::bytes;
use crate::measure::{files, reads, sequential};
use crate::peers::{rclone_s3, s3fs};
use crate::python::python;
use crate::report::{LARDER, PEER, Report, Row, Unit};
use crate::s3::{Habits, S3Server};
use crate::systems::{System, fresh_larder};

const DELAY: Duration = Duration::from_millis(43);
/// Fresh mounts of each over the large object; the best counts.
const TURNS: usize = 2;
const FILES: usize = 400;
const DIRS: usize = 8;
const SMALL: &str = "small";
const LARGE: &str = "large";

/// Of the table: rows, and a store that is so slow to answer that its answers can be counted.
const ROWS: &str = "655360";
const SLOW: Duration = Duration::from_millis(500);
const TABLE: &str = "table";

/// A store with objects already in it.
fn store() -> S3Server {
    let store = S3Server::start(Habits {
        delay: DELAY,
        ..Habits::default()
    });
    for n in 0..FILES {
        let key = format!("{SMALL}/dir_{}/result_{n}.pkl", n % DIRS);
        store.place(&key, bytes(n as u64, 100_000));
    }
    store
}

/// Everybody over the objects below `prefix`.
fn all<'a>(
    bench: &'a Bench,
    store: &'a S3Server,
    prefix: &'static str,
    count: usize,
) -> Vec<System<'a>> {
    let lab = &bench.lab;
    vec![
        System::new(LARDER, move || {
            let args = ["--remote".to_owned(), store.url(prefix)];
            fresh_larder(lab, &args, &S3Server::env(), count)
        }),
        rclone_s3(lab, store, prefix, "off"),
        rclone_s3(lab, store, prefix, "full"),
        s3fs(lab, store, prefix),
    ]
}

/// Small files, one after the other.
pub fn small(bench: &Bench, report: &mut Report) {
    let work = "cold files of 100 KB from an S3 store with 43 ms a request, one reader, in the order of `find`";
    let mut row = Row::new(work, Unit::PerSecond).at_least(10.0, PEER);
    let store = store();
    for system in all(bench, &store, SMALL, FILES) {
        report.tried(&system.name, |_| {
            let mounted = system.mount();
            let names = files(&mounted.at);
            assert_eq!(names.len(), FILES, "files in the store");
            row.add(&system.name, reads(&mounted.at, &names).per_second());
        });
    }
    report.push(row);
}

/// One large object.
pub fn large(bench: &Bench, report: &mut Report) {
    let work = "cold 1 GiB from the same store";
    let mut row = Row::new(work, Unit::BytesPerSecond).at_least(1.2, PEER);
    let store = store();
    store.place(&format!("{LARGE}/large.bin"), bytes(7, 1 << 30));
    for system in (0..TURNS).flat_map(|_| all(bench, &store, LARGE, 1)) {
        report.tried(&system.name, |_| {
            let mounted = system.mount();
            row.add(&system.name, sequential(&mounted.at.join("large.bin")));
        });
    }
    report.push(row);
}

/// What `tests/apps/columns.py` prints.
fn columns(words: &[&str]) -> f64 {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/columns.py");
    let output = Command::new(python())
        .arg("-B")
        .arg(program)
        .args(words)
        .output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.trim().parse().unwrap()
}

/// Two columns of forty.
pub fn table(bench: &Bench, report: &mut Report) {
    let work = "two columns of 40 from a 200 MB Parquet file in an S3 store";
    let times = format!("{work}: bytes sent, of those that columns and footer are");
    let mut bytes = Row::new(times, Unit::Times).below(1.15);
    let mut trips = Row::new("the same: round trips until they are there", Unit::Count).below(3.0);
    let made = bench.lab.path("table.parquet");
    let needed = columns(&["make", made.to_str().unwrap(), ROWS]);
    let store = S3Server::start(Habits::default());
    store.place(&format!("{TABLE}/table.parquet"), fs::read(&made).unwrap());
    for system in all(bench, &store, TABLE, 1) {
        report.tried(&system.name, |_| {
            for reader in ["pyarrow", "polars", "duckdb"] {
                let who = match reader {
                    "pyarrow" => system.name.clone(),
                    other => format!("{} with {other}", system.name),
                };
                let mounted = system.mount();
                let at = mounted.at.join("table.parquet");
                assert!(at.exists());
                let before = store.sent();
                store.set(|habits| habits.delay = SLOW);
                let took = columns(&["time", reader, at.to_str().unwrap()]);
                store.set(|habits| habits.delay = Duration::ZERO);
                drop(mounted);
                bytes.add(&who, (store.sent() - before) as f64 / needed);
                trips.add(&who, (took / SLOW.as_secs_f64()).floor());
            }
        });
    }
    report.push(bytes);
    report.push(trips);
}
