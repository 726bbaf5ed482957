//! P6: how long a reader of a big file waits for bytes that do not come.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use super::common::{Lab, Mount, bytes, eventually, put};
use super::crooked::{At, Crooked, Fault};

/// For which nothing may come.
const DEADLINE: Duration = Duration::from_secs(10);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

const SIZE: usize = 24 << 20;

/// A mount of so many big files, all of them listed, and the wire to its server.
fn mounted(lab: &Lab, files: usize, with: impl FnOnce(&Mount<'_>, &Crooked)) {
    let name = |n: usize| format!("big{n}.bin");
    for n in 0..files {
        put(&lab.path("srv").join(name(n)), &bytes(n as u64, SIZE));
    }
    let server = lab.serve("srv", &[]);
    server.scanned();
    let wire = Crooked::to(&server.url);
    let mount = lab.mount("mnt", &["--remote", &wire.url, "--offline", "error"]);
    mount.sync();
    with(&mount, &wire);
    mount.nothing_waits();
    wire.straighten();
    for n in 0..files {
        eventually("it is read", || {
            std::fs::read(mount.path(name(n))).is_ok_and(|found| found == bytes(n as u64, SIZE))
        });
    }
}

/// One `read()`; what it gives, and how long it took.
fn read_once(file: &File, at: usize, length: usize) -> (io::Result<Vec<u8>>, Duration) {
    let begun = Instant::now();
    let mut part = vec![0; length];
    let read = file.read_at(&mut part, at as u64);
    let read = read.map(|n| part[..n].to_vec());
    (read, begun.elapsed())
}

/// Of a page, of what the kernel reads ahead of, and of many requests.
const READS: [(usize, usize); 3] = [(20 << 20, 4096), (20 << 20, 128 << 10), (1 << 20, 9 << 20)];

#[test]
fn p6_one_read_of_a_big_file_whose_body_stalls_is_one_deadline() {
    let lab = Lab::new();
    let cases = READS
        .iter()
        .flat_map(|read| [At::Between, At::Middle, At::Last].map(|stall| (*read, stall)));
    let cases: Vec<_> = cases.enumerate().collect();
    mounted(&lab, cases.len(), |mount, wire| {
        let open = |n: usize| File::open(mount.path(format!("big{n}.bin"))).unwrap();
        let files: Vec<_> = (0..cases.len()).map(open).collect();
        for (n, file) in files.iter().enumerate() {
            assert_eq!(read_once(file, 0, 4096).0.unwrap(), bytes(n as u64, 4096));
        }
        for (n, (_, stall)) in &cases {
            wire.bend(&format!("/v1/files/big{n}.bin "), Fault::Stall(*stall));
        }
        thread::scope(|scope| {
            for ((n, ((at, length), stall)), file) in cases.iter().zip(&files) {
                scope.spawn(move || {
                    let (read, took) = read_once(file, *at, *length);
                    let what = format!("{length} at {at}, {stall:?}: {took:?}");
                    if let Ok(read) = &read {
                        let right = &bytes(*n as u64, SIZE)[*at..][..read.len()];
                        assert!(read == right, "{what}: wrong bytes");
                    }
                    let is_whole = matches!(&read, Ok(read) if read.len() == *length);
                    assert!(!is_whole, "{what}: nothing stalled");
                    assert!(took < DEADLINE + SLACK, "{what}");
                });
            }
        });
    });
}

/// Whichever way it is said, the open's or the read's.
#[test]
fn p6_a_small_file_whose_body_stalls_is_one_deadline() {
    let lab = Lab::new();
    // One that is in memory when it is open, and one that its readers wait for.
    put(&lab.path("srv/small.bin"), &bytes(50, 60_000));
    put(&lab.path("srv/middle.bin"), &bytes(51, 4 << 20));
    mounted(&lab, 0, |mount, wire| {
        wire.bend("/v1/files/", Fault::Stall(At::Between));
        thread::scope(|scope| {
            for name in ["small.bin", "middle.bin"] {
                scope.spawn(move || {
                    let begun = Instant::now();
                    let read = File::open(mount.path(name));
                    let read = read.and_then(|file| file.read_at(&mut [0; 4096], 0));
                    let took = begun.elapsed();
                    assert!(read.is_err() && took < DEADLINE + SLACK, "{name}: {took:?}");
                });
            }
        });
    });
}

#[test]
fn p6_who_reads_slowly_but_steadily_is_not_ended_by_a_deadline_nor_by_that_of_another() {
    let lab = Lab::new();
    mounted(&lab, 1, |mount, wire| {
        let file = File::open(mount.path("big0.bin")).unwrap();
        assert_eq!(read_once(&file, 0, 4096).0.unwrap(), bytes(0, 4096));
        let (stalled, slow) = (20 << 20, 10 << 20);
        wire.bend(&format!("bytes={stalled}-"), Fault::Stall(At::Middle));
        wire.bend("/v1/files/", Fault::Slow);
        thread::scope(|scope| {
            let late = scope.spawn(|| read_once(&file, stalled, 128 << 10));
            let (read, took) = read_once(&file, slow, 128 << 10);
            assert_eq!(read.unwrap(), bytes(0, SIZE)[slow..][..128 << 10]);
            assert!(took > DEADLINE, "it was not slow: {took:?}");
            let (_, took) = late.join().unwrap();
            assert!(took < DEADLINE + SLACK, "{took:?}");
        });
    });
}
