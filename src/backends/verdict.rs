//! What every remote may say no with, in the same words whichever it is.

use futures_util::stream;

use super::Download;
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Meta, Version};

pub(super) fn missing() -> Error {
    Error::new(Kind::NotFound, "the remote has no such file")
}

pub(super) fn stale() -> Error {
    Error::new(Kind::Stale, "the remote no longer has this version")
}

pub(super) fn conflict() -> Error {
    Error::new(Kind::Conflict, "the remote has another version")
}

/// Whether an answer is about the version asked for. Errors: `Stale`.
pub(super) fn same(meta: &Meta, version: Option<&Version>) -> Result<()> {
    match version {
        Some(version) if *version != meta.version => Err(stale()),
        _ => Ok(()),
    }
}

/// An empty range of what was `found`, which HTTP cannot ask for: where it lies, and nothing else.
pub(super) fn nothing(
    found: Option<Meta>,
    range: &ByteRange,
    version: Option<&Version>,
) -> Result<Download> {
    let meta = found.ok_or_else(missing)?;
    same(&meta, version)?;
    let at = range.start.min(meta.size);
    Ok(Download {
        meta,
        range: at..at,
        body: Box::pin(stream::empty()),
        is_proven: false,
        proof: None,
    })
}
