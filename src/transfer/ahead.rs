//! Fetches what a reader is about to open, while it reads what it has.
//!
//! A store that takes 40 ms a request gives one reader 25 small files a second, however many it
//! could give to several. Which files are next is [`trails`]' business. One task owns the trails;
//! what it fetches are ordinary flights, which a reader that comes early joins. Nothing is
//! fetched ahead where it would make something else go: near the limits of the store, or while
//! nothing is kept.

mod trails;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::trails::{Bounds, Expected, TrailId, Trails};
use super::download::Downloads;
use super::flight::Passenger;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, walk};
use crate::metrics::Metrics;

/// Opens that wait to be looked at; more of them are not worth it.
const WAITING: usize = 1024;
/// Bytes ahead of all readers.
const BYTES: u64 = 64 << 20;
/// Longer files are not fetched ahead.
const FILE: u64 = 8 << 20;
/// Rows looked at for each file that is expected.
const LOOKS: usize = 16;
/// Readers that do not come for so long have gone elsewhere.
const IDLE: Duration = Duration::from_secs(10);

/// Whether there is room for so many more bytes without anything having to go; blocks.
pub type HasRoom = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// Hears of opens.
pub struct Ahead {
    width: usize,
    /// Whether files that are held now may have been fetched ahead.
    is_following: AtomicBool,
    opens: mpsc::Sender<NodeId>,
    heard: Mutex<Option<mpsc::Receiver<NodeId>>>,
}

impl Ahead {
    /// At most `width` files are fetched ahead at once; with 0, none ever is.
    pub fn new(width: usize) -> Ahead {
        let (opens, heard) = mpsc::channel(WAITING);
        Ahead {
            width,
            is_following: AtomicBool::new(false),
            opens,
            heard: Mutex::new(Some(heard)),
        }
    }

    /// A file is being opened for reading. Never waits; while nothing is fetched, an open of a
    /// held file costs one look at a flag.
    pub fn opened(&self, id: NodeId, is_held: bool) {
        if self.width > 0 && (!is_held || self.is_following.load(Ordering::Relaxed)) {
            // Those that nobody has time for are as good as out of order.
            let _ = self.opens.try_send(id);
        }
    }

    /// Runs until `stop`. Called once.
    pub async fn run(
        self: Arc<Self>,
        downloads: Arc<Downloads>,
        metrics: Arc<Metrics>,
        has_room: HasRoom,
        stop: CancellationToken,
    ) {
        let heard = self
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(heard), true) = (heard, self.width > 0) else {
            return;
        };
        let walker = Walker {
            trails: Trails::new(Bounds {
                depth: self.width,
                bytes: BYTES,
                file: FILE,
            }),
            ahead: self,
            downloads,
            metrics,
            has_room,
            flights: JoinSet::new(),
        };
        walker.run(heard, stop).await;
    }
}

/// Follows the trails.
struct Walker {
    ahead: Arc<Ahead>,
    trails: Trails,
    downloads: Arc<Downloads>,
    metrics: Arc<Metrics>,
    has_room: HasRoom,
    flights: JoinSet<(NodeId, Result<()>)>,
}

impl Walker {
    async fn run(mut self, mut heard: mpsc::Receiver<NodeId>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                opened = heard.recv() => match opened {
                    Some(id) => self.opened(id),
                    None => return,
                },
                Some(ended) = self.flights.join_next() => self.ended(ended.ok()),
                () = tokio::time::sleep(IDLE), if !self.trails.is_empty() => self.trails.clear(),
            }
            self.ahead
                .is_following
                .store(!self.trails.is_empty(), Ordering::Relaxed);
        }
    }

    fn opened(&mut self, id: NodeId) {
        let step = self.trails.opened(id);
        self.metrics.ahead_used.add(u64::from(step.was_ahead));
        let Some(trail) = step.trail else { return };
        if let Err(error) = self.look_further(trail) {
            tracing::debug!(%error, "what is next cannot be told");
        }
        self.fetch_next(trail);
    }

    /// Something landed, so that there is a lane for the next one, whoever's it is.
    fn ended(&mut self, ended: Option<(NodeId, Result<()>)>) {
        if let Some((id, Err(error))) = ended {
            tracing::debug!(%error, "could not be fetched ahead");
            self.trails.failed(id);
        }
        for trail in self.trails.all() {
            if !self.has_lane() {
                return;
            }
            self.fetch_next(trail);
        }
    }

    fn has_lane(&self) -> bool {
        self.flights.len() < self.ahead.width
    }

    fn look_further(&mut self, trail: TrailId) -> Result<()> {
        let Some((after, count)) = self.trails.wants(trail) else {
            return Ok(());
        };
        let index = &self.downloads.commit.index;
        let files = index.read(|c| walk::files_after(c, after, count, count * LOOKS))?;
        self.trails.expect(trail, files.iter().map(expected));
        Ok(())
    }

    fn fetch_next(&mut self, trail: TrailId) {
        while self.has_lane() {
            let Some(id) = self.trails.next(trail) else {
                return;
            };
            match self.board(id) {
                Ok(Some(passenger)) => {
                    self.metrics.ahead.add(1);
                    self.flights
                        .spawn(async move { (id, passenger.landed().await) });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "not fetched ahead");
                    return self.trails.failed(id);
                }
            }
        }
    }

    /// None: there is nothing to fetch any more.
    fn board(&self, id: NodeId) -> Result<Option<Passenger>> {
        let node = self.downloads.commit.index.node(id)?;
        let Some(node) = node.filter(|node| expected(node).is_far) else {
            return Ok(None);
        };
        if !(self.has_room)(node.size + BYTES) {
            return Err(Error::new(
                Kind::NoSpace,
                "something else would have to go for it",
            ));
        }
        match self.downloads.board_ahead(&node) {
            // It came, or became another, at this moment.
            Err(error) if error.kind() == Kind::Stale => Ok(None),
            boarded => boarded.map(Some),
        }
    }
}

fn expected(node: &Node) -> Expected {
    Expected {
        id: node.id,
        size: node.size,
        is_far: node.held != Held::Whole && node.dirty == 0 && node.origin.is_some(),
    }
}
