//! Opening for writing what others have open: joining them, following those that have
//! closed, and stepping aside for readers.

use std::fs::File;
use std::sync::{Arc, MutexGuard, RwLockWriteGuard};

use super::handles::{Body, OpenNode, OpenState, Opened, Session};
use super::read::{Access, Others};
use super::{Overlay, replaced};
use crate::beneath::{OFlags, facts_of};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, NodeId, Writing, node as rows};
use crate::path::Name;
use crate::transfer::commit::seen;

impl Overlay {
    /// Opens a file that others have open.
    pub(super) fn join_writers(
        &self,
        open: &Arc<OpenNode>,
        access: Access,
        others: Others,
    ) -> Result<Option<Opened>> {
        // What others see is cut as soon as it is open.
        let access = Access {
            truncate: access.truncate && others == Others::KeepTheirs,
            ..access
        };
        let mut state = open.lock();
        let Some(whole) = state.body.whole() else {
            if access.truncate {
                // Its state is looked at again there.
                drop(state);
                return self.step_aside(open.id);
            }
            return Ok(None);
        };
        if state.session.is_some() {
            return self.join_session(open, state, &whole, access);
        }
        if access.truncate && !state.detached {
            drop(state);
            return self.step_aside(open.id);
        }
        if state.detached {
            return Err(replaced());
        }
        // Its readers may have opened it before it was here.
        let node = self.need_file(open.id)?;
        let Some(file) = self.open_held(&node, OFlags::RDWR)? else {
            return Ok(None);
        };
        if others == Others::KeepTheirs && facts_of(&file)?.ino != facts_of(&whole)?.ino {
            // The readers have an older file; the writer gets the one that has the name.
            drop(state);
            return self.step_aside(open.id);
        }
        let id = open.id;
        self.mark(id, Writing::Open)?;
        state.session = Some(Session::in_place(seen(&facts_of(&file)?)));
        state.body = Body::File(Arc::new(file));
        Ok(Some(self.enter_handle(open, &mut state, true)))
    }

    /// Joins writers at work, or follows those that have closed and whose release is still on its
    /// way: what their `close()` was told to be safe stays as it is until there is more.
    fn join_session(
        &self,
        open: &Arc<OpenNode>,
        mut state: MutexGuard<'_, OpenState>,
        whole: &File,
        access: Access,
    ) -> Result<Option<Opened>> {
        self.settle_held(open.id, &mut state)?;
        if access.truncate && self.end_if_closed(open.id, &mut state)? {
            drop(state);
            return self.step_aside(open.id);
        }
        if access.truncate {
            whole.set_len(0)?;
            if let Some(session) = &mut state.session {
                session.failed.cut(0);
            }
        }
        Ok(Some(self.enter_handle(open, &mut state, true)))
    }

    /// Readers keep what they have open: the name gets another inode, and the caller, told that
    /// its own is stale, finds it (promise P8).
    fn step_aside(&self, id: NodeId) -> Result<Option<Opened>> {
        self.give_new_id(id, |_| ())?;
        Err(Error::new(
            Kind::Stale,
            "the file is open elsewhere and about to be replaced",
        ))
    }

    /// Gives the name another inode; whoever has the file open keeps the one it had. `tell` hears of
    /// the new one before anybody can see it.
    fn give_new_id(
        &self,
        id: NodeId,
        tell: impl FnOnce(&NodeId) + Send + 'static,
    ) -> Result<NodeId> {
        let new = self.index.edit(move |w| w.replace_id(id).inspect(tell))?;
        self.detach(id);
        Ok(new)
    }

    /// Has everybody else wait for a writer that was sent to look for the file anew. Whoever has it
    /// open would have one that truncates it sent away once more: then it gets another inode, unless
    /// somebody comes for this one. Returns which it has; none if it was replaced.
    pub(super) fn expect_writer(
        &self,
        opener: u32,
        id: NodeId,
        truncates: bool,
    ) -> Result<Option<NodeId>> {
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        if self.index.node(id)?.is_none() {
            return Ok(None);
        }
        let in_the_way = match self.opens.node(id) {
            Some(open) if truncates && !self.awaited.is_awaited(opener, id) => {
                self.is_in_the_way(&open)?
            }
            _ => false,
        };
        let awaited = self.awaited.clone();
        let expect = move |id: &NodeId| awaited.expect(opener, *id, true);
        match in_the_way {
            true => self.give_new_id(id, expect).map(Some),
            false => {
                expect(&id);
                Ok(Some(id))
            }
        }
    }

    /// All paths, to put something else under a name; who was sent to look for what has it comes first.
    pub(super) fn paths_to_replace(
        &self,
        parent: NodeId,
        name: &Name,
    ) -> Result<RwLockWriteGuard<'_, ()>> {
        self.let_them_come(parent, name)?;
        let paths = self.commit.paths_change();
        if self.awaited.is_empty() {
            return Ok(paths);
        }
        // Somebody may have looked for it just before.
        drop(paths);
        self.let_them_come(parent, name)?;
        Ok(self.commit.paths_change())
    }

    /// Waits for those who were sent to look for what has the name. The caller holds no lock.
    pub(super) fn let_them_come(&self, parent: NodeId, name: &Name) -> Result<()> {
        if self.awaited.is_empty() {
            return Ok(());
        }
        let there = self
            .index
            .glance(|c| rows::child(c, parent, name.as_bytes()))?;
        if let Some(node) = there {
            self.awaited.wait_here(node.id);
        }
        Ok(())
    }

    fn is_in_the_way(&self, open: &OpenNode) -> Result<bool> {
        let mut state = open.lock();
        if state.session.is_none() {
            return Ok(true);
        }
        self.settle_held(open.id, &mut state)?;
        self.end_if_closed(open.id, &mut state)
    }

    /// Ends the session of writers that have all closed. Returns whether it did.
    fn end_if_closed(&self, id: NodeId, state: &mut OpenState) -> Result<bool> {
        if state.closed_writers < state.writers || state.detached {
            return Ok(false);
        }
        if let Some(session) = state.session.take() {
            self.end_in_place(id, state, session)?;
        }
        Ok(true)
    }

    /// Ends the session of a file that was closed but not released yet, so that its bytes are
    /// in the tree. The caller holds the paths.
    pub(super) fn settle(&self, id: NodeId) -> Result<()> {
        let Some(open) = self.opens.node(id) else {
            return Ok(());
        };
        let _node = self.commit.hold(id);
        self.settle_held(id, &mut open.lock())
    }

    /// The same for a caller that holds the node.
    fn settle_held(&self, id: NodeId, state: &mut OpenState) -> Result<()> {
        let detached = state.detached;
        let Some(session) = state.session.as_mut().filter(|_| !detached) else {
            return Ok(());
        };
        let (Some(staged), true) = (session.staged, session.closed) else {
            return Ok(());
        };
        let local = |path: &crate::path::RelPath| self.is_local_only(path);
        let recorded = self.commit.written_held(id, staged, &local)?;
        session.staged = None;
        session.recorded = Some(recorded);
        // Whoever still has it open changes it in place from here on.
        self.mark(id, Writing::Open)?;
        session.noted = true;
        if let Some(node) = self.index.node(id)? {
            debug_assert!(node.held == Held::Whole);
            state.node = node;
        }
        Ok(())
    }
}
