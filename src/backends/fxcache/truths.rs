//! Rows of the server's index that were found to be wrong, so that the next listing does not
//! bring them back.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::object::{Listed, Meta, Version};
use crate::path::RelPath;

/// Most keys that are remembered.
const MOST: usize = 50_000;

/// What the server has where its index says something else.
pub(super) struct Truths(Mutex<LruCache<RelPath, Truth>>);

struct Truth {
    /// What the row says.
    row: Version,
    /// What is there; none for nothing.
    there: Option<Meta>,
}

impl Default for Truths {
    fn default() -> Truths {
        let most = NonZeroUsize::new(MOST).unwrap_or(NonZeroUsize::MIN);
        Truths(Mutex::new(LruCache::new(most)))
    }
}

impl Truths {
    /// The index has `row` for the key, and the server said that `there` is there.
    pub(super) fn learn(&self, key: &RelPath, row: Option<Version>, there: Option<&Meta>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match row {
            Some(row) if there.map(|meta| &meta.version) != Some(&row) => {
                let there = there.cloned();
                known.put(key.clone(), Truth { row, there });
            }
            _ => drop(known.pop(key)),
        }
    }

    /// What a row of the index comes to; none if nothing is there.
    pub(super) fn correct(&self, listed: Listed) -> Option<Listed> {
        let Listed::Object(mut object) = listed else {
            return Some(listed);
        };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(truth) = known.peek(&object.key)
            && truth.row == object.meta.version
        {
            object.meta = truth.there.clone()?;
        }
        Some(Listed::Object(object))
    }
}
