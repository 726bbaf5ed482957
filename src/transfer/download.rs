//! Brings bytes down: starts flights, moves their bytes, verifies, hands over to the commit.
//!
//! One flight a node. The background stream fills the file from the front; readers
//! far from it get ranges of their own. Every way a body can be wrong ends in a
//! retry or an error, never in bytes shown as the file's (promise P1).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::commit::Commit;
use super::flight::{Flight, Passenger, Stage};
use super::front::Front;
use super::plan;
use crate::backends::remote::{Remote, Remotes};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, Replica};
use crate::metrics::Metrics;
use crate::object::{ByteRange, Meta, RemoteId, Sha256};
use crate::store::PartialId;

/// How often a broken stream is taken up again before the flight fails.
const ATTEMPTS: u32 = 4;
/// How often a file that came whole and wrong is fetched anew.
const WRONG: u32 = 2;
/// Partial downloads are made to survive a restart every so many bytes.
const CHECKPOINT: u64 = 32 << 20;
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

    async fn make_room(self: &Arc<Self>) -> bool {
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
    pub fn board_again(self: &Arc<Self>, node: &Node) -> Result<Passenger> {
        self.board_in(node, self.lanes(node), false)
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
        let flight = Arc::new(Flight::new(node.clone(), version, partial));
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
        for _ in 0..ATTEMPTS {
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

    /// Waits until what has come whole is in its place: who unmounts has every file that was read.
    pub async fn placed(&self) {
        while self.is_placing() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn is_placing(&self) -> bool {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flying = flights.values().filter_map(Weak::upgrade);
        !self.stream_only && flying.any(|flight| matches!(flight.stage(), Stage::Landed))
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
        let Ok(lane) = lanes.acquire_owned().await else {
            return;
        };
        match self.fetch(&flight, sources).await {
            Ok(hash) => self.land(&flight, hash, lane).await,
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

    /// Fetches and verifies. Bytes that came whole and are wrong are fetched again, from the next
    /// remote first.
    async fn fetch(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        mut sources: Vec<(Arc<Remote>, Replica)>,
    ) -> Result<Sha256> {
        let mut wrong = 0;
        loop {
            let front = match self.fill(flight, &mut sources).await {
                Err(error) if error.kind() == Kind::NoSpace => {
                    // What came of it must not be what keeps the disk full.
                    flight.partial.discard()?;
                    return Err(error);
                }
                Err(error) => {
                    // Whoever asks next goes on from here.
                    self.checkpoint(flight).await;
                    return Err(error);
                }
                Ok(front) => front,
            };
            match self.verify(flight, front).await {
                Err(error) if error.kind() == Kind::Corrupt && wrong < WRONG => {
                    wrong += 1;
                    tracing::warn!(%error, "fetched again");
                    flight.start_over()?;
                    sources.rotate_left(1);
                }
                Err(error) => {
                    flight.partial.discard()?;
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    /// Shows the file to its readers, and puts it in place behind them.
    async fn land(&self, flight: &Arc<Flight>, hash: Sha256, lane: OwnedSemaphorePermit) {
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

    /// Fetches every missing byte. Returns the hash of the front, as far as it came in order.
    async fn fill(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        sources: &mut [(Arc<Remote>, Replica)],
    ) -> Result<Front> {
        let mut front = Front::new();
        let mut failed = Error::new(Kind::Offline, "every remote that has the file is away");
        for attempt in 0..ATTEMPTS {
            for (remote, replica) in sources.iter_mut() {
                if attempt > 0 && remote.is_away() {
                    continue;
                }
                if let Err(error) = self.prove(flight, remote, replica).await {
                    remote.heard(&error);
                    failed = error;
                    continue;
                }
                let mut streamed = self.stream(flight, remote, replica, &mut front).await;
                while matches!(&streamed, Err(e) if e.kind() == Kind::NoSpace)
                    && self.make_room().await
                {
                    streamed = self.stream(flight, remote, replica, &mut front).await;
                }
                match streamed {
                    Ok(()) => return Ok(front),
                    Err(error) if error.kind() == Kind::Cancelled => return Err(error),
                    Err(error) => {
                        remote.heard(&error);
                        // What this remote sent may be what is wrong.
                        if error.kind() == Kind::NoSpace {
                            return Err(error);
                        }
                        failed = error;
                    }
                }
            }
            if !failed.kind().is_transient() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
        }
        Err(failed)
    }

    /// Streams the holes from one remote until there are none.
    async fn stream(
        &self,
        flight: &Arc<Flight>,
        remote: &Remote,
        replica: &Replica,
        front: &mut Front,
    ) -> Result<()> {
        let size = flight.size();
        if size == 0 {
            // Nothing to fetch, but the version must still be there.
            let found = remote.backend.head(&replica.key).await?;
            return match found {
                Some(meta) if meta.version == replica.meta.version => {
                    self.first_bytes(flight, remote, replica, &meta).await
                }
                _ => Err(Error::new(
                    Kind::Stale,
                    "the remote has another version now",
                )),
            };
        }
        let mut since_checkpoint = 0;
        while let Some(hole) = plan::next_hole(&flight.partial.holes(0..size), flight.position()) {
            flight.moved_to(hole.start);
            let whole = hole == (0..size);
            let range = (!whole).then(|| hole.clone());
            let asked = remote
                .backend
                .get(&replica.key, range, Some(&replica.meta.version))
                .await;
            let got = match asked {
                Err(error) if error.kind() == Kind::Unsupported && !whole => {
                    // It gives whole files only.
                    flight.start_over()?;
                    *front = Front::new();
                    continue;
                }
                got => got?,
            };
            if got.range != hole || got.meta.size != size {
                return Err(Error::new(
                    Kind::Corrupt,
                    "the remote sent other bytes than were asked for",
                ));
            }
            self.first_bytes(flight, remote, replica, &got.meta).await?;
            let mut body = got.body;
            let mut at = hole.start;
            while let Some(chunk) = body.next().await {
                let chunk = match chunk {
                    // All that came before is as wrong as what is missing.
                    Err(error) if got.is_proven && error.kind() == Kind::Corrupt => {
                        flight.start_over()?;
                        *front = Front::new();
                        return Err(error);
                    }
                    chunk => chunk?,
                };
                since_checkpoint += chunk.len() as u64;
                at = self.take_chunk(flight, at, &hole, chunk, front)?;
                if since_checkpoint >= CHECKPOINT {
                    since_checkpoint = 0;
                    self.checkpoint(flight).await;
                }
                if !flight.is_wanted()
                    && !plan::worth_finishing(size, flight.partial.have().covered())
                {
                    self.checkpoint(flight).await;
                    return Err(Error::new(
                        Kind::Cancelled,
                        "nobody reads the file any more",
                    ));
                }
            }
            if at != hole.end {
                return Err(Error::new(Kind::Corrupt, "the body ended early"));
            }
        }
        Ok(())
    }

    async fn first_bytes(
        &self,
        flight: &Flight,
        remote: &Remote,
        replica: &Replica,
        meta: &Meta,
    ) -> Result<()> {
        remote.is_here();
        if let Some(hash) = meta.sha256 {
            flight.learn_sha256(hash);
        }
        if replica.meta.is_rough() && matches!(flight.stage(), Stage::Asking) {
            // The file gets the writer's time when it is put in place.
            self.learn(remote, replica, Some(meta.clone())).await?;
        }
        if matches!(flight.stage(), Stage::Asking) {
            flight.set_stage(Stage::Flowing);
        }
        Ok(())
    }

    fn take_chunk(
        &self,
        flight: &Flight,
        at: u64,
        hole: &ByteRange,
        chunk: Bytes,
        front: &mut Front,
    ) -> Result<u64> {
        let end = at + chunk.len() as u64;
        if end > hole.end {
            return Err(Error::new(
                Kind::Corrupt,
                "the body is longer than was asked for",
            ));
        }
        flight.partial.write_at(at, &chunk)?;
        front.take(at, &chunk);
        flight.moved_to(end);
        Ok(end)
    }

    async fn checkpoint(&self, flight: &Arc<Flight>) {
        let flight = flight.clone();
        let done = tokio::task::spawn_blocking(move || flight.partial.checkpoint()).await;
        if let Ok(Err(error)) = done {
            tracing::debug!(%error, "a partial download could not be noted");
        }
    }

    /// Hashes what came; compares where the remote gives a hash.
    async fn verify(&self, flight: &Arc<Flight>, front: Front) -> Result<Sha256> {
        let hash = match front.at == flight.size() {
            true => front.hash(),
            false => {
                let this = flight.clone();
                tokio::task::spawn_blocking(move || front.finish(&this))
                    .await
                    .map_err(|_| Error::new(Kind::Io, "hashing failed"))??
            }
        };
        match flight.sha256() {
            Some(expected) if expected != hash => Err(Error::new(
                Kind::Corrupt,
                "the bytes that came do not have the file's hash",
            )),
            _ => Ok(hash),
        }
    }

    /// Bytes for a reader; `want` is inside of the file.
    pub async fn read(self: &Arc<Self>, flight: &Arc<Flight>, want: ByteRange) -> Result<Bytes> {
        if let Some(bytes) = flight.try_read(&want) {
            return bytes;
        }
        if let Some(range) = flight.claim_side(&want) {
            let (this, flight) = (self.clone(), flight.clone());
            self.runtime.spawn(async move {
                if let Err(error) = this.fetch_side(&flight, &range).await {
                    // The background stream will come by; it also says what is wrong.
                    tracing::debug!(%error, "a range asked for out of order failed");
                }
                flight.side_ended(&range);
            });
        }
        flight.wait_for(&want).await
    }

    async fn fetch_side(&self, flight: &Arc<Flight>, range: &ByteRange) -> Result<()> {
        let sources = self.sources(&flight.node)?;
        let proved = sources.iter().find(|(_, r)| r.matches(&flight.node));
        let Some((remote, replica)) = proved else {
            return Err(Error::new(Kind::Stale, "no remote is known to have it"));
        };
        let got = remote
            .backend
            .get(
                &replica.key,
                Some(range.clone()),
                Some(&replica.meta.version),
            )
            .await?;
        if got.range != *range || got.meta.size != flight.size() {
            return Err(Error::new(
                Kind::Corrupt,
                "the remote sent other bytes than were asked for",
            ));
        }
        let (mut at, mut body) = (range.start, got.body);
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if at + chunk.len() as u64 > range.end {
                return Err(Error::new(
                    Kind::Corrupt,
                    "the body is longer than was asked for",
                ));
            }
            flight.partial.write_at(at, &chunk)?;
            at += chunk.len() as u64;
            flight.advance();
        }
        Ok(())
    }
}
