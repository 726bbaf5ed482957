//! Getting rid of files without waiting for it: unlinking a large file takes long, a
//! rename does not.

use super::{Store, own_path};
use crate::beneath::FileKind;
use crate::error::{Kind, Result};
use crate::path::RelPath;

impl Store {
    /// Takes a file out of the tree for good. One that is gone already is no error;
    /// directories are refused, for what is in them may be wanted.
    pub fn bury(&self, path: &RelPath) -> Result<()> {
        let grave = own_path(&format!("{:016x}", self.fresh()))?;
        match self.take(path, &self.graveyard, &grave) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Unlinks all that was buried; returns how many files. It may take long.
    pub fn empty_graveyard(&self) -> Result<u64> {
        let mut files = 0;
        for entry in self.graveyard.read_dir(&RelPath::root())? {
            // A directory was not put here by us.
            let Ok(name) = RelPath::new(&entry.name) else {
                continue;
            };
            if entry.facts.kind == FileKind::Dir {
                continue;
            }
            match self.graveyard.remove_file(&name) {
                Ok(()) => files += 1,
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }
}
