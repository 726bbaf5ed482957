//! Several writers at once, readers beside them, a remote with changes of its own, and a kill at any
//! moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::bystanders::{Reader, Theirs};
use super::common::{Lab, Mount, Server, bytes, eventually, is_mounted, put, signal};
use super::held::Held;
use super::ledger::{Ledger, close, write};

const ROUNDS: u64 = 10;
const WRITERS: u64 = 5;
const READERS: usize = 2;

/// A generator that gives the same numbers each time.
pub struct Dice(u64);

impl Dice {
    /// Another one, for a thread of its own.
    fn split(&mut self) -> Dice {
        Dice(self.roll(u64::MAX) | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// One operation of the writer `who`; an error once the daemon is gone.
fn work(mount: &Held, who: u64, turn: u64, dice: &mut Dice, ledger: &mut Ledger) -> io::Result<()> {
    let file = format!("w{who}/f{}.bin", dice.roll(6));
    let content = bytes(who << 32 | turn, 1 + dice.roll(60_000) as usize);
    let at = |name: &str| mount.path(name);
    match dice.roll(8) {
        0 | 1 => ledger.run(&file, Some(content.clone()), || write(&at(&file), &content)),
        2 => {
            let tmp = format!("w{who}/next{turn}.tmp");
            let changes = vec![(file.clone(), Some(content.clone())), (tmp.clone(), None)];
            // A name that never leaves is written where it is, as on any disk.
            ledger.run_in_place(&tmp, content.clone(), || write(&at(&tmp), &content))?;
            ledger.run_all(changes, || fs::rename(at(&tmp), at(&file)))
        }
        3 if ledger.now(&file).is_some() => {
            let longer = [ledger.now(&file).unwrap(), content.clone()].concat();
            ledger.run_in_place(&file, longer, || {
                let mut opened = OpenOptions::new().append(true).open(at(&file))?;
                opened.write_all(&content)?;
                close(opened)
            })
        }
        4 if ledger.now(&file).is_some() => {
            let mut changed = ledger.now(&file).unwrap();
            let piece = &content[..content.len().min(changed.len())];
            changed[..piece.len()].copy_from_slice(piece);
            ledger.run_in_place(&file, changed, || {
                let opened = OpenOptions::new().write(true).open(at(&file))?;
                opened.write_all_at(piece, 0)?;
                close(opened)
            })
        }
        5 => {
            let (from, to) = (format!("w{who}/dir{turn}"), format!("w{who}/moved{turn}"));
            let inside = format!("{from}/inside.bin");
            fs::create_dir(at(&from))?;
            ledger.run(&inside, Some(content.clone()), || {
                write(&at(&inside), &content)
            })?;
            ledger.run_move(&from, &to, || fs::rename(at(&from), at(&to)))
        }
        6 if ledger.now(&file).is_some() => ledger.run(&file, None, || fs::remove_file(at(&file))),
        7 if ledger.now(&file).is_some() => {
            // Both may be at the server in an older version.
            let to = format!("w{who}/f{}.bin", dice.roll(6));
            let changes = vec![(file.clone(), None), (to.clone(), ledger.now(&file))];
            match to == file {
                true => Ok(()),
                false => ledger.run_all(changes, || fs::rename(at(&file), at(&to))),
            }
        }
        _ => ledger.run(&file, Some(content.clone()), || write(&at(&file), &content)),
    }
}

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    /// Killed, and once more at the start after it.
    KilledTwice,
    /// Told to end while files are open, and killed before they are closed.
    KilledLeaving,
    /// In order, with uploads that wait.
    Unmounted,
}

impl End {
    fn roll(dice: &mut Dice) -> End {
        match dice.roll(8) {
            0 | 1 => End::KilledTwice,
            2 => End::Unmounted,
            3 => End::KilledLeaving,
            _ => End::Killed,
        }
    }
}

/// A folder, its server, and what everybody was promised.
struct Story<'a> {
    lab: &'a Lab,
    server: &'a Server,
    dice: Dice,
    ledgers: Vec<Ledger>,
    theirs: Theirs,
    readers: Vec<Reader>,
}

impl<'a> Story<'a> {
    fn begin(lab: &'a Lab, server: &'a Server, seed: u64) -> Story<'a> {
        // Seeds beside one another begin alike otherwise.
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
        let at = lab.dir("mnt");
        for (who, ledger) in ledgers.iter_mut().enumerate() {
            put(&at.join(format!("w{who}/.keep")), b"");
            ledger.given(&format!("w{who}/.keep"), b"");
        }
        let theirs = Theirs::begin(lab, &mut dice);
        Story {
            lab,
            server,
            dice,
            ledgers,
            theirs,
            readers: (0..READERS).map(|_| Reader::default()).collect(),
        }
    }

    fn mount(&self, env: &[(&str, &str)]) -> Option<Mount<'a>> {
        let args = [
            "--remote",
            self.server.url.as_str(),
            "--upload",
            "--min-free",
            "1MiB",
        ];
        match self.lab.try_mount_with("mnt", env, &args) {
            Ok(mount) => Some(mount),
            Err(_) if !env.is_empty() => None,
            Err(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn round(&mut self, round: u64) {
        let end = End::roll(&mut self.dice);
        let mount = self.mount(&[]).unwrap();
        self.work(&mount, round, end);
        let at = mount.at.clone();
        if let End::Unmounted = end {
            mount.unmount();
        } else {
            eventually("the dead mount is detached", || !is_mounted(&at));
        }
        if let End::KilledTwice = end {
            self.kill_a_start();
        }
        self.check(round, end);
    }

    /// Everybody works until the daemon is killed, or is to end.
    fn work(&mut self, mount: &Mount<'_>, round: u64, end: End) {
        let pid = mount.pid().to_string();
        let (held, ending) = (Held::new(&mount.at).unwrap(), Ending::default());
        let after = Duration::from_millis(50 + self.dice.roll(900));
        let (held, ending, theirs, lab) = (&held, &ending, &self.theirs, self.lab);
        let dice = &mut self.dice;
        std::thread::scope(|scope| {
            for (who, ledger) in self.ledgers.iter_mut().enumerate() {
                let (mut dice, mut turns) = (dice.split(), round << 16..);
                ending.repeat(scope, move || {
                    let turn = turns.next().unwrap_or_default();
                    work(held, who as u64, turn, &mut dice, ledger)
                });
            }
            for reader in &mut self.readers {
                let mut dice = dice.split();
                ending.repeat(scope, move || theirs.read(held, &mut dice, reader));
            }
            let mut others = dice.split();
            ending.repeat(scope, move || {
                theirs.change(lab, &mut others);
                std::thread::sleep(Duration::from_millis(others.roll(60)));
                Ok(())
            });
            let (mut others, at) = (dice.split(), mount.at.as_path());
            ending.repeat(scope, move || {
                evict(lab, at, &mut others);
                Ok(())
            });
            std::thread::sleep(after);
            if !matches!(end, End::Unmounted) {
                ending.is_near.store(true, Ordering::SeqCst);
                if let End::KilledLeaving = end {
                    assert!(signal(&pid, "-15"));
                    std::thread::sleep(Duration::from_millis(dice.roll(60)));
                }
                // One that was told to end may have, by now.
                let killed = signal(&pid, "-9");
                assert!(killed || matches!(end, End::KilledLeaving));
                eventually("the killed daemon is gone", || !signal(&pid, "-0"));
            }
            ending.is_here.store(true, Ordering::SeqCst);
        });
    }

    /// A start that dies at one of its first commits, or just after it answered.
    fn kill_a_start(&mut self) {
        let point = format!("index.committed:{}", 1 + self.dice.roll(12));
        let Some(mount) = self.mount(&[("LARDER_CRASH_AT", &point)]) else {
            return;
        };
        let status = mount.verb(&["status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
        if let Some(pid) = status["pid"].as_u64() {
            signal(pid, "-9");
        }
        eventually("the dead mount is detached", || !is_mounted(&mount.at));
    }

    /// Nothing is lost, everything goes up, and the mount shows what the remote has.
    fn check(&mut self, round: u64, end: End) {
        let mount = self.mount(&[]).unwrap();
        let status = mount.status();
        eprintln!(
            "round {round}, {end:?}: {} {}",
            status["notes"], status["orphans"]
        );
        for (who, ledger) in self.ledgers.iter().enumerate() {
            ledger.check(&mount.at, |path| path.starts_with(&format!("w{who}/")));
        }
        for ledger in &mut self.ledgers {
            ledger.accept(&mount.at);
        }
        mount.flush();
        for ledger in &self.ledgers {
            ledger.check_server(&self.server.root, &mount.at, |path| path.ends_with(".tmp"));
        }
        mount.sync();
        self.theirs.check(&mount.at);
        // Nobody else writes what is written here.
        assert_eq!(mount.status()["conflicts"], serde_json::json!([]));
        mount.unmount();
    }
}

/// When the work of a round ends.
#[derive(Default)]
struct Ending {
    /// From now on the daemon may be gone at any moment.
    is_near: AtomicBool,
    /// What is begun is the last.
    is_here: AtomicBool,
}

impl Ending {
    /// Repeats `step` until it fails, which it may only once the daemon may be gone, or until the end.
    fn repeat<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        mut step: impl FnMut() -> io::Result<()> + Send + 's,
    ) {
        scope.spawn(move || {
            while !self.is_here.load(Ordering::SeqCst) {
                let Err(error) = step() else { continue };
                assert!(self.is_near.load(Ordering::SeqCst), "{error:?}");
                return;
            }
        });
    }
}

/// Some of what is clean goes, so that it is read from the remote again.
fn evict(lab: &Lab, at: &Path, dice: &mut Dice) {
    let mut command: Command = lab.larder();
    command.arg("evict");
    match dice.roll(3) {
        0 => command.arg(at.join(format!("w{}", dice.roll(WRITERS)))),
        _ => command.arg(at.join(format!("cold/d{}", dice.roll(3)))),
    };
    // It refuses what is not clean; and the daemon may be gone.
    command.output().unwrap();
    std::thread::sleep(Duration::from_millis(dice.roll(40)));
}

/// One story, or as many as `LARDER_SOAK` seconds take; where changes are checked (`CI`), a few.
fn soak() -> Duration {
    let number = |text: String| text.parse().unwrap();
    let seconds = std::env::var("LARDER_SOAK").map(number);
    let few = std::env::var_os("CI").map_or(0, |_| 45);
    Duration::from_secs(seconds.unwrap_or(few))
}

/// Other kills at other moments with `LARDER_SEED=NUMBER`; each story says its own.
#[test]
fn p3_killed_at_random_while_many_write() {
    let first = std::env::var("LARDER_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    let (begun, length) = (Instant::now(), soak());
    for seed in first.. {
        eprintln!("to repeat this story: LARDER_SEED={seed}");
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let mut story = Story::begin(&lab, &server, seed);
        for round in 0..ROUNDS {
            story.round(round);
        }
        if begun.elapsed() >= length {
            return;
        }
    }
}
