//! Killed at any instant: what was acknowledged is there, what was not whole is nowhere
//! (promises P1, P3, P4, P7, P11), on real mounts of a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "crash/bystanders.rs"]
mod bystanders;
#[path = "crash/calm.rs"]
mod calm;
#[path = "crash/cut_short.rs"]
mod cut_short;
#[path = "crash/forked_writers.rs"]
mod forked_writers;
#[path = "crash/held.rs"]
mod held;
#[path = "crash/killed_writers.rs"]
mod killed_writers;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/older.rs"]
mod older;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/points_of_conflicts.rs"]
mod points_of_conflicts;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/random.rs"]
mod random;
