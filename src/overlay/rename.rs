//! Renaming: over nothing, over what is there, and two names changing places.
//!
//! The tree changes in one step, the rows after it. A rename that is killed between is carried
//! through by the next start. Where the comparison of the folder would do that by itself,
//! nothing is noted for it: a file without a version at any remote, also none that it is to replace, and
//! nothing sent under its name that was not answered, is gone from its old name and found under the new one, and that is the way
//! of `tmp + rename`. Anything else is noted first, for its old name would show what a remote has of
//! it, which may be older (promise P3), or forget whose that is (promise P5). So is what somebody is
//! still writing, which would be found under the new name and taken for whole (promise P4).

use super::Overlay;
use super::remove::Removal;
use super::tree::unless_missing;
use crate::beneath::Onto;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Move, Node, NodeId, NodeKind, moving, node as rows, outbox};
use crate::path::{Name, RelPath};
use crate::transfer::commit::seen;

/// Notes read in one go; there is one for each rename under way, and they wait for each other.
const PAGE: usize = 1000;

/// What a rename does about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// What a rename came to in the tree.
enum Moved {
    /// What the store has of it moved.
    Stored,
    /// It has nothing of it: only names move, and what the target had goes.
    Names(Option<Removal>),
}

impl Overlay {
    /// Renames, over what is there if `mode` says so.
    pub fn rename(
        &self,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        mode: RenameMode,
    ) -> Result<()> {
        self.check_writable()?;
        self.reconcile_once(to.0)?;
        let _paths = self.paths_to_replace(to.0, to.1)?;
        let node = self.need_child(from.0, from.1)?;
        let target = self
            .index
            .glance(|c| rows::child(c, to.0, to.1.as_bytes()))?;
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => {
                return Err(Error::new(Kind::Exists, "exists already"));
            }
            (RenameMode::Exchange, None) => return Err(Error::new(Kind::NotFound, "no such file")),
            (RenameMode::Exchange, Some(target)) => return self.exchange(node.id, target.id, to),
            _ => {}
        }
        if target.as_ref().is_some_and(|t| t.id == node.id) {
            return Ok(());
        }
        let old = self.path_of_dir(from.0)?.join(from.1)?;
        let new = self.path_of_dir(to.0)?.join(to.1)?;
        if new.is_under(&old) {
            return Err(Error::new(
                Kind::Invalid,
                "a directory cannot move into itself",
            ));
        }
        self.check_target(&node, target.as_ref())?;
        self.settle(node.id)?;
        if let Some(target) = &target {
            // Closed and not in place yet: a start would put it there, over what is moved.
            self.settle(target.id)?;
        }
        crash::point("rename.settled");
        self.move_noted(&node, &old, &new, to, target.as_ref())?;
        self.name_gone(from.0, from.1);
        Ok(())
    }

    fn check_target(&self, node: &Node, target: Option<&Node>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        match (node.kind == NodeKind::Dir, target.kind == NodeKind::Dir) {
            (true, false) => Err(Error::new(Kind::NotADirectory, "is not a directory")),
            (false, true) => Err(Error::new(Kind::IsADirectory, "is a directory")),
            (true, true)
                if !self
                    .index
                    .read(|c| rows::children(c, target.id, b"", 1))?
                    .is_empty() =>
            {
                Err(Error::new(Kind::NotEmpty, "the directory is not empty"))
            }
            _ => Ok(()),
        }
    }

    /// Moves a node in the tree and then in the index, and undoes what it can where one refuses.
    fn move_noted(
        &self,
        node: &Node,
        old: &RelPath,
        new: &RelPath,
        to: (NodeId, &Name),
        target: Option<&Node>,
    ) -> Result<()> {
        let noted = self.is_to_be_noted(node, old)? && self.note_move(node.id, old, to, None)?;
        let moved = match self.move_in_tree(node, old, new, target) {
            Ok(moved) => moved,
            Err(error) => {
                self.drop_note(noted, node.id);
                return Err(error);
            }
        };
        crash::point("rename.tree");
        let paths = (old, new);
        if let Err(error) = self.record_rename(node.id, paths, to, target) {
            match moved {
                Moved::Names(Some(removal)) => self.undo_removal(removal),
                Moved::Stored if target.is_none() => self.move_back(new, old, Onto::NoReplace),
                _ => {}
            }
            self.drop_note(noted, node.id);
            return Err(error);
        }
        crash::point("rename.row");
        if let Moved::Names(Some(removal)) = moved {
            self.end_removal(removal);
        }
        Ok(())
    }

    fn move_back(&self, from: &RelPath, to: &RelPath, onto: Onto) {
        if let Err(error) = self.store.root().rename(from, to, onto) {
            tracing::warn!(path = %to, %error, "was not renamed, and could not be put back in the folder");
        }
    }

    /// What the store has of a node moves; what it has under the target's name goes.
    fn move_in_tree(
        &self,
        node: &Node,
        old: &RelPath,
        new: &RelPath,
        target: Option<&Node>,
    ) -> Result<Moved> {
        let root = self.store.root();
        if node.kind == NodeKind::Dir {
            // What is to go must not come along under another name.
            self.bury_doomed_under(old)?;
            self.bury_doomed_under(new)?;
        }
        if let Some(target) = target {
            self.uploads.cancel(target.id);
        }
        if new.parent() != old.parent() {
            root.make_dirs(&new.parent().unwrap_or_default())?;
        }
        match root.rename(old, new, Onto::Replace) {
            Ok(()) => Ok(Moved::Stored),
            // Nothing of it is stored: only names move, and an older file must not pass for it.
            Err(error) if error.kind() == Kind::NotFound => match (node.kind, target) {
                (NodeKind::Dir, Some(_)) => {
                    unless_missing(root.remove_dir(new))?;
                    Ok(Moved::Names(None))
                }
                (NodeKind::Dir, None) => Ok(Moved::Names(None)),
                (_, Some(target)) => {
                    let removal = self.begin_removal(target.id, new.clone())?;
                    Ok(Moved::Names(Some(removal)))
                }
                (_, None) => {
                    unless_missing(root.remove_file(new))?;
                    Ok(Moved::Names(None))
                }
            },
            Err(error) => Err(error),
        }
    }

    fn record_rename(
        &self,
        id: NodeId,
        (old, new): (&RelPath, &RelPath),
        to: (NodeId, &Name),
        target: Option<&Node>,
    ) -> Result<()> {
        let (parent, name) = (to.0, to.1.clone());
        let (now, propagate) = (self.clock.now_ns(), self.settings.propagate_deletes);
        let (settings, old) = (self.settings.clone(), old.clone());
        let seen_now = self.store.root().stat(new).ok().map(|facts| seen(&facts));
        self.index.edit(move |w| {
            if propagate {
                w.recall(&old)?;
            }
            w.rename(id, parent, &name, seen_now, now)?;
            w.requeue_moved(
                id,
                &old,
                propagate,
                &|path| settings.excludes.matches(path),
                now / 1_000_000,
            )?;
            w.move_ended(id)
        })?;
        if let Some(target) = target {
            self.detach(target.id);
        }
        self.uploads.wrote();
        Ok(())
    }

    fn exchange(&self, a: NodeId, b: NodeId, to: (NodeId, &Name)) -> Result<()> {
        self.settle(a)?;
        self.settle(b)?;
        let (a_path, b_path) = (self.path_of(a)?, self.path_of(b)?);
        if a_path.is_under(&b_path) || b_path.is_under(&a_path) {
            return Err(Error::new(
                Kind::Invalid,
                "a directory cannot change places with what is in it",
            ));
        }
        if !self.is_here(a)? || !self.is_here(b)? {
            return Err(Error::new(
                Kind::Unsupported,
                "only files that are here can change places",
            ));
        }
        let noted = self.note_move(a, &a_path, to, Some(b))?;
        if let Err(error) = self.store.root().rename(&a_path, &b_path, Onto::Exchange) {
            self.drop_note(noted, a);
            return Err(error);
        }
        crash::point("exchange.tree");
        if let Err(error) = self.record_exchange(a, b, (a_path.clone(), b_path.clone())) {
            self.move_back(&a_path, &b_path, Onto::Exchange);
            self.drop_note(noted, a);
            return Err(error);
        }
        for id in [a, b] {
            self.refresh_seen(id)?;
        }
        self.uploads.kick();
        Ok(())
    }

    fn is_here(&self, id: NodeId) -> Result<bool> {
        Ok(self.index.node(id)?.is_some_and(|n| n.held != Held::None))
    }

    /// `old`: which names they had, in order.
    fn record_exchange(&self, a: NodeId, b: NodeId, old: (RelPath, RelPath)) -> Result<()> {
        let (now, propagate) = (self.clock.now_ns(), self.settings.propagate_deletes);
        let settings = self.settings.clone();
        self.index.edit(move |w| {
            w.exchange(a, b, now)?;
            let local = |path: &RelPath| settings.excludes.matches(path);
            w.requeue_moved(a, &old.0, propagate, &local, now / 1_000_000)?;
            w.requeue_moved(b, &old.1, propagate, &local, now / 1_000_000)?;
            w.move_ended(a)
        })
    }

    fn refresh_seen(&self, id: NodeId) -> Result<()> {
        let Some(node) = self.index.node(id)? else {
            return Ok(());
        };
        if node.kind == NodeKind::File && node.held != Held::None {
            let facts = seen(&self.store.root().stat(&self.path_of(id)?)?);
            if node.has_noted_bytes(&facts) {
                self.index.edit(move |w| w.saw(id, facts))?;
            }
        }
        Ok(())
    }

    /// Whether a remote has something under the node's old name, or may have in a moment, that it
    /// would show once the bytes are elsewhere, be it what they were to replace; or that is only known to be ours, for nobody
    /// answered it, as long as the name is not taken for removed by hand. Or whether it is half
    /// written, which nobody could tell of a file that is found under a new name.
    fn is_to_be_noted(&self, node: &Node, old: &RelPath) -> Result<bool> {
        Ok(match node.kind {
            NodeKind::Dir => true,
            NodeKind::Symlink => false,
            NodeKind::File => {
                self.uploads.is_uploading(node.id)
                    || self.opens.is_unfinished(node.id)
                    || self.index.glance(|c| {
                        Ok(rows::has_replicas(c, node.id)?
                            || rows::is_hidden(c, old)?
                            || outbox::is_unanswered(c, old)?)
                    })?
            }
        })
    }

    /// Notes that a rename begins. False if there is nothing in the tree to move.
    fn note_move(
        &self,
        id: NodeId,
        old: &RelPath,
        to: (NodeId, &Name),
        other: Option<NodeId>,
    ) -> Result<bool> {
        let ino = match self.store.root().stat(old) {
            Ok(facts) => facts.ino,
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let note = Move {
            node: id,
            parent: to.0,
            name: to.1.clone(),
            other,
            ino,
        };
        self.index.edit(move |w| w.move_begins(&note))?;
        crash::point("rename.noted");
        Ok(true)
    }

    /// The rename came to nothing.
    fn drop_note(&self, noted: bool, id: NodeId) {
        if noted && let Err(error) = self.index.edit(move |w| w.move_ended(id)) {
            tracing::warn!(%error, "that a rename came to nothing could not be noted");
        }
    }

    /// Renames that the last end cut short: where the tree has changed, the rows follow.
    pub(super) fn recover_moves(&self) -> Result<()> {
        for it in self.index.read(|c| moving::moves(c, PAGE))? {
            if self.has_moved(&it)? {
                let old = self.index.path_of(it.node)?.unwrap_or_default();
                match self.finish_move(&it) {
                    Ok(()) => {
                        self.note(format!(
                            "{old}: was being renamed at the last end; it has its new name"
                        ));
                        continue;
                    }
                    // Rows say something else by now: the comparison of the folder will tell.
                    Err(error) if is_moot(error.kind()) => {}
                    Err(error) => return Err(error),
                }
            }
            self.index.edit(move |w| w.move_ended(it.node))?;
        }
        Ok(())
    }

    /// Whether the tree changed, and nobody changed it again since.
    fn has_moved(&self, it: &Move) -> Result<bool> {
        let (Some(old), Some(parent)) =
            (self.index.path_of(it.node)?, self.index.path_of(it.parent)?)
        else {
            return Ok(false);
        };
        let is_old_free = it.other.is_some() || self.store.stored(&old)?.is_none();
        let there = self.store.stored(&parent.join(&it.name)?)?;
        Ok(is_old_free && there.is_some_and(|facts| facts.ino == it.ino))
    }

    fn finish_move(&self, it: &Move) -> Result<()> {
        let Some(other) = it.other else {
            let (old, new) = (
                self.path_of(it.node)?,
                self.path_of(it.parent)?.join(&it.name)?,
            );
            return self.record_rename(it.node, (&old, &new), (it.parent, &it.name), None);
        };
        let old = (self.path_of(it.node)?, self.path_of(other)?);
        self.record_exchange(it.node, other, old)?;
        [it.node, other]
            .into_iter()
            .try_for_each(|id| unless_missing(self.refresh_seen(id)))
    }
}

fn is_moot(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NotFound
            | Kind::Exists
            | Kind::NotEmpty
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::Stale
    )
}
