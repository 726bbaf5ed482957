//! A remote in memory, with everything that can go wrong at one, on demand.
//!
//! Keeps every promise of [`Backend`] that a scripted [`Fault`] does not break on purpose.
//! For tests of the floors above; it persists nothing.

mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};

use self::state::{State, sha256};
use super::pulse::Pulse;
#[cfg(test)]
use super::rate::Pace;
use super::verdict::{missing, same, stale};
use super::{Backend, Capabilities, Changes, Copying, Download, Upload, body};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Revision, Version};
use crate::path::RelPath;

/// Bytes a chunk of a body.
const CHUNK: usize = 64 * 1024;
/// Objects a batch of a listing.
const BATCH: usize = 1000;

/// An operation of [`Backend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Capabilities,
    List,
    Changes,
    Head,
    Get,
    Put,
    Copy,
    Delete,
}

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; the call fails.
    Fail(Kind),
    /// It is done, but the call fails.
    LoseAnswer(Kind),
    /// The call never ends.
    Stall,
    /// The call takes longer.
    Delay(Duration),
    /// A body ends with `Corrupt` after so many bytes.
    Truncate(u64),
    /// A body never goes on after so many bytes.
    StallBody(u64),
    /// A body of the right length has wrong bytes.
    Corrupt,
}

/// The remote. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// The sequence number, for who waits for changes.
    seq: watch::Sender<u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

/// For the test's side.
impl Memory {
    /// An empty remote that can do everything.
    pub fn new() -> Memory {
        Memory(Arc::new(Inner {
            state: Mutex::default(),
            seq: watch::channel(0).0,
        }))
    }

    /// Puts an object there, as another client of the remote would.
    pub fn set_object(&self, key: &RelPath, bytes: &[u8], mtime_ns: i64) -> Meta {
        self.change(|state| state.store(key, Bytes::copy_from_slice(bytes), mtime_ns))
    }

    /// Takes an object away, as another client would; false if there is none.
    pub fn remove_object(&self, key: &RelPath) -> bool {
        self.change(|state| state.remove(key))
    }

    /// What the remote has under `key`.
    pub fn object(&self, key: &RelPath) -> Option<(Meta, Bytes)> {
        self.state().objects.get(key).cloned()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<RelPath> {
        self.state().objects.keys().cloned().collect()
    }

    /// Makes every listing hold a name that cannot be a file.
    pub fn refuse_name(&self, shown: &str, why: &str) {
        self.state().refused.push((shown.into(), why.into()));
    }

    /// The next `times` calls of `op` that nothing is scripted for yet go wrong so.
    pub fn script(&self, op: Op, times: usize, fault: Fault) {
        let mut state = self.state();
        let queue = state.faults.entry(op).or_default();
        queue.extend(std::iter::repeat_n(fault, times));
    }

    /// Forgets what was scripted and did not happen yet.
    pub fn clear_script(&self) {
        self.state().faults.clear();
    }

    /// While false, every call fails with `Offline`; calls that wait for changes end so.
    pub fn set_online(&self, online: bool) {
        self.change(|state| state.offline = !online);
    }

    /// How often `op` was called.
    pub fn calls(&self, op: Op) -> u64 {
        self.state().calls.get(&op).copied().unwrap_or(0)
    }

    /// How many calls there were altogether.
    pub fn all_calls(&self) -> u64 {
        self.state().calls.values().sum()
    }

    /// What the remote says that it can do; without `changes` there is no feed.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.state().capabilities = Some(capabilities);
    }

    /// Loses the feed's history, as a server that lost its index: cursors are void.
    pub fn reset_epoch(&self) {
        self.change(|state| {
            state.epoch += 1;
            state.log.clear();
            state.logged.clear();
        });
    }

    /// What the `seq`th change is called.
    pub fn revision(&self, seq: u64) -> Revision {
        self.state().revision(seq)
    }

    /// Where the feed stands.
    pub fn cursor(&self) -> Cursor {
        self.state().cursor()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let outcome = change(&mut state);
        self.0.seq.send_replace(state.seq);
        outcome
    }

    /// Counts a call and lets its fault happen; gives back what concerns body or answer.
    async fn enter(&self, op: Op) -> Result<Option<Fault>> {
        let fault = {
            let mut state = self.state();
            *state.calls.entry(op).or_default() += 1;
            state.online()?;
            state.faults.get_mut(&op).and_then(VecDeque::pop_front)
        };
        match fault {
            Some(Fault::Fail(kind)) => return Err(scripted(kind)),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            other => return Ok(other),
        }
        self.state().online()?;
        Ok(None)
    }
}

fn scripted(kind: Kind) -> Error {
    Error::new(kind, "scripted")
}

/// Loses an answer where that was scripted.
fn leave<T>(fault: Option<Fault>, answer: Result<T>) -> Result<T> {
    match fault {
        Some(Fault::LoseAnswer(kind)) => Err(scripted(kind)),
        _ => answer,
    }
}

/// An upload of `bytes`, from an unnamed file.
#[cfg(test)]
pub(crate) fn upload_of(bytes: &[u8], mtime_ns: i64) -> Upload {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    Upload {
        file: Arc::new(file.into()),
        size: bytes.len() as u64,
        mtime_ns,
        sha256: sha256(bytes),
        pace: Pace::default(),
    }
}

#[async_trait]
impl Backend for Memory {
    async fn capabilities(&self) -> Result<Capabilities> {
        let fault = self.enter(Op::Capabilities).await?;
        let can = self.state().can();
        leave(fault, Ok(can))
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        let fault = self.enter(Op::List).await?;
        let (cursor, listing) = {
            let state = self.state();
            (state.cursor(), state.listing())
        };
        for batch in listing.chunks(BATCH) {
            let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing any more");
            batches.send(batch.to_vec()).await.map_err(gone)?;
        }
        leave(fault, Ok(cursor))
    }

    async fn epoch(&self) -> Result<Option<String>> {
        let state = self.state();
        state.online()?;
        Ok(Some(state.cursor().epoch))
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        let fault = self.enter(Op::Changes).await?;
        let mut news = self.0.seq.subscribe();
        let waited = tokio::time::timeout(wait, async {
            loop {
                let now = {
                    let state = self.state();
                    state.online()?;
                    state.since(since)
                };
                match &now {
                    Changes::Delta { changes, .. } if changes.is_empty() => {}
                    _ => return Ok(now),
                }
                // The sender lives as long as `self`.
                let _ = news.changed().await;
            }
        });
        let answer = match waited.await {
            Ok(answer) => answer,
            Err(_) => Ok(self.state().since(since)),
        };
        leave(fault, answer)
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        let fault = self.enter(Op::Head).await?;
        let meta = self.object(key).map(|(meta, _)| meta);
        leave(fault, Ok(meta))
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let fault = self.enter(Op::Get).await?;
        let (meta, bytes) = self.object(key).ok_or_else(|| missing().about(key))?;
        same(&meta, version).map_err(|error| error.about(key))?;
        let range = body::cut(range, meta.size);
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let body = broken(bytes, fault.clone());
        let download = Download {
            meta,
            range,
            body,
            is_proven: false,
            proof: None,
        };
        leave(fault, Ok(download))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let fault = self.enter(Op::Put).await?;
        let mut bytes = Vec::new();
        let mut sent = body::outgoing(&upload, 0..upload.size, &Pulse::default());
        while let Some(chunk) = sent.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        if sha256(&bytes) != upload.sha256 {
            let why = "the bytes sent do not have the promised hash";
            return Err(Error::new(Kind::Corrupt, why).about(key));
        }
        let stored = self.change(|state| {
            if !state.can().put {
                let why = "the remote takes no uploads";
                return Err(Error::new(Kind::Unsupported, why).about(key));
            }
            state.check(key, &precondition)?;
            state.fits(key)?;
            Ok(state.store(key, bytes.into(), upload.mtime_ns))
        });
        leave(fault, stored)
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        let fault = self.enter(Op::Copy).await?;
        let made: Result<Meta> = self.change(|state| {
            let source = state.objects.get(&copying.from);
            let source = source.filter(|(meta, _)| meta.version == copying.version);
            let bytes = source.ok_or_else(stale)?.1.clone();
            state.check(key, &precondition)?;
            state.fits(key)?;
            Ok(state.store(key, bytes, copying.mtime_ns))
        });
        leave(fault, made.map_err(|error| error.about(key)))
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let fault = self.enter(Op::Delete).await?;
        let deleted = self.change(|state| {
            if !state.can().delete {
                let why = "the remote takes no deletes";
                return Err(Error::new(Kind::Unsupported, why).about(key));
            }
            if let (Some(version), true) = (version, state.objects.contains_key(key)) {
                state.check(key, &Precondition::Matches(version.clone()))?;
            }
            state.remove(key);
            Ok(())
        });
        leave(fault, deleted)
    }
}

/// A body, with the fault that was scripted for it.
fn broken(mut bytes: Bytes, fault: Option<Fault>) -> super::ByteStream {
    let cut = |at: u64, bytes: &Bytes| bytes.slice(..bytes.len().min(at as usize));
    let mut stalls = false;
    let mut error = None;
    match fault {
        Some(Fault::Truncate(at)) => {
            bytes = cut(at, &bytes);
            error = Some(Err(Error::new(Kind::Corrupt, "the body ended early")));
        }
        Some(Fault::StallBody(at)) => {
            bytes = cut(at, &bytes);
            stalls = true;
        }
        Some(Fault::Corrupt) => bytes = bytes.iter().map(|b| !b).collect(),
        _ => {}
    }
    let chunks: Vec<_> = (0..bytes.len())
        .step_by(CHUNK)
        .map(|at| Ok(bytes.slice(at..bytes.len().min(at + CHUNK))))
        .collect();
    let body = stream::iter(chunks).chain(stream::iter(error));
    match stalls {
        true => Box::pin(body.chain(stream::pending())),
        false => Box::pin(body),
    }
}
