//! The index of a served directory: which files it has, in which version, in which
//! order they changed.
//!
//! It promises that a version's name never stands for two contents while the index
//! lives, that every change gets a higher sequence number than all before it, also
//! across a power cut, and that a reader sees one moment of it. A lost index gives
//! untouched files the same version names again, so that no client's copy is void.
//!
//! It knows nothing of the directory itself: callers say what they saw, and which row
//! they had read before they looked; a row that changed meanwhile is left alone.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::watch;

use crate::beneath::Facts;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::object::{Cursor, Meta, Sha256, Version};
use crate::path::RelPath;

mod legacy;
mod open;
mod read;
mod recent;
#[cfg(test)]
mod tests;
mod write;

pub use crate::legacy::NAME as LEGACY_NAME;
pub use legacy::{Hearsay, Legacy};
pub use read::Changed;
use recent::Recent;
use write::Writer;

/// What the file system said of a file when its version was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub ino: u64,
}

impl From<&Facts> for Seen {
    fn from(facts: &Facts) -> Seen {
        Seen {
            size: facts.size,
            mtime_ns: facts.mtime_ns,
            ctime_ns: facts.ctime_ns,
            ino: facts.ino,
        }
    }
}

/// What the index says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub seen: Seen,
    /// Tells versions apart whose size and time say nothing.
    pub bump: u64,
    pub sha256: Option<Sha256>,
    /// When this version came, in the order of all changes.
    pub seq: u64,
}

impl Row {
    /// The version's name.
    pub fn version(&self) -> Result<Version> {
        let Seen { size, mtime_ns, .. } = self.seen;
        match self.bump {
            0 => Version::new(&format!("{size:x}-{mtime_ns:x}")),
            bump => Version::new(&format!("{size:x}-{mtime_ns:x}-{bump:x}")),
        }
    }

    /// What clients are told.
    pub fn meta(&self) -> Result<Meta> {
        Ok(Meta {
            size: self.seen.size,
            mtime_ns: self.seen.mtime_ns,
            version: self.version()?,
            sha256: self.sha256,
            revision: None,
            arrival: None,
        })
    }

    /// Whether only the hash can tell if `seen` is this version: it was a `chmod`, a copy
    /// put back, or other bytes under the old time.
    pub fn needs_hash(&self, seen: &Seen) -> bool {
        self.sha256.is_some() && self.may_be_same(seen) && self.seen.ctime_ns != seen.ctime_ns
    }

    fn may_be_same(&self, seen: &Seen) -> bool {
        self.seen.size == seen.size && self.seen.mtime_ns == seen.mtime_ns
    }

    /// The row that follows when `seen`, with that hash, is found in this one's place.
    ///
    /// The bump never falls and rises whenever the time does not, so that no two
    /// versions of one path share a name, whatever is done to their times.
    fn followed_by(&self, seen: &Seen, sha256: Option<Sha256>, seq: u64) -> Row {
        let same_bytes = match (sha256, self.sha256) {
            (Some(now), Some(before)) => now == before,
            // The inode alone says nothing: some file systems number their files anew at every
            // mount, and where a file was replaced the ctime tells.
            (None, _) => self.seen.ctime_ns == seen.ctime_ns,
            (Some(_), None) => self.seen == *seen,
        };
        if self.may_be_same(seen) && same_bytes {
            return Row {
                seen: *seen,
                sha256: sha256.or(self.sha256),
                ..self.clone()
            };
        }
        let later = seen.mtime_ns > self.seen.mtime_ns;
        Row {
            seen: *seen,
            bump: self.bump + u64::from(!later),
            sha256,
            seq,
        }
    }
}

/// Which row the caller knew when it looked at the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knew {
    /// The caller holds the path's lock, or has just put the file there itself.
    Anything,
    /// The row with this sequence number; none: there was no row.
    Seq(Option<u64>),
}

/// Something to write down.
#[derive(Debug, Clone)]
pub enum Note {
    /// The file is there like this.
    Saw {
        key: RelPath,
        seen: Seen,
        sha256: Option<Sha256>,
        knew: Knew,
    },
    /// There is no such file.
    Missing { key: RelPath, knew: Knew },
    /// These bytes were read from start to end, while the file was like this.
    Hashed {
        key: RelPath,
        seen: Seen,
        sha256: Sha256,
    },
    /// The whole directory was seen once: from now on absence means something.
    Scanned,
    /// Old tombstones may go.
    Prune,
}

impl Note {
    /// The path that it is about.
    fn key(&self) -> Option<&RelPath> {
        match self {
            Note::Saw { key, .. } | Note::Missing { key, .. } | Note::Hashed { key, .. } => {
                Some(key)
            }
            Note::Scanned | Note::Prune => None,
        }
    }
}

/// The numbers that everybody asks for, kept beside the database.
#[derive(Debug, Default)]
struct Totals {
    files: AtomicU64,
    bytes: AtomicU64,
    scanned: AtomicU64,
}

/// The index. Share it in an `Arc`; dropping it ends the writer.
pub struct Index {
    readers: read::Pool,
    recent: Arc<Recent>,
    writer: Writer,
    epoch: String,
    seq: watch::Receiver<u64>,
    totals: Arc<Totals>,
    report: Mutex<Option<String>>,
}

impl Index {
    /// Opens the index at `path`, or makes it. One that is damaged is set aside and made
    /// anew; one from a newer larder is refused ([`Kind::Unsupported`]).
    pub fn open(path: &Path, clock: Clock) -> Result<Index> {
        let opened = open::open(path)?;
        let totals = Arc::new(Totals::default());
        totals.files.store(opened.files, Ordering::Relaxed);
        totals.bytes.store(opened.bytes, Ordering::Relaxed);
        totals
            .scanned
            .store(u64::from(opened.scanned), Ordering::Relaxed);
        let (sender, seq) = watch::channel(opened.seq);
        let recent = Arc::new(Recent::new());
        let shared = (totals.clone(), recent.clone());
        let writer = Writer::start(opened.connection, sender, shared, clock)?;
        Ok(Index {
            readers: read::Pool::new(path),
            recent,
            writer,
            epoch: opened.epoch,
            seq,
            totals,
            report: Mutex::new(opened.report),
        })
    }

    /// What happened at opening that people should know, once.
    pub fn take_report(&self) -> Option<String> {
        self.report.lock().ok()?.take()
    }

    /// Which life of the index this is.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Where the index stands now.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch.clone(),
            seq: *self.seq.borrow(),
        }
    }

    /// Follows the sequence number; it is told after the change can be read.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.seq.clone()
    }

    /// How many files, and how many bytes in them.
    pub fn totals(&self) -> (u64, u64) {
        let Totals { files, bytes, .. } = &*self.totals;
        (files.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Whether the whole directory was seen once in this index's life.
    pub fn is_scanned(&self) -> bool {
        self.totals.scanned.load(Ordering::Acquire) != 0
    }

    /// One file's row.
    pub fn get(&self, key: &RelPath) -> Result<Option<Row>> {
        self.recent
            .get(key, || self.readers.with(|db| read::get(db, key)))
    }

    /// Up to `limit` rows beneath the directory `under`, in byte order, after `after`.
    pub fn beneath(
        &self,
        under: &RelPath,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Result<Vec<(RelPath, Row)>> {
        self.readers
            .with(|db| read::beneath(db, under, after, limit))
    }

    /// Up to `limit` rows in byte order, from `from` on and before `before`.
    pub fn between(
        &self,
        from: Bound<&[u8]>,
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(RelPath, Row)>> {
        self.readers
            .with(|db| read::between(db, from, before, limit))
    }

    /// Tells every row in byte order, and then the cursor that belongs to them.
    /// `each` says whether to go on; none is returned when it stopped.
    pub fn list(&self, each: impl FnMut(RelPath, Row) -> bool) -> Result<Option<Cursor>> {
        self.readers.with(|db| read::list(db, each))
    }

    /// Tells what changed after `since`, in order. [`Kind::Stale`] when that is no longer
    /// known, or `since` is of another life.
    pub fn changes(
        &self,
        since: &Cursor,
        each: impl FnMut(u64, RelPath, Changed) -> bool,
    ) -> Result<Option<Cursor>> {
        self.readers.with(|db| read::changes(db, since, each))
    }

    /// Writes all of `notes` in one transaction, waits for it, and tells each path's row as it
    /// is then. Blocks for as long as a commit takes.
    pub fn write(&self, notes: Vec<Note>) -> Result<Vec<Option<Row>>> {
        self.writer.write(notes)
    }

    /// Writes a hash down some time soon, or not at all when the writer is busy.
    pub fn learn(&self, key: RelPath, seen: Seen, sha256: Sha256) {
        self.writer.offer(Note::Hashed { key, seen, sha256 });
    }
}

/// A database error as ours. Lasting ones are `Io`: nobody's bytes are at fault.
fn said(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let kind = match error.sqlite_error_code() {
        Some(Code::DiskFull) => Kind::NoSpace,
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => Kind::Busy,
        Some(Code::ReadOnly) => Kind::ReadOnly,
        _ => Kind::Io,
    };
    Error::new(kind, format!("the index of served files: {error}"))
}

/// Numbers as SQLite holds them; sizes and inodes keep their bits.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn set_common(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.pragma_update(None, "cache_size", -4096)?;
    db.pragma_update(None, "temp_store", "MEMORY")
}
