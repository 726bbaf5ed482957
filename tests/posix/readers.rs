//! Readers of files that are on their way (promise P1).

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Lab, bytes, eventually, put};
use crate::slow::SlowLine;
use crate::{READ_PATHS, listed};

const BIG: usize = 40 << 20;

fn gets(server: &crate::Server) -> u64 {
    server.stats()["get"].as_u64().unwrap()
}

#[test]
fn p1_a_big_file_is_read_in_any_order_while_it_comes() {
    for (_, flags) in READ_PATHS {
        let lab = Lab::new();
        let content = bytes(40, BIG);
        put(&lab.dir("srv").join("big.bin"), &content);
        let server = lab.serve("srv", &[]);
        let line = SlowLine::to(&server.url);
        let url = line.url();
        let args: Vec<_> = ["--remote", &url]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let mount = lab.mount("mnt", &args);
        listed(&mount, &server);
        line.narrow();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    line.allow(256 << 10);
                    std::thread::sleep(std::time::Duration::from_millis(4));
                }
                line.widen();
            });
            let file = File::open(mount.path("big.bin")).unwrap();
            let mut order: Vec<usize> = (0..120).map(|n| n * 7919 % 120).collect();
            order.push(120);
            let mut buffer = vec![0; 10_007];
            for n in order {
                let at = (n * BIG / 120).saturating_sub(5_003);
                let got = file.read_at(&mut buffer, at as u64).unwrap();
                let end = (at + buffer.len()).min(BIG);
                assert!(buffer[..got] == content[at..end], "at {at}");
            }
            done.store(true, Ordering::SeqCst);
        });
        assert!(fs::read(mount.path("big.bin")).unwrap() == content);
        eventually("the file is kept", || mount.status()["held"]["files"] == 1);
        let before = gets(&server);
        assert!(fs::read(mount.path("big.bin")).unwrap() == content);
        assert_eq!(gets(&server), before);
        let at = mount.unmount();
        assert!(fs::read(at.join("big.bin")).unwrap() == content);
    }
}

#[test]
fn p1_readers_share_one_download_and_do_not_wait_for_its_end() {
    for (_, flags) in READ_PATHS {
        let lab = Lab::new();
        let content = bytes(41, BIG);
        put(&lab.dir("srv").join("big.bin"), &content);
        put(&lab.dir("srv").join("small.bin"), &bytes(42, 500_000));
        let server = lab.serve("srv", &[]);
        let line = SlowLine::to(&server.url);
        let url = line.url();
        let args: Vec<_> = ["--remote", &url]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let mount = lab.mount("mnt", &args);
        listed(&mount, &server);
        let before = line.passed();
        line.narrow();
        line.allow(2 << 20);
        let first = File::open(mount.path("big.bin")).unwrap();
        let mut start = vec![0; 300_000];
        first.read_exact_at(&mut start, 0).unwrap();
        assert!(
            start == content[..300_000],
            "the first bytes, long before the last"
        );
        assert_eq!(mount.status()["held"]["files"], 0);
        assert!(!mount.at.join(".larder").exists());
        line.allow(1 << 20);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| fs::read(mount.path("big.bin")).unwrap()))
                .collect();
            line.widen();
            for reader in readers {
                assert!(reader.join().unwrap() == content);
            }
        });
        let came = line.passed() - before;
        assert!(
            came < BIG as u64 + (1 << 20),
            "one download for all: {came}"
        );
        eventually("the file is kept", || mount.status()["held"]["files"] == 1);
        let before = gets(&server);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    assert!(fs::read(mount.path("small.bin")).unwrap() == bytes(42, 500_000));
                });
            }
        });
        assert_eq!(gets(&server), before + 1, "and one for the small file");
    }
}

/// A file is replaced while the kernel's own reading or writing of what it was ends.
#[test]
fn p3_a_file_that_is_replaced_just_after_it_was_open_has_the_new_bytes() {
    for (how, flags) in READ_PATHS {
        let lab = Lab::new();
        let store = lab.dir("store");
        let remote = format!("file://{}", lab.dir("nothing").display());
        let args = ["--remote", &remote, "--store", store.to_str().unwrap()];
        let args: Vec<_> = args.into_iter().chain(flags.iter().copied()).collect();
        let env = [("LARDER_CRASH_AT", "release.told:slow")];
        let mount = lab.try_mount_with("mnt", &env, &args).unwrap();
        std::thread::scope(|scope| {
            for who in 0..8 {
                let (file, new) = (
                    mount.path(format!("f{who}.bin")),
                    mount.path(format!("f{who}.tmp")),
                );
                scope.spawn(move || {
                    for turn in 0..60 {
                        let content =
                            |n: u64| bytes(who << 32 | n, 1 + (n as usize * 769) % 20_000);
                        // What stays here is written by the kernel alone, under that name.
                        fs::write(&new, content(2 * turn)).unwrap();
                        fs::rename(&new, &file).unwrap();
                        fs::write(&file, content(2 * turn + 1)).unwrap();
                        let now = fs::read(&file).unwrap();
                        assert!(
                            now == content(2 * turn + 1),
                            "{how}: file {who}, turn {turn}"
                        );
                        fs::write(&file, content(turn)).unwrap();
                        assert!(
                            fs::read(&file).unwrap() == content(turn),
                            "{how}: {who}, {turn}"
                        );
                    }
                });
            }
        });
    }
}

/// The bytes of a small file go to the kernel's cache with the answer to its `open()`. A writer that
/// comes in between has the last word.
#[test]
fn p1_a_file_that_is_written_while_it_comes_is_read_as_it_was_written() {
    for (how, flags) in READ_PATHS {
        let lab = Lab::new();
        let root = lab.dir("srv");
        let theirs = |n: u64| bytes(n, 3_000 + n as usize * 97);
        let name = |n: u64| format!("f{n:03}.bin");
        (0..150).for_each(|n| put(&root.join(name(n)), &theirs(n)));
        let server = lab.serve("srv", &[]);
        let args: Vec<_> = ["--remote", &server.url]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        let env = [("LARDER_CRASH_AT", "open.flown:slow")];
        let mount = lab.try_mount_with("mnt", &env, &args).unwrap();
        listed(&mount, &server);
        for n in 0..150 {
            let file = mount.path(name(n));
            let ours = bytes(1_000 + n, 2_000 + n as usize * 131);
            let now = match n % 2 {
                0 => ours.clone(),
                _ => [theirs(n), ours.clone()].concat(),
            };
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| fs::read(&file))).collect();
                scope.spawn(|| match n % 2 {
                    0 => fs::write(&file, &ours).unwrap(),
                    _ => {
                        let mut file = OpenOptions::new().append(true).open(&file).unwrap();
                        file.write_all(&ours).unwrap();
                    }
                });
                for reader in readers {
                    let read = reader.join().unwrap().unwrap();
                    // One that is read while it is written may end anywhere.
                    let is_one = theirs(n).starts_with(&read) || now.starts_with(&read);
                    assert!(is_one, "{how}: file {n}");
                }
            });
            assert!(fs::read(&file).unwrap() == now, "{how}: file {n}");
        }
    }
}
