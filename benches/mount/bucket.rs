//! A store that speaks S3 and takes 43 ms to begin each answer.

use std::time::Duration;

use crate::Bench;
use crate::common::bytes;
use crate::measure::{files, reads, sequential};
use crate::peers::{rclone_s3, s3fs};
use crate::report::{LARDER, PEER, Report, Row, Unit};
use crate::s3::{Habits, S3Server};
use crate::systems::{System, fresh_larder};

const DELAY: Duration = Duration::from_millis(43);
const FILES: usize = 400;
const DIRS: usize = 8;
const SMALL: &str = "small";
const LARGE: &str = "large";

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
    for system in all(bench, &store, LARGE, 1) {
        report.tried(&system.name, |_| {
            let mounted = system.mount();
            row.add(&system.name, sequential(&mounted.at.join("large.bin")));
        });
    }
    report.push(row);
}
