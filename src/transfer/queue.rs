//! Which rows of the outbox may go up now, and when a failed one may again; pure.
//!
//! Rules: one transfer a key at a time; a file that is open for writing waits; a
//! remote that is away, or has its share of transfers, is passed over; older rows first;
//! what is published last waits for what it may speak of ([`holds_up`]).

use std::collections::{HashMap, HashSet};

use crate::error::Kind;
use crate::object::RemoteId;
use crate::path::{Name, RelPath};

/// A waiting row, as far as the rules care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub row: i64,
    pub remote: RemoteId,
    /// Path or key: what order is kept for.
    pub key: Box<[u8]>,
    /// Somebody has the file open for writing.
    pub open: bool,
    /// It is a file that is published last.
    pub last: bool,
}

/// What the name of a sidecar adds to that of the one file it speaks of.
const SIDECAR: &[u8] = b".meta.json";

/// The one file that the sidecar at `path` speaks of, if its name says so.
pub fn subject(path: &RelPath) -> Option<RelPath> {
    let (dir, name) = (path.parent()?, path.file_name()?);
    let name = name.as_bytes().strip_suffix(SIDECAR)?;
    dir.join(&Name::new(name).ok()?).ok()
}

/// A queued change's place among the others of its remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: RelPath,
    /// When it was first queued: the number of its row.
    pub first: i64,
    /// When it was queued last: the generation of its last write.
    pub again: i64,
    /// It is a file that is published last.
    pub last: bool,
}

/// Whether `other` holds up `sidecar`, which is published last: it is beside it or beneath its
/// directory, and was queued before the sidecar was last written. Two that are both published
/// last go up in the order of their last writes: no two ever wait for each other.
pub fn holds_up(other: &Place, sidecar: &Place) -> bool {
    let near = sidecar
        .path
        .parent()
        .is_some_and(|dir| other.path.is_under(&dir));
    near && other.first != sidecar.first
        && match other.last {
            true => (other.again, other.first) < (sidecar.again, sidecar.first),
            false => other.first < sidecar.again,
        }
}

/// What is going on already, and how much may.
#[derive(Debug, Default)]
pub struct Lanes {
    pub busy_keys: HashSet<(RemoteId, Box<[u8]>)>,
    pub running: HashMap<RemoteId, usize>,
    pub away: HashSet<RemoteId>,
    /// Transfers a remote may have at once.
    pub width: usize,
}

/// The rows to start now, in order. `waiting` is in order of age. `held_up` is asked of rows that
/// are published last, once nothing else is in their way.
pub fn next_ready(
    waiting: &[Waiting],
    lanes: &Lanes,
    mut held_up: impl FnMut(&Waiting) -> bool,
) -> Vec<i64> {
    let mut running = lanes.running.clone();
    let mut taken: HashSet<(RemoteId, &[u8])> = HashSet::new();
    let mut ready = Vec::new();
    for row in waiting {
        let key = (row.remote, &*row.key);
        // An older row of the same key that has to wait holds the younger ones back with it.
        let first = taken.insert(key);
        let busy = lanes.busy_keys.contains(&(row.remote, row.key.clone()));
        let slots = running.entry(row.remote).or_default();
        if !first || busy || row.open || lanes.away.contains(&row.remote) || *slots >= lanes.width {
            continue;
        }
        if row.last && held_up(row) {
            continue;
        }
        *slots += 1;
        ready.push(row.row);
    }
    ready
}

/// Shortest and longest wait after a failure that may pass.
const FIRST_MS: f64 = 500.0;
const LONGEST_MS: f64 = 60_000.0;
/// Wait after a failure that only a person can end.
const HOPELESS_MS: i64 = 60_000;

/// How long to wait after the `attempts`th failure, in milliseconds: exponential with equal
/// jitter (Brooker, "Exponential Backoff and Jitter", 2015); `fraction` is in `[0, 1)`.
pub fn back_off(kind: Kind, attempts: u32, fraction: f64) -> i64 {
    if !kind.is_transient() && !matches!(kind, Kind::Busy | Kind::NoSpace) {
        return HOPELESS_MS;
    }
    let ceiling = (FIRST_MS * 2f64.powi(attempts.min(16) as i32)).min(LONGEST_MS);
    (ceiling / 2.0 + ceiling / 2.0 * fraction) as i64
}

#[cfg(test)]
mod tests;
