//! The targets' entry functions: those that `make test` runs its mutations through.

#[path = "../tests/hostile/entries.rs"]
mod entries;

pub use entries::*;
