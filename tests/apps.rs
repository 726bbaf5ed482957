//! What people run on such folders, on real mounts: pandas, pyarrow, polars, DuckDB, SQLite; git, cargo,
//! tar, rsync.
//!
//! The programs are in `tests/apps/`; `packaging/python-tools.sh` makes their environment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/python.rs"]
mod python;
#[path = "apps/tools.rs"]
mod tools;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Lab, eventually};

/// How held files are read: past the daemon where that is possible, or through it.
const WAYS: [&[&str]; 2] = [&[], &["--no-passthrough"]];

/// A program of `tests/apps/`, to be run.
fn program<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/apps")
        .join(name);
    let mut command = Command::new(python::python());
    command.arg("-B").arg(file).args(words).stdin(Stdio::null());
    command
}

/// Runs it; it checks what it does, and fails if something is not right.
fn run<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> String {
    let output = program(name, words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn ended(child: Child, name: &str) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn start<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> Child {
    program(name, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn p14_tables_are_read_cold_and_warm_with_every_reader() {
    let lab = Lab::new();
    let real = lab.dir("srv");
    run("tables.py", [OsStr::new("make"), real.as_os_str()]);
    for (n, way) in WAYS.iter().enumerate() {
        let server = lab.serve("srv", &[]);
        let flags = [&["--remote", &server.url], *way].concat();
        let mount = lab.mount(&format!("mnt{n}"), &flags);
        eventually("the tables are listed", || {
            mount.path("parts/7.parquet").exists()
        });
        let read = || run("tables.py", [Path::new("read"), &mount.at, &real]);
        read();
        eventually("all of them are kept", || {
            mount.status()["held"] == mount.status()["known"]
        });
        let before = server.requests();
        read();
        assert_eq!(server.requests(), before, "a warm run asks for nothing");
    }
}

/// What DuckDB, pyarrow (mapped or not), pandas and polars fetch of a table of 100 MB, cold.
#[test]
fn p14_two_columns_of_a_big_table_cost_two_columns() {
    let lab = Lab::new();
    let there = lab.dir("srv").join("big.parquet");
    let there = there.to_str().unwrap();
    let needed = run("columns.py", ["make", there, "320000"]);
    let needed: u64 = needed.trim().parse().unwrap();
    let server = lab.serve("srv", &[]);
    let wire = proxy::Proxy::to(&server.url);
    for (n, reader) in ["pyarrow", "mapped", "pandas", "polars", "duckdb"]
        .iter()
        .enumerate()
    {
        let sum = run("columns.py", ["read", reader, there]);
        let name = format!("mnt{n}");
        let cost = |known: bool| {
            let flags = [&["--remote", &wire.url], WAYS[n % 2]].concat();
            let mount = lab.mount(&name, &flags);
            let path = mount.path("big.parquet");
            eventually("the table is listed", || path.exists());
            let (came, asked) = (wire.down(), server.stats()["get"].as_u64().unwrap());
            let here = run("columns.py", ["read", reader, path.to_str().unwrap()]);
            assert_eq!(here, sum, "{reader}");
            assert_eq!(mount.status()["held"]["files"], 0, "{reader}");
            mount.unmount();
            let asked = server.stats()["get"].as_u64().unwrap() - asked;
            println!(
                "{reader}, known {known}: {} bytes, {asked} requests",
                wire.down() - came
            );
            wire.down() - came
        };
        let came = cost(false);
        assert!(came * 100 <= needed * 115, "{reader}: {came} of {needed}");
        // The pieces are there after a restart.
        let came = cost(true);
        assert!(came < needed / 10, "{reader}: {came}, again");
    }
}

#[test]
fn p3_tables_are_written_in_every_way_and_go_up_whole() {
    for way in WAYS {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let flags = [&["--remote", &server.url, "--upload"], way].concat();
        let mount = lab.mount("mnt", &flags);
        run("tables.py", [Path::new("write"), &mount.at]);
        mount.flush();
        let names = common_names(&mount.path("out"));
        assert_eq!(names.len(), 6, "{names:?}");
        assert_eq!(common_names(&server.root.join("out")), names);
        for name in names {
            let here = std::fs::read(mount.path("out").join(&name)).unwrap();
            let there = std::fs::read(server.root.join("out").join(&name)).unwrap();
            assert!(here == there, "{name} is another on the server");
        }
    }
}

fn common_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn p3_sqlite_in_wal_mode_takes_two_writers_and_goes_up_whole() {
    const ROWS: &str = "1000";
    for way in WAYS {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let flags = [&["--remote", &server.url, "--upload"], way].concat();
        let mount = lab.mount("mnt", &flags);
        let path = mount.path("fits.db");
        let path = path.to_str().unwrap();
        let writers =
            ["a", "b"].map(|who| start("databases.py", ["sqlite-insert", path, who, ROWS]));
        for writer in writers {
            ended(writer, "a writer");
        }
        run("databases.py", ["sqlite-check", path, ROWS]);
        mount.flush();
        assert_eq!(common_names(&server.root), [".larder", "fits.db"]);
        // Cold, on another machine: in a copy, for opening a database writes to it.
        let other = lab.mount("other", &["--remote", &server.url]);
        eventually("the database is listed", || other.path("fits.db").exists());
        let there = other.path("fits.db");
        run(
            "databases.py",
            ["sqlite-check", there.to_str().unwrap(), ROWS],
        );
        let at = mount.unmount();
        let plain = at.join("fits.db");
        run(
            "databases.py",
            ["sqlite-check", plain.to_str().unwrap(), ROWS],
        );
    }
}

#[test]
fn p3_duckdb_keeps_a_second_writer_out_and_its_data_whole() {
    for way in WAYS.iter() {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let flags = [&["--remote", &server.url], *way].concat();
        let mount = lab.mount("mnt", &flags);
        let path = mount.path("fits.duckdb");
        let path = path.to_str().unwrap();
        let mut holder = program("databases.py", ["duckdb-hold", path]);
        let mut holder = holder
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line != "held\n" {
            ended(holder, "the holder");
            panic!("the holder said {line:?}");
        }
        run("databases.py", ["duckdb-refused", path]);
        drop(holder.stdin.take());
        ended(holder, "the holder");
        run("databases.py", ["duckdb-check", path, "102000"]);
        let at = mount.unmount();
        let plain = at.join("fits.duckdb");
        run(
            "databases.py",
            ["duckdb-check", plain.to_str().unwrap(), "102000"],
        );
    }
}

/// One machine rewrites a table a hundred times while another reads it.
/// Returns how many reads gave a whole table, and how many were refused as stale.
fn rewritten(how: &str, rows: &str, way: &[&str]) -> (u64, u64) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let writer = [&["--remote", &server.url, "--upload"], way].concat();
    let reader = [&["--remote", &server.url], way].concat();
    let (a, b) = (lab.mount("a", &writer), lab.mount("b", &reader));
    let (from, to) = (a.path("fit.parquet"), b.path("fit.parquet"));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    run("rewrite.py", [how, from, rows, "1"]);
    eventually("the table is seen by the other", || {
        b.path("fit.parquet").exists()
    });
    // Beside the writer it is as on any disk: only what is renamed is whole at any moment.
    let beside = (how == "replace").then(|| start("rewrite.py", ["read", from, rows, "100"]));
    let reading = start("rewrite.py", ["read", to, rows, "100"]);
    run("rewrite.py", [how, from, rows, "100"]);
    if let Some(beside) = beside {
        ended(beside, "the reader beside the writer");
    }
    let said = ended(reading, "the reader elsewhere");
    let mut counts = said.split_whitespace().map(|n| n.parse().unwrap());
    (counts.next().unwrap(), counts.next().unwrap())
}

#[test]
fn p1_a_small_table_rewritten_a_hundred_times_is_always_whole() {
    for (way, how) in WAYS.iter().zip(["write", "replace"]) {
        let (reads, stale) = rewritten(how, "20000", way);
        assert!(reads > 0);
        assert_eq!(
            stale, 0,
            "a file that is fetched whole at open is never stale"
        );
    }
}

#[test]
fn p1_a_large_table_rewritten_a_hundred_times_is_whole_or_stale() {
    for (way, how) in WAYS.iter().zip(["replace", "write"]) {
        let (reads, _) = rewritten(how, "200000", way);
        assert!(reads > 0);
    }
}

#[test]
fn p13_a_copy_carries_the_files_attributes_and_none_of_ours() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let file = mount.path("fit.pkl");
    std::fs::write(&file, "fit").unwrap();
    // To a plain directory, and beside it.
    run("attributes.py", [&file, &lab.path("copy.pkl")]);
    run("attributes.py", [&file, &mount.path("copy.pkl")]);
}
