//! Far bytes: one trait, one file an implementation, wrappers that are backends
//! around a backend.
//!
//! A backend speaks for one remote. It validates what comes in (names, versions,
//! lengths) and turns every failure into [`Error`](crate::error::Error)s of the
//! right kind; it does not retry, cache or decide. Every call ends within its
//! deadline.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::object::{ByteRange, Change, Cursor, Listed, Meta, Precondition, Sha256, Version};
use crate::path::RelPath;

/// Bytes on their way down.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a remote can do. Learned once, at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Takes writes from us.
    pub put: bool,
    /// Checks preconditions in one step with the write.
    pub conditional_put: bool,
    /// Takes deletes from us.
    pub delete: bool,
    /// Tells changes as they happen, so that no listing has to be repeated.
    pub changes: bool,
}

/// One object's bytes, coming.
pub struct Download {
    /// The version the bytes belong to.
    pub meta: Meta,
    /// Which bytes of it: exactly these come, or the stream ends with an error.
    pub range: ByteRange,
    /// The bytes, in order.
    pub body: ByteStream,
}

/// One object's bytes, to be sent. The file is read from its start by position, as
/// often as needed; it must not change meanwhile, and `sha256` proves that it did not.
#[derive(Debug, Clone)]
pub struct Upload {
    pub file: Arc<File>,
    pub size: u64,
    pub mtime_ns: i64,
    pub sha256: Sha256,
}

/// What happened since a cursor.
#[derive(Debug)]
pub enum Changes {
    /// These, in order; ask again from `cursor`.
    Delta {
        changes: Vec<Change>,
        cursor: Cursor,
    },
    /// The remote no longer knows: take a whole listing.
    Relist,
}

/// A remote.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Finds out what the remote can do; also the cheapest proof that it is there.
    async fn capabilities(&self) -> Result<Capabilities>;

    /// Sends the whole listing in batches of at most a few thousand, in ascending
    /// byte order of the keys. The cursor returned is not later than the listing.
    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor>;

    /// What happened since `since`; waits up to `wait` for something to happen.
    /// Where [`Capabilities::changes`] is false, always [`Changes::Relist`].
    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes>;

    /// The object as it is now; none if there is no such object.
    async fn head(&self, key: &RelPath) -> Result<Option<Meta>>;

    /// Bytes of an object: all of it, or `range` cut to its length.
    /// Errors: `NotFound`; `Stale` if it no longer has `version`.
    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download>;

    /// Publishes an object, all or nothing. Errors: `Conflict` if `precondition` fails,
    /// `Corrupt` if the bytes sent do not have the promised hash.
    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta>;

    /// Removes an object. Removing what is not there succeeds.
    /// Errors: `Conflict` if it no longer has `version`.
    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()>;
}
