//! Removing names: files, links, empty directories.
//!
//! A removed file leaves the tree first, but stays in the store until its row is gone as well.
//! Killed between, it goes back at the next start, with the bytes that were acknowledged: a name
//! never shows an older version because its removal was cut short (promise P3).

use super::Overlay;
use super::tree::unless_missing;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{NodeId, NodeKind, node as rows};
use crate::path::{Name, RelPath};
use crate::store::Leaving;

/// A node's stored file, on its way out.
pub(super) struct Removal {
    id: NodeId,
    path: RelPath,
    leaving: Leaving,
}

impl Overlay {
    /// Removes a file or a link here; at remotes only if the mount propagates deletes (promise P12).
    pub fn unlink(&self, parent: NodeId, name: &Name) -> Result<()> {
        self.check_writable()?;
        self.let_them_come(parent, name)?;
        let _paths = self.commit.paths_stay();
        let node = self.need_child(parent, name)?;
        if node.kind == NodeKind::Dir {
            return Err(Error::new(Kind::IsADirectory, "is a directory"));
        }
        let _node = self.commit.hold(node.id);
        self.uploads.cancel(node.id);
        let (id, now) = (node.id, self.clock.now_ns());
        let removal = self.begin_removal(id, self.path_of(id)?)?;
        let propagate = self.settings.propagate_deletes;
        let record = || self.index.edit(move |w| w.unlink(id, propagate, now));
        let recorded = match record() {
            // What the index had put by for this is free now.
            Err(error) if error.kind() == Kind::NoSpace => record(),
            done => done,
        };
        match recorded {
            Ok(()) => {
                crash::point("unlink.row");
                self.end_removal(removal);
            }
            // Nothing else makes the room that it takes to note what makes room.
            Err(error) if error.kind() == Kind::NoSpace => {
                self.end_removal(removal);
                // It takes its room until those who were sending it have closed it.
                self.uploads.wait_for_given_up();
                record()?;
            }
            Err(error) => {
                self.undo_removal(removal);
                return Err(error);
            }
        }
        self.detach(id);
        self.name_gone(parent, name);
        self.uploads.kick();
        Ok(())
    }

    /// Those who have the node open keep it; its name is gone.
    pub(super) fn detach(&self, id: NodeId) {
        if let Some(open) = self.opens.node(id) {
            open.lock().detached = true;
        }
    }

    /// Takes a node's file out of the tree, whatever it is by now; its row is to go next. The
    /// caller holds the node, or all paths: until its row is gone nobody else has the name.
    pub(super) fn begin_removal(&self, id: NodeId, path: RelPath) -> Result<Removal> {
        let leaving = self.store.begin_removal(&path, id.0)?;
        if leaving == Leaving::Aside {
            crash::point("remove.aside");
        }
        Ok(Removal { id, path, leaving })
    }

    /// The row is gone.
    pub(super) fn end_removal(&self, removal: Removal) {
        let ended = match removal.leaving {
            Leaving::Missing => return,
            Leaving::Aside => self.store.end_removal(removal.id.0),
            // Nothing of ours is ever put there, so this is still the same file.
            Leaving::Elsewhere => unless_missing(self.store.root().remove_file(&removal.path)),
        };
        if let Err(error) = ended {
            // The name is gone all the same; the next start tries again.
            tracing::warn!(path = %removal.path, %error, "a removed file still takes room");
        }
    }

    /// The row could not be removed: the name keeps its file.
    pub(super) fn undo_removal(&self, removal: Removal) {
        if removal.leaving != Leaving::Aside {
            return;
        }
        match self.store.undo_removal(removal.id.0, &removal.path) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(path = %removal.path, "was not removed, and something else took its place in the folder")
            }
            Err(error) => {
                tracing::warn!(path = %removal.path, %error, "was not removed; the next start puts it back");
            }
        }
    }

    /// Removals that the last end cut short: where the row still stands, the name has its file
    /// again, unless somebody put another one there since.
    pub(super) fn recover_removals(&self) -> Result<()> {
        for number in self.store.removals()? {
            let is_back = match self.index.path_of(NodeId(number))? {
                Some(path) => {
                    let is_back = self.store.undo_removal(number, &path)?;
                    self.note(match is_back {
                        true => format!("{path}: was being removed at the last end; it is back, remove it again"),
                        false => format!("{path}: was being removed at the last end, and replaced in the folder since; what is there stays"),
                    });
                    is_back
                }
                None => false,
            };
            if !is_back {
                self.store.end_removal(number)?;
            }
        }
        Ok(())
    }

    /// Removes an empty directory. Errors: `NotEmpty`.
    ///
    /// Killed between the tree and the row, the name is there without anything in it, or gone.
    pub fn remove_dir(&self, parent: NodeId, name: &Name) -> Result<()> {
        self.check_writable()?;
        let _paths = self.commit.paths_change();
        let node = self.need_child(parent, name)?;
        if node.kind != NodeKind::Dir {
            return Err(Error::new(Kind::NotADirectory, "is not a directory"));
        }
        if !self
            .index
            .read(|c| rows::children(c, node.id, b"", 1))?
            .is_empty()
        {
            return Err(Error::new(Kind::NotEmpty, "the directory is not empty"));
        }
        let path = self.path_of(node.id)?;
        self.bury_doomed_under(&path)?;
        unless_missing(self.store.root().remove_dir(&path))?;
        let (id, now) = (node.id, self.clock.now_ns());
        self.index.edit(move |w| w.remove_dir(id, now))?;
        self.name_gone(parent, name);
        Ok(())
    }
}
