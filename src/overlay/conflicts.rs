//! Conflicts: how both versions are told, and how a conflict ends (promise P5).
//!
//! Our version comes back the way of every written file: it is staged, on record as closed, and
//! published. So a kill finds nothing that a start does not know how to end:
//!
//! | step of `keep_mine` | on disk | in the index | killed here |
//! |---|---|---|---|
//! | noted | in `conflicts/` | `staged` row, closed; outbox row based on what the name shows | no such staged file: the rows go, the conflict stays |
//! | staged | in `staged/` | – | published at the next start; the conflict ends, for its file is not there |
//! | published | in the tree | node row, `staged` row gone | the conflict ends |
//! | settled | – | conflict gone, the name has another inode | nothing to do |
//!
//! `keep_theirs` drops the file first and the row after: a row without its file ends at the next start.

use std::collections::BTreeSet;
use std::fs::File;

use super::compare::{self, Compared};
use super::{Attr, Caller, Overlay};
use crate::beneath::{Facts, FileKind, Mode, OFlags, facts_of};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{
    ConflictRow, Held, NewNode, Node, NodeId, NodeKind, ROOT, holding, node as rows,
};
use crate::object::Sha256;
use crate::path::{Name, RelPath};
use crate::store::StagedId;
use crate::transfer::commit::seen;

/// As many rows as there are: people made them one by one, and each has a file.
const ALL: usize = i64::MAX as usize;
/// Conflicts of one path that are named to somebody who has to choose.
const NAMED: usize = 10;

const TAKEN: &str = "something else has its name; move that away first";
const BY_HAND: &str =
    "was changed in the folder by hand; open it once in the mount, or move it away, then decide";

/// Which conflict is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Number(i64),
    Path(RelPath),
}

/// A conflict, looked at.
pub struct Shown {
    pub row: ConflictRow,
    pub mine: Facts,
    pub mine_sha256: Sha256,
    /// What the name shows now; none if there is nothing.
    pub theirs: Option<Node>,
    /// Of the bytes here, else as its remote says.
    pub theirs_sha256: Option<Sha256>,
    /// None where it cannot be told.
    pub is_equal: Option<bool>,
    pub first_difference: Option<u64>,
    pub diff: Option<String>,
}

impl Overlay {
    /// The conflict that is meant. Errors: `NotFound`; `Invalid` if the path has several.
    pub fn conflict(&self, which: &Which) -> Result<ConflictRow> {
        let found = match which {
            Which::Number(id) => {
                let found = self.index.read(|c| holding::conflict(c, *id))?;
                Vec::from_iter(found)
            }
            Which::Path(path) => self.index.read(|c| holding::conflicts_at(c, path, NAMED))?,
        };
        let none = || {
            let why = "no such conflict; `larder conflicts` lists those there are";
            match which {
                Which::Number(id) => Error::new(Kind::NotFound, why).about(id),
                Which::Path(path) => Error::new(Kind::NotFound, why).about(path),
            }
        };
        match <[ConflictRow; 1]>::try_from(found) {
            Ok([row]) if row.file.is_empty() => {
                let why = "is being set aside at this moment; ask again";
                Err(Error::new(Kind::Busy, why).about(row.path))
            }
            Ok([row]) => Ok(row),
            Err(none_found) if none_found.is_empty() => Err(none()),
            Err(several) => {
                let numbers: Vec<_> = several.iter().map(|row| row.id.to_string()).collect();
                let why = format!(
                    "has several conflicts; name one by its number: {}",
                    numbers.join(", ")
                );
                Err(Error::new(Kind::Invalid, why).about(&several[0].path))
            }
        }
    }

    /// What has the path of a conflict now, if it is a file.
    pub fn at_conflict(&self, row: &ConflictRow) -> Result<Option<Node>> {
        let found = self.index.read(|c| rows::resolve(c, &row.path))?;
        Ok(found.filter(|node| node.kind == NodeKind::File))
    }

    /// Looks at both versions; reads those that are here. Blocks.
    pub fn look_at(&self, row: ConflictRow) -> Result<Shown> {
        let mine = self.store.open_aside(&row.file).map_err(|error| {
            let why =
                "the version that was kept aside is not there any more; it ends with keep-theirs";
            match error.kind() {
                Kind::NotFound => Error::new(Kind::NotFound, why).about(&row.path),
                _ => error,
            }
        })?;
        let facts = facts_of(&mine)?;
        let theirs = self.at_conflict(&row)?;
        let here = match &theirs {
            Some(node) if node.held == Held::Whole => self.stored_bytes(&row.path)?,
            _ => None,
        };
        let mut shown = Shown {
            mine: facts,
            mine_sha256: Sha256([0; 32]),
            theirs_sha256: theirs.as_ref().and_then(|node| node.sha256),
            theirs,
            is_equal: None,
            first_difference: None,
            diff: None,
            row,
        };
        match here {
            Some(here) => shown.compare(&mine, &here)?,
            None => shown.compare_unread(&mine)?,
        }
        Ok(shown)
    }

    fn stored_bytes(&self, path: &RelPath) -> Result<Option<File>> {
        let root = self.store.root();
        match root.open_file(path, OFlags::RDONLY, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The remote's version stays; ours goes, for good.
    pub fn keep_theirs(&self, row: &ConflictRow) -> Result<()> {
        match self.store.drop_aside(&row.file) {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
        crash::point("settle.dropped");
        let number = row.id;
        self.index.edit(move |w| w.conflict_settled(number))
    }

    /// Our version takes its path back: a local write on top of what the name shows, so that a
    /// version that came to the remote since is a conflict again, and not lost.
    ///
    /// Errors: `Busy` if the name has a version that would be lost by it.
    pub fn keep_mine(&self, row: &ConflictRow) -> Result<()> {
        self.check_writable()?;
        let mine = facts_of(&self.store.open_aside(&row.file)?)?;
        let (parent, name) = self.dir_of_conflict(&row.path)?;
        self.reconcile_once(parent)?;
        let _paths = self.commit.paths_stay();
        let found = self
            .index
            .read(|c| rows::child(c, parent, name.as_bytes()))?;
        let _node = found.as_ref().map(|node| self.commit.hold(node.id));
        // Again, now that it stays what it is.
        let found = match found {
            Some(node) => self.index.node(node.id)?,
            None => None,
        };
        self.check_replaceable(row, found.as_ref())?;
        if let Some(node) = &found {
            self.uploads.cancel(node.id);
        }
        let staged = self.store.staged_id();
        let id = self.note_return(row, &mine, staged, found.as_ref(), parent, name)?;
        crash::point("settle.noted");
        if let Err(error) = self.store.stage_aside(&row.file, staged) {
            self.abandon_return(staged)?;
            return Err(error);
        }
        crash::point("settle.staged");
        let local = |path: &RelPath| self.is_local_only(path);
        if let Err(error) = self.commit.written_held(id, staged, &local) {
            self.store.unstage_aside(staged, &row.file)?;
            self.abandon_return(staged)?;
            return Err(error);
        }
        crash::point("settle.placed");
        let (number, replaces) = (row.id, found.is_some());
        self.index.edit(move |w| {
            if replaces {
                // Readers keep the other version; the name has another inode from now on.
                w.replace_id(id)?;
            }
            w.conflict_settled(number)
        })?;
        self.uploads.kick();
        Ok(())
    }

    /// The directory that a conflict's file belongs in, made if it is gone.
    fn dir_of_conflict(&self, path: &RelPath) -> Result<(NodeId, Name)> {
        let Some(name) = path.file_name() else {
            return Err(Error::new(Kind::IsADirectory, "is a directory").about(path));
        };
        let mut at = ROOT;
        let above = path.parent().unwrap_or_default();
        for part in above.components() {
            let part = Name::new(part)?;
            let child = self.index.read(|c| rows::child(c, at, part.as_bytes()))?;
            at = match child {
                Some(node) if node.kind == NodeKind::Dir => node.id,
                Some(_) => {
                    let why = "its directory is something else by now; move that away first";
                    return Err(Error::new(Kind::NotADirectory, why).about(path));
                }
                None => self.remake_dir(at, &part)?.id,
            };
        }
        Ok((at, name))
    }

    fn remake_dir(&self, parent: NodeId, name: &Name) -> Result<Attr> {
        let top = self.store.root().facts()?;
        let caller = Caller {
            uid: top.uid,
            gid: top.gid,
        };
        self.make_dir(parent, name, 0o755, caller)
    }

    /// What has the name may be replaced: it is at a remote, and nobody is at work on it.
    fn check_replaceable(&self, row: &ConflictRow, found: Option<&Node>) -> Result<()> {
        let busy = |why: &str| Err(Error::new(Kind::Busy, why).about(&row.path));
        let Some(node) = found else {
            return match self.store.stored(&row.path)? {
                Some(facts) if facts.kind != FileKind::File => busy(TAKEN),
                Some(facts) if !self.is_doomed(&row.path, &facts)? => busy(BY_HAND),
                _ => Ok(()),
            };
        };
        if node.kind != NodeKind::File {
            return busy(TAKEN);
        }
        if self.opens.is_being_written(node.id) {
            return busy("is open for writing; close it first");
        }
        if node.dirty != 0 || node.origin.is_none() {
            return busy(
                "was written here again since, and that has not gone up; wait for `larder flush --wait`, or rename it, then decide",
            );
        }
        if node.held == Held::Whole
            && let Some(facts) = self.store.stored(&row.path)?
            && Some(seen(&facts)) != node.seen
        {
            return busy(BY_HAND);
        }
        Ok(())
    }

    /// The intent, before a byte moves: our version is a closed file that has yet to get its name.
    fn note_return(
        &self,
        row: &ConflictRow,
        mine: &Facts,
        staged: StagedId,
        found: Option<&Node>,
        parent: NodeId,
        name: Name,
    ) -> Result<NodeId> {
        let (facts, known) = (seen(mine), found.map(|node| node.id));
        let (queue, now_ns) = (!self.is_local_only(&row.path), self.clock.now_ns());
        let new = NewNode {
            parent,
            name,
            kind: NodeKind::File,
            mode: mine.mode & 0o7777,
            uid: Some(mine.uid),
            gid: Some(mine.gid),
            size: mine.size,
            mtime_ns: mine.mtime_ns,
        };
        self.index.edit(move |w| {
            let id = match known {
                Some(id) => id,
                None => w.create(&new, now_ns)?.id,
            };
            w.stage(staged.0, id)?;
            w.close_staged(staged.0, id, facts, queue, now_ns / 1_000_000)?;
            Ok(id)
        })
    }

    fn abandon_return(&self, staged: StagedId) -> Result<()> {
        let now = self.clock.now_ns();
        self.index.edit(move |w| w.abandon_staged(staged.0, now))
    }

    /// What a killed daemon left of conflicts that began or ended.
    pub(super) fn recover_conflicts(&self) -> Result<()> {
        let aside = self.store.aside()?;
        let mut strays: BTreeSet<String> = aside.into_iter().map(|(name, _)| name).collect();
        for row in self.index.read(|c| holding::conflicts(c, ALL))? {
            let prefix = format!("{:016x}-", row.id);
            let mut after = strays.range(prefix.clone()..);
            let file = match row.file.is_empty() {
                true => after.next().filter(|name| name.starts_with(&prefix)),
                false => strays.get(&row.file),
            };
            let (id, path) = (row.id, &row.path);
            let Some(file) = file.cloned() else {
                self.index.edit(move |w| w.conflict_settled(id))?;
                if !row.file.is_empty() {
                    self.note(format!(
                        "{path}: the version kept aside is not in .larder/conflicts any more (settled just before the last end, or taken by hand); the conflict is ended"
                    ));
                }
                continue;
            };
            strays.remove(&file);
            if row.file.is_empty() {
                let name = file.clone();
                self.index.edit(move |w| w.conflict_named(id, &name))?;
                self.forget_bytes(path)?;
                self.note(format!(
                    "{path}: was being set aside at the last end, for its remote has another version; ours is kept as .larder/conflicts/{file}"
                ));
            }
        }
        for name in &strays {
            let kept = self.store.orphan_aside(name)?;
            self.note(format!(
                "a version that was kept aside has no entry any more (the index was rebuilt); it is kept as .larder/orphans/{kept}"
            ));
        }
        Ok(())
    }

    fn forget_bytes(&self, path: &RelPath) -> Result<()> {
        let Some(node) = self.index.read(|c| rows::resolve(c, path))? else {
            return Ok(());
        };
        let (id, now) = (node.id, self.clock.now_ns());
        match self.store.stored(path)? {
            None => self.index.edit(move |w| w.not_held(id, now)),
            Some(_) => Ok(()),
        }
    }
}

impl Shown {
    fn compare(&mut self, mine: &File, theirs: &File) -> Result<()> {
        let Compared {
            hashes,
            first_difference,
        } = compare::compare(mine, theirs)?;
        self.mine_sha256 = hashes[0];
        self.theirs_sha256 = Some(hashes[1]);
        self.is_equal = Some(first_difference.is_none());
        self.first_difference = first_difference;
        if first_difference.is_some() {
            self.diff = compare::lines(("theirs", theirs), ("mine", mine))?;
        }
        Ok(())
    }

    /// Theirs is not here: what its remote says of it has to do.
    fn compare_unread(&mut self, mine: &File) -> Result<()> {
        self.mine_sha256 = compare::hash(mine)?;
        self.is_equal = match (&self.theirs, self.theirs_sha256) {
            (Some(node), _) if node.size != self.mine.size => Some(false),
            (Some(_), Some(theirs)) => Some(theirs == self.mine_sha256),
            _ => None,
        };
        Ok(())
    }
}
