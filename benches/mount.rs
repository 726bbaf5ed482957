//! Mounts: Larder, its peers, a bare directory and the limit of the interface, side by side, in
//! one run: `make bench`.
//!
//! Writes `benches/RESULTS.md`. Asserts no times: a goal that is missed is said to be. With names
//! of parts as arguments it does these only, and prints what it finds.
//!   LARDER_BENCH_FILES    how many files (63,000)
//!   LARDER_BENCH_ENTRIES  how many entries where only their number counts (1,000,000)
//!   LARDER_BENCH_RCLONE   the rclone to use
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a benchmark"
)]

#[path = "mount/bucket.rs"]
mod bucket;
#[path = "mount/client.rs"]
mod client;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "mount/held.rs"]
mod held;
#[path = "mount/lan.rs"]
mod lan;
#[path = "mount/machine.rs"]
mod machine;
#[path = "mount/measure.rs"]
mod measure;
#[path = "mount/million.rs"]
mod million;
#[path = "mount/peers.rs"]
mod peers;
#[path = "../tests/common/python.rs"]
mod python;
#[path = "mount/report.rs"]
mod report;
#[path = "../tests/common/s3.rs"]
mod s3;
#[path = "mount/scratch.rs"]
mod scratch;
#[path = "mount/systems.rs"]
mod systems;
#[path = "mount/yardstick.rs"]
mod yardstick;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use common::many::{fxcache, setting, timed};
use common::{Lab, Server, get};
use peers::Sshd;
use report::Report;
use yardstick::Source;

/// How long the slowest preparation may take.
pub const LONG: Duration = Duration::from_secs(600);
const MEAN: usize = 103_000;

/// Each part of the work, by its name.
type Part = (&'static str, fn(&Bench, &mut Report));

const PARTS: [Part; 10] = [
    ("metadata", held::metadata),
    ("files", held::files),
    ("large", held::large),
    ("lan", lan::reading),
    ("writes", lan::writing),
    ("news", lan::news),
    ("bucket", bucket::small),
    ("bucket-large", bucket::large),
    ("bucket-table", bucket::table),
    ("entries", million::entries),
];

/// What has no row yet.
const NOT_YET: [&str; 2] = [
    "mountpoint-s3: not in the registries that the benchmark installs from",
    "s3fs where what is there is held: it is a peer in the rows of the S3 store only",
];

/// What all parts share. Its directory goes last.
pub struct Bench {
    sshd: Sshd,
    server: Server,
    /// Every file, from the data's directory, in the order of `find`.
    names: Vec<PathBuf>,
    lab: Lab,
}

impl Bench {
    fn new() -> Bench {
        let (lab, files) = (Lab::new(), setting("LARDER_BENCH_FILES", 63_000));
        let data = lab.dir("srv");
        timed("making the files", || fxcache(&data, files, MEAN));
        let names = measure::files(&data);
        assert_eq!(names.len(), files);
        let server = lab.serve("srv", &[]);
        systems::wait_until("the server knows all files", LONG, || {
            let info = serde_json::from_str::<Value>(&get(&format!("{}/v1/info", server.url)));
            info.unwrap()["files"] == files
        });
        let sshd = Sshd::start(&lab);
        Bench {
            sshd,
            server,
            names,
            lab,
        }
    }

    /// Where the files are.
    fn data(&self) -> PathBuf {
        self.lab.path("srv")
    }
}

fn written(report: &Report, bench: &Bench, loads: [&str; 2]) -> String {
    // Where this machine keeps things is nobody's business.
    let place = bench.lab.path("").display().to_string();
    let list = |lines: &[String]| {
        let lines = lines.iter().map(|line| line.replace(&place, ""));
        lines.map(|line| format!("- {line}\n")).collect::<String>()
    };
    let not_yet: Vec<String> = NOT_YET.iter().map(|line| (*line).to_owned()).collect();
    let failures = match report.failures() {
        [] => String::new(),
        lines => format!("\n## Broke off\n\n{}", list(lines)),
    };
    format!(
        "# Results of `make bench`: mounts\n\n\
         {}\n\n\
         One run on one machine; compare ratios, not figures. Of several turns the best counts, for\n\
         everybody. \"FUSE limit\" is a file system that has the whole tree in memory and only answers\n\
         (`mount/yardstick.rs`), neither verifies nor keeps what it fetches, and notes nothing of what\n\
         is written (`mount/scratch.rs`). rclone stands over a local directory, or over the S3 store; sshfs and\n\
         the server are reached over the loopback.\n\n\
         {}\n## Not measured yet\n\n{}{failures}\n## Where\n\n\
         - files: {}, of {MEAN} bytes in the mean\n{}\
         - load average before: {}; after: {}. Above the number of cores others were working too.\n",
        report.sums(),
        report.table(),
        list(&not_yet),
        bench.names.len(),
        machine::facts(&bench.data()),
        loads[0],
        loads[1],
    )
}

/// Is the limit of the interface, in the way that the words ask for.
fn limit(dir: &Path, at: &Path, how: &[String]) {
    let how: Vec<_> = how.iter().map(String::as_str).collect();
    match how.as_slice() {
        ["passthrough"] => yardstick::serve(dir, at, Source::Passthrough),
        ["read"] => yardstick::serve(dir, at, Source::Files),
        ["fetch", address] => yardstick::serve(dir, at, Source::Server((*address).to_owned())),
        ["write"] => scratch::serve(dir, at),
        other => panic!("{other:?}"),
    }
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|w| !w.starts_with("--"))
        .collect();
    if let [first, dir, at, how @ ..] = words.as_slice()
        && first == "yardstick"
    {
        return limit(Path::new(dir), Path::new(at), how);
    }
    // One line each: what breaks off is reported in its place.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let before = machine::load();
    let (bench, mut report) = (Bench::new(), Report::default());
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|word| word == name) {
            println!("{name}");
            timed(name, || report.tried(name, |report| part(&bench, report)));
        }
    }
    let text = written(&report, &bench, [&before, &machine::load()]);
    match words.is_empty() {
        true => {
            let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
            std::fs::write(&at, &text).unwrap();
            println!("written: {}", at.display());
        }
        false => println!("{text}"),
    }
}
