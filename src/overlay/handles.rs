//! What is open: nodes, their handles, and the sessions of their writers.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use super::Settings;
use super::fail::Failed;
use super::locks::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::locks::{Mutex, MutexGuard, PoisonError};
use crate::beneath::facts_of;
use crate::error::{Error, Kind, Result};
use crate::index::{Node, NodeId, Seen};
use crate::path::RelPath;
use crate::store::StagedId;
use crate::transfer::commit::seen;
use crate::transfer::flight::Passenger;
use crate::transfer::upload::Rules;

/// Where an open node's bytes are.
pub(super) enum Body {
    /// In a file of ours that has all of them.
    File(Arc<File>),
    /// On their way.
    Flight(Passenger),
}

impl Body {
    /// The file with all the bytes, if they are all here.
    pub(super) fn whole(&self) -> Option<Arc<File>> {
        match self {
            Body::File(file) => Some(file.clone()),
            Body::Flight(flight) => {
                let landed = matches!(flight.stage(), crate::transfer::flight::Stage::Landed);
                landed.then(|| flight.partial.file()).flatten()
            }
        }
    }
}

/// Local writers at work on one node.
pub(super) struct Session {
    /// The file being written, if it is not the one in the tree.
    pub staged: Option<StagedId>,
    /// The file as the last `close()` recorded it, or as it was found.
    pub recorded: Option<Seen>,
    /// A `close()` returned for a staged file.
    pub closed: bool,
    /// Somebody asked for what was written to survive a power cut: so must the row of the next `close()`.
    pub synced: bool,
    /// That the file is changed in place is on record.
    pub noted: bool,
    /// A writer was killed by a signal.
    pub killed: bool,
    /// Writes that failed.
    pub failed: Failed,
}

impl Session {
    /// Of a file that is changed in place, whose intent is on record.
    pub fn in_place(recorded: Seen) -> Session {
        Session {
            noted: true,
            ..Session::new(None, Some(recorded))
        }
    }

    pub fn new(staged: Option<StagedId>, recorded: Option<Seen>) -> Session {
        Session {
            staged,
            recorded,
            closed: false,
            synced: false,
            noted: false,
            killed: false,
            failed: Failed::default(),
        }
    }
}

/// A node that somebody has open.
pub(super) struct OpenNode {
    pub id: NodeId,
    pub state: Mutex<OpenState>,
}

pub(super) struct OpenState {
    pub handles: usize,
    pub writers: usize,
    /// Of these, the ones that were closed and only wait for their release.
    pub closed_writers: usize,
    /// The node when it was opened; what `fstat` shows once the name is gone.
    pub node: Node,
    pub body: Body,
    pub session: Option<Session>,
    /// The name is gone, or means another node now.
    pub detached: bool,
}

impl OpenNode {
    pub fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that is being written as it is now, and whether nothing was written yet to one that
/// has no name of its own yet.
pub(super) fn written_so_far(state: &OpenState) -> Result<(Option<Seen>, bool)> {
    let staged = state.session.as_ref().is_some_and(|s| s.staged.is_some());
    let Some(file) = state.body.whole() else {
        return Ok((None, false));
    };
    let facts = facts_of(&file)?;
    Ok((Some(seen(&facts)), staged && facts.size == 0))
}

/// Whether the bytes are exactly those that a `close()` vouched for: whoever was killed later
/// (a child that had inherited the descriptor) wrote nothing. An empty file proves nothing.
pub(super) fn is_as_closed(session: &Session, state: &OpenState) -> Result<bool> {
    let Some(file) = state.body.whole() else {
        return Ok(false);
    };
    let facts = facts_of(&file)?;
    Ok(session.closed && facts.size > 0 && session.recorded == Some(seen(&facts)))
}

/// One `open()`. Its descriptors may be in several processes, and each `close()` is told.
pub struct Handle {
    pub(super) node: Arc<OpenNode>,
    pub(super) writes: bool,
    /// Whether a `close()` returned for it that made its bytes a local write.
    pub(super) closed: AtomicBool,
    /// Whether the process that closed it last was being killed by a signal.
    pub(super) killed: AtomicBool,
    /// What the file was when the process that opened it was killed.
    pub(super) left: Mutex<Option<Seen>>,
    /// The process that opened it, by one of its threads; 0 if that is not known.
    pub(super) opener: AtomicU32,
}

impl Handle {
    /// The node that is open.
    pub fn id(&self) -> NodeId {
        self.node.id
    }

    /// One of its descriptors is closed, by a process that a signal ends or not. Returns whether
    /// the file counts as left unfinished: that of a killed opener does until somebody writes on.
    pub(super) fn is_left(&self, killed: bool, by_opener: bool, now: Option<Seen>) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if killed && by_opener {
            *left = now;
        } else if *left != now {
            *left = None;
        }
        let is_left = killed || left.is_some();
        self.killed.store(is_left, Ordering::SeqCst);
        is_left
    }
}

/// What an edge needs to answer an open.
pub struct Opened {
    pub fh: u64,
    pub id: NodeId,
    /// Whether it may be written through.
    pub writes: bool,
    /// A file with all the bytes, for reads (and writes) that need not come through us.
    pub backing: Option<Arc<File>>,
    /// Whether the kernel's cache has all the bytes already.
    pub is_cached: bool,
}

/// Everything that is open.
#[derive(Default)]
pub(super) struct Opens {
    nodes: Mutex<HashMap<NodeId, Arc<OpenNode>>>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
    ended: AtomicU64,
}

impl Opens {
    /// Counts the sessions that ended. Taken before a row is read, it tells later whether the row
    /// may be older than a session that is not seen any more.
    pub fn mark(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// A session's rows are written; the caller holds the node's state.
    pub fn session_ended(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// The newest of a row that was read after `mark`. While writers are at work, `show` puts in what
    /// they have written and says so. If some ended since, the row may be the one from before they did,
    /// and is read `again`: the kernel would keep its length.
    pub fn newest<T>(
        &self,
        mark: u64,
        mut row: T,
        show: impl Fn(&mut T) -> bool,
        again: impl FnOnce() -> Option<T>,
    ) -> T {
        if show(&mut row) || self.mark() == mark {
            return row;
        }
        let Some(mut newer) = again() else {
            return row;
        };
        show(&mut newer);
        newer
    }

    /// The open node `id`.
    pub fn node(&self, id: NodeId) -> Option<Arc<OpenNode>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Enters a node; the caller holds its lock in the commit.
    pub fn enter(&self, state: OpenState) -> Arc<OpenNode> {
        let id = state.node.id;
        let node = Arc::new(OpenNode {
            id,
            state: Mutex::new(state),
        });
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, node.clone());
        node
    }

    /// Forgets a node that nobody has open any more.
    pub fn leave(&self, node: &Arc<OpenNode>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&node.id).is_some_and(|n| Arc::ptr_eq(n, node)) {
            nodes.remove(&node.id);
        }
    }

    /// Whether anybody has the node open.
    pub fn is_open(&self, id: NodeId) -> bool {
        self.node(id).is_some()
    }

    pub fn add(&self, node: Arc<OpenNode>, writes: bool) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(Handle {
            node,
            writes,
            closed: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            left: Mutex::new(None),
            opener: AtomicU32::new(0),
        });
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fh, handle);
        fh
    }

    /// The handle `fh`.
    pub fn handle(&self, fh: u64) -> Result<Arc<Handle>> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles
            .get(&fh)
            .cloned()
            .ok_or_else(|| Error::new(Kind::Invalid, "no such handle"))
    }

    pub fn remove(&self, fh: u64) -> Option<Arc<Handle>> {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&fh)
    }

    /// Handles of writers that have closed, and whose release has not come.
    pub fn closed_writers(&self) -> Vec<u64> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = handles
            .iter()
            .filter(|(_, handle)| handle.closed.load(Ordering::SeqCst));
        closed.map(|(fh, _)| *fh).collect()
    }

    /// How many handles there are.
    pub fn count(&self) -> usize {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether local writers are at work on the node.
    pub fn is_being_written(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|n| n.lock().session.is_some())
    }

    /// Whether somebody writes the file who has not closed it.
    pub fn is_unfinished(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|n| {
            let state = n.lock();
            state.session.is_some() && state.closed_writers < state.writers
        })
    }
}

/// What the upload queue asks of the mount.
pub(super) struct UploadRules {
    pub opens: Arc<Opens>,
    /// What a power cut left was not looked at yet.
    pub in_doubt: Arc<AtomicBool>,
    /// What people did to the folder while it was not mounted is in the outbox.
    pub in_order: Arc<AtomicBool>,
    pub settings: Arc<Settings>,
}

impl Rules for UploadRules {
    fn is_local_only(&self, path: &RelPath) -> bool {
        self.settings.excludes.matches(path)
    }

    fn is_being_written(&self, id: NodeId) -> bool {
        self.in_doubt.load(Ordering::SeqCst) || self.opens.is_being_written(id)
    }

    fn local_wins(&self) -> bool {
        self.settings.local_wins
    }

    fn is_published_last(&self, path: &RelPath) -> bool {
        self.settings.publish_last.matches(path)
    }

    fn is_in_order(&self) -> bool {
        self.in_order.load(Ordering::SeqCst)
    }
}
