//! The LAN server as clients see it: a real one on a loopback port, over real directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "serve/follow.rs"]
mod follow;
#[path = "serve/guard.rs"]
mod guard;
#[path = "serve/hostile.rs"]
mod hostile;
#[path = "serve/read.rs"]
mod read;
#[path = "serve/support.rs"]
mod support;
#[path = "serve/write.rs"]
mod write;
