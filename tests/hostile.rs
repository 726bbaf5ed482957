//! Whatever comes from outside: every seed of the fuzz targets, and thousands of mutations of
//! each, through the same entry functions (promise P10).
//!
//! What must hold for any bytes is in `hostile/entries.rs`, which `fuzz/` uses as well. An input
//! that breaks something is written to the target directory; it belongs beside the seeds, under a
//! name that says what it is. `LARDER_HOSTILE_ROUNDS` and `LARDER_HOSTILE_SEED` ask for more, and
//! for others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "hostile/entries.rs"]
mod entries;
#[path = "hostile/mutate.rs"]
mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;

/// No input, however strange, may take longer; all of them are small.
const LONGEST: Duration = Duration::from_secs(2);
/// Nor may all of them together take more memory than this.
const MEMORY_KB: u64 = 256 << 10;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/seeds");
    let entries = fs::read_dir(dir.join(target)).unwrap();
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 12, "{target} has few seeds");
    seeds
}

/// Runs one input. Err: what it broke.
fn run(entry: fn(&[u8]), input: &[u8]) -> Result<(), String> {
    let begun = Instant::now();
    let ran = catch_unwind(AssertUnwindSafe(|| entry(input)));
    let took = begun.elapsed();
    match ran {
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()),
        Ok(()) if took > LONGEST => Err(format!("it took {took:?}")),
        Ok(()) => Ok(()),
    }
}

fn memory_kb() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// All seeds, then `rounds` mutations of them.
fn withstand(target: &str, entry: fn(&[u8]), rounds: u64) {
    let seeds = seeds(target);
    for (path, input) in &seeds {
        if let Err(why) = run(entry, input) {
            panic!("{}: {why}", path.display());
        }
    }
    let inputs: Vec<&[u8]> = seeds.iter().map(|(_, input)| input.as_slice()).collect();
    let mut mutator = Mutator::new(setting("LARDER_HOSTILE_SEED", 1));
    for round in 0..setting("LARDER_HOSTILE_ROUNDS", rounds) {
        let input = mutator.next(&inputs);
        if let Err(why) = run(entry, &input) {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{round}"));
            fs::write(&kept, &input).unwrap();
            panic!("round {round}, kept at {}: {why}", kept.display());
        }
    }
    let memory = memory_kb();
    assert!(memory < MEMORY_KB, "{memory} KiB");
}

#[test]
fn p10_no_path_climbs_whatever_its_bytes() {
    withstand("path", entries::path, 40_000);
}

#[test]
fn p10_no_listing_is_too_strange() {
    withstand("listing", entries::listing, 15_000);
}

#[test]
fn p10_no_header_is_too_strange() {
    withstand("header", entries::header, 30_000);
}

#[test]
fn p10_no_range_leaves_its_file() {
    withstand("range", entries::range, 30_000);
}

#[test]
fn p10_no_footer_is_too_strange() {
    withstand("footer", entries::footer, 40_000);
}

#[test]
fn p10_no_saved_set_is_too_strange() {
    withstand("partial", entries::partial, 30_000);
}

#[test]
fn p10_no_foreign_index_is_too_strange() {
    withstand("index_file", entries::index_file, 2_000);
}

#[test]
fn p10_no_settings_are_too_strange_and_their_errors_are_one_line() {
    withstand("settings", entries::settings, 8_000);
}

#[test]
fn p10_no_url_is_too_strange_and_none_shows_its_password() {
    withstand("url", entries::url, 20_000);
}
