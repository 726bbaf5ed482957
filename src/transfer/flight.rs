//! One download, shared by everyone who reads the file.
//!
//! A [`Flight`] is the state that readers wait on: which bytes are here, how far the
//! stream is, how it ended. Who moves the bytes is in `download`.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::plan;
use crate::error::{Error, Kind, Result};
use crate::index::Node;
use crate::object::{ByteRange, RemoteId, Sha256, Version};
use crate::store::Partial;

/// How far a flight is.
#[derive(Debug, Clone)]
pub enum Stage {
    /// No remote has answered yet.
    Asking,
    /// Bytes come.
    Flowing,
    /// All bytes are here and verified.
    Landed,
    /// It will not be. Readers of bytes that are here still get them.
    Failed(Error),
}

/// A download in progress.
pub struct Flight {
    /// The node as it was when the flight began: what is fetched is this version of it.
    pub node: Node,
    pub version: (RemoteId, Version),
    pub partial: Partial,
    stage: watch::Sender<Stage>,
    /// Counts up whenever bytes came.
    progress: watch::Sender<u64>,
    /// Where the background stream stands.
    position: AtomicU64,
    /// Readers that have the file open, and others who want it whole.
    interest: AtomicUsize,
    /// Somebody needs the file in the tree, even where reading alone keeps nothing.
    needed: AtomicBool,
    sides: Mutex<Vec<ByteRange>>,
    sha256: Mutex<Option<Sha256>>,
}

impl Flight {
    pub(super) fn new(node: Node, version: (RemoteId, Version), partial: Partial) -> Flight {
        let sha256 = node.sha256;
        Flight {
            node,
            version,
            partial,
            stage: watch::Sender::new(Stage::Asking),
            progress: watch::Sender::new(0),
            position: AtomicU64::new(0),
            interest: AtomicUsize::new(0),
            needed: AtomicBool::new(false),
            sides: Mutex::new(Vec::new()),
            sha256: Mutex::new(sha256),
        }
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.node.size
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Ends when a remote has answered with this version, or the flight has failed.
    pub async fn flowing(&self) -> Result<()> {
        self.reached(|stage| !matches!(stage, Stage::Asking)).await
    }

    /// Ends when the file is here and verified, or the flight has failed.
    pub async fn landed(&self) -> Result<()> {
        self.reached(|stage| matches!(stage, Stage::Landed | Stage::Failed(_)))
            .await
    }

    async fn reached(&self, enough: impl Fn(&Stage) -> bool) -> Result<()> {
        let mut stage = self.stage.subscribe();
        let reached = stage.wait_for(|stage| enough(stage)).await;
        match reached.as_deref() {
            Ok(Stage::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Cancelled, "the download was dropped")),
        }
    }

    /// Counts somebody in, until the guard is dropped.
    pub fn join(self: &Arc<Self>) -> Passenger {
        self.interest.fetch_add(1, Ordering::SeqCst);
        Passenger(self.clone())
    }

    /// The file must be in the tree when the flight has landed.
    pub(super) fn need_in_tree(&self) {
        self.needed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_needed_in_tree(&self) -> bool {
        self.needed.load(Ordering::SeqCst)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.interest.load(Ordering::SeqCst) > 0
    }

    pub(super) fn sha256(&self) -> Option<Sha256> {
        *self.sha256.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A remote told the hash that the listing did not have.
    pub(super) fn learn_sha256(&self, hash: Sha256) {
        self.sha256
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(hash);
    }

    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    pub(super) fn moved_to(&self, position: u64) {
        self.position.store(position, Ordering::SeqCst);
        self.advance();
    }

    /// What came was wrong.
    pub(super) fn start_over(&self) -> Result<()> {
        self.partial.start_over()?;
        self.moved_to(0);
        Ok(())
    }

    pub(super) fn advance(&self) {
        self.progress.send_modify(|n| *n += 1);
    }

    /// Whether these bytes may be shown now.
    pub(super) fn is_ready(&self, want: &ByteRange) -> bool {
        let landed = matches!(*self.stage.borrow(), Stage::Landed);
        if landed {
            return true;
        }
        !plan::is_held_back(want, self.size(), self.sha256().is_some())
            && self.partial.holes(want.clone()).is_empty()
    }

    /// The bytes of `want` (inside of the file) if they are here.
    pub fn try_read(&self, want: &ByteRange) -> Option<Result<Bytes>> {
        self.is_ready(want).then(|| self.read_now(want))
    }

    fn read_now(&self, want: &ByteRange) -> Result<Bytes> {
        let mut bytes = vec![0; (want.end - want.start) as usize];
        self.partial.file().read_exact_at(&mut bytes, want.start)?;
        Ok(bytes.into())
    }

    /// Waits until the bytes of `want` are here. The flight's own failure ends the wait.
    pub(super) async fn wait_for(&self, want: &ByteRange) -> Result<Bytes> {
        let mut progress = self.progress.subscribe();
        let mut stage = self.stage.subscribe();
        loop {
            progress.mark_unchanged();
            if let Some(bytes) = self.try_read(want) {
                return bytes;
            }
            if let Stage::Failed(error) = &*stage.borrow_and_update() {
                return Err(error.clone());
            }
            tokio::select! {
                changed = progress.changed() => changed.map_err(|_| dropped())?,
                changed = stage.changed() => changed.map_err(|_| dropped())?,
            }
        }
    }

    /// Reserves what a reader needs out of order; none if it is coming or was asked for already.
    pub(super) fn claim_side(&self, want: &ByteRange) -> Option<ByteRange> {
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        if sides
            .iter()
            .any(|s| s.start <= want.start && want.start < s.end)
        {
            return None;
        }
        let holes = self.partial.holes(0..self.size());
        let range = plan::side_range(want, Some(self.position()), &holes, self.size())?;
        sides.push(range.clone());
        Some(range)
    }

    pub(super) fn side_ended(&self, range: &ByteRange) {
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        sides.retain(|s| s != range);
        drop(sides);
        self.advance();
    }
}

fn dropped() -> Error {
    Error::new(Kind::Cancelled, "the download was dropped")
}

/// Somebody who wants the flight to go on.
pub struct Passenger(Arc<Flight>);

impl std::ops::Deref for Passenger {
    type Target = Arc<Flight>;
    fn deref(&self) -> &Arc<Flight> {
        &self.0
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        self.0.interest.fetch_sub(1, Ordering::SeqCst);
    }
}
