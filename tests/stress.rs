//! Sixty-four processes at one mount: they read, write, rename, list and remove for a while.
//! Nobody hangs, nobody reads a wrong byte, and nothing is left waiting in the kernel.
//!
//! `LARDER_STRESS_SECONDS` and `LARDER_STRESS_PROCESSES` ask for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::many::setting;
use common::{Lab, bytes, eventually, put};

const REMOTE: u64 = 64;
const SHARED: u64 = 16;
/// One request of a worker may take this long on a machine that is busy with the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// Content that tells by itself whether it is whole: its length and its bytes follow from the
/// first eight.
fn content(seed: u64) -> Vec<u8> {
    let body = bytes(seed, (seed % 60_000) as usize);
    [&seed.to_le_bytes()[..], &body].concat()
}

fn check(path: &Path) {
    let got = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seed = got.first_chunk().map(|first| u64::from_le_bytes(*first));
    let seed = seed.unwrap_or_else(|| panic!("{}: {} bytes", path.display(), got.len()));
    assert!(got == content(seed), "{}: wrong bytes", path.display());
}

fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// What one process does, again and again.
fn act(at: &Path, own: u64, n: u64, chance: &mut u64) {
    let mine = at.join(format!("own/{own}"));
    let shared = at.join(format!("shared/f{:02}", next(chance) % SHARED));
    let seed = own << 24 | n;
    match next(chance) % 8 {
        0 | 1 => {
            let name = format!("srv/r{:02}.bin", next(chance) % REMOTE);
            let (path, wanted) = (at.join(&name), next(chance) % 2);
            assert!(path.exists(), "{name} is there all the time");
            if wanted == 0 {
                check(&path);
            }
        }
        2 => check(&shared),
        3 => {
            let draft = at.join(format!("shared/.draft-{own}"));
            fs::write(&draft, content(seed)).unwrap();
            fs::rename(&draft, &shared).unwrap();
        }
        4 => {
            let listed = fs::read_dir(at.join("shared")).unwrap();
            let names = listed.map(|entry| entry.unwrap().file_name());
            let known = |name: &str| name.starts_with('f') || name.starts_with(".draft-");
            assert!(names.into_iter().all(|name| known(name.to_str().unwrap())));
        }
        5 => {
            fs::create_dir_all(&mine).unwrap();
            let (a, b) = (mine.join("a"), mine.join("b"));
            fs::write(&a, content(seed)).unwrap();
            fs::rename(&a, &b).unwrap();
            assert!(!a.exists());
            assert!(fs::read(&b).unwrap() == content(seed), "{}", b.display());
        }
        6 => {
            fs::create_dir_all(&mine).unwrap();
            let path = mine.join("c");
            fs::write(&path, b"").unwrap();
            for part in content(seed).chunks(7000) {
                use std::io::Write as _;
                let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(part).unwrap();
            }
            assert!(
                fs::read(&path).unwrap() == content(seed),
                "{}",
                path.display()
            );
        }
        _ => match fs::remove_dir_all(&mine) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("{}: {error}", mine.display())
            }
            _ => assert!(!mine.exists()),
        },
    }
}

/// Not a test by itself: what each process of the one below runs.
#[test]
fn worker() {
    let Ok(at) = std::env::var("LARDER_STRESS_AT") else {
        return;
    };
    let own = setting("LARDER_STRESS_OWN", 0) as u64;
    let until = Instant::now() + Duration::from_secs(setting("LARDER_STRESS_SECONDS", 8) as u64);
    let (mut chance, mut n) = (own + 1, 0);
    while Instant::now() < until {
        n += 1;
        let begun = Instant::now();
        act(Path::new(&at), own, n, &mut chance);
        assert!(
            begun.elapsed() < PATIENCE,
            "one act took {:?}",
            begun.elapsed()
        );
    }
    println!("did {n}");
}

#[test]
fn p6_many_processes_at_once_hang_nobody_and_read_no_wrong_byte() {
    let lab = Lab::new();
    for n in 0..REMOTE {
        put(
            &lab.path(format!("far/srv/r{n:02}.bin")),
            &content(n * 7919 + 1),
        );
    }
    let server = lab.serve("far", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    let last = mount.path(format!("srv/r{:02}.bin", REMOTE - 1));
    eventually("all is listed", || last.exists());
    for n in 0..SHARED {
        put(&mount.path(format!("shared/f{n:02}")), &content(n));
    }
    let processes = setting("LARDER_STRESS_PROCESSES", 64);
    let workers: Vec<_> = (0..processes)
        .map(|own| {
            Command::new(std::env::current_exe().unwrap())
                .args(["worker", "--exact", "--nocapture"])
                .env("LARDER_STRESS_AT", &mount.at)
                .env("LARDER_STRESS_OWN", own.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut acts = 0;
    for worker in workers {
        let ended = worker.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let why = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}\n{why}");
        let did = said.lines().find_map(|line| line.split("did ").nth(1));
        acts += did.unwrap().trim().parse::<u64>().unwrap();
    }
    println!("{processes} processes did {acts} things");
    assert!(acts > processes as u64, "{acts}");
    for n in 0..REMOTE {
        check(&mount.path(format!("srv/r{n:02}.bin")));
    }
    for n in 0..SHARED {
        check(&mount.path(format!("shared/f{n:02}")));
    }
    mount.nothing_waits();
    mount.flush();
    let at = mount.unmount();
    // What went up is what was last put there, and what is left here is the same.
    for n in 0..SHARED {
        let name = format!("shared/f{n:02}");
        let here = fs::read(at.join(&name)).unwrap();
        assert!(
            here == fs::read(lab.path("far").join(&name)).unwrap(),
            "{name}"
        );
    }
}

/// Programs that write one file where it is, truncating it or not, and those who read it meanwhile.
#[test]
fn p8_a_file_that_many_write_in_place_can_be_opened_at_every_moment() {
    const ANEW: u64 = 3;
    const THERE: u64 = 3;
    const READERS: u64 = 6;
    let lab = Lab::new();
    let server = lab.serve("far", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let names = [mount.path("a"), mount.path("b")];
    names.iter().for_each(|name| put(name, &content(0)));
    let until = Instant::now() + Duration::from_secs(setting("LARDER_STRESS_SECONDS", 4) as u64);
    let again = |act: &dyn Fn(&Path)| {
        (0..)
            .take_while(|_| Instant::now() < until)
            .for_each(|n| act(&names[n % 2]))
    };
    std::thread::scope(|scope| {
        for n in 0..ANEW {
            scope.spawn(move || again(&|name| fs::write(name, content(n + 1)).unwrap()));
        }
        for n in 0..THERE {
            let way = fs::OpenOptions::new().write(true).append(n == 0).to_owned();
            scope.spawn(move || {
                again(&|name| {
                    use std::io::Write as _;
                    way.open(name).unwrap().write_all(b"line\n").unwrap();
                });
            });
        }
        for _ in 0..READERS {
            scope.spawn(move || again(&|name| drop(fs::read(name).unwrap())));
        }
    });
    mount.nothing_waits();
    mount.unmount();
}

/// Whoever opens a name gets one of the files that have it, however many replace it meanwhile.
#[test]
fn p8_a_name_that_many_replace_can_be_opened_at_every_moment() {
    const WRITERS: u64 = 8;
    const READERS: u64 = 16;
    let lab = Lab::new();
    let server = lab.serve("far", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let names = [mount.path("a"), mount.path("b")];
    names.iter().for_each(|name| put(name, &content(0)));
    let until = Instant::now() + Duration::from_secs(setting("LARDER_STRESS_SECONDS", 4) as u64);
    let again = |act: &dyn Fn(u64)| {
        (1..)
            .take_while(|_| Instant::now() < until)
            .map(act)
            .count()
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let draft = mount.path(format!(".draft-{writer}"));
            let (names, again) = (&names, &again);
            scope.spawn(move || {
                again(&|n| {
                    fs::write(&draft, content(writer << 24 | n)).unwrap();
                    fs::rename(&draft, &names[(n % 2) as usize]).unwrap();
                })
            });
        }
        for _ in 0..READERS {
            scope.spawn(|| again(&|n| check(&names[(n % 2) as usize])));
        }
    });
    mount.nothing_waits();
    mount.unmount();
}

/// Somebody changes no byte, but each file's facts, at the server as it is about to be opened here: it
/// has another version then, three times over.
#[test]
fn p8_files_that_get_another_version_as_they_are_opened_can_be_opened() {
    const FILES: usize = 400;
    const READERS: usize = 16;
    let lab = Lab::new();
    let name = |n: usize| format!("f{n:03}");
    let far = |n: usize| lab.path("far").join(name(n));
    (0..FILES).for_each(|n| put(&far(n), &content(n as u64)));
    let server = lab.serve("far", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    mount.sync();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while let Some(n) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|n| *n < FILES)
                {
                    check(&mount.path(name(n)));
                }
            });
        }
        scope.spawn(|| {
            let mut times = [0; FILES];
            let begun = Instant::now();
            while next.load(Ordering::SeqCst) < FILES && begun.elapsed() < PATIENCE {
                let at = next.load(Ordering::SeqCst);
                let near = at.saturating_sub(READERS)..(at + 8).min(FILES);
                for (n, times) in near.clone().zip(&mut times[near]) {
                    if *times < 3 {
                        *times += 1;
                        let mode = fs::Permissions::from_mode(0o600 + *times);
                        fs::set_permissions(far(n), mode).unwrap();
                    }
                }
                // As long as a look at the server takes.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    });
    mount.nothing_waits();
    mount.unmount();
}
