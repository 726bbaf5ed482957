//! Which rows of the outbox may go up now, and when a failed one may again; pure.
//!
//! Rules: one transfer a key at a time; a file that is open for writing waits; a
//! remote that is away, or has its share of transfers, is passed over; older rows first.

use std::collections::{HashMap, HashSet};

use crate::error::Kind;
use crate::object::RemoteId;

/// A waiting row, as far as the rules care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub row: i64,
    pub remote: RemoteId,
    /// Path or key: what order is kept for.
    pub key: Box<[u8]>,
    /// Somebody has the file open for writing.
    pub open: bool,
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

/// The rows to start now, in order. `waiting` is in order of age.
pub fn next_ready(waiting: &[Waiting], lanes: &Lanes) -> Vec<i64> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(row: i64, key: &str, open: bool) -> Waiting {
        Waiting {
            row,
            remote: RemoteId(1),
            key: key.as_bytes().into(),
            open,
        }
    }

    #[test]
    fn p4_a_file_that_is_open_waits_and_holds_its_key() {
        let lanes = Lanes {
            width: 4,
            ..Lanes::default()
        };
        let rows = [
            waiting(1, "a", true),
            waiting(2, "b", false),
            waiting(3, "a", false),
        ];
        assert_eq!(next_ready(&rows, &lanes), [2]);
    }

    #[test]
    fn p6_a_remote_that_is_away_is_passed_over() {
        let lanes = Lanes {
            width: 4,
            away: [RemoteId(1)].into(),
            ..Lanes::default()
        };
        assert!(next_ready(&[waiting(1, "a", false)], &lanes).is_empty());
    }

    proptest! {
        #[test]
        fn p5_one_transfer_a_key_and_width_holds(keys in proptest::collection::vec(0u8..6, 0..40), width in 1usize..5) {
            let rows: Vec<_> = keys.iter().enumerate()
                .map(|(i, k)| waiting(i as i64, &k.to_string(), false)).collect();
            let lanes = Lanes { width, ..Lanes::default() };
            let ready = next_ready(&rows, &lanes);
            prop_assert!(ready.len() <= width);
            let started: HashSet<_> = ready.iter().map(|r| rows[*r as usize].key.clone()).collect();
            prop_assert_eq!(started.len(), ready.len());
            for row in &ready {
                // Nothing older of the same key was passed over.
                prop_assert!(rows.iter().take(*row as usize).all(|r| r.key != rows[*row as usize].key));
            }
        }

        #[test]
        fn p9_waits_grow_to_a_bound(attempts in 0u32..100, fraction in 0.0f64..1.0) {
            let wait = back_off(Kind::Offline, attempts, fraction);
            prop_assert!((250..=60_000).contains(&wait));
        }
    }
}
