//! Who else is there while many write: the remote, which changes its own files, and readers,
//! who have to find one whole version of each, and never an older one than before.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::common::{Lab, SOON, bytes, put};
use super::held::Held;
use super::ledger::Content;
use super::random::Dice;

const FILES: u64 = 12;
/// Some come down in several pieces.
const LARGEST: u64 = 3 << 20;

/// The files that only the remote changes, with all they ever were, in order.
#[derive(Default)]
pub struct Theirs(Mutex<BTreeMap<String, Vec<Content>>>);

/// How far a reader is with each file; a version is known by its number.
#[derive(Default)]
pub struct Reader(BTreeMap<String, usize>);

fn name(n: u64) -> String {
    format!("cold/d{}/c{n}.bin", n % 3)
}

fn content(dice: &mut Dice) -> Vec<u8> {
    let most = match dice.roll(8) {
        0 => LARGEST,
        _ => 60_000,
    };
    bytes(dice.roll(u64::MAX), dice.roll(most) as usize)
}

impl Theirs {
    /// What the remote has before the first mount.
    pub fn begin(lab: &Lab, dice: &mut Dice) -> Theirs {
        let theirs = Theirs::default();
        for n in 0..FILES {
            let content = content(dice);
            put(&lab.path("srv").join(name(n)), &content);
            theirs.with(|all| all.insert(name(n), vec![Some(content)]));
        }
        theirs
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Vec<Content>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One change at the remote: another version, or none.
    pub fn change(&self, lab: &Lab, dice: &mut Dice) {
        let name = name(dice.roll(FILES));
        let new = (dice.roll(6) > 0).then(|| content(dice));
        let (at, tmp) = (lab.path("srv").join(&name), lab.dir("out").join("next"));
        // Before it happens: whoever sees it finds it here.
        self.with(|all| all.get_mut(&name).unwrap().push(new.clone()));
        match new {
            Some(content) => {
                put(&tmp, &content);
                fs::rename(tmp, at).unwrap();
            }
            None => {
                let removed = fs::remove_file(at).map_err(|error| error.kind());
                assert!(matches!(removed, Ok(()) | Err(io::ErrorKind::NotFound)));
            }
        }
    }

    /// Reads one file; an error once the daemon is gone.
    pub fn read(&self, mount: &Held, dice: &mut Dice, reader: &mut Reader) -> io::Result<()> {
        let name = name(dice.roll(FILES));
        match fs::read(mount.path(&name)) {
            Ok(bytes) => self.saw(&name, &Some(bytes), reader),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // An answer, if there is somebody to give one.
                match mount.lives() {
                    true => self.saw(&name, &None, reader),
                    false => return Err(error),
                }
            }
            // The version that was opened is gone, and not all of it was here.
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn saw(&self, name: &str, found: &Content, reader: &mut Reader) {
        let last = reader.0.get(name).copied().unwrap_or_default();
        let (at, before) = self.with(|all| {
            let versions = &all[name];
            let is = |version: &&Content| *version == found;
            let at = versions.iter().skip(last).position(|v| is(&v));
            (
                at.map(|n| n + last),
                versions.iter().take(last).any(|v| is(&v)),
            )
        });
        let found = found.as_ref().map(Vec::len);
        let Some(at) = at else {
            panic!("{name}: {found:?} bytes after version {last}: an older one: {before}");
        };
        reader.0.insert(name.to_owned(), at);
    }

    /// After a `sync` the mount shows what the remote has.
    pub fn check(&self, mount: &Path) {
        for (name, versions) in self.with(|all| all.clone()) {
            let mut found = Ok(None);
            let is_last = |found: &io::Result<Content>| {
                found.as_ref().is_ok_and(|f| versions.last() == Some(f))
            };
            let begun = Instant::now();
            while begun.elapsed() < SOON && !is_last(&found) {
                found = read(&mount.join(&name));
            }
            let which = found
                .as_ref()
                .map(|f| versions.iter().rposition(|v| v == f));
            let last = versions.len() - 1;
            assert!(
                is_last(&found),
                "{name} stays {which:?}, the remote has {last}"
            );
        }
    }
}

fn read(path: &Path) -> io::Result<Content> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
