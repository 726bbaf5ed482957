//! Brings files down: starts flights, one a node, and hands them over to the commit.
//!
//! How their bytes come is `fetch`'s business, and for big files, of which only what is asked
//! for comes, `pilot`'s.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::commit::Commit;
use super::flight::{Flight, Passenger, Stage};
use super::flights::Flights;
use super::landing::Landings;
use super::pilot::Pilot;
use super::sources::Sources;
use crate::backends::remote::Remotes;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, node as rows};
use crate::metrics::Metrics;
use crate::object::{ByteRange, RemoteId};
use crate::store::{Partial, PartialId};

/// How often a file is looked for that is replaced all the time.
const TRIES: u32 = 4;
/// Up to this size a file counts as small: it has lanes that big ones cannot take.
const SMALL: u64 = 8 << 20;

/// Up to this size a file is fetched whole before its `open()` returns, for which it may lie in
/// memory: one round trip either way, and every error is the open's.
pub const WHOLE_AT_OPEN: u64 = 1 << 20;

/// A flight that is to be flown.
struct Start {
    flight: Arc<Flight>,
    sources: Arc<Sources>,
    lanes: Arc<Semaphore>,
}

/// Everything that comes down.
pub struct Downloads {
    pub(super) commit: Arc<Commit>,
    pub(super) remotes: Remotes,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: tokio::runtime::Handle,
    flights: Flights,
    small_lanes: Arc<Semaphore>,
    big_lanes: Arc<Semaphore>,
    /// Whoever fetches ahead bounds itself.
    ahead_lanes: Arc<Semaphore>,
    pub(super) landings: Landings,
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
            flights: Flights::default(),
            small_lanes: Arc::new(Semaphore::new(lanes.max(1))),
            big_lanes: Arc::new(Semaphore::new((lanes / 2).max(1))),
            ahead_lanes: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            landings: Landings::new(),
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
        // None may be taken up meanwhile.
        self.flights.while_none_begins(|busy| {
            let keep = |id: &PartialId| busy.iter().any(|flight| flight.partial.is(id));
            self.commit.store.prune_partials(&keep, 0)
        })
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
        passenger.goes_on_from(failed);
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

    /// Brings a small file, in memory where there is room, and ends when it is verified. What is on
    /// its way already is waited for.
    pub async fn bring_small(self: &Arc<Self>, node: &Node) -> Result<Passenger> {
        let (passenger, start) = self.enlist(node, &self.small_lanes, true)?;
        if let Some(start) = start {
            // Nobody else need be woken for it.
            self.fly(start).await;
        }
        passenger.landed().await?;
        Ok(passenger)
    }

    fn board_in(
        self: &Arc<Self>,
        node: &Node,
        lanes: &Arc<Semaphore>,
        if_far: bool,
    ) -> Result<Passenger> {
        let (passenger, start) = self.enlist(node, lanes, if_far)?;
        if let Some(start) = start {
            let this = self.clone();
            self.runtime.spawn(async move { this.fly(start).await });
        }
        Ok(passenger)
    }

    /// Counts somebody in; with the flight that is to be flown, if none was under way.
    fn enlist(
        &self,
        node: &Node,
        lanes: &Arc<Semaphore>,
        if_far: bool,
    ) -> Result<(Passenger, Option<Start>)> {
        self.flights
            .board(node.id, || self.begin(node, lanes, if_far))
    }

    fn begin(
        &self,
        node: &Node,
        lanes: &Arc<Semaphore>,
        if_far: bool,
    ) -> Result<(Arc<Flight>, Start)> {
        let Some(version) = node.origin.clone() else {
            return Err(Error::new(Kind::NotFound, "no remote has the file"));
        };
        // Its flight may have landed since the row was read.
        if if_far && self.is_here(node.id)? {
            return Err(Error::new(Kind::Stale, "the file is here by now"));
        }
        let index = &self.commit.index;
        let replicas = index.glance(|c| rows::replicas(c, node.id))?;
        let sources = self.sources_among(replicas, node)?;
        let id = PartialId::new(&self.shown(version.0), &sources[0].1.key, &version.1);
        let partial = self.partial(&id, node.size)?;
        let keeps = !self.stream_only;
        let flight = Flight::new(node.clone(), version, partial, keeps);
        let flight = Arc::new(flight.begun_ahead(Arc::ptr_eq(lanes, &self.ahead_lanes)));
        let start = Start {
            flight: flight.clone(),
            sources: Arc::new(Sources::new(sources)),
            lanes: lanes.clone(),
        };
        Ok((flight, start))
    }

    fn partial(&self, id: &PartialId, size: u64) -> Result<Partial> {
        let store = &self.commit.store;
        let in_memory = match size <= WHOLE_AT_OPEN {
            true => store.partial_in_memory(id, size)?,
            false => None,
        };
        in_memory.map_or_else(|| store.partial(id, size), Ok)
    }

    /// The flight of a node, if there is one under way.
    pub fn under_way(&self, id: NodeId) -> Option<Arc<Flight>> {
        self.flights.under_way(id)
    }

    fn shown(&self, id: RemoteId) -> String {
        self.remotes
            .get(id)
            .map(|r| r.shown.clone())
            .unwrap_or_default()
    }

    /// Waits until the node's bytes are in the store. Joins a flight that is under way.
    pub async fn hydrate(self: &Arc<Self>, id: NodeId) -> Result<()> {
        self.hydrate_in(id, None).await
    }

    /// The same for a file that nobody has asked for yet. A small one has a `lane` of the caller's,
    /// which is free once no remote is needed, and is put in its place together with others.
    pub async fn hydrate_ahead(
        self: &Arc<Self>,
        id: NodeId,
        lane: OwnedSemaphorePermit,
    ) -> Result<()> {
        self.hydrate_in(id, Some(lane)).await
    }

    async fn hydrate_in(
        self: &Arc<Self>,
        id: NodeId,
        mut lane: Option<OwnedSemaphorePermit>,
    ) -> Result<()> {
        let is_ahead = lane.is_some();
        for _ in 0..TRIES {
            let Some(node) = self.commit.index.node(id)? else {
                return Err(Error::new(Kind::Stale, "the file was replaced or removed"));
            };
            if node.held == Held::Whole {
                return Ok(());
            }
            let boarded = match is_ahead && node.size <= SMALL {
                true => self.board_ahead(&node),
                false => self.board(&node),
            };
            let passenger = match boarded {
                Err(error) if error.kind() == Kind::Stale && self.is_here(id)? => return Ok(()),
                boarded => boarded?,
            };
            passenger.need_in_tree();
            if !is_ahead {
                self.landings.hurry();
            }
            match passenger.landed().await {
                // Given up for want of readers just as this one came: it goes on from there.
                Err(error) if error.kind() == Kind::Cancelled => continue,
                landed => landed?,
            }
            drop(lane.take());
            // The row follows the landing, and the flight ends after it.
            if !is_ahead {
                self.landings.hurry();
            }
            self.settled(id).await;
        }
        Err(Error::new(Kind::Stale, "the file keeps changing"))
    }

    /// Waits until what has come whole is in its place, and what came of others is noted: who
    /// unmounts has every file that was read, and does not fetch its pieces again.
    pub async fn placed(self: &Arc<Self>) {
        for flight in self.flights.all() {
            if matches!(flight.stage(), Stage::Flowing) && !self.stream_only {
                self.checkpoint(&flight).await;
            }
        }
        while self.is_placing() {
            self.landings.hurry();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn is_placing(&self) -> bool {
        let is_landed = |flight: &Arc<Flight>| matches!(flight.stage(), Stage::Landed);
        !self.stream_only && self.flights.all().iter().any(is_landed)
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

    async fn fly(self: &Arc<Self>, start: Start) {
        let Start {
            flight,
            sources,
            lanes,
        } = start;
        let flown = match flight.is_piloted() {
            true => {
                let pilot = Pilot::new(self.clone(), flight.clone(), sources, lanes);
                // Of the two the one that needs more room, and is rare.
                Box::pin(pilot.fly()).await
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
            Ok((hash, lane)) => self.land(flight, hash, lane).await,
            Err(error) => {
                tracing::debug!(node = flight.node.id.0, %error, "download ended early");
                flight.fail(error);
                self.ended(&flight);
            }
        }
    }

    /// Nobody can join the flight any more.
    pub(super) fn ended(&self, flight: &Arc<Flight>) {
        self.flights.ended(flight);
    }

    /// Bytes for a reader; `want` is inside of the file and was asked for.
    pub async fn read(self: &Arc<Self>, flight: &Arc<Flight>, want: ByteRange) -> Result<Bytes> {
        flight.wait_for(&want).await
    }
}
