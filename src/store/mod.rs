//! Near bytes: the only code that touches the tree.
//!
//! A [`Store`] owns one directory: the tree of whole files under their own names, and
//! `.larder` inside it with everything that is not such a file yet, or no more:
//!
//! | directory    | holds                                                        |
//! |--------------|--------------------------------------------------------------|
//! | `partial/`   | downloads, until they are whole ([`partial`])                 |
//! | `staged/`    | files being written ([`staged`])                              |
//! | `orphans/`   | what killed writers left, never published (promise P4)        |
//! | `conflicts/` | our versions that lost a race (promise P5; [`aside`])         |
//! | `removing/`  | files being removed, until their rows are gone ([`removing`]) |
//! | `graveyard/` | evicted files, until they are unlinked off the hot path       |
//!
//! It promises that a name appears in the tree by one rename of a finished file, that
//! nothing leads out of the directory, and that one process at a time owns it. It does
//! not know what any file means; the index does.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::beneath::{Dir, Facts, FileKind, Mode, OFlags, Onto, Space};
use crate::clock::{Chance, Clock};
use crate::error::{About, Error, Kind, Result};
use crate::path::{Name, RESERVED, RelPath};

pub mod aside;
pub mod evict;
pub mod graveyard;
mod memory;
pub mod partial;
pub mod ranges;
pub mod removing;
pub mod staged;
#[cfg(test)]
mod tests;
mod together;

pub use evict::{Candidate, Limits, Need, Usage};
pub use partial::{Given, Partial, PartialId};
pub use ranges::RangeSet;
pub use removing::Leaving;
pub use staged::{Staged, StagedId};

/// One store, owned by this process until it is dropped.
#[derive(Debug)]
pub struct Store {
    root: Dir,
    larder: Dir,
    partial: Arc<Dir>,
    staged: Dir,
    orphans: Dir,
    conflicts: Dir,
    removing: Dir,
    graveyard: Dir,
    clock: Clock,
    chance: Chance,
    /// Bytes of downloads that lie in memory.
    in_memory: Arc<AtomicU64>,
    /// Until when files are synced one by one, by the clock.
    apart_until: AtomicI64,
    _lock: Lock,
}

/// The lock file, locked. Dropping it gives the store up.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do at once: a child between fork and exec still holds a copy.
        // Should this fail, the lock ends with the process at the latest.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Store {
    /// Opens the store in `root`, and lays it out when it is new. `owner` is the
    /// mountpoint, told to whoever tries the same meanwhile.
    ///
    /// Errors: [`Kind::Busy`] when another process has it, [`Kind::ReadOnly`],
    /// [`Kind::Denied`] when `.larder` is a link or on another file system.
    pub fn open(root: Dir, owner: &str) -> Result<Store> {
        Store::open_with(root, owner, Clock::System, Chance::from_system())
    }

    /// The same, with time and chance decided by the caller.
    pub fn open_with(root: Dir, owner: &str, clock: Clock, chance: Chance) -> Result<Store> {
        let larder = root.reserved().map_err(|error| explain(error, ""))?;
        let lock = lock(&larder, owner).map_err(|error| explain(error, "/lock"))?;
        let own =
            |name| own_dir(&larder, name).map_err(|error| explain(error, &format!("/{name}")));
        Ok(Store {
            partial: Arc::new(own("partial")?),
            staged: own("staged")?,
            orphans: own("orphans")?,
            conflicts: own("conflicts")?,
            removing: own("removing")?,
            graveyard: own("graveyard")?,
            root,
            larder,
            clock,
            chance,
            in_memory: Arc::default(),
            apart_until: AtomicI64::new(0),
            _lock: lock,
        })
    }

    /// The tree.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// What the tree has at `path`, if it has anything.
    pub fn stored(&self, path: &RelPath) -> Result<Option<Facts>> {
        match self.root.stat(path) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `.larder`.
    pub fn larder(&self) -> &Dir {
        &self.larder
    }

    /// A path to `.larder` for code that wants paths. It leads through the held descriptor,
    /// so it reaches the directory *under* a mount, and lives as long as the store. Whoever
    /// resolves it first (`realpath`, `readlink`; SQLite does, unless its VFS is told not to)
    /// gets the name it has for others, which leads through the mount.
    pub fn larder_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.larder.as_fd().as_raw_fd()))
    }

    /// How full the file system is.
    pub fn space(&self) -> Result<Space> {
        self.root.space()
    }

    /// Why nothing can be written to the store, as far as one can tell without leaving anything there.
    #[cfg(target_os = "linux")]
    pub fn why_unwritable(&self) -> Option<Error> {
        let unnamed = OFlags::TMPFILE | OFlags::WRONLY;
        let made = self
            .larder
            .open_file(&RelPath::root(), unnamed, Mode::RUSR | Mode::WUSR);
        // Anything else may be a file system that makes no such files.
        made.err()
            .filter(|error| matches!(error.kind(), Kind::ReadOnly | Kind::NoSpace | Kind::Io))
    }

    /// The same, where there is no way to tell.
    #[cfg(not(target_os = "linux"))]
    pub fn why_unwritable(&self) -> Option<Error> {
        None
    }

    /// A name that nothing of ours has.
    fn fresh(&self) -> u64 {
        self.chance.next_u64()
    }

    /// Moves a finished file of ours into the tree, over what is there.
    fn place(&self, dir: &Dir, name: &RelPath, to: &RelPath) -> Result<Facts> {
        let before = dir.stat(name)?;
        match dir.rename_into(name, &self.root, to, Onto::Replace) {
            Err(error) if error.kind() == Kind::NotFound => {
                self.root.make_dirs(&to.parent().unwrap_or_default())?;
                dir.rename_into(name, &self.root, to, Onto::Replace)?;
            }
            done => done?,
        }
        // Only now: a rename changes the ctime. Facts of another file must not pass for ours.
        let after = self.root.stat(to)?;
        if (after.dev, after.ino) != (before.dev, before.ino) {
            let why = "another process replaced the file while it was put in place";
            return Err(Error::new(Kind::Stale, why).about(to));
        }
        Ok(after)
    }

    /// Takes a file (or link) out of the tree, to `name` in a directory of ours.
    fn take(&self, from: &RelPath, dir: &Dir, name: &RelPath) -> Result<()> {
        if self.root.stat(from)?.kind == FileKind::Dir {
            let why = "is a directory; only files are taken out of the tree";
            return Err(Error::new(Kind::IsADirectory, why).about(from));
        }
        self.root.rename_into(from, dir, name, Onto::Replace)
    }
}

/// One of our own directories, made when missing; never a link, never a mount point.
fn own_dir(larder: &Dir, name: &str) -> Result<Dir> {
    let path = own_path(name)?;
    match larder.make_dir(&path, 0o700) {
        Err(error) if error.kind() != Kind::Exists => return Err(error),
        _ => {}
    }
    let dir = larder.open_dir(&path)?;
    if dir.facts()?.dev != larder.facts()?.dev {
        let why = "another file system is mounted here; unmount it";
        return Err(Error::new(Kind::Denied, why));
    }
    Ok(dir)
}

/// The path of one name in a directory of ours.
fn own_path(name: &str) -> Result<RelPath> {
    let name = Name::new(name.as_bytes()).about(name.escape_debug())?;
    RelPath::root().join(&name)
}

/// Takes the store for this process, or says who has it.
fn lock(larder: &Dir, owner: &str) -> Result<Lock> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let mut file = larder.open_file(&own_path("lock")?, flags, Mode::RUSR | Mode::WUSR)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(taken(&mut file)),
        Err(errno) => return Err(std::io::Error::from(errno).into()),
    }
    let lock = Lock(file);
    lock.0.set_len(0)?;
    let line = format!("{} {}\n", std::process::id(), owner.escape_debug());
    lock.0.write_all_at(line.as_bytes(), 0)?;
    Ok(lock)
}

fn taken(file: &mut File) -> Error {
    let mut line = String::new();
    let read = file.take(8 << 10).read_to_string(&mut line);
    let who = match (read, line.trim_end().split_once(' ')) {
        (Ok(_), Some((pid, mountpoint))) => format!("pid {pid} mounted at {mountpoint}"),
        // It has the lock, and writes its line just now.
        _ => "another larder".to_owned(),
    };
    Error::new(
        Kind::Busy,
        format!("the store is in use by {who}; unmount that first, or choose another store"),
    )
}

/// Says which part of the layout it was, and what to do where the system's words do not.
fn explain(error: Error, part: &str) -> Error {
    let why = match error.kind() {
        Kind::ReadOnly => "the file system is read-only; make it writable or choose another store",
        _ => error.message(),
    };
    Error::new(error.kind(), why).about(format_args!("{RESERVED}{part}"))
}

/// Reserves `len` bytes at `offset` of a file; with `keep_size` its length stays.
pub fn allocate(file: &File, offset: u64, len: u64, keep_size: bool) -> Result<()> {
    let flags = match keep_size {
        true => rustix::fs::FallocateFlags::KEEP_SIZE,
        false => rustix::fs::FallocateFlags::empty(),
    };
    rustix::fs::fallocate(file, flags, offset, len).map_err(|e| std::io::Error::from(e).into())
}
