//! The served directory itself: the descriptor that everything is beneath, and whether it is
//! still the directory that was meant.
//!
//! A disk that was unplugged, a share that went away, a directory that was renamed: each
//! must look like "not there", never like "all files deleted".

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::beneath::Dir;
use crate::error::{About, Error, Kind, Result};

/// The served directory.
pub struct Root {
    path: PathBuf,
    dir: Dir,
    identity: (u64, u64),
}

impl Root {
    /// Opens the directory at `path`; links on the way to it are the user's business.
    pub fn open(path: &Path) -> Result<Root> {
        let path = fs::canonicalize(path).about(path.display())?;
        let dir = Dir::open_ambient(&path)?;
        let facts = dir.facts()?;
        Ok(Root {
            path,
            dir,
            identity: (facts.dev, facts.ino),
        })
    }

    /// The path, without links in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Fails with [`Kind::Offline`] while the path leads elsewhere or nowhere.
    pub fn check(&self) -> Result<()> {
        match fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == self.identity => Ok(()),
            _ => Err(Error::new(
                Kind::Offline,
                "the served directory is not there",
            )),
        }
    }
}
