//! Small downloads in memory, and how many of them there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::object::ByteRange;

/// Bytes of downloads that lie in memory, at most: what the disk takes in a moment. Those that
/// find no room go to the disk as they come.
const MOST: u64 = 64 << 20;

/// The bytes of one download, which count until they are dropped.
#[derive(Debug)]
pub(super) struct Parcel {
    bytes: Content,
    size: u64,
    all: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Content {
    Coming(Vec<u8>),
    /// All of them: readers share them.
    Whole(Bytes),
}

impl Parcel {
    /// Room for `size` bytes, if those that lie in memory, `all`, leave it.
    pub(super) fn new(all: &Arc<AtomicU64>, size: u64) -> Option<Parcel> {
        let add = |now: u64| now.checked_add(size).filter(|sum| *sum <= MOST);
        all.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add)
            .ok()?;
        Some(Parcel {
            bytes: Content::Coming(Vec::with_capacity(size as usize)),
            size,
            all: all.clone(),
        })
    }

    /// Takes bytes that lie within the size.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Content::Coming(all) = &mut self.bytes else {
            return Err(Error::new(Kind::Io, "more bytes came of a whole file"));
        };
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if start == all.len() {
            all.extend_from_slice(bytes);
            return Ok(());
        }
        if all.len() < end {
            all.resize(end, 0);
        }
        all[start..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Bytes that were written; `is_whole`: all were, and nothing comes any more.
    pub(super) fn read(&mut self, range: &ByteRange, is_whole: bool) -> Result<Bytes> {
        let range = range.start as usize..range.end as usize;
        if let Content::Coming(bytes) = &mut self.bytes
            && is_whole
        {
            self.bytes = Content::Whole(std::mem::take(bytes).into());
        }
        let len = match &self.bytes {
            Content::Coming(bytes) => bytes.len(),
            Content::Whole(bytes) => bytes.len(),
        };
        if range.start > range.end || range.end > len {
            return Err(Error::new(Kind::Range, "bytes that have not come"));
        }
        Ok(match &self.bytes {
            Content::Coming(bytes) => Bytes::copy_from_slice(&bytes[range]),
            Content::Whole(bytes) => bytes.slice(range),
        })
    }

    /// What came counts for nothing.
    pub(super) fn clear(&mut self) {
        self.bytes = Content::Coming(Vec::with_capacity(self.size as usize));
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.all.fetch_sub(self.size, Ordering::SeqCst);
    }
}
