//! The served directory and its index together: what is there, in which version.
//!
//! It promises that a file gets a version only when nobody is writing it, that a version
//! is told of bytes only while the file is exactly as it was when the version was given,
//! and that a file counts as deleted only while the directory itself is there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256 as Hasher};

use crate::beneath::{Facts, FileKind, Mode, OFlags, facts_of};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::index::served::{Index, Knew, LEGACY_NAME, Note, Row, Seen};
use crate::object::Sha256;
use crate::path::{RESERVED, RelPath};
use crate::writers::has_writer;

use super::root::Root;

/// A file that somebody holds open for writing counts as finished after this much quiet, or
/// databases and logs would be hidden for ever.
const QUIET_OPEN: Duration = Duration::from_secs(600);
/// The same where nobody can say whether a file is open. Linux tells when it is closed.
const QUIET_UNKNOWN: Duration = match cfg!(target_os = "linux") {
    true => Duration::from_secs(2),
    false => Duration::from_millis(500),
};
/// Files in motion that are remembered; those beyond wait for a sweep.
const IN_MOTION: usize = 65_536;
/// How much of a file is read at once.
pub const CHUNK: usize = 256 << 10;

/// What a path was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A whole file, in the version of this row.
    File(Row),
    /// A file that somebody is writing.
    InMotion,
    Dir,
    /// Nothing that is served.
    Gone,
}

/// Whether the name is kept from everybody: another server's index with SQLite's companions, for
/// bytes put there would be believed; and our own directory in other letters, which is the same
/// one on some disks.
pub fn is_withheld(key: &RelPath) -> bool {
    let Some(first) = key.components().next() else {
        return false;
    };
    let (name, tail) = first.split_at(first.len().min(LEGACY_NAME.len()));
    let is_index = name.eq_ignore_ascii_case(LEGACY_NAME.as_bytes())
        && [&b""[..], b"-wal", b"-shm", b"-journal"]
            .iter()
            .any(|known| tail.eq_ignore_ascii_case(known));
    is_index || first.eq_ignore_ascii_case(RESERVED.as_bytes())
}

/// See the module.
pub struct Tree {
    pub root: Root,
    pub index: Index,
    clock: Clock,
    locks: [Mutex<()>; 64],
    spread: RandomState,
    motion: Mutex<HashMap<RelPath, (Seen, Instant)>>,
}

impl Tree {
    pub fn new(root: Root, index: Index, clock: Clock) -> Tree {
        Tree {
            root,
            index,
            clock,
            locks: [const { Mutex::new(()) }; 64],
            spread: RandomState::new(),
            motion: Mutex::default(),
        }
    }

    /// Holds off every other writer of ours to this path. Never held across an await.
    pub fn lock(&self, key: &RelPath) -> MutexGuard<'_, ()> {
        let slot = self.spread.hash_one(key) as usize % self.locks.len();
        self.locks[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at each path and brings the index up to date with it. `closed`: the system has
    /// said that these have just been closed.
    pub fn look(&self, keys: &[RelPath], closed: bool) -> Result<Vec<Look>> {
        let mut looks = Vec::with_capacity(keys.len());
        let (mut notes, mut places) = (Vec::new(), Vec::new());
        for key in keys {
            let (look, note) = self.glance(key, closed)?;
            looks.push(look);
            if let Some(note) = note {
                notes.push(note);
                places.push(looks.len() - 1);
            }
        }
        if notes.is_empty() {
            return Ok(looks);
        }
        for (place, row) in places.into_iter().zip(self.index.write(notes)?) {
            if let Look::File(_) = looks[place] {
                // The row as it is: somebody else may have been faster.
                looks[place] = row.map_or(Look::Gone, Look::File);
            }
        }
        Ok(looks)
    }

    /// One path.
    pub fn look_at(&self, key: &RelPath) -> Result<Look> {
        let looks = self.look(std::slice::from_ref(key), false)?;
        Ok(looks.into_iter().next().unwrap_or(Look::Gone))
    }

    /// One look, and what the index should be told of it.
    fn glance(&self, key: &RelPath, closed: bool) -> Result<(Look, Option<Note>)> {
        // The row first: if it changes while we look, the index refuses our note.
        let row = self.index.get(key)?;
        if is_withheld(key) {
            return self.absent(key, row, Look::Gone);
        }
        let facts = match self.root.dir().stat(key) {
            Ok(facts) => Some(facts),
            Err(error) if self.is_absence(key, &error) => None,
            Err(error) => return Err(error),
        };
        match facts {
            Some(facts) if facts.kind == FileKind::File => self.present(key, row, &facts, closed),
            Some(facts) if facts.kind == FileKind::Dir => self.absent(key, row, Look::Dir),
            _ => self.absent(key, row, Look::Gone),
        }
    }

    /// No file is there, but `look`.
    fn absent(&self, key: &RelPath, row: Option<Row>, look: Look) -> Result<(Look, Option<Note>)> {
        self.forget_motion(key);
        let Some(row) = row else {
            return Ok((look, None));
        };
        self.root.check()?;
        let note = Note::Missing {
            key: key.clone(),
            knew: Knew::Seq(Some(row.seq)),
        };
        Ok((look, Some(note)))
    }

    /// A file is there; perhaps the one we know.
    fn present(
        &self,
        key: &RelPath,
        row: Option<Row>,
        facts: &Facts,
        closed: bool,
    ) -> Result<(Look, Option<Note>)> {
        let seen = Seen::from(facts);
        let knew = Knew::Seq(row.as_ref().map(|row| row.seq));
        if let Some(row) = &row
            && row.seen == seen
        {
            self.forget_motion(key);
            return Ok((Look::File(row.clone()), None));
        }
        if !self.is_settled(key, facts, closed) {
            return Ok((Look::InMotion, None));
        }
        let sha256 = match &row {
            Some(row) if row.needs_hash(&seen) => self.hash(key, &seen)?,
            _ => None,
        };
        self.forget_motion(key);
        // The index fills in the rest when it takes the note.
        let found = Row {
            seen,
            bump: 0,
            sha256,
            seq: 0,
        };
        let note = Note::Saw {
            key: key.clone(),
            seen,
            sha256,
            knew,
        };
        Ok((Look::File(found), Some(note)))
    }

    /// Whether the error says that there is no such file, rather than that we cannot know.
    fn is_absence(&self, key: &RelPath, error: &Error) -> bool {
        match error.kind() {
            Kind::NotFound | Kind::NotADirectory => true,
            Kind::Denied => self.is_behind_link(key),
            _ => false,
        }
    }

    /// Whether a symbolic link stands in the path, which nothing is served through.
    fn is_behind_link(&self, key: &RelPath) -> bool {
        let mut at = key.parent();
        while let Some(dir) = at {
            if let Ok(facts) = self.root.dir().stat(&dir) {
                return facts.kind == FileKind::Symlink;
            }
            at = dir.parent();
        }
        false
    }

    /// Whether the file can be given a version: nobody writes it, or it has been quiet for so
    /// long that waiting for whoever holds it open would hide it for ever.
    fn is_settled(&self, key: &RelPath, facts: &Facts, closed: bool) -> bool {
        let age = self.clock.now_ns().saturating_sub(facts.ctime_ns);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        if age >= QUIET_OPEN {
            return true;
        }
        let quiet = age.max(self.quiet_for(key, facts));
        match self.ask_writers(key, facts) {
            Some(true) => quiet >= QUIET_OPEN,
            Some(false) => true,
            None => closed || quiet >= QUIET_UNKNOWN,
        }
    }

    /// Whether the file, as it is in `facts`, is being written.
    fn ask_writers(&self, key: &RelPath, facts: &Facts) -> Option<bool> {
        let file = self.open(key).ok()?;
        let writer = has_writer(&file)?;
        // Had it changed since `facts`, the answer would be about something else.
        let now = facts_of(&file).ok()?;
        Some(writer || Seen::from(&now) != Seen::from(facts))
    }

    /// How long we have watched the file being like this.
    fn quiet_for(&self, key: &RelPath, facts: &Facts) -> Duration {
        let seen = Seen::from(facts);
        let now = Instant::now();
        let mut motion = self.motion();
        match motion.get_mut(key) {
            Some((before, since)) if *before == seen => now.duration_since(*since),
            Some(entry) => {
                *entry = (seen, now);
                Duration::ZERO
            }
            None => {
                if motion.len() < IN_MOTION {
                    motion.insert(key.clone(), (seen, now));
                }
                Duration::ZERO
            }
        }
    }

    /// Files that wait for their writers.
    pub fn in_motion(&self) -> Vec<RelPath> {
        self.motion().keys().cloned().collect()
    }

    pub fn forget_motion(&self, key: &RelPath) {
        self.motion().remove(key);
    }

    fn motion(&self) -> MutexGuard<'_, HashMap<RelPath, (Seen, Instant)>> {
        self.motion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file for reading.
    pub fn open(&self, key: &RelPath) -> Result<std::fs::File> {
        self.root
            .dir()
            .open_file(key, OFlags::RDONLY, Mode::empty())
    }

    /// The hash of the file's bytes; none when it is no longer as `seen`, or cannot be read.
    fn hash(&self, key: &RelPath, seen: &Seen) -> Result<Option<Sha256>> {
        let Ok(file) = self.open(key) else {
            return Ok(None);
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < seen.size {
            let want = CHUNK.min(usize::try_from(seen.size - at).unwrap_or(CHUNK));
            if file.read_exact_at(&mut buffer[..want], at).is_err() {
                return Ok(None);
            }
            hasher.update(&buffer[..want]);
            at += want as u64;
        }
        let same = Seen::from(&facts_of(&file)?) == *seen;
        Ok(same.then(|| Sha256(hasher.finalize().into())))
    }
}
