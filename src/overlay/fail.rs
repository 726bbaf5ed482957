//! Writes that fail: for want of space, or because the disk does.
//!
//! The writer is told, at the write and again at `close()`. What it left is not published
//! (promise P4) unless it puts right what failed: by writing there, or by cutting the file
//! before it. An end that cannot be noted, because the index has no room either, is taken up
//! again until it can.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::PoisonError;

use super::Overlay;
use super::handles::{Handle, OpenState};
use crate::beneath::{Mode, OFlags, facts_of};
use crate::error::{Error, Kind, Result};
use crate::index::{NodeId, Writing, holding};
use crate::store::StagedId;

/// Where writes of a session failed, as far as that was not put right since.
#[derive(Default)]
pub(super) struct Failed(Option<Places>);

/// The first and the last place, and how the latest one failed.
struct Places {
    first: u64,
    last: u64,
    error: Error,
}

impl Failed {
    fn at(&mut self, offset: u64, error: &Error) {
        let (first, last) = match &self.0 {
            Some(before) => (before.first.min(offset), before.last.max(offset)),
            None => (offset, offset),
        };
        let error = error.clone();
        self.0 = Some(Places { first, last, error });
    }

    /// Bytes were written from `start` on, up to `end`.
    fn wrote(&mut self, start: u64, end: u64) {
        if let Some(at) = &self.0
            && start <= at.first
            && at.last < end
        {
            self.0 = None;
        }
    }

    /// The file ends at `len` now.
    pub fn cut(&mut self, len: u64) {
        if self.0.as_ref().is_some_and(|at| len <= at.first) {
            self.0 = None;
        }
    }

    /// What the writers are told when they close.
    pub fn error(&self) -> Option<Error> {
        self.0.as_ref().map(|at| at.error.clone())
    }
}

/// A session whose end could not be noted; of a staged file, or of one changed in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Undone {
    node: NodeId,
    staged: Option<StagedId>,
}

/// What a person is told of it.
pub(super) fn shown(error: &Error) -> &str {
    match error.kind() {
        Kind::NoSpace => "the disk is full",
        _ => error.message(),
    }
}

/// Writes on from `done`, and notes how far it came.
fn write_on(file: &File, data: &[u8], offset: u64, done: &Cell<usize>) -> Result<()> {
    while done.get() < data.len() {
        match file.write_at(&data[done.get()..], offset + done.get() as u64) {
            Ok(0) => return Err(Error::new(Kind::Io, "the disk takes no more bytes")),
            Ok(n) => done.set(done.get() + n),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Overlay {
    /// Writes at `offset`, as far as there is room.
    pub(super) fn write_file(
        &self,
        handle: &Handle,
        file: &File,
        offset: u64,
        data: &[u8],
    ) -> Result<u32> {
        let done = Cell::new(0);
        let written = self.with_room(|| write_on(file, data, offset, &done));
        self.note_written(handle, offset, done.get() as u64, written.as_ref().err());
        match written {
            Err(error) if done.get() == 0 => Err(error),
            _ => Ok(done.get() as u32),
        }
    }

    /// Notes that `done` bytes were written at `offset`, and then what failed.
    pub(super) fn note_written(
        &self,
        handle: &Handle,
        offset: u64,
        done: u64,
        failed: Option<&Error>,
    ) {
        let mut state = handle.node.lock();
        let Some(session) = &mut state.session else {
            return;
        };
        session.failed.wrote(offset, offset + done);
        if let Some(error) = failed {
            session.failed.at(offset + done, error);
        }
    }

    /// The end of a session could not be noted. A staged file is as if it had no name, until it is.
    pub(super) fn end_later(&self, node: NodeId, staged: Option<StagedId>, state: &mut OpenState) {
        state.detached |= staged.is_some();
        self.undone().push(Undone { node, staged });
        self.tidy_soon();
    }

    /// The mount has ended: the kernel may have kept to itself that closed files are released.
    pub fn end_closed(&self) {
        for fh in self.opens.closed_writers() {
            if let Err(error) = self.release(fh) {
                tracing::error!(%error, "a closed file could not be put in place; the next start does it");
            }
        }
    }

    fn undone(&self) -> std::sync::MutexGuard<'_, Vec<Undone>> {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an end waits to be noted.
    pub(super) fn has_undone(&self) -> bool {
        !self.undone().is_empty()
    }

    /// What a `close()` was answered for and that has no name yet: its readers need not wait.
    pub(super) fn undone_file(&self, id: NodeId) -> Result<Option<File>> {
        let last = self.undone().iter().rev().find(|u| u.node == id).copied();
        let Some(staged) = last.and_then(|undone| undone.staged) else {
            return Ok(None);
        };
        match self.store.open_staged(staged) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == Kind::NotFound => self.unnoted_file(id, staged),
            Err(error) => Err(error),
        }
    }

    /// A closed file that has its name, if its row may not say so yet: the disk was too full for that.
    fn unnoted_file(&self, id: NodeId, staged: StagedId) -> Result<Option<File>> {
        let rows = self.index.read(holding::staged)?;
        let closed = rows.iter().find(|row| row.id == staged.0);
        let (Some(closed), Some(path)) =
            (closed.and_then(|row| row.closed), self.index.path_of(id)?)
        else {
            return Ok(None);
        };
        let opened = self
            .store
            .root()
            .open_file(&path, OFlags::RDONLY, Mode::empty());
        let file = match opened {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            opened => opened?,
        };
        let facts = facts_of(&file)?;
        Ok(((facts.size, facts.mtime_ns) == closed).then_some(file))
    }

    /// Notes the ends that could not be noted before, as the next start would.
    pub(super) fn finish_undone(&self) -> Result<()> {
        // The lock is not held meanwhile: sessions end.
        let waiting = self.undone().clone();
        for undone in waiting.into_iter().rev() {
            if !self.undone().contains(&undone) {
                continue;
            }
            self.finish_one(&undone)?;
            // Until it has its name, its readers find it by this.
            self.undone().retain(|other| *other != undone);
        }
        Ok(())
    }

    fn finish_one(&self, undone: &Undone) -> Result<()> {
        let id = undone.node;
        let Some(staged) = undone.staged else {
            let node = self.index.node(id)?;
            let unfinished = node.filter(|n| n.writing == Writing::Open);
            return match unfinished.filter(|n| !self.opens.is_being_written(n.id)) {
                Some(node) => self.recover_one_in_place(&node),
                None => Ok(()),
            };
        };
        let rows = self.index.read(holding::staged)?;
        if let Some(row) = rows.iter().find(|row| row.id == staged.0) {
            self.recover_one_staged(row)?;
        }
        // The kernel may have bytes of it cached under the inode of what has the name now.
        self.index.edit(move |w| match w.node_exists(id)? {
            true => w.replace_id(id).map(|_| ()),
            false => Ok(()),
        })?;
        self.uploads.kick();
        Ok(())
    }

    /// A later writer of the same file came to its end: what went before it is moot.
    pub(super) fn forget_undone(&self, node: NodeId) -> Result<()> {
        let moot: Vec<Undone> = self.undone().extract_if(.., |u| u.node == node).collect();
        for staged in moot.into_iter().filter_map(|u| u.staged) {
            let now = self.clock.now_ns();
            self.index.edit(move |w| w.abandon_staged(staged.0, now))?;
            self.store.drop_staged(staged)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_what_failed_is_put_right_by_writing_there_or_cutting_before_it() {
        let full = Error::new(Kind::NoSpace, "full");
        let mut failed = Failed::default();
        failed.at(100, &full);
        failed.wrote(0, 100);
        failed.wrote(101, 200);
        failed.cut(101);
        assert!(failed.error().is_some());
        failed.wrote(100, 101);
        assert!(failed.error().is_none());
        failed.at(100, &full);
        failed.at(50, &full);
        failed.wrote(50, 60);
        assert!(failed.error().is_some(), "one of two places is left");
        failed.wrote(40, 101);
        assert!(failed.error().is_none());
        failed.at(100, &full);
        failed.cut(100);
        assert!(failed.error().is_none());
    }
}
