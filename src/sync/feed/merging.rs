//! The blocking half of a listing: what comes is merged with what is known, beside the transfer.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::super::bound::Bound;
use super::super::diff::Merge;
use super::{CHUNK, LocalOnly, cut};
use crate::backends::remote::Remote;
use crate::clock::Clock;
use crate::crash;
use crate::error::Result;
use crate::index::{Index, node as rows};
use crate::object::{Change, Listed};

/// Rows read in one go while a listing is merged.
const PAGE: usize = 5000;

/// A listing that is being taken.
pub(super) struct Merging {
    index: Arc<Index>,
    clock: Clock,
    remote: Arc<Remote>,
    bound: Bound,
    begun: u64,
    /// Lines so far.
    named: Cell<u64>,
    /// Something was not as it was known.
    news: Cell<bool>,
    /// It is of another remote than the one that is known: which paths never leave.
    another: Option<LocalOnly>,
}

type Pages = Box<dyn FnMut(&[u8]) -> Result<Vec<crate::index::Replica>> + Send>;

/// A listing that was taken to its last line, but for what it did not name.
pub(super) struct Merged {
    merge: Merge<Pages>,
    merging: Merging,
}

impl Merging {
    /// What comes is the state of `remote` since the moment that `begun` counts.
    pub fn new(
        index: Arc<Index>,
        clock: Clock,
        remote: Arc<Remote>,
        bound: Bound,
        begun: u64,
    ) -> Merging {
        Merging {
            index,
            clock,
            remote,
            bound,
            begun,
            named: Cell::new(0),
            news: Cell::new(false),
            another: None,
        }
    }

    /// The same of another remote in the place of the one that is known: what is held, and what this
    /// one does not name, was deleted by nobody.
    pub fn of_another(mut self, local_only: LocalOnly) -> Merging {
        self.another = Some(local_only);
        self
    }

    /// Takes what comes until there is no more. Errors: what the index says, and that it is too much.
    pub fn run(self, mut inbox: mpsc::Receiver<Vec<Listed>>) -> Result<Merged> {
        let (index, id) = (self.index.clone(), self.remote.id);
        let pages: Pages =
            Box::new(move |after| index.read(|c| rows::replicas_after(c, id, after, PAGE)));
        let mut merge = Merge::new(pages);
        let mut pending = Vec::new();
        while let Some(batch) = inbox.blocking_recv() {
            for line in batch {
                self.named.set(self.named.get() + 1);
                let more = self.bound.lines(self.named.get());
                if more.is_err() {
                    // What it named until now stays.
                    self.flush(&mut pending)?;
                }
                cut(&self.remote, more)?;
                merge.take(line, &mut |change| self.emit(&mut pending, change))?;
            }
        }
        self.flush(&mut pending)?;
        Ok(Merged {
            merge,
            merging: self,
        })
    }

    fn emit(&self, pending: &mut Vec<Change>, change: Change) -> Result<()> {
        if !matches!(change, Change::Refused { .. }) {
            self.news.set(true);
        }
        pending.push(change);
        if pending.len() >= CHUNK {
            cut(&self.remote, self.bound.room(&self.index))?;
            self.flush(pending)?;
        }
        Ok(())
    }

    fn flush(&self, pending: &mut Vec<Change>) -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let (id, begun, now) = (self.remote.id, self.begun, self.clock.now_ns());
        let changes = std::mem::take(pending);
        let another = self.another.clone();
        let (before, after) = self.index.edit(move |w| {
            let before = w.names_of(id)?;
            match another {
                Some(local_only) => {
                    w.apply_listing_of_another(id, &changes, begun, &*local_only, now)?;
                }
                None => drop(w.apply_listing(id, &changes, begun, now)?),
            }
            Ok((before, w.names_of(id)?))
        })?;
        crash::point("apply.listing");
        cut(&self.remote, self.bound.growth(before, after))
    }
}

impl Merged {
    /// How much the listing names.
    pub fn named(&self) -> u64 {
        self.merging.named.get()
    }

    /// The listing was whole: what it did not name after its last line is gone. Returns whether it
    /// had anything new.
    pub fn finish(self) -> Result<bool> {
        let Merged { merge, merging } = self;
        let mut pending = Vec::new();
        merge.finish(&mut |change| merging.emit(&mut pending, change))?;
        merging.flush(&mut pending)?;
        Ok(merging.news.get())
    }
}
