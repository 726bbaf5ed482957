//! Puts downloads that were verified, and shown to their readers, in place behind them: those that
//! lie in memory many at a time, in one edit of the index; big ones by themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::commit::Whole;
use super::download::Downloads;
use super::flight::{Flight, Stage};
use crate::error::{Error, Kind};
use crate::object::Sha256;

/// Big files that are being made durable at once: the disk groups what it is asked for together.
const BIG: usize = 24;
/// Small ones that are put in place together, at most,
const TOGETHER: usize = 128;
/// and how long the first of them waits for others. A kill in between costs no more than to fetch
/// them again.
const GATHER: Duration = Duration::from_millis(50);

/// What has landed and is not in its place yet.
pub(super) struct Landings {
    big: Semaphore,
    small: Mutex<Waiting>,
    hurry: Notify,
    /// Something got its place.
    kept: Notify,
}

#[derive(Default)]
struct Waiting {
    landed: Vec<Landed>,
    /// Somebody is at work on them.
    is_attended: bool,
}

struct Landed {
    flight: Arc<Flight>,
    hash: Sha256,
}

impl Landed {
    fn whole(&self) -> Whole<'_> {
        Whole {
            node: &self.flight.node,
            version: &self.flight.version,
            partial: &self.flight.partial,
            sha256: self.hash,
        }
    }
}

impl Landings {
    pub(super) fn new() -> Landings {
        Landings {
            big: Semaphore::new(BIG),
            small: Mutex::default(),
            hurry: Notify::new(),
            kept: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for a file to be in its place.
    pub(super) fn hurry(&self) {
        if self.waiting().is_attended {
            self.hurry.notify_one();
        }
    }

    /// What is to be put in place now; none ends the work.
    fn take(&self) -> Option<Vec<Landed>> {
        let mut waiting = self.waiting();
        if waiting.landed.is_empty() {
            waiting.is_attended = false;
            return None;
        }
        let n = waiting.landed.len().min(TOGETHER);
        Some(waiting.landed.drain(..n).collect())
    }
}

impl Downloads {
    /// Shows the file to its readers, and puts it in place behind them. `lane` is free once no
    /// remote is needed for it.
    pub(super) async fn land(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        hash: Sha256,
        lane: Option<OwnedSemaphorePermit>,
    ) {
        flight.set_stage(Stage::Landed);
        if self.stream_only && !flight.is_needed_in_tree() {
            // Those who read it have it open; its name goes now, whatever ends the daemon.
            if let Err(error) = flight.partial.discard() {
                tracing::debug!(%error, "a streamed file could not be dropped");
            }
            return self.ended(&flight);
        }
        let landed = Landed { flight, hash };
        if landed.flight.partial.file().is_none() {
            return self.land_together(landed);
        }
        let Ok(_landing) = self.landings.big.acquire().await else {
            return;
        };
        // The next download need not wait for this one's disk.
        drop(lane);
        self.put_in_place(vec![landed]).await;
    }

    fn land_together(self: &Arc<Self>, landed: Landed) {
        let mut waiting = self.landings.waiting();
        waiting.landed.push(landed);
        if waiting.landed.len() >= TOGETHER {
            self.landings.hurry.notify_one();
        }
        if !std::mem::replace(&mut waiting.is_attended, true) {
            let this = self.clone();
            self.runtime.spawn(async move { this.attend().await });
        }
    }

    /// Puts in place what has landed until there is nothing more.
    async fn attend(self: Arc<Self>) {
        loop {
            // Hurried or not, it is time.
            let _ = tokio::time::timeout(GATHER, self.landings.hurry.notified()).await;
            let Some(landed) = self.landings.take() else {
                return;
            };
            self.put_in_place(landed).await;
        }
    }

    /// Ends once a download has got its place since the last call; for the one who keeps to limits.
    pub async fn kept(&self) {
        self.landings.kept.notified().await;
    }

    async fn put_in_place(self: &Arc<Self>, landed: Vec<Landed>) {
        let mut unplaced = self.hydrate_now(landed).await;
        if !unplaced.is_empty() && self.make_room().await {
            let again = unplaced.into_iter().map(|(landed, _)| landed);
            unplaced = self.hydrate_now(again.collect()).await;
        }
        for (landed, error) in unplaced {
            self.unkept(&landed, &error);
        }
    }

    /// Returns those for which the disk had no room.
    async fn hydrate_now(self: &Arc<Self>, landed: Vec<Landed>) -> Vec<(Landed, Error)> {
        let (this, flights) = (self.clone(), landed.iter().map(|l| l.flight.clone()));
        let flights: Vec<_> = flights.collect();
        let work = move || {
            let whole = landed.iter().map(Landed::whole).collect::<Vec<_>>();
            let done = this.commit.hydrated(&whole);
            landed.into_iter().zip(done).collect::<Vec<_>>()
        };
        let done = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the commit of downloads failed");
                flights.iter().for_each(|flight| self.ended(flight));
                return Vec::new();
            }
        };
        let mut unplaced = Vec::new();
        for (landed, result) in done {
            match result {
                Err(error) if error.kind() == Kind::NoSpace => unplaced.push((landed, error)),
                Err(error) => self.unkept(&landed, &error),
                Ok(is_kept) => {
                    self.metrics.hydrated.add(u64::from(is_kept));
                    self.landings.kept.notify_one();
                    self.ended(&landed.flight);
                }
            }
        }
        unplaced
    }

    fn unkept(&self, landed: &Landed, error: &Error) {
        tracing::warn!(%error, "a downloaded file could not be kept");
        self.ended(&landed.flight);
    }
}
