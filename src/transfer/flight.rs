//! One download, shared by everyone who reads the file.
//!
//! A [`Flight`] is the state that readers wait on: which bytes are here, what was asked for,
//! how it ended. Who moves the bytes is in `fetch`, and for big files in `pilot`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::footer;
use super::locks::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::locks::{Mutex, MutexGuard, Notify, PoisonError, watch};
use super::plan::{self, Parts, Reading, WHOLE};
use crate::backends::Proof;
use crate::error::{Error, Kind, Result};
use crate::index::Node;
use crate::object::{ByteRange, RemoteId, Sha256, Version};
use crate::store::Partial;

/// For so long nobody waits anew for what was waited for in vain: a kernel that could not read ahead
/// asks again, and again for the page that a program wants, and all of that is one read of its.
const AGAIN: Duration = Duration::from_secs(1);

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
    /// Nobody waited for it when it began: it may come together with others.
    pub(super) is_ahead: bool,
    stage: watch::Sender<Stage>,
    /// Counts up whenever bytes came.
    progress: watch::Sender<u64>,
    /// What readers of a big file ask for; a small one is fetched whole.
    reading: Option<Mutex<Reading>>,
    /// Somebody asked for something, or left.
    called: Notify,
    /// Readers that have the file open, and others who want it whole.
    interest: AtomicUsize,
    /// Somebody needs the file in the tree, even where reading alone keeps nothing.
    needed: AtomicBool,
    /// What came was wrong once: nothing more is shown before all was verified.
    doubted: AtomicBool,
    sha256: Mutex<Option<Sha256>>,
    /// What holds the bytes to the remote's own checksum, where that is all there is.
    proof: Mutex<Option<Box<dyn Proof>>>,
    /// What was waited for in vain, and until when. An empty range: the proof that the file is there.
    late: Mutex<Option<(ByteRange, Instant)>>,
}

impl Flight {
    /// `keeps`: whether a file that is read mostly is to be had whole.
    pub(super) fn new(
        node: Node,
        version: (RemoteId, Version),
        partial: Partial,
        keeps: bool,
    ) -> Flight {
        let sha256 = node.sha256;
        let reading =
            (node.size > WHOLE).then(|| Mutex::new(Reading::new(node.size, partial.have(), keeps)));
        Flight {
            node,
            version,
            partial,
            is_ahead: false,
            stage: watch::Sender::new(Stage::Asking),
            progress: watch::Sender::new(0),
            reading,
            called: Notify::new(),
            interest: AtomicUsize::new(0),
            needed: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            sha256: Mutex::new(sha256),
            proof: Mutex::new(None),
            late: Mutex::new(None),
        }
    }

    /// The same, if `is_ahead` begun before anybody waits for it.
    pub(super) fn begun_ahead(self, is_ahead: bool) -> Flight {
        Flight { is_ahead, ..self }
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

    /// It will not be.
    pub(super) fn fail(&self, error: Error) {
        if let (Kind::TimedOut, Some((_, when))) = (error.kind(), self.late().as_mut()) {
            // Nobody heard of it before.
            *when = Instant::now();
        }
        self.set_stage(Stage::Failed(error));
    }

    fn late(&self) -> MutexGuard<'_, Option<(ByteRange, Instant)>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes did not come in time.
    pub(super) fn was_late(&self, block: &ByteRange) {
        *self.late() = Some((block.clone(), Instant::now()));
    }

    /// Goes on from where another ended, also for those who have waited.
    pub(super) fn goes_on_from(&self, failed: &Flight) {
        let late = failed.late().clone();
        let mut ours = self.late();
        *ours = ours.take().or(late);
    }

    /// When bytes of `want` were last given up, if they were.
    fn late_since(&self, want: &ByteRange) -> Option<Instant> {
        let late = self.late();
        let touched = late.as_ref().filter(|(block, _)| are_touched(block, want));
        touched.map(|(_, when)| *when)
    }

    /// Whether `want` is among what did not come in time.
    pub fn is_late(&self, want: &ByteRange) -> bool {
        self.late_since(want).is_some()
    }

    /// Why `want`, which is not here, is not waited for: it just was, in vain.
    pub fn was_just_late(&self, want: &ByteRange) -> Option<Error> {
        let when = self.late_since(want)?;
        let why = "the bytes did not come in time; read again";
        (when.elapsed() < AGAIN && !self.is_ready(want)).then(|| Error::new(Kind::TimedOut, why))
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
        if let Some(mut reading) = self.reading() {
            reading.want_whole();
        }
        self.called.notify_one();
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

    /// A remote told what all of it adds up to.
    pub(super) fn learn_proof(&self, proof: Box<dyn Proof>) {
        let mut known = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert(proof);
    }

    /// What a remote told of that since this was asked last.
    pub(super) fn take_proof(&self) -> Option<Box<dyn Proof>> {
        let mut known = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        known.take()
    }

    /// Whether only what is asked for is fetched.
    pub(super) fn is_piloted(&self) -> bool {
        self.reading.is_some()
    }

    /// What readers ask for, if that decides what is fetched.
    pub(super) fn reading(&self) -> Option<MutexGuard<'_, Reading>> {
        let reading = self.reading.as_ref()?;
        Some(reading.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends when somebody asked for something, or left, since it ended last.
    pub(super) async fn called(&self) {
        self.called.notified().await;
    }

    /// A reader asks for these bytes, which may be here.
    pub fn ask(&self, want: &ByteRange) {
        let Some(mut reading) = self.reading() else {
            return;
        };
        if *reading.parts() == Parts::Unknown {
            reading.set_parts(self.parts());
        }
        let is_here = self.partial.holes(want.clone()).is_empty();
        let has_work = reading.ask(want, is_here);
        drop(reading);
        if has_work {
            self.called.notify_one();
        }
    }

    /// Where the parts of a table are, as soon as its end is here.
    fn parts(&self) -> Parts {
        let place = |tail: [u8; footer::TAIL]| footer::place(tail, self.size());
        let is_here = |range: &ByteRange| self.partial.holes(range.clone()).is_empty();
        let end = self.size().saturating_sub(footer::TAIL as u64)..self.size();
        if !is_here(&end) {
            return Parts::Unknown;
        }
        let tail = self.partial.read(&end).ok();
        let Some(tail) = tail.and_then(|tail| tail.as_ref().try_into().ok()) else {
            return Parts::None;
        };
        match place(tail) {
            Some(footer) if !is_here(&footer) => Parts::Unknown,
            Some(footer) => {
                let bytes = self.partial.read(&footer).ok();
                let columns = bytes.and_then(|bytes| footer::columns(&bytes, footer.start));
                columns.map_or(Parts::None, |columns| Parts::Known(columns.into()))
            }
            None => Parts::None,
        }
    }

    /// Nothing more is shown before all of it was verified, for which all of it has to come.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
        if let Some(mut reading) = self.reading() {
            reading.want_whole();
        }
        self.called.notify_one();
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// What came counts for nothing.
    pub(super) fn start_over(&self) -> Result<()> {
        self.partial.start_over()?;
        self.advance();
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
        let is_here = self.partial.holes(want.clone()).is_empty();
        is_here && !self.is_held_back()
    }

    /// Whether what is here waits until all of it was verified: nobody reads all of a wrong file.
    fn is_held_back(&self) -> bool {
        let missing = || self.size().saturating_sub(self.partial.covered());
        self.is_doubted() || self.sha256().is_some() && plan::is_held_back(missing())
    }

    /// The bytes of `want` (inside of the file) if they are here.
    pub fn try_read(&self, want: &ByteRange) -> Option<Result<Bytes>> {
        self.is_ready(want).then(|| self.partial.read(want))
    }

    /// Waits until the bytes of `want` are here. The flight's own failure ends the wait.
    pub(super) async fn wait_for(&self, want: &ByteRange) -> Result<Bytes> {
        let mut progress = self.progress.subscribe();
        let mut stage = self.stage.subscribe();
        loop {
            // Both before the look: what changes after it ends the wait.
            progress.mark_unchanged();
            let failed = match &*stage.borrow_and_update() {
                Stage::Failed(error) => Some(error.clone()),
                _ => None,
            };
            if let Some(bytes) = self.try_read(want) {
                return bytes;
            }
            if let Some(error) = failed {
                return Err(error);
            }
            tokio::select! {
                changed = progress.changed() => changed.map_err(|_| dropped())?,
                changed = stage.changed() => changed.map_err(|_| dropped())?,
            }
        }
    }
}

fn are_touched(block: &ByteRange, want: &ByteRange) -> bool {
    block.is_empty() || block.start < want.end && want.start < block.end
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
        if self.0.interest.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.called.notify_one();
        }
    }
}
