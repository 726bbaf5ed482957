//! Files that are being removed: out of the tree, and here until their rows are gone as well.
//!
//! The number of a file's node is its name here. Whatever the next start finds was cut short:
//! it goes back if its row still stands, and for good if not.

use super::{Store, own_path};
use crate::beneath::{FileKind, Onto};
use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// What became of a file that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It is out of the tree.
    Aside,
    /// There was none.
    Missing,
    /// It lies on a file system of its own and cannot be moved: it is where it was.
    Elsewhere,
}

impl Store {
    /// Takes a file (or link) out of the tree, as the number `of`. Errors: `IsADirectory`.
    pub fn begin_removal(&self, path: &RelPath, of: u64) -> Result<Leaving> {
        let facts = match self.root.stat(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == Kind::NotFound => return Ok(Leaving::Missing),
            Err(error) => return Err(error),
        };
        if facts.kind == FileKind::Dir {
            return Err(Error::new(Kind::IsADirectory, "is a directory").about(path));
        }
        if facts.dev != self.removing.facts()?.dev {
            return Ok(Leaving::Elsewhere);
        }
        self.root
            .rename_into(path, &self.removing, &numbered(of)?, Onto::Replace)?;
        Ok(Leaving::Aside)
    }

    /// Puts a file back that was not to be removed after all. False if it cannot be, for the name
    /// or the directory has been taken from it meanwhile.
    pub fn undo_removal(&self, of: u64, path: &RelPath) -> Result<bool> {
        let back = self
            .removing
            .rename_into(&numbered(of)?, &self.root, path, Onto::NoReplace);
        match back {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::Exists | Kind::NotFound | Kind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Its row is gone: so is the file.
    pub fn end_removal(&self, of: u64) -> Result<()> {
        self.removing.remove_file(&numbered(of)?)
    }

    /// Whether the file number `of` is being removed.
    pub fn is_removing(&self, of: u64) -> Result<bool> {
        match self.removing.stat(&numbered(of)?) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The removals that were cut short.
    pub fn removals(&self) -> Result<Vec<u64>> {
        let entries = self.removing.read_dir(&RelPath::root())?.into_iter();
        Ok(entries
            .filter_map(|entry| {
                let name = String::from_utf8(entry.name).ok()?;
                u64::from_str_radix(&name, 16).ok()
            })
            .collect())
    }
}

fn numbered(of: u64) -> Result<RelPath> {
    own_path(&format!("{of:016x}"))
}
