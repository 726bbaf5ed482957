//! What threads and tasks wait for one another with: the standard library's and tokio's, by one name.
//!
//! Pieces whose promises hang on the order in which threads get to run take theirs from here. Their
//! tests put in a scheduler's (`orders.rs` in `index/tests`, `transfer/tests` and `overlay`), under which the same
//! source runs in one order after another. Everything else takes them from where they come from.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError, atomic, mpsc};

pub(crate) use tokio::sync::{Notify, watch};

#[cfg(test)]
pub(crate) mod scheduled;
