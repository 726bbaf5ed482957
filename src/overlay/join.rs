//! Opening for writing what others have open: joining them, following those that have
//! closed, and stepping aside for readers.

use std::fs::File;
use std::sync::{Arc, MutexGuard};

use super::handles::{Body, OpenNode, OpenState, Opened, Session};
use super::read::Access;
use super::{Overlay, replaced};
use crate::beneath::{OFlags, facts_of};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, NodeId, Writing};
use crate::transfer::commit::seen;

impl Overlay {
    /// Opens a file that others have open.
    pub(super) fn join_writers(
        &self,
        open: &Arc<OpenNode>,
        access: Access,
    ) -> Result<Option<Opened>> {
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
        if facts_of(&file)?.ino != facts_of(&whole)?.ino {
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
        let all_closed = state.closed_writers == state.writers;
        if access.truncate && all_closed && !state.detached {
            if let Some(session) = state.session.take() {
                self.end_in_place(open.id, &mut state, session)?;
            }
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
        let awaited = self.awaited.clone();
        // Before anybody can see it.
        self.index
            .edit(move |w| w.replace_id(id).map(|new| awaited.expect(new)))?;
        if let Some(open) = self.opens.node(id) {
            open.lock().detached = true;
        }
        Err(Error::new(
            Kind::Stale,
            "the file is open elsewhere and about to be replaced",
        ))
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
