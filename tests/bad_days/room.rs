//! Limits while files are in use (promise P11).

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::SECOND;
use crate::common::{Lab, Mount, bytes, eventually, put, within};

const READ_PATHS: [&[&str]; 2] = [&[], &["--no-passthrough"]];
const EACH: usize = 200_000;

fn name(n: u64) -> String {
    format!("d{}/f{n}.bin", n % 4)
}

fn held(mount: &Mount<'_>) -> u64 {
    mount.status()["held"]["bytes"].as_u64().unwrap()
}

/// A file in memory, as programs map it.
struct Mapped {
    at: *mut libc::c_void,
}

impl Mapped {
    fn new(file: &File) -> Mapped {
        // SAFETY: a new mapping of a file that is long enough, checked below.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                EACH,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Mapped { at }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length until it is dropped, and nobody writes.
        unsafe { std::slice::from_raw_parts(self.at.cast(), EACH) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped with this length.
        unsafe { libc::munmap(self.at, EACH) };
    }
}

#[test]
fn p11_what_is_open_or_mapped_outlives_eviction() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        for n in 0..6 {
            put(&lab.path("srv").join(name(n)), &bytes(n, EACH));
        }
        let server = lab.serve("srv", &[]);
        let mount = lab.mount("mnt", &[&["--remote", &server.url], flags].concat());
        eventually("all is listed", || mount.path(name(5)).exists());
        // Mapped, with the descriptor closed: the kernel keeps the file open.
        let mapped = Mapped::new(&File::open(mount.path(name(0))).unwrap());
        let open = File::open(mount.path(name(1))).unwrap();
        put(&mount.path("mine.bin"), b"only here");
        for n in 0..6 {
            assert!(fs::read(mount.path(name(n))).unwrap() == bytes(n, EACH));
        }
        for _ in 0..3 {
            // What was read is closed a moment after its reader has closed it.
            eventually("the rest is gone", || {
                mount.verb(&["evict", "--all"]);
                held(&mount) <= 2 * EACH as u64 + 9
            });
            assert!(mapped.bytes() == bytes(0, EACH));
            assert!(fs::read(mount.path(name(0))).unwrap() == bytes(0, EACH));
            assert_eq!(open.metadata().unwrap().len(), EACH as u64);
            assert!(fs::read(mount.path(name(3))).unwrap() == bytes(3, EACH));
        }
        assert_eq!(fs::read(mount.path("mine.bin")).unwrap(), b"only here");
        drop((mapped, open));
        eventually("nothing but mine is left", || {
            mount.verb(&["evict", "--all"]);
            held(&mount) == 9
        });
        assert!(fs::read(mount.path(name(0))).unwrap() == bytes(0, EACH));
    }
}

#[test]
fn p11_a_limit_holds_while_many_read_and_write() {
    for flags in READ_PATHS {
        let lab = Lab::new();
        for n in 0..32 {
            put(&lab.path("srv").join(name(n)), &bytes(n, EACH));
        }
        let server = lab.serve("srv", &[]);
        let args = ["--remote", &server.url, "--upload", "--max-size", "1000000"];
        let mount = lab.mount("mnt", &[&args, flags].concat());
        eventually("all is listed", || mount.path(name(31)).exists());
        let (ended, mount_at) = (AtomicBool::new(false), &mount.at);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|who| {
                    scope.spawn(move || {
                        for n in 0..32 {
                            let n = (n * (2 * who + 1) + 8 * who) % 32;
                            let read = fs::read(mount_at.join(name(n)));
                            assert!(read.unwrap() == bytes(n, EACH), "{who}: {n}");
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let mut n = 0;
                while !ended.load(Ordering::SeqCst) {
                    put(
                        &mount_at.join(format!("w/{n}.bin")),
                        &bytes(100 + n, 50_000),
                    );
                    n = (n + 1) % 10;
                }
            });
            let results: Vec<_> = readers.into_iter().map(|r| r.join()).collect();
            ended.store(true, Ordering::SeqCst);
            assert!(results.iter().all(Result::is_ok));
        });
        mount.flush();
        eventually("within the limit", || held(&mount) <= 1_000_000);
        for n in 0..10 {
            let content = bytes(100 + n, 50_000);
            let path = format!("w/{n}.bin");
            if let Ok(there) = fs::read(server.root.join(&path)) {
                assert!(there == content && fs::read(mount.path(&path)).unwrap() == content);
            }
        }
        assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    }
}

/// Most is read and not written: that is not only looked at now and then.
#[test]
fn p11_a_limit_holds_for_what_comes_in_a_moment() {
    const LIMIT: u64 = 2_000_000;
    let lab = Lab::new();
    let at = |round: u64, n: u64| format!("r{round}/f{n}.bin");
    for n in 0..60 {
        put(&lab.path("srv").join(at(n / 20, n)), &bytes(n, EACH));
    }
    let server = lab.serve("srv", &[]);
    let args = ["--remote", &server.url, "--max-size", &LIMIT.to_string()];
    let mount = lab.mount("mnt", &args);
    eventually("all is listed", || mount.path(at(2, 59)).exists());
    for round in 0..3 {
        for n in round * 20..round * 20 + 20 {
            assert!(fs::read(mount.path(at(round, n))).unwrap() == bytes(n, EACH));
        }
        within(SECOND, "within the limit again", || {
            let counts = &mount.status()["counts"];
            let all_kept = counts["hydrated"].as_u64().unwrap() == (round + 1) * 20;
            all_kept && held(&mount) <= LIMIT
        });
    }
}

#[test]
fn p11_what_waits_to_go_up_stays_whatever_the_limit() {
    let lab = Lab::new();
    put(&lab.path("srv/a.bin"), &bytes(1, EACH));
    let server = lab.serve("srv", &[]);
    let args = [
        "--remote",
        &server.url,
        "--upload",
        "--max-size",
        "100000",
        "--offline",
        "error",
    ];
    let mount = lab.mount("mnt", &args);
    // A name may be seen before the listing is at its end.
    eventually("all is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    server.signal("-STOP");
    for n in 0..8 {
        put(&mount.path(name(n)), &bytes(n, EACH));
    }
    eventually("all are in the store", || held(&mount) == 8 * EACH as u64);
    let evicted = mount.verb(&["evict", "--all"]);
    let said = String::from_utf8_lossy(&evicted.stdout).into_owned();
    assert!(said.contains("8 files stay"), "{said}");
    assert_eq!(held(&mount), 8 * EACH as u64);
    for n in 0..8 {
        assert!(fs::read(mount.path(name(n))).unwrap() == bytes(n, EACH));
    }
    server.signal("-CONT");
    eventually("all go up", || {
        (0..8).all(|n| fs::read(server.root.join(name(n))).is_ok_and(|b| b == bytes(n, EACH)))
    });
    eventually("and then out of the way", || held(&mount) <= 100_000);
    for n in 0..8 {
        assert!(fs::read(mount.path(name(n))).unwrap() == bytes(n, EACH));
    }
}
