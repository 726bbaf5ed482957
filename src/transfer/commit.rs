//! The one place that puts bytes under their name: verified → synced → renamed → row
//! written → acknowledged.
//!
//! Killed between two steps, each leaves what the next start can read: a partial that
//! resumes, a staged file whose `close()` is on record, or a file in the tree whose row
//! is found out of date by its facts and follows it.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use crate::beneath::{Facts, set_owner_of};
use crate::clock::Clock;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, NodeId, Seen};
use crate::object::{RemoteId, Sha256, Version};
use crate::path::RelPath;
use crate::store::{Partial, StagedId, Store};

/// Locks for single nodes are shared by hash.
const STRIPES: usize = 64;

type Clear = Box<dyn Fn(&RelPath) -> bool + Send + Sync>;

/// Puts files in place, and keeps others from moving the ground meanwhile.
///
/// Lock order: the tree, then a node. No lock is held across an await.
pub struct Commit {
    pub store: Arc<Store>,
    pub index: Arc<Index>,
    pub clock: Clock,
    tree: RwLock<()>,
    nodes: Box<[Mutex<()>]>,
    /// Takes away what is in the way of a path and is to go; blocks. False: there is nothing.
    clear: OnceLock<Clear>,
}

impl Commit {
    /// One a mount.
    pub fn new(store: Arc<Store>, index: Arc<Index>, clock: Clock) -> Commit {
        Commit {
            store,
            index,
            clock,
            tree: RwLock::new(()),
            nodes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            clear: OnceLock::new(),
        }
    }

    /// Says who takes away what a remote deleted when something else gets its name.
    pub fn set_clear(&self, clear: impl Fn(&RelPath) -> bool + Send + Sync + 'static) {
        // Said once, when the mount is put together.
        let _ = self.clear.set(Box::new(clear));
    }

    /// Puts a file at `path`; what is to go from there goes first.
    fn put_at(&self, path: &RelPath, put: impl Fn() -> Result<Facts>) -> Result<Facts> {
        match put() {
            Err(error)
                if matches!(error.kind(), Kind::NotADirectory | Kind::IsADirectory)
                    && self.clear.get().is_some_and(|clear| clear(path)) =>
            {
                put()
            }
            done => done,
        }
    }

    /// Paths stay what they are while this is held.
    pub fn paths_stay(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever changes paths.
    pub fn paths_change(&self) -> RwLockWriteGuard<'_, ()> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a node's bytes are here stays what it is while this is held.
    pub fn hold(&self, id: NodeId) -> MutexGuard<'_, ()> {
        let stripe = id.0 as usize % STRIPES;
        self.nodes[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A download is whole and verified: publishes it. False if the node became something else
    /// meanwhile; the bytes are then dropped, and those who read them keep them open.
    pub fn hydrated(
        &self,
        id: NodeId,
        version: (RemoteId, Version),
        partial: &Partial,
        sha256: Option<Sha256>,
    ) -> Result<bool> {
        let _paths = self.paths_stay();
        let _node = self.hold(id);
        let current = self.index.node(id)?;
        let wanted = current.filter(|n| n.dirty == 0 && n.origin.as_ref() == Some(&version));
        let (Some(node), Some(path)) = (wanted, self.index.path_of(id)?) else {
            partial.discard()?;
            return Ok(false);
        };
        crash::point("hydrate.whole");
        if let (Some(uid), Some(gid)) = (node.uid, node.gid) {
            // As far as this process may: who may not has nothing of other users' either.
            let _ = set_owner_of(partial.file(), uid, gid);
        }
        let publish = || partial.publish(&self.store, &path, node.mtime_ns, node.mode);
        let facts = self.put_at(&path, publish)?;
        crash::point("hydrate.renamed");
        let now_ms = self.clock.now_ms();
        let kept = self
            .index
            .edit(move |w| w.hydrated(id, &version, seen(&facts), sha256, now_ms))?;
        crash::point("hydrate.row");
        Ok(kept)
    }

    /// A staged file was closed by its last writer: publishes it. `queue`: whether it may leave.
    pub fn written(
        &self,
        id: NodeId,
        staged: StagedId,
        local_only: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Seen> {
        let _paths = self.paths_stay();
        let _node = self.hold(id);
        self.written_held(id, staged, local_only)
    }

    /// The same for a caller that holds the locks.
    pub fn written_held(
        &self,
        id: NodeId,
        staged: StagedId,
        local_only: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Seen> {
        let Some(path) = self.index.path_of(id)? else {
            return Err(Error::new(
                Kind::Stale,
                "the file was removed while it was written",
            ));
        };
        let facts = self.put_at(&path, || self.store.publish(staged, &path))?;
        crash::point("publish.renamed");
        self.record_written(id, Some(staged), &facts, !local_only(&path))?;
        crash::point("publish.row");
        Ok(seen(&facts))
    }

    /// A stored file was changed in place by local writers; `facts` are those at the last close.
    pub fn record_written(
        &self,
        id: NodeId,
        staged: Option<StagedId>,
        facts: &Facts,
        queue: bool,
    ) -> Result<u64> {
        let (facts, now_ms) = (seen(facts), self.clock.now_ms());
        let staged = staged.map(|s| s.0);
        self.index
            .edit(move |w| w.written(id, staged, facts, queue, now_ms))
    }

    /// Drops a clean file's bytes. The rename comes first: killed after it, the row says "held",
    /// the file is missing, and that means "no longer held".
    pub fn evict(&self, id: NodeId, may: &dyn Fn() -> bool) -> Result<bool> {
        // Nobody waits for an eviction, and it waits for nobody: a writer that needs room calls
        // it with locks of its own.
        let (Ok(_paths), Ok(_node)) = (
            self.tree.try_read(),
            self.nodes[id.0 as usize % STRIPES].try_lock(),
        ) else {
            return Ok(false);
        };
        let Some(node) = self.index.node(id)? else {
            return Ok(false);
        };
        let queued = self
            .index
            .read(|c| crate::index::outbox::is_queued(c, id))?;
        let has_remote = self
            .index
            .read(|c| crate::index::node::has_replicas(c, id))?;
        if node.dirty != 0 || node.pinned || queued || !has_remote || !may() {
            return Ok(false);
        }
        let Some(path) = self.index.path_of(id)? else {
            return Ok(false);
        };
        let unchanged = match self.store.root().stat(&path) {
            Ok(facts) => Some(seen(&facts)) == node.seen,
            Err(error) if error.kind() == Kind::NotFound => true,
            Err(error) => return Err(error),
        };
        if !unchanged {
            // Somebody changed it by hand: it is not clean, whatever the row says.
            return Ok(false);
        }
        self.store.bury(&path)?;
        crash::point("evict.buried");
        let now = self.clock.now_ns();
        self.index.edit(move |w| w.not_held(id, now))?;
        crash::point("evict.row");
        Ok(true)
    }
}

/// What the index remembers of a stored file.
pub fn seen(facts: &Facts) -> Seen {
    Seen {
        size: facts.size,
        mtime_ns: facts.mtime_ns,
        ino: facts.ino,
        ctime_ns: facts.ctime_ns,
    }
}
