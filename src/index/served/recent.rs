//! Rows that were asked for lately, so that a hot file's row costs no database.
//!
//! What is kept is what a reader of the last commit would read: the writer takes a path out
//! after the commit that changed it and before anybody is told of that commit; a row
//! that was read before a commit is not put in after it. The number of rows is bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::Row;
use crate::error::Result;
use crate::path::RelPath;

const SHARDS: usize = 16;
/// Rows in one shard: 131,072 in all, about 25 MB of usual paths.
const EACH: usize = 8192;

type Shard = LruCache<RelPath, Option<Row>>;

/// See the module.
pub struct Recent {
    shards: [Mutex<Shard>; SHARDS],
    /// Counts commits that changed rows.
    commits: AtomicU64,
}

impl Recent {
    pub fn new() -> Recent {
        Recent {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::unbounded())),
            commits: AtomicU64::new(0),
        }
    }

    /// The path's row (none: it has none), from here or by `read`.
    pub fn get(
        &self,
        key: &RelPath,
        read: impl FnOnce() -> Result<Option<Row>>,
    ) -> Result<Option<Row>> {
        if let Some(known) = self.shard(key).get(key) {
            return Ok(known.clone());
        }
        let before = self.commits.load(Ordering::SeqCst);
        let row = read()?;
        let mut shard = self.shard(key);
        if self.commits.load(Ordering::SeqCst) == before {
            shard.put(key.clone(), row.clone());
            if shard.len() > EACH {
                shard.pop_lru();
            }
        }
        Ok(row)
    }

    /// A commit changed these. Called after it, and before it is told.
    pub fn forget<'a>(&self, keys: impl Iterator<Item = &'a RelPath>) {
        self.commits.fetch_add(1, Ordering::SeqCst);
        for key in keys {
            self.shard(key).pop(key);
        }
    }

    /// Nobody knows what a commit did.
    pub fn clear(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Spreads the load only; which shard it is decides nothing.
    fn shard(&self, key: &RelPath) -> MutexGuard<'_, Shard> {
        let mix = |sum: usize, byte: &u8| sum.wrapping_mul(31).wrapping_add(usize::from(*byte));
        let slot = key.as_bytes().iter().rev().take(16).fold(0, mix) % SHARDS;
        self.shards[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
