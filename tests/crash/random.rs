//! Several writers at once, and a kill at any moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::common::{Lab, bytes, eventually, is_mounted, put, signal};
use super::held::Held;
use super::ledger::{Ledger, close, write};

const ROUNDS: u64 = 10;
const WRITERS: u64 = 5;

/// A generator that gives the same numbers each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
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

/// Other kills at other moments with `LARDER_SEED=NUMBER`.
#[test]
fn p3_killed_at_random_while_many_write() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let args = [
        "--remote",
        server.url.as_str(),
        "--upload",
        "--min-free",
        "1MiB",
    ];
    let seed = std::env::var("LARDER_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    let mut dice = Dice(seed);
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let at = lab.dir("mnt");
    for who in 0..WRITERS {
        put(&at.join(format!("w{who}/.keep")), b"");
        ledgers[who as usize].given(&format!("w{who}/.keep"), b"");
    }
    for round in 0..ROUNDS {
        let mount = lab.mount("mnt", &args);
        let pid = mount.pid().to_string();
        let (held, killed) = (Held::new(&at).unwrap(), AtomicBool::new(false));
        let after = Duration::from_millis(50 + dice.roll(900));
        std::thread::scope(|scope| {
            for (who, ledger) in ledgers.iter_mut().enumerate() {
                let (mut dice, held) = (Dice(dice.roll(u64::MAX) | 1), &held);
                let killed = &killed;
                scope.spawn(move || {
                    let mut turns = round << 16..;
                    let error = turns
                        .find_map(|turn| work(held, who as u64, turn, &mut dice, ledger).err());
                    assert!(killed.load(Ordering::SeqCst), "{error:?}");
                });
            }
            std::thread::sleep(after);
            killed.store(true, Ordering::SeqCst);
            assert!(signal(&pid, "-9"));
        });
        eventually("the dead mount is detached", || !is_mounted(&at));
        eventually("the killed daemon is gone", || !signal(&pid, "-0"));
        let mount = lab.mount("mnt", &args);
        let status = mount.status();
        eprintln!(
            "round {round}: {} {} {}",
            status["notes"], status["conflicts"], status["orphans"]
        );
        for (who, ledger) in ledgers.iter().enumerate() {
            ledger.check(&mount.at, |path| path.starts_with(&format!("w{who}/")));
        }
        ledgers
            .iter_mut()
            .for_each(|ledger| ledger.accept(&mount.at));
        mount.flush();
        for ledger in &ledgers {
            ledger.check_server(&server.root, &mount.at, |path| path.ends_with(".tmp"));
        }
        mount.unmount();
    }
}
