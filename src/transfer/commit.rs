//! The one place that puts bytes under their name: verified → synced → renamed → row
//! written → acknowledged.
//!
//! Killed between two steps, each leaves what the next start can read: a partial that
//! resumes, a staged file whose `close()` is on record, or a file in the tree whose row
//! is found out of date by its facts and follows it.

use std::collections::BTreeSet;
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use crate::beneath::Facts;
use crate::clock::Clock;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::arriving::Arriving;
use crate::index::{Index, Node, NodeId, Seen};
use crate::object::{RemoteId, Sha256, Version};
use crate::path::RelPath;
use crate::store::{Given, Partial, StagedId, Store};

/// Locks for single nodes are shared by hash.
const STRIPES: usize = 64;

/// Downloads that get their names in one go: openers wait for them meanwhile.
const PLACED: usize = 8;

/// A download that is whole and verified.
pub struct Whole<'a> {
    /// As it was when the download began.
    pub node: &'a Node,
    pub version: &'a (RemoteId, Version),
    pub partial: &'a Partial,
    pub sha256: Sha256,
}

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

    /// The same for several nodes at once; nobody else holds one and waits for another.
    fn hold_all(&self, ids: impl Iterator<Item = NodeId>) -> Vec<MutexGuard<'_, ()>> {
        let stripes: BTreeSet<usize> = ids.map(|id| id.0 as usize % STRIPES).collect();
        let hold = |stripe: usize| self.nodes[stripe].lock();
        let held = stripes.into_iter().map(hold);
        held.map(|node| node.unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// Publishes downloads, in the same order. Each answer: false if the node became something
    /// else meanwhile; its bytes are then dropped, and those who read them keep them.
    pub fn hydrated(&self, all: &[Whole<'_>]) -> Vec<Result<bool>> {
        // The disk is waited for before anybody has to wait for us.
        let settled = self.settled(all);
        let together = all.chunks(PLACED).zip(settled.chunks(PLACED));
        together
            .flat_map(|(all, settled)| self.place(all, settled))
            .collect()
    }

    /// All of it on the disk, for good, as the nodes had it.
    fn settled(&self, all: &[Whole<'_>]) -> Vec<Result<()>> {
        let settle = |whole: &Whole<'_>| whole.partial.settle(&given(whole.node));
        let settled = all
            .iter()
            .map(|whole| settle(whole).map(|()| whole.partial));
        self.store.sync(settled.collect())
    }

    fn place(&self, all: &[Whole<'_>], settled: &[Result<()>]) -> Vec<Result<bool>> {
        let _paths = self.paths_stay();
        let _nodes = self.hold_all(all.iter().map(|whole| whole.node.id));
        crash::point("hydrate.whole");
        let now = match self.wanted(all) {
            Ok(now) => now,
            Err(error) => return all.iter().map(|_| Err(error.clone())).collect(),
        };
        let ready: Vec<Result<Option<Arriving>>> = all
            .iter()
            .zip(settled)
            .zip(now)
            .map(|((whole, settled), now)| {
                settled.clone()?;
                self.ready(whole, now)
            })
            .collect();
        if let Err(error) = self.note(&ready) {
            return all.iter().map(|_| Err(error.clone())).collect();
        }
        crash::point("hydrate.noted");
        let placed: Vec<Result<Option<(Arriving, Seen)>>> = all
            .iter()
            .zip(ready)
            .map(|(whole, ready)| self.place_one(whole, ready?))
            .collect();
        crash::point("hydrate.renamed");
        let kept = self.record(&placed);
        crash::point("hydrate.row");
        let mut kept = kept.map(Vec::into_iter);
        let answer = |placed: Result<Option<(Arriving, Seen)>>| match (placed?, &mut kept) {
            (None, _) => Ok(false),
            (Some((it, _)), Ok(kept)) => match kept.next().unwrap_or_default() {
                true => Ok(true),
                false => self.take_back(it).map(|()| false),
            },
            (Some(_), Err(error)) => Err(error.clone()),
        };
        placed.into_iter().map(answer).collect()
    }

    /// Each node, if it still is what came.
    fn wanted(&self, all: &[Whole<'_>]) -> Result<Vec<Option<Node>>> {
        let each = all.iter().map(|whole| {
            let node = self.index.node(whole.node.id)?;
            Ok(node.filter(|n| n.dirty == 0 && n.origin.as_ref() == Some(whole.version)))
        });
        each.collect()
    }

    /// Where one file goes; none if the node became something else.
    fn ready(&self, whole: &Whole<'_>, now: Option<Node>) -> Result<Option<Arriving>> {
        let path = now.as_ref().map(|node| self.index.path_of_node(node));
        let (Some(node), Some(path)) = (now, path.transpose()?.flatten()) else {
            whole.partial.discard()?;
            return Ok(None);
        };
        if given(&node) != given(whole.node) {
            whole.partial.settle(&given(&node))?;
            whole.partial.sync()?;
        }
        Ok(Some(Arriving {
            path,
            node: node.id,
            version: whole.version.clone(),
            size: whole.partial.size(),
            mtime_ns: node.mtime_ns,
            ino: whole.partial.ino()?,
            sha256: whole.sha256,
        }))
    }

    /// Before the tree changes: whatever ends us now, these are no local writes.
    fn note(&self, ready: &[Result<Option<Arriving>>]) -> Result<()> {
        let all: Vec<_> = ready.iter().flatten().flatten().cloned().collect();
        if all.is_empty() {
            return Ok(());
        }
        self.index
            .edit(move |w| all.iter().try_for_each(|it| w.arrives(it)))
    }

    /// Gives one file its name.
    fn place_one(
        &self,
        whole: &Whole<'_>,
        ready: Option<Arriving>,
    ) -> Result<Option<(Arriving, Seen)>> {
        let Some(it) = ready else { return Ok(None) };
        match self.put_at(&it.path, || whole.partial.place(&self.store, &it.path)) {
            Ok(facts) => Ok(Some((it, seen(&facts)))),
            Err(error) => {
                self.index.edit(move |w| w.arrived(&it.path))?;
                Err(error)
            }
        }
    }

    /// One edit for all that were placed; whether each still was what came.
    fn record(&self, placed: &[Result<Option<(Arriving, Seen)>>]) -> Result<Vec<bool>> {
        let rows: Vec<_> = placed.iter().flatten().flatten().cloned().collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = self.clock.now_ms();
        self.index.edit(move |w| {
            let each = rows.iter();
            each.map(|(it, seen)| w.has_arrived(it, *seen, now_ms))
                .collect()
        })
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
            .read(|c| crate::index::node::is_at_a_remote(c, id))?;
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

fn given(node: &Node) -> Given {
    Given {
        mtime_ns: node.mtime_ns,
        mode: node.mode,
        owner: node.uid.zip(node.gid),
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
