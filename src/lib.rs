//! Larder: a cache folder that fills itself. See `ARCHITECTURE.md` for the house and its floors.

pub mod backends;
pub mod beneath;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod crash;
pub mod daemon;
pub mod error;
pub mod fs;
pub mod index;
pub mod legacy;
mod locks;
pub mod metrics;
pub mod object;
pub mod overlay;
pub mod path;
pub mod secret;
pub mod server;
pub mod store;
pub mod sync;
pub mod transfer;
pub mod wire;
pub mod writers;
