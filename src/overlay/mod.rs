//! What the mount means: one namespace over the store and the remotes, with the
//! semantics of a local file system and the promises of this one.
//!
//! It knows neither the kernel's protocol nor SQL nor HTTP; an edge decodes requests
//! and calls in, and everything here can be tested without a mount. Calls that need
//! nobody else are answered at once; those that need a remote come back as futures
//! that end within a deadline.

pub mod audit;
mod awaited;
mod close;
mod compare;
pub mod conflicts;
pub mod dirs;
mod elsewhere;
mod fail;
pub mod handles;
mod join;
mod late;
mod lookup;
mod moments;
#[cfg(test)]
mod orders;
mod outage;
pub mod read;
mod reconcile;
mod recover;
mod remove;
pub mod rename;
pub mod room;
pub mod state;
pub mod tree;
pub mod verify;
pub mod warm;
mod write;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::backends::remote::Remotes;
use crate::clock::Clock;
use crate::config::{Offline, Patterns};
use crate::error::{Error, Result};
use crate::index::{Entry, Index, Node, NodeId, NodeKind};
use crate::locks;
use crate::metrics::Metrics;
use crate::path::RelPath;
use crate::store::Store;
use crate::transfer::ahead::Ahead;
use crate::transfer::commit::Commit;
use crate::transfer::download::Downloads;
use crate::transfer::upload::Uploads;

pub use handles::{Handle, Opened};

/// Longest wait for a remote that was never listed, before a name's absence is an error.
const FIRST_LISTING: Duration = Duration::from_secs(8);

/// A future that an edge gives to a task together with its reply.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// An answer, now or when a remote has answered.
pub enum Answer<T> {
    Now(Result<T>),
    Later(Pending<T>),
}

impl<T> From<Result<T>> for Answer<T> {
    fn from(result: Result<T>) -> Self {
        Answer::Now(result)
    }
}

impl<T> Answer<T> {
    fn later(pending: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Answer::Later(Box::pin(pending))
    }

    /// Waits for it; for callers that are tasks.
    pub async fn get(self) -> Result<T> {
        match self {
            Answer::Now(result) => result,
            Answer::Later(pending) => pending.await,
        }
    }
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub id: NodeId,
    pub kind: NodeKind,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub nlink: u32,
}

impl From<Entry> for Attr {
    fn from(entry: Entry) -> Attr {
        Attr {
            id: entry.id,
            kind: entry.kind,
            size: entry.size,
            mtime_ns: entry.mtime_ns,
            ctime_ns: entry.ctime_ns,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            nlink: 1,
        }
    }
}

impl Attr {
    fn of(node: &Node) -> Attr {
        Attr {
            id: node.id,
            kind: node.kind,
            size: node.size,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: 1,
        }
    }
}

/// Gives the kernel's cache all the bytes of a file; whether it took them.
type KernelCache = Box<dyn Fn(NodeId, &[u8]) -> bool + Send + Sync>;

/// Who asks, as far as files made here belong to somebody.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// Who closes a file.
pub trait Closer {
    /// Whether a signal is ending it.
    fn is_being_killed(&self) -> bool;
    /// Whether it is the process that `opener` is a thread of.
    fn is(&self, opener: u32) -> bool;
    /// Whether a process has the file open for writing still: the closer by another descriptor,
    /// one that it started, or one that it may have inherited the file from.
    fn leaves_it_open(&self, opener: u32) -> bool;
}

/// All that is known is whether it is being killed.
impl<F: Fn() -> bool> Closer for F {
    fn is_being_killed(&self) -> bool {
        self()
    }

    fn is(&self, _: u32) -> bool {
        true
    }

    fn leaves_it_open(&self, _: u32) -> bool {
        false
    }
}

/// How the mount behaves.
pub struct Settings {
    pub offline: Offline,
    pub read_only: bool,
    pub stream: bool,
    pub propagate_deletes: bool,
    pub local_wins: bool,
    pub excludes: Patterns,
    /// What goes up only after what it may speak of.
    pub publish_last: Patterns,
}

/// The mount.
pub struct Overlay {
    pub store: Arc<Store>,
    pub index: Arc<Index>,
    pub commit: Arc<Commit>,
    pub downloads: Arc<Downloads>,
    pub uploads: Arc<Uploads>,
    ahead: Arc<Ahead>,
    pub remotes: Remotes,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<Settings>,
    clock: Clock,
    opens: Arc<handles::Opens>,
    dirs: dirs::Dirs,
    /// Directories of the store that were compared with their rows since the start.
    reconciled: Mutex<HashSet<NodeId>>,
    all_reconciled: AtomicBool,
    /// What newer nodes show nobody saw who changed the folder while it was not mounted.
    shown_until: OnceLock<NodeId>,
    /// What a power cut may have taken something of.
    outage: OnceLock<outage::Outage>,
    kernel: OnceLock<KernelCache>,
    awaited: Arc<awaited::Awaited>,
    late: late::Late,
    /// Nothing goes up as long as that is not known.
    in_doubt: Arc<AtomicBool>,
    /// What was found in the folder has its place in the outbox.
    in_order: Arc<AtomicBool>,
    /// Files of the folder that had no row, or another; said once when all is compared.
    found: AtomicU64,
    uses: Mutex<HashMap<NodeId, i64>>,
    asked: elsewhere::Asked,
    notes: Mutex<Vec<String>>,
    /// Staged files whose end could not be noted.
    undone: Mutex<Vec<fail::Undone>>,
    room: tokio::sync::Notify,
    warming: warm::Booked,
}

/// What an [`Overlay`] is made of.
pub struct Parts {
    pub store: Arc<Store>,
    pub index: Arc<Index>,
    pub remotes: Remotes,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub clock: Clock,
    pub runtime: tokio::runtime::Handle,
    /// Downloads, and uploads a remote, at once.
    pub lanes: (usize, usize),
    /// Most files fetched at once that nobody asked for yet.
    pub prefetch: usize,
    /// How long a remote's answer about one name is remembered.
    pub refresh: Duration,
}

impl Overlay {
    /// Puts the mount together; starts nothing.
    pub fn new(parts: Parts) -> Arc<Overlay> {
        let Parts {
            store,
            index,
            remotes,
            metrics,
            settings,
            clock,
            runtime,
            lanes,
            prefetch,
            refresh,
        } = parts;
        let settings = Arc::new(settings);
        let commit = Arc::new(Commit::new(store.clone(), index.clone(), clock.clone()));
        let opens = Arc::new(handles::Opens::default());
        let downloads = Downloads::new(
            commit.clone(),
            remotes.clone(),
            metrics.clone(),
            runtime.clone(),
            lanes.0,
            settings.stream,
        );
        let in_doubt = Arc::new(AtomicBool::new(false));
        let in_order = Arc::new(AtomicBool::new(false));
        let rules = Arc::new(handles::UploadRules {
            opens: opens.clone(),
            in_doubt: in_doubt.clone(),
            in_order: in_order.clone(),
            settings: settings.clone(),
        });
        let uploads = Uploads::new(
            commit.clone(),
            downloads.clone(),
            remotes.clone(),
            metrics.clone(),
            rules,
            lanes.1,
        );
        // What nothing is kept of has no place to wait in.
        let ahead = Ahead::new(if settings.stream { 0 } else { prefetch });
        let overlay = Arc::new(Overlay {
            ahead: Arc::new(ahead),
            store,
            index,
            commit,
            downloads,
            uploads,
            remotes,
            metrics,
            settings,
            clock,
            opens,
            dirs: dirs::Dirs::default(),
            reconciled: Mutex::new(HashSet::new()),
            all_reconciled: AtomicBool::new(false),
            shown_until: OnceLock::new(),
            outage: OnceLock::new(),
            kernel: OnceLock::new(),
            awaited: Arc::default(),
            late: late::Late::default(),
            in_doubt,
            in_order,
            found: AtomicU64::new(0),
            uses: Mutex::new(HashMap::new()),
            asked: elsewhere::Asked::new(refresh),
            notes: Mutex::new(Vec::new()),
            undone: Mutex::new(Vec::new()),
            room: tokio::sync::Notify::new(),
            warming: warm::Booked::default(),
        });
        let weak = Arc::downgrade(&overlay);
        let make_room = move || {
            let freed = weak.upgrade().map(|overlay| overlay.make_room_now());
            matches!(freed, Some(Ok(true)))
        };
        overlay.downloads.set_room(make_room);
        let weak = Arc::downgrade(&overlay);
        overlay.commit.set_clear(move |path| {
            let cleared = weak.upgrade().map(|overlay| overlay.clear_way(path));
            matches!(cleared, Some(Ok(())))
        });
        overlay
    }

    /// Says how the kernel is given the bytes of a file before it asks for them.
    pub fn set_cache(&self, give: impl Fn(NodeId, &[u8]) -> bool + Send + Sync + 'static) {
        // Said once, when the mount is made.
        let _ = self.kernel.set(Box::new(give));
    }

    /// The caller holds the node, which nobody has open.
    fn hand_over(&self, id: NodeId, bytes: &[u8]) -> bool {
        self.kernel.get().is_some_and(|give| give(id, bytes))
    }

    fn is_local_only(&self, path: &RelPath) -> bool {
        self.settings.excludes.matches(path)
    }

    fn check_writable(&self) -> Result<()> {
        if self.settings.read_only {
            return Err(Error::new(
                crate::error::Kind::ReadOnly,
                "the mount is read-only",
            ));
        }
        Ok(())
    }

    fn path_of(&self, id: NodeId) -> Result<RelPath> {
        self.index.path_of(id)?.ok_or_else(replaced)
    }

    /// The path of a node that was just read.
    fn path_of_node(&self, node: &Node) -> Result<RelPath> {
        self.index.path_of_node(node)?.ok_or_else(replaced)
    }

    /// The path of a directory.
    fn path_of_dir(&self, id: NodeId) -> Result<RelPath> {
        self.index.path_of_dir(id)?.ok_or_else(|| {
            Error::new(
                crate::error::Kind::Stale,
                "the directory was replaced or removed",
            )
        })
    }

    /// Says something that `status` repeats, in one line.
    pub fn note(&self, line: String) {
        tracing::info!("{line}");
        let mut notes = self
            .notes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if notes.len() >= 100 {
            notes.remove(0);
        }
        notes.push(line);
    }
}

/// What is told of a node that is gone: the caller looks its name up again.
fn replaced() -> Error {
    Error::new(
        crate::error::Kind::Stale,
        "the file was replaced or removed",
    )
}
