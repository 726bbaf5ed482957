//! The hash of a file on its way, made while its bytes come.

use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256 as Hasher};

use super::flight::Flight;
use crate::error::Result;
use crate::object::Sha256;

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

    /// Reads what did not come in order.
    pub(super) fn finish(mut self, flight: &Flight) -> Result<Sha256> {
        let mut buffer = vec![0; 1 << 20];
        while self.at < flight.size() {
            let n = buffer.len().min((flight.size() - self.at) as usize);
            flight
                .partial
                .file()
                .read_exact_at(&mut buffer[..n], self.at)?;
            self.hasher.update(&buffer[..n]);
            self.at += n as u64;
        }
        Ok(self.hash())
    }

    pub(super) fn hash(self) -> Sha256 {
        Sha256(self.hasher.finalize().into())
    }
}
