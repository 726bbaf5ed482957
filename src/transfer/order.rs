//! What files that are published last wait for: looks in the outbox for rows that hold them up.
//!
//! A look reads the rows that were queued before, the latest first, and ends at the first that
//! holds the file up. What it has seen it does not read again, for no row is ever put among
//! earlier ones; and it reads a bounded number of them. What is remembered here is for speed and
//! for `status`: a restart finds the same order in the rows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::queue::{Place, holds_up, subject};
use super::upload::Uploads;
use crate::error::Result;
use crate::index::{Operation, OutboxRow, node as rows, outbox, place};
use crate::path::RelPath;

/// Rows read at first, and how many times as many each time after that.
const FIRST: usize = 16;
const MORE: usize = 8;
/// Most rows that one look reads.
const MOST: usize = 2048;

/// A file that waits.
struct Behind {
    /// Of its row when this was found.
    generation: u64,
    /// Rows from here on, up to that generation, do not hold it up.
    from: i64,
    holder: Holder,
    /// The pass that met it last.
    pass: u64,
}

#[derive(Debug, Clone, Copy)]
enum Holder {
    /// What is in the folder was not compared with the index yet, or the look goes on.
    Unknown,
    /// The one file that it speaks of.
    Subject,
    /// The change with this row.
    Row(i64),
}

/// What waits, by its row.
#[derive(Default)]
pub struct Order(Mutex<Known>);

#[derive(Default)]
struct Known {
    pass: u64,
    behind: BTreeMap<i64, Behind>,
}

/// A file that is published last, and what it waits for, where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    pub path: RelPath,
    pub by: Option<RelPath>,
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue begins to go through the outbox.
    pub(super) fn pass_begins(&self) {
        self.lock().pass += 1;
    }

    /// It went through all of it: what it did not meet does not wait any more.
    pub(super) fn pass_ends(&self) {
        let mut known = self.lock();
        let pass = known.pass;
        known.behind.retain(|_, behind| behind.pass == pass);
    }

    fn note(&self, row: &OutboxRow, from: i64, holder: Option<Holder>) {
        let mut known = self.lock();
        let pass = known.pass;
        match holder {
            None => drop(known.behind.remove(&row.id)),
            Some(holder) => {
                let behind = Behind {
                    generation: row.generation,
                    from,
                    holder,
                    pass,
                };
                known.behind.insert(row.id, behind);
            }
        }
    }

    /// Where the look for `row` goes on.
    fn from(&self, row: &OutboxRow) -> i64 {
        let known = self.lock();
        let before = known.behind.get(&row.id);
        before
            .filter(|b| b.generation == row.generation)
            .map_or(row.generation as i64, |b| b.from)
    }
}

impl Uploads {
    /// Whether the file of `row`, which is published last, has to wait for others. One that
    /// cannot be looked at waits, too.
    pub(super) fn is_held_up(&self, row: &OutboxRow) -> bool {
        let mut from = self.order.from(row);
        let found = self.holder(row, &mut from).unwrap_or_else(|error| {
            tracing::warn!(%error, "what a file has to wait for cannot be found out");
            Some(Holder::Unknown)
        });
        self.order.note(row, from, found);
        found.is_some()
    }

    fn holder(&self, row: &OutboxRow, from: &mut i64) -> Result<Option<Holder>> {
        let Operation::Put(id) = row.operation else {
            return Ok(None);
        };
        let Some(path) = self.commit.index.path_of(id)? else {
            return Ok(None);
        };
        if !self.rules.is_in_order() {
            return Ok(Some(Holder::Unknown));
        }
        if self.waits_for_subject(row, &path)? {
            return Ok(Some(Holder::Subject));
        }
        let sidecar = Place {
            path,
            first: row.id,
            again: row.generation as i64,
            last: true,
        };
        self.look(row, &sidecar, from)
    }

    /// Whether the one file that the name speaks of is queued, or open for writing.
    fn waits_for_subject(&self, row: &OutboxRow, path: &RelPath) -> Result<bool> {
        let Some(path) = subject(path).filter(|path| !self.rules.is_published_last(path)) else {
            return Ok(false);
        };
        let index = &self.commit.index;
        let Some(node) = index.read(|c| rows::resolve(c, &path))? else {
            return Ok(false);
        };
        // Asked in this order: whoever closes the file queues it first.
        Ok(self.rules.is_being_written(node.id)
            || index
                .read(|c| place::put_of(c, row.remote, node.id))?
                .is_some())
    }

    /// Goes through the rows before `from`, the latest first, and moves it along.
    fn look(&self, row: &OutboxRow, sidecar: &Place, from: &mut i64) -> Result<Option<Holder>> {
        let (mut limit, mut read) = (FIRST, 0);
        while read < MOST {
            let page = self
                .commit
                .index
                .read(|c| place::earlier(c, *from, limit))?;
            let is_end = page.len() < limit;
            for other in page {
                if other.remote == row.remote
                    && !other.idle
                    && let Some(place) = self.place(&other)?
                    && holds_up(&place, sidecar)
                {
                    return Ok(Some(Holder::Row(other.id)));
                }
                *from = other.id;
            }
            if is_end {
                return Ok(None);
            }
            read += limit;
            limit *= MORE;
        }
        // The next pass goes on from here.
        self.kick();
        Ok(Some(Holder::Unknown))
    }

    fn place(&self, other: &place::Earlier) -> Result<Option<Place>> {
        let path = match &other.operation {
            Operation::Put(id) => self.commit.index.path_of(*id)?,
            Operation::Delete(key) => Some(key.clone()),
        };
        Ok(path.map(|path| Place {
            last: self.rules.is_published_last(&path),
            path,
            first: other.id,
            again: other.generation as i64,
        }))
    }

    /// How many files wait because they are published last, and the oldest of them.
    pub fn held_up(&self) -> Result<(u64, Option<HeldUp>)> {
        let (count, oldest) = {
            let known = self.order.lock();
            let oldest = known.behind.iter().map(|(row, b)| (*row, b.holder)).next();
            (known.behind.len() as u64, oldest)
        };
        let Some((row, holder)) = oldest else {
            return Ok((0, None));
        };
        let Some(path) = self.path_of_row(row)? else {
            return Ok((count, None));
        };
        let by = match holder {
            Holder::Unknown => None,
            Holder::Subject => subject(&path),
            Holder::Row(row) => self.path_of_row(row)?,
        };
        Ok((count, Some(HeldUp { path, by })))
    }

    fn path_of_row(&self, row: i64) -> Result<Option<RelPath>> {
        let row = self.commit.index.read(|c| outbox::row(c, row))?;
        match row.map(|row| row.operation) {
            Some(Operation::Put(id)) => self.commit.index.path_of(id),
            Some(Operation::Delete(key)) => Ok(Some(key)),
            None => Ok(None),
        }
    }
}
