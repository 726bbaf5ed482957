//! An original FXCACHE server as a remote, on real mounts: a stand-in with all its habits.
//!
//! Each habit has its test: it fails as soon as the client does not survive it any more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "fxcache/many.rs"]
mod many;
#[path = "fxcache/original.rs"]
mod original;
#[path = "fxcache/protocol.rs"]
mod protocol;
#[path = "fxcache/reading.rs"]
mod reading;
#[path = "fxcache/stand_in.rs"]
mod stand_in;
#[path = "fxcache/writing.rs"]
mod writing;
