//! Bytes that are kept although they are not in the tree: what killed writers left
//! (`orphans/`), and our versions where a remote's took the path (`conflicts/`).
//! Nothing here is ever removed unless someone asks.

use std::fs::File;

use super::{StagedId, Store, own_path};
use crate::beneath::{Dir, Facts, Mode, OFlags, Onto};
use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// How much of the original name is kept; with what stands before it, it fits in 255 bytes.
const KEEP: usize = 200;

impl Store {
    /// Keeps what a killed writer left of `was`; returns its name in `orphans/`.
    pub fn orphan(&self, id: StagedId, was: &RelPath) -> Result<String> {
        let name = format!("{}-{id}-{}", self.clock.now_ms(), readable(was));
        let from = own_path(&id.to_string())?;
        let to = vacant(&self.orphans, &name)?;
        self.staged
            .rename_into(&from, &self.orphans, &to, Onto::Replace)?;
        Ok(name)
    }

    /// Keeps what is left of a file of the tree; returns its name in `orphans/`.
    pub fn orphan_stored(&self, from: &RelPath) -> Result<String> {
        let name = format!(
            "{}-{:016x}-{}",
            self.clock.now_ms(),
            self.fresh(),
            readable(from)
        );
        let to = vacant(&self.orphans, &name)?;
        self.take(from, &self.orphans, &to)?;
        Ok(name)
    }

    /// All orphans, by name, which begins with the time.
    pub fn orphans(&self) -> Result<Vec<(String, Facts)>> {
        listed(&self.orphans)
    }

    /// Opens an orphan for reading.
    pub fn open_orphan(&self, name: &str) -> Result<File> {
        self.orphans
            .open_file(&own_path(name)?, OFlags::RDONLY, Mode::empty())
    }

    /// Removes an orphan.
    pub fn drop_orphan(&self, name: &str) -> Result<()> {
        self.orphans.remove_file(&own_path(name)?)
    }

    /// Moves a file out of the tree; returns its name in `conflicts/`. `id` makes the name
    /// unique: a second file under the same one is [`Kind::Exists`].
    pub fn set_aside(&self, from: &RelPath, id: u64) -> Result<String> {
        let name = format!("{id:016x}-{}", readable(from));
        let to = vacant(&self.conflicts, &name)?;
        self.take(from, &self.conflicts, &to)?;
        Ok(name)
    }

    /// All files set aside, by name.
    pub fn aside(&self) -> Result<Vec<(String, Facts)>> {
        listed(&self.conflicts)
    }

    /// Opens a file that was set aside, for reading.
    pub fn open_aside(&self, name: &str) -> Result<File> {
        self.conflicts
            .open_file(&own_path(name)?, OFlags::RDONLY, Mode::empty())
    }

    /// Moves a file that was set aside to the files that wait for their name, as number `id`.
    pub fn stage_aside(&self, name: &str, id: StagedId) -> Result<()> {
        let (from, to) = (own_path(name)?, own_path(&id.to_string())?);
        self.conflicts
            .rename_into(&from, &self.staged, &to, Onto::NoReplace)
    }

    /// Takes [`stage_aside`](Store::stage_aside) back.
    pub fn unstage_aside(&self, id: StagedId, name: &str) -> Result<()> {
        let (from, to) = (own_path(&id.to_string())?, own_path(name)?);
        self.staged
            .rename_into(&from, &self.conflicts, &to, Onto::NoReplace)
    }

    /// Keeps a file that was set aside, and that nobody knows the path of any more, as an orphan;
    /// returns its name in `orphans/`.
    pub fn orphan_aside(&self, name: &str) -> Result<String> {
        let kept = format!("{}-{name}", self.clock.now_ms());
        let to = vacant(&self.orphans, &kept)?;
        self.conflicts
            .rename_into(&own_path(name)?, &self.orphans, &to, Onto::NoReplace)?;
        Ok(kept)
    }

    /// Removes a file that was set aside.
    pub fn drop_aside(&self, name: &str) -> Result<()> {
        self.conflicts.remove_file(&own_path(name)?)
    }
}

/// The path of a name that is still free. Nobody takes it meanwhile: the store is ours alone.
fn vacant(dir: &Dir, name: &str) -> Result<RelPath> {
    let path = own_path(name)?;
    match dir.stat(&path) {
        Err(error) if error.kind() == Kind::NotFound => Ok(path),
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(Kind::Exists, "is kept already").about(name)),
    }
}

/// The last component in characters that any terminal and any file system takes.
fn readable(path: &RelPath) -> String {
    let mut name = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string());
    while name.len() > KEEP {
        name.pop();
    }
    name
}

/// The files of a directory, by name. A name that is not text is none of ours.
fn listed(dir: &Dir) -> Result<Vec<(String, Facts)>> {
    let entries = dir.read_dir(&RelPath::root())?.into_iter();
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some((String::from_utf8(entry.name).ok()?, entry.facts)))
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}
