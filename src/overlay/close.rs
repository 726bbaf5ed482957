//! Closing what was written: what a `close()` makes of the bytes, and what the end of the last
//! writer does.
//!
//! A `close()` returns after the row that makes the bytes a local write (promise P3). What a
//! killed writer left is never published (promise P4).

use std::sync::atomic::Ordering;

use super::fail::shown;
use super::handles::{Body, OpenState, Session, is_as_closed, written_so_far};
use super::{Closer, Overlay};
use crate::beneath::{Facts, facts_of};
use crate::crash;
use crate::error::Result;
use crate::index::{NodeId, Seen, Writing};
use crate::transfer::commit::seen;

impl Overlay {
    /// A `close()` of one of the handle's descriptors. The closer is asked of writers only.
    ///
    /// It makes the bytes a local write unless the file goes on being written: a shell that
    /// redirects (`command > file`) duplicates and closes before there is anything, and a child
    /// closes what it inherited while its parent writes. Whoever closes last has the promise.
    pub fn flush(&self, fh: u64, closer: impl Closer) -> Result<()> {
        let handle = self.opens.handle(fh)?;
        if !handle.writes {
            return Ok(());
        }
        let (now, empty) = written_so_far(&handle.node.lock())?;
        let opener = handle.opener.load(Ordering::SeqCst);
        let by_opener = closer.is(opener);
        if handle.is_left(closer.is_being_killed(), by_opener, now) {
            return Ok(());
        }
        // Asked without a lock: it takes a moment, and whoever has the file open closes it later.
        if (empty || !by_opener) && closer.leaves_it_open(opener) {
            return Ok(());
        }
        let synced = {
            let _paths = self.commit.paths_stay();
            let _node = self.commit.hold(handle.node.id);
            let mut state = handle.node.lock();
            self.record(handle.node.id, &mut state)?;
            if !handle.closed.swap(true, Ordering::SeqCst) {
                state.closed_writers += 1;
            }
            state.session.as_ref().is_some_and(|session| session.synced)
        };
        // Bytes that survive a power cut would be an unfinished file's without it.
        if synced { self.index.sync() } else { Ok(()) }
    }

    /// Makes what was written so far a local write.
    fn record(&self, id: NodeId, state: &mut OpenState) -> Result<()> {
        let (Some(file), Some(session)) = (state.body.whole(), &mut state.session) else {
            return Ok(());
        };
        if state.detached {
            return Ok(());
        }
        let facts = facts_of(&file)?;
        if let Some(error) = session.failed.error()
            && !self.is_local_only(&self.path_of(id)?)
        {
            // What did not arrive was told at the write, which not everybody listens to.
            return Err(error);
        }
        if session.recorded == Some(seen(&facts)) && (session.staged.is_none() || session.closed) {
            return Ok(());
        }
        match session.staged {
            Some(staged) => {
                let (now, recorded) = (self.clock.now_ms(), seen(&facts));
                self.with_room(|| {
                    let settings = self.settings.clone();
                    self.index.edit(move |w| {
                        let queue = w.leaves(id, |path| settings.excludes.matches(path))?;
                        w.close_staged(staged.0, id, recorded, queue, now)
                    })
                })?;
                crash::point("close.row");
                session.closed = true;
            }
            None => {
                self.record_in_place(id, seen(&facts), None)?;
                crash::point("close.in_place");
            }
        }
        session.recorded = Some(seen(&facts));
        Ok(())
    }

    /// The last descriptor of a handle is gone.
    pub fn release(&self, fh: u64) -> Result<()> {
        let Some(handle) = self.opens.remove(fh) else {
            return Ok(());
        };
        let id = handle.node.id;
        let ended = {
            let _paths = self.commit.paths_stay();
            let _node = self.commit.hold(id);
            let mut state = handle.node.lock();
            state.handles -= 1;
            let mut ended = Ok(());
            if handle.writes {
                state.writers -= 1;
                state.closed_writers -= usize::from(handle.closed.load(Ordering::SeqCst));
                if let Some(session) = &mut state.session {
                    session.killed |= handle.killed.load(Ordering::SeqCst);
                }
                if state.writers == 0 {
                    ended = self.end_session(id, &mut state);
                    self.opens.session_ended();
                }
            }
            if state.handles == 0 {
                if self.settings.stream
                    && let Body::Flight(flight) = &state.body
                {
                    flight.partial.discard()?;
                }
                self.opens.leave(&handle.node);
            }
            ended
        };
        if handle.writes {
            self.uploads.wrote();
        }
        if self.settings.stream {
            self.room.notify_one();
        }
        ended
    }

    fn end_session(&self, id: NodeId, state: &mut OpenState) -> Result<()> {
        let Some(session) = state.session.take() else {
            return Ok(());
        };
        match session.staged {
            Some(staged) => {
                let ended = self.end_staged(id, staged, state, session);
                if ended.is_err() {
                    self.end_later(id, Some(staged), state);
                }
                ended
            }
            None if state.detached => Ok(()),
            None => {
                let ended = self.end_in_place(id, state, session);
                if ended.is_err() {
                    self.end_later(id, None, state);
                }
                ended
            }
        }
    }

    fn end_staged(
        &self,
        id: NodeId,
        staged: crate::store::StagedId,
        state: &mut OpenState,
        session: Session,
    ) -> Result<()> {
        if state.detached {
            let now = self.clock.now_ns();
            self.index.edit(move |w| w.abandon_staged(staged.0, now))?;
            return self.store.drop_staged(staged);
        }
        if let Some(error) = session.failed.error() {
            return self.keep_orphan(
                id,
                staged,
                state,
                &format!("could not be written ({})", shown(&error)),
            );
        }
        if session.killed && !is_as_closed(&session, state)? {
            return self.keep_orphan(id, staged, state, "its writer was killed");
        }
        state.session = Some(session);
        let recorded = self.record(id, state);
        state.session = None;
        recorded?;
        let local = |path: &crate::path::RelPath| self.is_local_only(path);
        self.commit.written_held(id, staged, &local)?;
        self.forget_undone(id)?;
        self.room.notify_one();
        Ok(())
    }

    /// An unfinished file is kept where nobody takes it for whole; the name has its old meaning again.
    fn keep_orphan(
        &self,
        id: NodeId,
        staged: crate::store::StagedId,
        state: &mut OpenState,
        why: &str,
    ) -> Result<()> {
        let path = self.path_of(id)?;
        let kept = self.store.orphan(staged, &path)?;
        crash::point("orphan.kept");
        self.note(format!(
            "{path}: {why}; the unfinished file is kept as .larder/orphans/{kept} and was not published"
        ));
        let now = self.clock.now_ns();
        self.index.edit(move |w| {
            w.abandon_staged(staged.0, now)?;
            // The kernel has bytes of the unfinished file cached under this inode.
            match w.node_exists(id)? {
                true => w.replace_id(id).map(|_| ()),
                false => Ok(()),
            }
        })?;
        state.detached = true;
        Ok(())
    }

    pub(super) fn end_in_place(
        &self,
        id: NodeId,
        state: &mut OpenState,
        session: Session,
    ) -> Result<()> {
        let Some(file) = state.body.whole() else {
            return Ok(());
        };
        let facts = facts_of(&file)?;
        let changed = session.recorded != Some(seen(&facts));
        let failed = session.failed.error();
        let is_torn = changed && (session.killed || failed.is_some());
        if is_torn
            && let path = self.path_of(id)?
            && !self.is_local_only(&path)
        {
            self.record_torn(id, &facts)?;
            let why = failed.map_or_else(
                || "its writer was killed".to_owned(),
                |error| format!("a write failed ({})", shown(&error)),
            );
            self.note(format!(
                "{path}: {why} while it was changed in place; it is not published until it is written again"
            ));
            return Ok(());
        }
        let ends = session.noted.then_some(Writing::No);
        match changed {
            true => self.record_in_place(id, seen(&facts), ends),
            false => ends.map_or(Ok(()), |writing| self.mark(id, writing)),
        }
    }

    /// What was written in place is a local write, and what `writing` says, if it says something.
    fn record_in_place(&self, id: NodeId, facts: Seen, writing: Option<Writing>) -> Result<()> {
        let (settings, now) = (self.settings.clone(), self.clock.now_ns());
        self.index.edit(move |w| {
            let queue = w.leaves(id, |path| settings.excludes.matches(path))?;
            w.written(id, None, facts, queue, now / 1_000_000)?;
            writing.map_or(Ok(()), |writing| w.set_writing(id, writing, now))
        })
    }

    /// Changed, and not to be published: both at once, or what is between them would be.
    pub(super) fn record_torn(&self, id: NodeId, facts: &Facts) -> Result<()> {
        let (facts, now) = (seen(facts), self.clock.now_ns());
        self.index.edit(move |w| {
            w.written(id, None, facts, true, now / 1_000_000)?;
            w.set_writing(id, Writing::Torn, now)
        })
    }

    pub(super) fn mark(&self, id: NodeId, writing: Writing) -> Result<()> {
        let now = self.clock.now_ns();
        self.index.edit(move |w| w.set_writing(id, writing, now))
    }
}
