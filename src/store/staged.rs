//! Files being written: they have a number instead of a name until they are published.

use std::fmt;
use std::fs::File;

use super::{Store, own_path};
use crate::beneath::{Entry, Facts, Mode, OFlags, set_mode_of};
use crate::error::{About, Kind, Result};
use crate::path::RelPath;

/// Names one staged file, also across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StagedId(pub u64);

impl fmt::Display for StagedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl StagedId {
    fn path(self) -> Result<RelPath> {
        own_path(&self.to_string())
    }

    fn parse(name: &[u8]) -> Option<StagedId> {
        let text = std::str::from_utf8(name).ok()?;
        let id = StagedId(u64::from_str_radix(text, 16).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

/// A file being written.
#[derive(Debug)]
pub struct Staged {
    pub id: StagedId,
    /// Open for reading and writing.
    pub file: File,
}

impl Store {
    /// Starts an empty file with exactly these permission bits.
    pub fn stage(&self, mode: u32) -> Result<Staged> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let private = Mode::RUSR | Mode::WUSR;
        let (id, file) = loop {
            let id = StagedId(self.fresh());
            match self.staged.open_file(&id.path()?, flags, private) {
                Err(error) if error.kind() == Kind::Exists => {}
                opened => break (id, opened?),
            }
        };
        // Afterwards, because the process's umask counts when a file is made.
        set_mode_of(&file, mode).about(id)?;
        Ok(Staged { id, file })
    }

    /// A number for a file that is about to be moved here.
    pub fn staged_id(&self) -> StagedId {
        StagedId(self.fresh())
    }

    /// Opens a staged file again, for reading, whatever its mode says; also on a disk that nobody can
    /// write any more.
    pub fn open_staged(&self, id: StagedId) -> Result<File> {
        let path = id.path()?;
        let open = || self.staged.open_file(&path, OFlags::RDONLY, Mode::empty());
        match open() {
            Err(error) if error.kind() == Kind::Denied => {
                let mode = self.staged.stat(&path)?.mode;
                self.staged.set_mode(&path, mode | 0o400)?;
                let opened = open();
                self.staged.set_mode(&path, mode)?;
                opened
            }
            opened => opened,
        }
    }

    /// All staged files, in no order.
    pub fn staged(&self) -> Result<Vec<(StagedId, Facts)>> {
        let entries = self.staged.read_dir(&RelPath::root())?;
        let ours = |entry: Entry| Some((StagedId::parse(&entry.name)?, entry.facts));
        Ok(entries.into_iter().filter_map(ours).collect())
    }

    /// Makes the names of staged files outlive a power cut; their bytes are the writer's to sync.
    pub fn sync_staged(&self) -> Result<()> {
        self.staged.sync(&RelPath::root())
    }

    /// Gives a staged file up. One that is gone already is no error.
    pub fn drop_staged(&self, id: StagedId) -> Result<()> {
        match self.staged.remove_file(&id.path()?) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Moves a staged file to its name in the tree, over what is there, and makes the
    /// directories above it. [`Kind::IsADirectory`] when a directory has the name.
    pub fn publish(&self, id: StagedId, to: &RelPath) -> Result<Facts> {
        self.place(&self.staged, &id.path()?, to)
    }
}
