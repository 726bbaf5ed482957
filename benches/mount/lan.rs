//! Over the LAN, which here is the loopback: files that are not held, writing, and news.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::client::{Client, get};
use crate::common::bytes;
use crate::measure::{Times, files, reads, reads_by, shuffled, writes};
use crate::peers::rclone_over;
use crate::report::{LARDER, Report, Row, Unit};
use crate::systems::{Mounted, System, fresh_larder, set_aside};

const GET: &str = "one GET";
const SSHFS: &str = "sshfs";
const TURNS: usize = 2;
/// Files that one reader reads, and that sixteen do.
const ONE: usize = 2_000;
const MANY: usize = 4_000;
const WRITTEN: usize = 1_000;
/// New files on the server, one after another.
const NEWS: usize = 200;

fn fresh(bench: &Bench, more: &[&str]) -> Mounted {
    let mut args = vec!["--remote".to_owned(), bench.server.url.clone()];
    args.extend(more.iter().map(|word| (*word).to_owned()));
    fresh_larder(&bench.lab, &args, &[], bench.names.len())
}

fn address(bench: &Bench) -> &str {
    bench.server.url.strip_prefix("http://").unwrap()
}

/// The same files by one client that keeps its connection.
fn gets(bench: &Bench, names: &[PathBuf]) -> Times {
    let mut client = Client::new(address(bench));
    let requests: Vec<_> = names
        .iter()
        .map(|name| get(&format!("/v1/files/{}", name.display())))
        .collect();
    let each = requests.iter().map(|request| {
        let begun = Instant::now();
        assert!(client.ask(request).unwrap() > 0);
        begun.elapsed()
    });
    Times::of(each.collect())
}

/// Reading what is not held.
pub fn reading(bench: &Bench, report: &mut Report) {
    let mut random = Row::new(
        "cold files over the LAN, one reader, random order, median open+read+close",
        Unit::Millis,
    )
    .at_most(2.0, GET)
    .at_most(0.6, SSHFS);
    let mut rate = Row::new("the same, files a second", Unit::PerSecond);
    let work = "cold files over the LAN, one reader, in the order of `find`";
    let mut ordered = Row::new(work, Unit::PerSecond);
    let work = "cold files over the LAN, 16 readers";
    let mut many = Row::new(work, Unit::PerSecond).at_least(2.0, SSHFS);
    let one = shuffled(&bench.names, 4);
    let one = &one[..ONE.min(one.len())];
    let sixteen = shuffled(&bench.names, 5);
    let sixteen = &sixteen[..MANY.min(sixteen.len())];
    let how = ["fetch", address(bench)];
    let systems = [
        System::limit(&bench.lab, bench.data(), &how),
        System::new(LARDER, || fresh(bench, &[])),
        bench.sshd.sshfs(&bench.lab, bench.data()),
    ];
    for _ in 0..TURNS {
        // The server's page cache is warm for all of them.
        reads(&bench.data(), one);
        reads(&bench.data(), sixteen);
        let times = gets(bench, one);
        random.add(GET, times.median());
        rate.add(GET, times.per_second());
        for system in &systems {
            let name = &system.name;
            report.tried(name, |_| {
                let mounted = system.mount();
                let times = reads(&mounted.at, one);
                random.add(name, times.median());
                rate.add(name, times.per_second());
                drop(mounted);
                let mounted = system.mount();
                let mut names = files(&mounted.at);
                names.truncate(ONE);
                ordered.add(name, reads(&mounted.at, &names).per_second());
                drop(mounted);
                let mounted = system.mount();
                many.add(name, reads_by(16, &mounted.at, sixteen));
            });
        }
    }
    for row in [random, rate, ordered, many] {
        report.push(row);
    }
}

/// Writing as programs do that must never leave half a file.
pub fn writing(bench: &Bench, report: &mut Report) {
    let work = "write 1,000 × 100 KB by `tmp` + rename, until the last rename returns";
    let mut row = Row::new(work, Unit::PerSecond).at_least(4.0, "rclone");
    let (lab, content) = (&bench.lab, bytes(6, 100_000));
    let target = lab.path("written");
    for _ in 0..TURNS {
        for (name, upload) in [(LARDER, "true"), ("Larder without upload", "false")] {
            let server = lab.serve("uploaded", &[]);
            let upload = format!("--upload={upload}");
            let args = ["--remote", &server.url, &upload].map(str::to_owned);
            let mounted = fresh_larder(lab, &args, &[], 0);
            row.add(name, writes(&mounted.at, WRITTEN, &content));
            drop(mounted);
            drop(server);
            set_aside(lab, "uploaded");
        }
        let systems = [
            System::bare(target.clone()),
            System::limit(lab, target.clone(), &["write"]),
            rclone_over(lab, target.clone(), "writes"),
            rclone_over(lab, target.clone(), "full"),
            bench.sshd.sshfs(lab, target.clone()),
        ];
        for system in systems {
            lab.dir("written");
            report.tried(&system.name, |_| {
                let mounted = system.mount();
                row.add(&system.name, writes(&mounted.at, WRITTEN, &content));
            });
            set_aside(lab, "written");
        }
    }
    report.push(row);
}

/// How long until `path`, which was just said not to exist, can be opened.
fn until_open(path: &Path, make: impl FnOnce()) -> Duration {
    let error = fs::File::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    make();
    let begun = Instant::now();
    while let Err(error) = fs::File::open(path) {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(begun.elapsed() < Duration::from_secs(60), "never seen");
        std::thread::sleep(Duration::from_micros(500));
    }
    begun.elapsed()
}

/// New files in the directory that the server serves, made there by a program of the server's own machine.
pub fn news(bench: &Bench, report: &mut Report) {
    let work = "a new file on the LAN server until `open` works on a mount that just saw ENOENT";
    let mut p99 = Row::new(format!("{work}, p99"), Unit::Millis).below(300.0);
    let mut median = Row::new("the same, median", Unit::Millis);
    let mounted = fresh(bench, &[]);
    let dir = bench.data().join("news");
    fs::create_dir(&dir).unwrap();
    let each = (0..NEWS).map(|n| {
        let name = format!("news/{n}.pkl");
        until_open(&mounted.at.join(&name), || {
            let beside = dir.join(format!(".{n}.tmp"));
            fs::write(&beside, format!("news {n}")).unwrap();
            fs::rename(&beside, bench.data().join(&name)).unwrap();
        })
    });
    let times = Times::of(each.collect());
    p99.add(LARDER, times.quantile(0.99));
    median.add(LARDER, times.median());
    fs::remove_dir_all(&dir).unwrap();
    report.push(p99);
    report.push(median);
}
