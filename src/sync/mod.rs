//! What moves knowledge: listings and change feeds become rows.

pub mod bound;
pub mod diff;
mod empty;
pub mod feed;
pub mod pace;
pub mod times;
