//! How much of what a remote names the index takes in, so that one that goes on naming files for
//! ever does not fill the disk.
//!
//! The number is the user's to set. Whatever it says, the last of the disk stays free of listings:
//! the index has to be written for all else, too. What was taken in before stays.

use crate::error::{Error, Kind, Result};
use crate::index::Index;

/// Most files of a remote, unless the user says otherwise.
const MOST: u64 = 20_000_000;
/// Bytes of the disk that listings leave free at least.
const LEAST_FREE: u64 = 16 << 20;
/// The part of what is to stay free that they leave: the files held make room for them first.
const OF_MIN_FREE: u64 = 8;
/// Of a small disk, they leave this part.
const OF_DISK: u64 = 4;

/// What a listing, or the changes that follow it, may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    most: Option<u64>,
    free: u64,
}

impl Default for Bound {
    fn default() -> Bound {
        Bound::new(Some(MOST), 0)
    }
}

impl Bound {
    /// `most` files of each remote; none for no limit. `min_free`: what is to stay free on the disk.
    pub fn new(most: Option<u64>, min_free: u64) -> Bound {
        Bound {
            most,
            free: LEAST_FREE.max(min_free / OF_MIN_FREE),
        }
    }

    /// A listing has come to so many lines.
    pub fn lines(self, lines: u64) -> Result<()> {
        self.growth(0, lines)
    }

    /// What is known of the remote has grown. One that was larger already, when the limit was
    /// another, may shrink and change.
    pub fn growth(self, before: u64, after: u64) -> Result<()> {
        let Some(most) = self.most.filter(|most| after > *most && after > before) else {
            return Ok(());
        };
        let why = format!(
            "names more than {most} files: the rest is left out, and found only by who asks for it by name; \
             check the remote, or mount with a larger --max-listed"
        );
        Err(Error::new(Kind::NoSpace, why))
    }

    /// Whether the disk has room for more.
    pub fn room(self, index: &Index) -> Result<()> {
        let space = index.space()?;
        self.leaves(space.free, space.total)
    }

    fn leaves(self, free: u64, total: u64) -> Result<()> {
        let least = self.free.min(total / OF_DISK);
        if free >= least {
            return Ok(());
        }
        let why = format!(
            "names more files than the disk has room for ({} MiB are free, {} MiB stay so): the rest is left \
             out, and found only by who asks for it by name; make room on the disk, then run `larder sync`",
            free >> 20,
            least >> 20
        );
        Err(Error::new(Kind::NoSpace, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_a_remote_may_grow_to_its_limit_and_shrink_from_above_it() {
        let bound = Bound::new(Some(10), 0);
        assert!(bound.growth(0, 10).is_ok() && bound.lines(10).is_ok());
        assert!(bound.growth(12, 12).is_ok() && bound.growth(12, 11).is_ok());
        let why = bound.growth(9, 11).unwrap_err();
        assert_eq!(why.kind(), Kind::NoSpace);
        assert!(why.message().contains("more than 10 files"), "{why}");
        assert!(bound.lines(11).is_err());
        assert!(Bound::new(None, 0).growth(0, u64::MAX).is_ok());
    }

    #[test]
    fn p10_listings_leave_the_last_of_any_disk() {
        let bound = Bound::new(None, 1 << 30);
        assert!(bound.leaves(128 << 20, 1 << 40).is_ok());
        assert!(bound.leaves((128 << 20) - 1, 1 << 40).is_err());
        // A disk that is smaller than what is to stay free of it takes a listing, too.
        assert!(bound.leaves(4 << 20, 16 << 20).is_ok());
        assert!(bound.leaves((4 << 20) - 1, 16 << 20).is_err());
        let careless = Bound::new(None, 0);
        assert!(careless.leaves(16 << 20, 1 << 40).is_ok());
        assert!(careless.leaves(15 << 20, 1 << 40).is_err());
    }
}
