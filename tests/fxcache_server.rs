//! The FXCACHE protocol as its clients see it: a real `larder serve` on a loopback port, and
//! beside it, where both must say the same, a server with the original's habits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;
#[path = "fxcache_server/files.rs"]
mod files;
#[path = "fxcache_server/guard.rs"]
mod guard;
#[path = "fxcache_server/legacy.rs"]
mod legacy;
#[path = "fxcache_server/questions.rs"]
mod questions;
#[path = "fxcache_server/refresh.rs"]
mod refresh;
#[path = "fxcache_server/same.rs"]
mod same;
#[path = "fxcache/stand_in.rs"]
#[allow(dead_code)]
mod stand_in;
#[path = "fxcache_server/support.rs"]
mod support;
