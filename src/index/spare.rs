//! Room that is kept for the day when the disk is full: the index has to be written even to
//! note that something was removed to make room.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// How much is kept.
const SPARE: usize = 512 << 10;
/// Commits between two tries to put it by again.
const EVERY: u32 = 64;

/// The room, in a file beside the index.
pub(super) struct Spare {
    path: PathBuf,
    is_kept: bool,
    commits: u32,
}

impl Spare {
    /// Puts it by, if there is room.
    pub fn beside(index: &Path) -> Spare {
        let mut spare = Spare {
            path: index.with_extension("db.spare"),
            is_kept: false,
            commits: 0,
        };
        spare.keep();
        spare
    }

    fn keep(&mut self) {
        let len = fs::metadata(&self.path).map_or(0, |facts| facts.len());
        self.is_kept = len == SPARE as u64 || self.put_by().is_ok();
        if !self.is_kept {
            // A part of it would only be in the way.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// For nobody else, as all that is ours, whatever the process's umask.
    fn put_by(&self) -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&self.path)?.write_all(&vec![0; SPARE])
    }

    /// A commit went well.
    pub fn committed(&mut self) {
        if self.is_kept {
            return;
        }
        self.commits += 1;
        if self.commits.is_multiple_of(EVERY) {
            self.keep();
        }
    }

    /// A commit met a full disk: the next one has this room, and that of the log.
    pub fn spend(&mut self, c: &Connection) {
        let _ = fs::remove_file(&self.path);
        (self.is_kept, self.commits) = (false, 0);
        if let Err(error) = c.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);") {
            tracing::debug!(%error, "the index could not be made smaller");
        }
    }
}

/// Gives up the room beside an index that cannot be opened for want of some. False: there is none.
pub(super) fn give_up(index: &Path) -> bool {
    fs::remove_file(index.with_extension("db.spare")).is_ok()
}
