//! What moves knowledge: listings and change feeds become rows.

pub mod bound;
pub mod diff;
pub mod feed;
mod identity;
pub mod pace;
pub mod times;
