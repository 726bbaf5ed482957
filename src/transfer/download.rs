//! Brings files down: starts flights, one a node, and hands them over to the commit.
//!
//! How their bytes come is `fetch`'s business, and for big files, of which only what is asked
//! for comes, `pilot`'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::commit::Commit;
use super::flight::{Flight, Passenger, Stage};
use super::pilot::Pilot;
use super::sources::Sources;
use crate::backends::remote::{Remote, Remotes};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, Replica};
use crate::metrics::Metrics;
use crate::object::{ByteRange, RemoteId, Sha256};
use crate::store::PartialId;

/// How often a file is looked for that is replaced all the time.
const TRIES: u32 = 4;
/// Landed files that are being made durable at once: the disk groups what it is asked for together.
const LANDINGS: usize = 24;
/// Up to this size a file counts as small: it has lanes that big ones cannot take.
const SMALL: u64 = 8 << 20;

/// Everything that comes down.
pub struct Downloads {
    pub(super) commit: Arc<Commit>,
    pub(super) remotes: Remotes,
    metrics: Arc<Metrics>,
    runtime: tokio::runtime::Handle,
    flights: Mutex<HashMap<NodeId, Weak<Flight>>>,
    small_lanes: Arc<Semaphore>,
    big_lanes: Arc<Semaphore>,
    /// Whoever fetches ahead bounds itself.
    ahead_lanes: Arc<Semaphore>,
    landings: Semaphore,
    /// Makes room on a full disk, if there is something to drop; blocks. False: there is not.
    room: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Keep nothing: what is read is not published.
    pub stream_only: bool,
}

impl Downloads {
    /// At most `lanes` background streams at once for small files, and half as many for big ones.
    pub fn new(
        commit: Arc<Commit>,
        remotes: Remotes,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
        lanes: usize,
        stream_only: bool,
    ) -> Arc<Downloads> {
        Arc::new(Downloads {
            commit,
            remotes,
            metrics,
            runtime,
            flights: Mutex::new(HashMap::new()),
            small_lanes: Arc::new(Semaphore::new(lanes.max(1))),
            big_lanes: Arc::new(Semaphore::new((lanes / 2).max(1))),
            ahead_lanes: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            landings: Semaphore::new(LANDINGS),
            room: OnceLock::new(),
            stream_only,
        })
    }

    /// Says who makes room when a download meets a full disk.
    pub fn set_room(&self, make: impl Fn() -> bool + Send + Sync + 'static) {
        // Said once, when the mount is put together.
        let _ = self.room.set(Box::new(make));
    }

    pub(super) async fn make_room(self: &Arc<Self>) -> bool {
        let this = self.clone();
        let made = tokio::task::spawn_blocking(move || this.room.get().is_some_and(|make| make()));
        made.await.unwrap_or_default()
    }

    /// Removes what is left of downloads that are not under way. Returns the bytes freed.
    pub fn prune_idle(&self) -> Result<u64> {
        // Held all the while: none may be taken up meanwhile.
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let busy: Vec<_> = flights
            .values()
            .filter_map(Weak::upgrade)
            .filter(|flight| !matches!(flight.stage(), Stage::Failed(_)))
            .collect();
        let keep = |id: &PartialId| busy.iter().any(|flight| flight.partial.is(id));
        self.commit.store.prune_partials(&keep, 0)
    }

    /// The flight that brings `node`, started if there is none.
    /// Errors: `Offline` if no remote that has the file is there; `Stale` if the file is here by now.
    pub fn board(self: &Arc<Self>, node: &Node) -> Result<Passenger> {
        self.board_in(node, self.lanes(node), true)
    }

    /// The same for a reader whose flight failed: it needs one, whatever the store has by now.
    pub fn board_again(self: &Arc<Self>, failed: &Flight) -> Result<Passenger> {
        let node = &failed.node;
        let passenger = self.board_in(node, self.lanes(node), false)?;
        if failed.is_doubted() {
            // What it has read already may be all but what comes now.
            passenger.doubt();
        }
        Ok(passenger)
    }

    fn lanes(&self, node: &Node) -> &Arc<Semaphore> {
        match node.size <= SMALL {
            true => &self.small_lanes,
            false => &self.big_lanes,
        }
    }

    /// The same for a file that nobody has asked for yet: it takes nobody's lane.
    pub(super) fn board_ahead(self: &Arc<Self>, node: &Node) -> Result<Passenger> {
        self.board_in(node, &self.ahead_lanes, true)
    }

    fn board_in(
        self: &Arc<Self>,
        node: &Node,
        lanes: &Arc<Semaphore>,
        if_far: bool,
    ) -> Result<Passenger> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&node.id).and_then(Weak::upgrade)
            && !matches!(flight.stage(), Stage::Failed(_))
        {
            return Ok(flight.join());
        }
        // Its flight may have landed since the row was read.
        if if_far && self.is_here(node.id)? {
            return Err(Error::new(Kind::Stale, "the file is here by now"));
        }
        let Some(version) = node.origin.clone() else {
            return Err(Error::new(Kind::NotFound, "no remote has the file"));
        };
        let sources = self.sources(node)?;
        let id = PartialId::new(&self.shown(version.0), &sources[0].1.key, &version.1);
        let partial = self.commit.store.partial(&id, node.size)?;
        let flight = Arc::new(Flight::new(
            node.clone(),
            version,
            partial,
            !self.stream_only,
        ));
        flights.retain(|_, f| f.strong_count() > 0);
        flights.insert(node.id, Arc::downgrade(&flight));
        let passenger = flight.join();
        drop(flights);
        let (this, lanes) = (self.clone(), lanes.clone());
        self.runtime
            .spawn(async move { this.fly(flight, sources, lanes).await });
        Ok(passenger)
    }

    /// The flight of a node, if there is one under way.
    pub fn under_way(&self, id: NodeId) -> Option<Arc<Flight>> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let flight = flights.get(&id).and_then(Weak::upgrade)?;
        (!matches!(flight.stage(), Stage::Failed(_))).then_some(flight)
    }

    fn shown(&self, id: RemoteId) -> String {
        self.remotes
            .get(id)
            .map(|r| r.shown.clone())
            .unwrap_or_default()
    }

    /// Waits until the node's bytes are in the store. Joins a flight that is under way.
    pub async fn hydrate(self: &Arc<Self>, id: NodeId) -> Result<()> {
        for _ in 0..TRIES {
            let Some(node) = self.commit.index.node(id)? else {
                return Err(Error::new(Kind::Stale, "the file was replaced or removed"));
            };
            if node.held == Held::Whole {
                return Ok(());
            }
            let passenger = match self.board(&node) {
                Err(error) if error.kind() == Kind::Stale && self.is_here(id)? => return Ok(()),
                boarded => boarded?,
            };
            passenger.need_in_tree();
            match passenger.landed().await {
                // Given up for want of readers just as this one came: it goes on from there.
                Err(error) if error.kind() == Kind::Cancelled => continue,
                landed => landed?,
            }
            // The row follows the landing; the flight's task ends after it.
            self.settled(id).await;
        }
        Err(Error::new(Kind::Stale, "the file keeps changing"))
    }

    /// Waits until what has come whole is in its place, and what came of others is noted: who
    /// unmounts has every file that was read, and does not fetch its pieces again.
    pub async fn placed(self: &Arc<Self>) {
        for flight in self.flying() {
            if matches!(flight.stage(), Stage::Flowing) && !self.stream_only {
                self.checkpoint(&flight).await;
            }
        }
        while self.is_placing() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn flying(&self) -> Vec<Arc<Flight>> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.values().filter_map(Weak::upgrade).collect()
    }

    fn is_placing(&self) -> bool {
        let is_landed = |flight: &Arc<Flight>| matches!(flight.stage(), Stage::Landed);
        !self.stream_only && self.flying().iter().any(is_landed)
    }

    fn is_here(&self, id: NodeId) -> Result<bool> {
        let node = self.commit.index.node(id)?;
        Ok(node.is_some_and(|node| node.held == Held::Whole))
    }

    /// Waits until no flight of the node is under way.
    async fn settled(&self, id: NodeId) {
        let mut wait = std::time::Duration::from_micros(200);
        while self.under_way(id).is_some() {
            if self
                .commit
                .index
                .node(id)
                .ok()
                .flatten()
                .is_none_or(|n| n.held == Held::Whole)
            {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(std::time::Duration::from_millis(20));
        }
    }

    async fn fly(
        self: Arc<Self>,
        flight: Arc<Flight>,
        sources: Vec<(Arc<Remote>, Replica)>,
        lanes: Arc<Semaphore>,
    ) {
        let sources = Arc::new(Sources::new(sources));
        let flown = match flight.is_piloted() {
            true => {
                Pilot::new(self.clone(), flight.clone(), sources, lanes)
                    .fly()
                    .await
            }
            false => match lanes.acquire_owned().await {
                Ok(lane) => {
                    let fetched = self.fetch(&flight, &sources).await;
                    fetched.map(|hash| (hash, Some(lane)))
                }
                Err(_) => return,
            },
        };
        match flown {
            Ok((hash, lane)) => self.land(&flight, hash, lane).await,
            Err(error) => {
                tracing::debug!(node = flight.node.id.0, %error, "download ended early");
                flight.set_stage(Stage::Failed(error));
            }
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights
            .get(&flight.node.id)
            .is_some_and(|f| f.as_ptr() == Arc::as_ptr(&flight))
        {
            flights.remove(&flight.node.id);
        }
    }

    /// Shows the file to its readers, and puts it in place behind them.
    async fn land(&self, flight: &Arc<Flight>, hash: Sha256, lane: Option<OwnedSemaphorePermit>) {
        flight.set_stage(Stage::Landed);
        if self.stream_only && !flight.is_needed_in_tree() {
            // Those who read it have it open; its name goes now, whatever ends the daemon.
            if let Err(error) = flight.partial.discard() {
                tracing::debug!(%error, "a streamed file could not be dropped");
            }
            return;
        }
        let Ok(_landing) = self.landings.acquire().await else {
            return;
        };
        // The next download need not wait for this one's disk.
        drop(lane);
        let (commit, flight) = (self.commit.clone(), flight.clone());
        let done = tokio::task::spawn_blocking(move || {
            let version = flight.version.clone();
            commit.hydrated(flight.node.id, version, &flight.partial, Some(hash))
        });
        match done.await {
            Ok(Ok(true)) => self.metrics.hydrated.add(1),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a downloaded file could not be kept"),
            Err(error) => tracing::error!(%error, "the commit of a download failed"),
        }
    }

    /// Bytes for a reader; `want` is inside of the file and was asked for.
    pub async fn read(self: &Arc<Self>, flight: &Arc<Flight>, want: ByteRange) -> Result<Bytes> {
        flight.wait_for(&want).await
    }
}
