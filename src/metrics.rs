//! Counts that a user can check: what was asked of remotes, what was answered from here.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one mount did since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Opens answered from the store.
    pub hits: Counter,
    /// Opens that needed a remote.
    pub misses: Counter,
    /// Files fetched before they were asked for.
    pub ahead: Counter,
    /// Of these, the ones that were opened then.
    pub ahead_used: Counter,
    /// Requests made to remotes, retries included.
    pub requests: Counter,
    /// Requests that failed.
    pub failures: Counter,
    /// Bytes that came down.
    pub bytes_down: Counter,
    /// Bytes that went up.
    pub bytes_up: Counter,
    /// Files brought into the store.
    pub hydrated: Counter,
    /// Files published at a remote.
    pub uploaded: Counter,
    /// Uploads found unnecessary because the remote has equal bytes.
    pub upload_skipped: Counter,
    /// Clean files dropped from the store.
    pub evicted: Counter,
    /// Names from remotes that cannot be files here.
    pub refused_names: Counter,
}

/// The counts at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counts {
    pub hits: u64,
    pub misses: u64,
    #[serde(default)]
    pub ahead: u64,
    #[serde(default)]
    pub ahead_used: u64,
    pub requests: u64,
    pub failures: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub hydrated: u64,
    pub uploaded: u64,
    pub upload_skipped: u64,
    pub evicted: u64,
    pub refused_names: u64,
}

impl Metrics {
    /// Reads every count.
    pub fn snapshot(&self) -> Counts {
        Counts {
            hits: self.hits.get(),
            misses: self.misses.get(),
            ahead: self.ahead.get(),
            ahead_used: self.ahead_used.get(),
            requests: self.requests.get(),
            failures: self.failures.get(),
            bytes_down: self.bytes_down.get(),
            bytes_up: self.bytes_up.get(),
            hydrated: self.hydrated.get(),
            uploaded: self.uploaded.get(),
            upload_skipped: self.upload_skipped.get(),
            evicted: self.evicted.get(),
            refused_names: self.refused_names.get(),
        }
    }
}
