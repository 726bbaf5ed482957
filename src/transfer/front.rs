//! The hash of a file on its way, made while its bytes come.

use std::sync::Arc;

use sha2::{Digest as _, Sha256 as Hasher};
use tokio::task::JoinHandle;

use super::flight::Flight;
use crate::backends::Proof;
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Sha256};

/// Bytes that are read at a time to be hashed.
const STEP: u64 = 1 << 20;
/// How far bytes come in order before they are hashed where several requests bring them.
const BEHIND: u64 = 8 << 20;

/// The hash of the file's front, fed as long as bytes come in order.
pub(super) struct Front {
    hasher: Hasher,
    /// How far bytes came in order.
    pub(super) at: u64,
}

impl Front {
    pub(super) fn new() -> Front {
        Front {
            hasher: Hasher::new(),
            at: 0,
        }
    }

    pub(super) fn take(&mut self, at: u64, chunk: &[u8]) {
        if at == self.at {
            self.hasher.update(chunk);
            self.at += chunk.len() as u64;
        }
    }

    /// Reads what did not come in order, up to `end`.
    fn read(&mut self, flight: &Flight, end: u64) -> Result<()> {
        read(flight, self.at..end, |bytes| self.hasher.update(bytes))?;
        self.at = self.at.max(end);
        Ok(())
    }

    /// Reads what did not come in order.
    pub(super) fn finish(mut self, flight: &Flight) -> Result<Sha256> {
        self.read(flight, flight.size())?;
        Ok(self.hash())
    }

    pub(super) fn hash(self) -> Sha256 {
        Sha256(self.hasher.finalize().into())
    }
}

/// Holds all of a file to the checksum that its remote has of it.
pub(super) fn prove(flight: &Flight, mut proof: Box<dyn Proof>) -> Result<()> {
    read(flight, 0..flight.size(), |bytes| proof.take(bytes))?;
    proof.holds()
}

fn read(flight: &Flight, range: ByteRange, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let next = range.end.min(at + STEP);
        take(&flight.partial.read(&(at..next))?);
        at = next;
    }
    Ok(())
}

/// Hashes a front that several requests bring, a little behind them, while the kernel still has
/// what they wrote in memory.
pub(super) struct Follower {
    /// None while it is at work.
    front: Option<Front>,
    work: Option<JoinHandle<Result<Front>>>,
}

impl Follower {
    pub(super) fn new() -> Follower {
        Follower {
            front: Some(Front::new()),
            work: None,
        }
    }

    /// Goes on if there is enough to hash.
    pub(super) async fn follow(&mut self, flight: &Arc<Flight>) -> Result<()> {
        if self.work.as_ref().is_some_and(JoinHandle::is_finished) {
            self.pause().await?;
        }
        let Some(mut front) = self.front.take() else {
            return Ok(());
        };
        let end = flight.partial.reaches(front.at);
        if end - front.at < BEHIND {
            self.front = Some(front);
            return Ok(());
        }
        let flight = flight.clone();
        let read = move || front.read(&flight, end).map(|()| front);
        self.work = Some(tokio::task::spawn_blocking(read));
        Ok(())
    }

    async fn pause(&mut self) -> Result<()> {
        if let Some(work) = self.work.take() {
            let stopped = |_| Error::new(Kind::Io, "hashing failed");
            self.front = Some(work.await.map_err(stopped)??);
        }
        Ok(())
    }

    /// The front as far as it was hashed.
    pub(super) async fn end(mut self) -> Result<Front> {
        self.pause().await?;
        Ok(self.front.unwrap_or_else(Front::new))
    }
}
