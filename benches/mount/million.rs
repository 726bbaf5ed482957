//! Many entries: what knowing them costs.

use std::fs::{self, File};
use std::time::Instant;

use serde_json::Value;

use crate::common::get;
use crate::common::many::setting;
use crate::measure::walk;
use crate::report::{LARDER, Report, Row, Unit};
use crate::systems::{Mounted, fresh_larder, larder, status, wait_until};
use crate::{Bench, LONG};

const BESIDE: usize = 1_000;

/// What of it is in memory, in MiB.
fn resident(bench: &Bench, mounted: &Mounted) -> f64 {
    let pid = status(&bench.lab, mounted)["pid"].as_u64().unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}

/// Files with a size and no bytes.
fn fill(bench: &Bench, entries: usize) {
    for dir in 0..entries.div_ceil(BESIDE) {
        let at = bench.lab.dir(format!("entries/dir_{dir}"));
        for n in 0..BESIDE.min(entries - dir * BESIDE) {
            let file = File::create(at.join(format!("result_{n}.pkl"))).unwrap();
            file.set_len(100_000).unwrap();
        }
    }
}

pub fn entries(bench: &Bench, report: &mut Report) {
    let entries = setting("LARDER_BENCH_ENTRIES", 1_000_000);
    fill(bench, entries);
    let begun = Instant::now();
    let server = bench.lab.serve("entries", &[]);
    wait_until("the server knows all entries", 2 * LONG, || {
        let info = serde_json::from_str::<Value>(&get(&format!("{}/v1/info", server.url)));
        info.unwrap()["files"] == entries
    });
    let mut row = Row::new(
        format!("the server's first scan of {entries} files"),
        Unit::Seconds,
    );
    row.add(LARDER, begun.elapsed().as_secs_f64());
    report.push(row);
    let args = ["--remote", &server.url].map(str::to_owned);
    let begun = Instant::now();
    let mounted = fresh_larder(&bench.lab, &args, &[], entries);
    let mut row = Row::new(
        format!("first mount until {entries} entries are listed"),
        Unit::Seconds,
    );
    row.add(LARDER, begun.elapsed().as_secs_f64());
    report.push(row);
    drop(mounted);
    let begun = Instant::now();
    let mounted = larder(&bench.lab, "fresh", &args, &[]);
    assert!(fs::read_dir(&mounted.at).unwrap().count() > 0);
    let work = format!("mount ready with {entries} entries in the index");
    let mut row = Row::new(work, Unit::Seconds).below(1.0);
    row.add(LARDER, begun.elapsed().as_secs_f64());
    report.push(row);
    let mut row = Row::new("its resident memory then", Unit::Mib).below(64.0);
    row.add(LARDER, resident(bench, &mounted));
    report.push(row);
    let mut row = Row::new("`find -type f -size +0` over them", Unit::Seconds);
    row.add(LARDER, walk(&mounted.at, entries));
    report.push(row);
    let mut row = Row::new("resident memory after it", Unit::Mib).below(200.0);
    row.add(LARDER, resident(bench, &mounted));
    report.push(row);
    drop(mounted);
    drop(server);
    for dir in ["entries", "fresh"] {
        let _ = fs::remove_dir_all(bench.lab.path(dir));
    }
}
