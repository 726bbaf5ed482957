//! What is known and held: metadata, files of 100 KB, one large file.

use std::path::PathBuf;

use crate::Bench;
use crate::common::bytes;
use crate::measure::{absent, drop_page_cache, reads, sequential, shuffled, stats, walk};
use crate::peers::rclone_over;
use crate::report::{BARE, LIMIT, Report, Row, Unit};
use crate::systems::{System, knows, status};

/// Fresh mounts of each, in turns; the best counts.
const TURNS: usize = 2;
/// How often in a turn the same is done on one mount.
const AGAIN: usize = 3;
const ABSENT: usize = 20_000;
/// Files that are read, of all.
const READ: usize = 5_000;
const LARGE: &str = "large.bin";

/// Larder's store is filled without a copy: second names of the same files.
fn fill_store(bench: &Bench) {
    let store = bench.lab.path("held");
    if store.exists() {
        return;
    }
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg("-al").arg(bench.data()).arg(&store).status();
    assert!(copied.unwrap().success());
    let mounted = larder(bench, &[]).mount();
    knows(&bench.lab, &mounted, bench.names.len());
    crate::systems::wait_until("all files are held", crate::LONG, || {
        status(&bench.lab, &mounted)["held"]["files"] == bench.names.len()
    });
}

fn larder<'a>(bench: &'a Bench, more: &[&str]) -> System<'a> {
    let mut args = vec!["--remote".to_owned(), bench.server.url.clone()];
    args.extend(more.iter().map(|word| (*word).to_owned()));
    System::larder(&bench.lab, "held", args)
}

fn all(bench: &Bench) -> Vec<System<'_>> {
    vec![
        System::bare(bench.data()),
        System::limit(&bench.lab, bench.data(), &["passthrough"]),
        larder(bench, &[]),
        rclone_over(&bench.lab, bench.data(), "full"),
        bench.sshd.sshfs(&bench.lab, bench.data()),
    ]
}

/// First and second `stat`, of names that are and are not there; `find`.
pub fn metadata(bench: &Bench, report: &mut Report) {
    fill_store(bench);
    let names = shuffled(&bench.names, 1);
    let missing: Vec<PathBuf> = names
        .iter()
        .cycle()
        .take(ABSENT)
        .enumerate()
        .map(|(n, name)| name.with_file_name(format!("absent_{n}.pkl")))
        .collect();
    let mut rows = [
        Row::new(
            "first `stat` of every file, random order, fresh mount",
            Unit::PerSecond,
        )
        .at_least(0.65, LIMIT),
        Row::new("the same again", Unit::PerSecond).at_least(0.9, BARE),
        Row::new("first `stat` of 20,000 absent names", Unit::PerSecond).at_least(0.65, LIMIT),
        Row::new("the same again", Unit::PerSecond).at_least(0.8, BARE),
        Row::new("`find -type f -size +0` on a fresh mount", Unit::Seconds).below(1.0),
    ];
    for _ in 0..TURNS {
        for system in all(bench) {
            report.tried(&system.name, |_| {
                let mounted = system.mount();
                rows[0].add(&system.name, stats(&mounted.at, &names));
                for _ in 0..AGAIN {
                    rows[1].add(&system.name, stats(&mounted.at, &names));
                }
                drop(mounted);
                // Over in less than a second, and how fast it goes depends on which processor the kernel
                // wakes whoever answers on.
                for _ in 1..AGAIN {
                    rows[2].add(&system.name, absent(&system.mount().at, &missing));
                }
                let mounted = system.mount();
                rows[2].add(&system.name, absent(&mounted.at, &missing));
                for _ in 0..AGAIN {
                    rows[3].add(&system.name, absent(&mounted.at, &missing));
                }
                drop(mounted);
                let mounted = system.mount();
                rows[4].add(&system.name, walk(&mounted.at, bench.names.len()));
            });
        }
    }
    rows.into_iter().for_each(|row| report.push(row));
}

fn small(bench: &Bench, systems: &[System<'_>], how: &str, report: &mut Report) {
    let names = shuffled(&bench.names, 2);
    let names = &names[..READ.min(names.len())];
    let work = "open+read+close of a held file of about 100 KB";
    let mut warm = Row::new(format!("{work}, page cache warm{how}"), Unit::PerSecond);
    warm = warm.at_least(0.85, LIMIT);
    let mut cold = Row::new(format!("{work}, page cache cold{how}"), Unit::PerSecond);
    cold = cold.at_least(0.9, BARE);
    for _ in 0..TURNS {
        for system in systems {
            report.tried(&system.name, |_| {
                let mounted = system.mount();
                reads(&mounted.at, names);
                for _ in 0..AGAIN {
                    warm.add(&system.name, reads(&mounted.at, names).per_second());
                }
                // A disk's speed is not the same twice.
                for _ in 0..AGAIN {
                    if drop_page_cache() {
                        cold.add(&system.name, reads(&mounted.at, names).per_second());
                    }
                }
            });
        }
    }
    report.push(warm);
    report.push(cold);
}

/// Files of about 100 KB that are held, with and without passthrough.
pub fn files(bench: &Bench, report: &mut Report) {
    fill_store(bench);
    small(bench, &all(bench), "", report);
    let without = [
        System::bare(bench.data()),
        System::limit(&bench.lab, bench.data(), &["read"]),
        larder(bench, &["--no-passthrough"]),
    ];
    small(bench, &without, ", `--no-passthrough`", report);
}

fn one_large(systems: &[System<'_>], how: &str, times: f64, report: &mut Report) {
    let work = "1 GiB held file, sequential, page cache";
    let mut cold = Row::new(format!("{work} cold, {how}"), Unit::BytesPerSecond);
    cold = cold.at_least(times, BARE);
    let mut warm = Row::new(format!("{work} warm, {how}"), Unit::BytesPerSecond);
    warm = warm.at_least(times, BARE);
    for _ in 0..TURNS {
        for system in systems {
            report.tried(&system.name, |_| {
                let mounted = system.mount();
                let path = mounted.at.join(LARGE);
                for _ in 0..AGAIN {
                    if drop_page_cache() {
                        cold.add(&system.name, sequential(&path));
                    }
                }
                sequential(&path);
                for _ in 0..AGAIN {
                    warm.add(&system.name, sequential(&path));
                }
            });
        }
    }
    report.push(cold);
    report.push(warm);
}

/// One file of 1 GiB that is held.
pub fn large(bench: &Bench, report: &mut Report) {
    let (lab, dir) = (&bench.lab, bench.lab.dir("large"));
    let mut file = std::fs::File::create(dir.join(LARGE)).unwrap();
    let piece = bytes(3, 16 << 20);
    for _ in 0..64 {
        std::io::Write::write_all(&mut file, &piece).unwrap();
    }
    drop(file);
    let remote = lab.dir("nothing");
    let args = |more: &[&str]| {
        let remote = format!("file://{}", remote.display());
        let args = ["--remote", &remote]
            .into_iter()
            .chain(more.iter().copied());
        args.map(str::to_owned).collect::<Vec<_>>()
    };
    let with = [
        System::bare(dir.clone()),
        System::limit(lab, dir.clone(), &["passthrough"]),
        System::larder(lab, "large", args(&[])),
        rclone_over(lab, dir.clone(), "full"),
        bench.sshd.sshfs(lab, dir.clone()),
    ];
    one_large(&with, "passthrough", 0.9, report);
    let without = [
        System::bare(dir.clone()),
        System::limit(lab, dir.clone(), &["read"]),
        System::larder(lab, "large", args(&["--no-passthrough"])),
    ];
    one_large(&without, "`--no-passthrough`", 0.6, report);
    std::fs::remove_dir_all(&dir).unwrap();
}
