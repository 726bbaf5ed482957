//! Makes several finished downloads durable at once.
//!
//! One request for the whole file system costs a fraction of one a file, as long as nobody else is writing
//! much to it: their bytes are waited for, too. Where that took long once, it is not tried for a while.

use std::sync::atomic::Ordering;

use super::{Partial, Store};
use crate::error::{Error, Result};

/// From so many files on.
const SEVERAL: usize = 4;
/// Longer than this is long, and for so long it is not tried again, both in nanoseconds.
const LONG: i64 = 250_000_000;
const WHILE: i64 = 60_000_000_000;

impl Store {
    /// Syncs downloads, as far as they could be settled.
    pub fn sync(&self, settled: Vec<Result<&Partial>>) -> Vec<Result<()>> {
        // Should it fail, for whatever reason, each has its own, which is told instead.
        match settled.len() >= SEVERAL && self.sync_together().unwrap_or(false) {
            true => settled.into_iter().map(|one| one.map(drop)).collect(),
            false => settled
                .into_iter()
                .map(|one| one.and_then(Partial::sync))
                .collect(),
        }
    }

    /// False if it is not worth it now.
    fn sync_together(&self) -> Result<bool> {
        let began = self.clock.now_ns();
        if began < self.apart_until.load(Ordering::Relaxed) {
            return Ok(false);
        }
        rustix::fs::syncfs(self.partial.as_fd())
            .map_err(|e| Error::from(std::io::Error::from(e)))?;
        let now = self.clock.now_ns();
        if now - began > LONG {
            self.apart_until.store(now + WHILE, Ordering::Relaxed);
        }
        Ok(true)
    }
}
