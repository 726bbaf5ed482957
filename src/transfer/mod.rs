//! What moves bytes: down in flights, up from the outbox, and into place by one commit.

pub mod ahead;
mod arrival;
mod burst;
pub mod commit;
mod conflict;
mod copy;
pub mod download;
mod fetch;
pub mod flight;
mod flights;
pub mod footer;
mod front;
mod given_up;
mod landing;
pub mod order;
mod pilot;
mod plan;
pub mod queue;
mod sources;
pub mod upload;

use crate::locks;

#[cfg(test)]
mod tests;
