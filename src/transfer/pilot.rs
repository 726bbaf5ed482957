//! Flies a big file: fetches what its readers ask for, several requests at a time, and all of it
//! once it is wanted whole. What is asked for is [`plan`](super::plan)'s business.
//!
//! Nothing goes on that nobody needs: a while after its last reader left, the flight of a file that
//! was not read mostly ends. What came stays, and whoever opens the file next goes on from there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::download::Downloads;
use super::fetch::{CHECKPOINT, WRONG};
use super::flight::Flight;
use super::front::Follower;
use super::plan;
use super::sources::Sources;
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Sha256};

/// How long a flight waits for the next reader: programs open a table twice, and the second time
/// nothing needs to be asked for.
const LINGER: Duration = Duration::from_secs(2);
/// What came is made to survive a restart when nothing came for so long.
const QUIET: Duration = Duration::from_millis(500);
/// The pace is that of so long a time.
const LATELY: Duration = Duration::from_secs(2);
/// Nothing is said of the pace before.
const SOON: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Pilot {
    downloads: Arc<Downloads>,
    flight: Arc<Flight>,
    sources: Arc<Sources>,
    lanes: Arc<Semaphore>,
    /// To fetch what nobody waits for.
    lane: Option<OwnedSemaphorePermit>,
    blocks: JoinSet<(ByteRange, Result<()>)>,
    follower: Follower,
    pace: Pace,
    /// Bytes since what came was noted last.
    unsaved: u64,
    saving: Option<JoinHandle<()>>,
    /// When the last reader left.
    alone: Option<Instant>,
    /// How often all of it came and was wrong, and whether that was the end.
    wrong: u32,
    is_wrong: bool,
}

impl Pilot {
    pub(super) fn new(
        downloads: Arc<Downloads>,
        flight: Arc<Flight>,
        sources: Arc<Sources>,
        lanes: Arc<Semaphore>,
    ) -> Pilot {
        Pilot {
            downloads,
            flight,
            sources,
            lanes,
            lane: None,
            blocks: JoinSet::new(),
            follower: Follower::new(),
            pace: Pace::default(),
            unsaved: 0,
            saving: None,
            alone: None,
            wrong: 0,
            is_wrong: false,
        }
    }

    /// Ends when all of it is here and verified; or when nobody needs it any more, as `Cancelled`.
    pub(super) async fn fly(mut self) -> Result<(Sha256, Option<OwnedSemaphorePermit>)> {
        let flown = self.fly_on().await;
        self.stop().await;
        let flown = match flown {
            Err(error) if error.kind() == Kind::Unsupported => self.whole_only().await,
            flown => flown,
        };
        match &flown {
            // What came of it must not be what keeps the disk full, nor be taken for right.
            Err(error) if error.kind() == Kind::NoSpace || self.is_wrong => {
                self.flight.partial.discard()?;
            }
            // Keeps nothing.
            Err(_) if self.downloads.stream_only => self.flight.partial.discard()?,
            Err(_) => self.downloads.checkpoint(&self.flight).await,
            Ok(_) => {}
        }
        Ok((flown?, self.lane))
    }

    async fn fly_on(&mut self) -> Result<Sha256> {
        self.begin().await?;
        loop {
            if self.flight.partial.is_complete() {
                match self.verified().await {
                    Err(error) if error.kind() == Kind::Corrupt && self.wrong < WRONG => {
                        self.again(&error).await?;
                    }
                    Err(error) => {
                        self.is_wrong = true;
                        return Err(error);
                    }
                    done => return done,
                }
            }
            self.start_blocks();
            let patience = self.patience()?;
            let needs_lane = self.is_whole_wanted() && self.lane.is_none();
            let lanes = self.lanes.clone();
            tokio::select! {
                Some(ended) = self.blocks.join_next() => self.ended(ended.ok()).await?,
                () = self.flight.called() => {}
                lane = lanes.acquire_owned(), if needs_lane => self.lane = lane.ok(),
                () = tokio::time::sleep(patience) => self.save(),
            }
        }
    }

    /// The first answer proves that the version is there.
    async fn begin(&mut self) -> Result<()> {
        let name = self.flight.node.name.as_ref();
        let name = name.map(|name| name.as_bytes()).unwrap_or_default();
        let mut first = match self.is_whole_wanted() {
            true => 0..self.flight.size().min(plan::BLOCK),
            false => plan::first_ask(name, self.flight.size()),
        };
        if self.flight.partial.holes(first.clone()).is_empty() {
            // Of what is here, that it is still there.
            first = 0..0;
        }
        let brought = self
            .downloads
            .bring(&self.flight, &self.sources, &first, None);
        brought.await?;
        self.unsaved += first.end - first.start;
        Ok(())
    }

    fn is_whole_wanted(&self) -> bool {
        self.flight
            .reading()
            .is_some_and(|reading| reading.is_whole_wanted())
    }

    fn start_blocks(&mut self) {
        loop {
            let holes = |range| self.flight.partial.holes(range);
            let block = self
                .flight
                .reading()
                .and_then(|mut reading| reading.next(&holes, self.lane.is_some()));
            let Some(block) = block else {
                return;
            };
            if self.blocks.is_empty() {
                self.pace.begin(Instant::now());
            }
            let (downloads, flight) = (self.downloads.clone(), self.flight.clone());
            let sources = self.sources.clone();
            self.blocks.spawn(async move {
                let brought = downloads.bring(&flight, &sources, &block, None).await;
                (block, brought)
            });
        }
    }

    /// How long to wait for news. Errors: `Cancelled` if nobody needs the file any more.
    fn patience(&mut self) -> Result<Duration> {
        let have = || self.flight.partial.covered();
        let is_needed = self.flight.is_wanted()
            || self.is_whole_wanted() && plan::worth_finishing(self.flight.size(), have());
        let quiet = match self.unsaved > 0 && self.blocks.is_empty() {
            true => QUIET,
            false => Duration::from_secs(3600),
        };
        if is_needed {
            self.alone = None;
            return Ok(quiet);
        }
        let alone = self.alone.get_or_insert_with(Instant::now).elapsed();
        match LINGER.checked_sub(alone).filter(|left| !left.is_zero()) {
            Some(left) => Ok(left.min(quiet)),
            None => Err(Error::new(
                Kind::Cancelled,
                "nobody reads the file any more",
            )),
        }
    }

    async fn ended(&mut self, ended: Option<(ByteRange, Result<()>)>) -> Result<()> {
        let Some((block, brought)) = ended else {
            return Err(Error::new(Kind::Io, "a request broke off"));
        };
        let length = block.end - block.start;
        let pace = self.pace.came(length, Instant::now());
        if let Some(mut reading) = self.flight.reading() {
            reading.ended(&block);
            if let Some(pace) = pace {
                reading.set_pace(pace);
            }
        }
        brought?;
        self.unsaved += length;
        if self.unsaved >= 4 * CHECKPOINT {
            self.save();
        }
        // Without a hash to compare with, nobody waits for it.
        if self.is_whole_wanted() && self.flight.sha256().is_some() {
            self.follower.follow(&self.flight).await?;
        }
        Ok(())
    }

    /// Notes what came, beside everything else.
    fn save(&mut self) {
        if self.unsaved == 0
            || self
                .saving
                .as_ref()
                .is_some_and(|saving| !saving.is_finished())
        {
            return;
        }
        self.unsaved = 0;
        let (downloads, flight) = (self.downloads.clone(), self.flight.clone());
        let saving = async move { downloads.checkpoint(&flight).await };
        self.saving = Some(tokio::spawn(saving));
    }

    async fn verified(&mut self) -> Result<Sha256> {
        self.stop().await;
        let follower = std::mem::replace(&mut self.follower, Follower::new());
        let front = follower.end().await?;
        self.downloads.verify(&self.flight, front).await
    }

    /// All of it came and it is wrong: all of it is fetched again, from the next remote first.
    async fn again(&mut self, error: &Error) -> Result<()> {
        self.wrong += 1;
        tracing::warn!(%error, "fetched again");
        self.flight.doubt();
        self.flight.start_over()?;
        self.sources.rotate();
        Ok(())
    }

    /// No request is under way any more, and nothing is being written.
    async fn stop(&mut self) {
        self.blocks.shutdown().await;
        if let Some(mut reading) = self.flight.reading() {
            reading.none_under_way();
        }
        if let Some(saving) = self.saving.take() {
            // It says itself what went wrong.
            let _ = saving.await;
        }
    }

    /// The remote gives whole files only.
    async fn whole_only(&mut self) -> Result<Sha256> {
        let stopped = |_| Error::new(Kind::Cancelled, "the download was dropped");
        if self.lane.is_none() {
            self.lane = Some(self.lanes.clone().acquire_owned().await.map_err(stopped)?);
        }
        self.downloads.fetch(&self.flight, &self.sources).await
    }
}

/// How fast bytes come while any are asked for.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    bytes: u64,
}

impl Pace {
    fn begin(&mut self, now: Instant) {
        (self.since, self.bytes) = (Some(now), 0);
    }

    /// Bytes a second, as far as can be told.
    fn came(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        self.bytes += bytes;
        let since = self.since?;
        let took = now.duration_since(since);
        if took < SOON {
            return None;
        }
        let pace = (self.bytes as f64 / took.as_secs_f64()) as u64;
        if took > LATELY {
            self.bytes /= 2;
            self.since = Some(since + took / 2);
        }
        Some(pace)
    }
}
