//! The shell of the upload queue: reads the rows, runs the transfers that the rules
//! allow, and writes down how each ended.
//!
//! What goes up is always a whole version: the file is hashed first, the hash is sent
//! with the bytes, and a remote that gets other bytes refuses them. A transfer is
//! given up when somebody opens its file for writing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::burst::Burst;
use super::commit::{Commit, seen};
use super::download::Downloads;
use super::given_up::{GivenUp, Reading};
use super::order::Order;
use super::queue::{Lanes, Waiting, back_off, next_ready};
use crate::backends::rate::Pace;
use crate::backends::remote::{Remote, Remotes};
use crate::backends::{Source, Upload};
use crate::beneath::{Mode, OFlags, facts_of};
use crate::clock::Chance;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, Operation, OutboxRow, Sent, Writing, node as rows, outbox};
use crate::metrics::Metrics;
use crate::object::{Precondition, RemoteId, Sha256};
use crate::path::RelPath;

/// Rows looked at in one go: of most pages a few start, and nothing else comes of the rest.
const PAGE: usize = 64;
/// The queue looks again after this long even if nothing was said.
const IDLE: Duration = Duration::from_secs(30);
/// Time between two passes through the outbox at least.
const PAUSE: Duration = Duration::from_millis(5);
/// How long somebody who needs room waits for those who still read a removed file.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// Longest wait in a lane after a failure that could not be noted.
const UNNOTED_MAX_MS: i64 = 5000;

/// What the rest of the mount decides for the queue.
pub trait Rules: Send + Sync {
    /// Whether the path never leaves this machine.
    fn is_local_only(&self, path: &RelPath) -> bool;
    /// Whether somebody has the node open for writing.
    fn is_being_written(&self, id: NodeId) -> bool;
    /// Whether a local version replaces a remote's that it does not know.
    fn local_wins(&self) -> bool;
    /// Whether the file goes up only after what it may speak of.
    fn is_published_last(&self, path: &RelPath) -> bool;
    /// Whether all that was written before this start is in the outbox, in its order.
    fn is_in_order(&self) -> bool;
}

/// Everything that goes up.
pub struct Uploads {
    pub(super) commit: Arc<Commit>,
    pub(super) downloads: Arc<Downloads>,
    remotes: Remotes,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rules: Arc<dyn Rules>,
    pub(super) order: Order,
    chance: Chance,
    width: usize,
    kick: Notify,
    burst: Mutex<Option<Burst>>,
    running: Mutex<HashMap<i64, Running>>,
    given_up: Arc<GivenUp>,
    active: AtomicUsize,
    idle: Notify,
}

struct Running {
    remote: RemoteId,
    key: Box<[u8]>,
    node: Option<NodeId>,
    cancel: CancellationToken,
    reading: Weak<Reading>,
}

impl Uploads {
    /// At most `width` transfers a remote at once.
    pub fn new(
        commit: Arc<Commit>,
        downloads: Arc<Downloads>,
        remotes: Remotes,
        metrics: Arc<Metrics>,
        rules: Arc<dyn Rules>,
        width: usize,
    ) -> Arc<Uploads> {
        Arc::new(Uploads {
            commit,
            downloads,
            remotes,
            metrics,
            rules,
            order: Order::default(),
            chance: Chance::from_system(),
            width: width.max(1),
            kick: Notify::new(),
            burst: Mutex::new(None),
            running: Mutex::new(HashMap::new()),
            given_up: Arc::default(),
            active: AtomicUsize::new(0),
            idle: Notify::new(),
        })
    }

    /// A local program has written or renamed a file.
    pub fn wrote(&self) {
        let mut burst = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
        *burst = Some(Burst::wrote(*burst, Instant::now()));
        drop(burst);
        self.kick();
    }

    /// How long a burst of writes keeps the queue waiting.
    fn wait_for_burst(&self) -> Option<Duration> {
        let burst = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
        burst.and_then(|burst| burst.wait(Instant::now()))
    }

    /// Something may be ready: a remote came back, an upload ended, a file was removed.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Gives up transfers of this node, for it is about to be written, replaced or removed.
    pub fn cancel(&self, id: NodeId) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for transfer in running.values().filter(|r| r.node == Some(id)) {
            self.given_up.add(&transfer.reading);
            transfer.cancel.cancel();
        }
    }

    /// Waits until what was given up has no file open any more, for somebody who needs the room.
    /// Returns whether any has closed its file since this was asked last. Blocks, but not for long.
    pub fn wait_for_given_up(&self) -> bool {
        self.given_up.wait(GIVEN_UP)
    }

    /// Whether the node's bytes are going up now.
    pub fn is_uploading(&self, id: NodeId) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().any(|r| r.node == Some(id))
    }

    /// Transfers under way.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// Ends each time a transfer has ended.
    pub async fn changed(&self) {
        self.idle.notified().await;
    }

    /// Runs until `stop`; what is under way is then given up, its rows stay.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.remotes.iter().any(|remote| remote.upload) {
            // What changed here is on record all the same, for the day when one does.
            return stop.cancelled().await;
        }
        while !stop.is_cancelled() {
            let wait = match self.wait_for_burst() {
                Some(wait) => wait,
                None => self.start_ready().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the outbox cannot be read");
                    Duration::from_secs(5)
                }),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.kick.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            // Who writes many files is not to pay for a pass after each.
            tokio::time::sleep(PAUSE).await;
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().for_each(|r| r.cancel.cancel());
    }

    /// Starts what may start; returns how long nothing else will be ready by itself.
    fn start_ready(self: &Arc<Self>) -> Result<Duration> {
        if self.is_full() {
            return Ok(IDLE);
        }
        let now = self.commit.clock.now_ms();
        let mut after = 0;
        self.order.pass_begins();
        loop {
            let page = self
                .commit
                .index
                .read(|c| outbox::ready(c, now, after, PAGE))?;
            let full = page.len() == PAGE;
            after = page.last().map_or(after, |last| last.id);
            self.start_page(page, &self.lanes())?;
            if self.is_full() {
                break;
            }
            if !full {
                self.order.pass_ends();
                break;
            }
        }
        let due = self.commit.index.read(|c| outbox::next_due(c, now))?;
        let wait = due.map_or(IDLE, |at| Duration::from_millis((at - now).max(1) as u64));
        Ok(wait.min(IDLE))
    }

    fn start_page(self: &Arc<Self>, page: Vec<OutboxRow>, lanes: &Lanes) -> Result<()> {
        let mut waiting = Vec::with_capacity(page.len());
        let mut by_id = HashMap::new();
        for row in page {
            let (path, open, last) = match &row.operation {
                Operation::Put(id) => {
                    let path = self.commit.index.path_of(*id)?.unwrap_or_default();
                    let last = self.rules.is_published_last(&path);
                    (path, self.rules.is_being_written(*id), last)
                }
                Operation::Delete(key) => (key.clone(), false, false),
            };
            waiting.push(Waiting {
                row: row.id,
                remote: row.remote,
                key: path.as_bytes().into(),
                open,
                last,
            });
            by_id.insert(row.id, row);
        }
        let keys: HashMap<i64, Box<[u8]>> =
            waiting.iter().map(|w| (w.row, w.key.clone())).collect();
        let ready = next_ready(&waiting, lanes, |w| {
            by_id.get(&w.row).is_none_or(|row| self.is_held_up(row))
        });
        for id in ready {
            if let (Some(row), Some(key)) = (by_id.remove(&id), keys.get(&id)) {
                self.start(row, key.clone());
            }
        }
        Ok(())
    }

    fn lanes(&self) -> Lanes {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = Lanes {
            width: self.width,
            ..Lanes::default()
        };
        for transfer in running.values() {
            lanes
                .busy_keys
                .insert((transfer.remote, transfer.key.clone()));
            *lanes.running.entry(transfer.remote).or_default() += 1;
        }
        lanes.away = self
            .remotes
            .iter()
            .filter(|r| r.is_away() || r.is_unsure())
            .map(|r| r.id)
            .collect();
        lanes
    }

    fn is_full(&self) -> bool {
        self.active() >= self.width * self.remotes.iter().count().max(1)
    }

    fn start(self: &Arc<Self>, row: OutboxRow, key: Box<[u8]>) {
        let (cancel, reading) = (CancellationToken::new(), self.given_up.reading());
        let node = match &row.operation {
            Operation::Put(id) => Some(*id),
            Operation::Delete(_) => None,
        };
        let transfer = Running {
            remote: row.remote,
            key,
            node,
            cancel: cancel.clone(),
            reading: Arc::downgrade(&reading),
        };
        match self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(row.id)
        {
            // Under the name that it had before: its end comes first.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(transfer),
        };
        self.active.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "the file was opened for writing")),
                ended = this.transfer(&row, reading) => ended,
            };
            if let Err(error) = ended {
                this.note_failure(&row, &error).await;
            }
            this.running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&row.id);
            this.active.fetch_sub(1, Ordering::SeqCst);
            this.idle.notify_waiters();
            this.kick();
        });
    }

    async fn note_failure(&self, row: &OutboxRow, error: &Error) {
        if error.kind() == Kind::Cancelled {
            return;
        }
        if let Some(remote) = self.remotes.get(row.remote) {
            remote.heard(error);
        }
        let wait = back_off(error.kind(), row.attempts, self.chance.fraction());
        let not_before = match error.kind() {
            Kind::Unsupported => outbox::HELD,
            _ => self.commit.clock.now_ms() + wait,
        };
        let (failed, text) = (row.clone(), error.to_string());
        tracing::info!(error = %text, retry_in_ms = wait, "an upload failed; it stays queued");
        let noted = self
            .commit
            .index
            .edit_later(move |w| w.upload_failed(&failed, not_before, &text))
            .await;
        if let Err(error) = noted {
            tracing::warn!(%error, "a failed upload could not be noted");
            // The row does not say to wait: its place in the lane is held instead.
            let wait = Duration::from_millis(wait.clamp(0, UNNOTED_MAX_MS) as u64);
            tokio::time::sleep(wait).await;
        }
    }

    async fn transfer(&self, row: &OutboxRow, reading: Arc<Reading>) -> Result<()> {
        let Some(remote) = self.remotes.get(row.remote).cloned() else {
            return Err(Error::new(
                Kind::Unsupported,
                "the remote is not part of this mount any more",
            ));
        };
        match &row.operation {
            Operation::Put(id) => self.put(row, *id, &remote, reading).await,
            Operation::Delete(key) => self.delete(row, key, &remote).await,
        }
    }

    pub(super) async fn finish(&self, row: &OutboxRow, key: RelPath, outcome: Sent) -> Result<()> {
        let (row, now) = (row.clone(), self.commit.clock.now_ns());
        self.commit
            .index
            .edit_later(move |w| w.sent(&row, &key, &outcome, now))
            .await
    }

    async fn delete(&self, row: &OutboxRow, key: &RelPath, remote: &Remote) -> Result<()> {
        match remote.backend.delete(key, row.base.as_ref()).await {
            Ok(()) => self.finish(row, key.clone(), Sent::Deleted).await,
            Err(error) if error.kind() == Kind::Conflict => {
                self.deleted_another(row, key, remote).await
            }
            Err(error) => Err(error.about(key)),
        }
    }

    async fn put(
        &self,
        row: &OutboxRow,
        id: NodeId,
        remote: &Arc<Remote>,
        reading: Arc<Reading>,
    ) -> Result<()> {
        let index = &self.commit.index;
        let now = index.read(|c| outbox::row(c, row.id))?;
        if now.is_none_or(|now| (now.generation, &now.base) != (row.generation, &row.base)) {
            // It ended, or was queued anew, just after it was read: it is looked at again as it is.
            return Ok(());
        }
        let (Some(node), Some(path)) = (index.node(id)?, index.path_of(id)?) else {
            return self.finish(row, RelPath::root(), Sent::Moot).await;
        };
        if node.writing == Writing::Torn {
            return Err(Error::new(
                Kind::Busy,
                "its writer was killed; write it again to publish it",
            )
            .about(&path));
        }
        if self.rules.is_local_only(&path) {
            return self.finish(row, path, Sent::Moot).await;
        }
        if self.copy_clean(row, &node, &path, remote).await? {
            return Ok(());
        }
        if node.held != Held::Whole {
            // Renamed here without ever being read: its bytes come first. Those of an older version are not it.
            self.downloads
                .hydrate(id)
                .await
                .map_err(|e| e.about(&path))?;
            let same = index.node(id)?.is_some_and(|n| n.held == Held::Whole);
            if !same || index.path_of(id)?.as_ref() != Some(&path) {
                return Err(Error::new(Kind::Busy, "the file changed meanwhile").about(&path));
            }
        }
        let upload = self.prepare(&node, &path, reading).await?;
        if self.is_known_there(row, &node, &path, &upload)? {
            self.metrics.upload_skipped.add(1);
            return self.finish(row, path, Sent::Known).await;
        }
        if self.copy_equal(row, &node, &path, remote, &upload).await? {
            return Ok(());
        }
        self.rescue_target(id, &path, remote.id).await?;
        if !self.attempt(row, &path, upload.sha256).await? {
            return Ok(());
        }
        crash::point("upload.begin");
        match remote
            .backend
            .put(&path, upload.clone(), precondition(row))
            .await
        {
            Ok(meta) => {
                crash::point("upload.answered");
                self.metrics.uploaded.add(1);
                self.finish(row, path, Sent::Published(meta)).await?;
                crash::point("upload.row");
                Ok(())
            }
            Err(error) if error.kind() == Kind::Conflict => {
                self.conflict(row, &node, &path, remote, upload).await
            }
            Err(error) => Err(error.about(&path)),
        }
    }

    /// Notes what is about to be sent. Returns false if the row is looked at again as it is now.
    pub(super) async fn attempt(
        &self,
        row: &OutboxRow,
        path: &RelPath,
        sha256: Sha256,
    ) -> Result<bool> {
        let (key, row) = (path.clone(), row.clone());
        self.commit
            .index
            .edit_later(move |w| w.attempt(&row, &key, sha256))
            .await
    }

    /// What is about to be replaced at the remote may be all there is of another file, which was
    /// renamed away from this path and never read: its bytes come first.
    pub(super) async fn rescue_target(
        &self,
        id: NodeId,
        path: &RelPath,
        remote: RemoteId,
    ) -> Result<()> {
        let index = &self.commit.index;
        let replica = index.read(|c| rows::replica(c, remote, path))?;
        let other = match replica.and_then(|r| r.node).filter(|other| *other != id) {
            Some(other) => index.node(other)?,
            None => None,
        };
        match other {
            Some(other) if other.held != Held::Whole && other.dirty == 0 => {
                match self.downloads.hydrate(other.id).await {
                    // It is gone there: nothing is lost by going on.
                    Err(error) if matches!(error.kind(), Kind::Stale | Kind::NotFound) => Ok(()),
                    done => done.map_err(|e| e.about(path)),
                }
            }
            _ => Ok(()),
        }
    }

    /// Opens and hashes the file. Errors: `Busy` if it changed meanwhile.
    async fn prepare(&self, node: &Node, path: &RelPath, reading: Arc<Reading>) -> Result<Upload> {
        let (commit, id, path) = (self.commit.clone(), node.id, path.clone());
        let mtime_ns = node.mtime_ns;
        let touched = node.touched;
        tokio::task::spawn_blocking(move || {
            let file = commit
                .store
                .root()
                .open_file(&path, OFlags::RDONLY, Mode::empty())?;
            let before = facts_of(&file)?;
            let sha256 = hash(&file, before.size)?;
            if seen(&facts_of(&file)?) != seen(&before) {
                return Err(
                    Error::new(Kind::Busy, "the file changed while it was read").about(&path)
                );
            }
            let known = commit.index.node(id)?.and_then(|n| n.seen);
            let mtime_ns = if touched || known == Some(seen(&before)) {
                mtime_ns
            } else {
                before.mtime_ns
            };
            Ok(Upload {
                file: Arc::new(Source::tied(file, reading)),
                size: before.size,
                mtime_ns,
                sha256,
                pace: Pace::default(),
            })
        })
        .await
        .map_err(|_| Error::new(Kind::Io, "hashing failed"))?
    }

    /// Whether the remote has these bytes under this key already, as far as the index knows.
    fn is_known_there(
        &self,
        row: &OutboxRow,
        node: &Node,
        path: &RelPath,
        upload: &Upload,
    ) -> Result<bool> {
        // Not while the answer to an upload is missing: something else may be there by now.
        let (replica, open) = self.commit.index.read(|c| {
            let open = outbox::attempts(c, row.remote, path)?;
            Ok((rows::replica(c, row.remote, path)?, open))
        })?;
        Ok(replica.is_some_and(|r| {
            open == 0
                && r.meta.sha256 == Some(upload.sha256)
                && row.base.as_ref() == Some(&r.meta.version)
                && (!node.touched || r.meta.mtime_ns == upload.mtime_ns)
        }))
    }
}

/// What must be true at the remote for the row's file to go up.
pub(super) fn precondition(row: &OutboxRow) -> Precondition {
    match &row.base {
        Some(version) => Precondition::Matches(version.clone()),
        None => Precondition::Absent,
    }
}

fn hash(file: &File, size: u64) -> Result<Sha256> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; size.min(1 << 20) as usize];
    let mut at = 0;
    while at < size {
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Err(Error::new(
                Kind::Busy,
                "the file became shorter while it was read",
            ));
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(Sha256(hasher.finalize().into()))
}
