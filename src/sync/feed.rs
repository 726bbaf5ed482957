//! Follows one remote: a whole listing first, then its changes, or listings again
//! where it tells none; and finds out when it is away and when it is back.
//!
//! The cursor is stored in the same transaction as the facts it stands for, so that a
//! kill in between repeats a change and never skips one.

mod merging;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use merging::Merging;

use super::bound::Bound;
use super::identity::{believed, is_another};
use super::pace::{self, Pace};
use crate::backends::remote::Remote;
use crate::backends::{Capabilities, Changes};
use crate::clock::{Chance, Clock};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, habits, remote as facts};
use crate::object::{Change, Cursor};
use crate::path::RelPath;

/// How long one question for changes may hang at the remote.
const LONG_POLL: Duration = Duration::from_secs(25);
/// Changes applied in one transaction.
const CHUNK: usize = 2000;
/// First and longest wait before a remote that is away is asked again.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(3);
/// The same where it was cut short: it costs much, and nothing is likely to have changed.
const FIRST_CUT: Duration = Duration::from_secs(60);
const LONGEST_CUT: Duration = Duration::from_secs(60 * 60);
/// How often a first listing that breaks off is begun anew at once, where that costs.
const FIRST_TRIES: u32 = 5;

/// Told whenever the remote's facts changed, so that the mount can act on it.
pub type OnNews = Arc<dyn Fn() + Send + Sync>;

/// Which paths never leave this machine.
pub type LocalOnly = Arc<dyn Fn(&RelPath) -> bool + Send + Sync>;

/// One remote's follower.
pub struct Feed {
    remote: Arc<Remote>,
    index: Arc<Index>,
    clock: Clock,
    chance: Chance,
    pace: Pace,
    /// Of a remote whose listing costs: when one was last taken, how many in a row found
    /// nothing new, and how many broke off.
    last: Option<Instant>,
    quiet: u32,
    broken: u32,
    /// Until when one that was cut short is not asked again for all that it names.
    cut_until: Option<Instant>,
    /// Whether the remote was asked in this life what it can do.
    is_connected: bool,
    /// Whether a bucket is to be asked for names that its listing lacks.
    asks_on_miss: bool,
    bound: Bound,
    local_only: LocalOnly,
    /// Changes applied since the disk was looked at.
    unchecked: usize,
    news: OnNews,
    asked: mpsc::Receiver<oneshot::Sender<Result<()>>>,
}

/// Asks a feed to bring its facts up to date now.
#[derive(Clone)]
pub struct Bell(mpsc::Sender<oneshot::Sender<Result<()>>>);

impl Bell {
    /// Ends when the remote's facts are those of a moment after the call, or cannot be had.
    pub async fn ring(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::new(Kind::Cancelled, "the mount is ending");
        self.0.send(answer).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

impl Feed {
    /// `pace`: how often a remote that tells no changes is listed again.
    pub fn new(
        remote: Arc<Remote>,
        index: Arc<Index>,
        clock: Clock,
        pace: Pace,
        news: OnNews,
    ) -> (Feed, Bell) {
        let (bell, asked) = mpsc::channel(16);
        let feed = Feed {
            remote,
            index,
            clock,
            chance: Chance::from_system(),
            pace,
            last: None,
            quiet: 0,
            broken: 0,
            cut_until: None,
            is_connected: false,
            asks_on_miss: false,
            bound: Bound::default(),
            local_only: Arc::new(|_| false),
            unchecked: 0,
            news,
            asked,
        };
        (feed, Bell(bell))
    }

    /// The same for a bucket that is asked for names that its listing lacks.
    pub fn asking_on_miss(mut self, asks: bool) -> Feed {
        self.asks_on_miss = asks;
        self
    }

    /// The same for a mount that takes no more of a remote than `bound` says.
    pub fn within(mut self, bound: Bound) -> Feed {
        self.bound = bound;
        self
    }

    /// The same for a mount in which `local_only` never leaves.
    pub fn sparing(mut self, local_only: LocalOnly) -> Feed {
        self.local_only = local_only;
        self
    }

    /// Whether the remote is asked for something at once, and had files: it may be another one by
    /// now.
    pub fn doubts(&self) -> bool {
        self.rest().is_zero() && self.facts().is_ok_and(|row| row.files > 0)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut failures, mut doubted) = (0, false);
        let mut waiting: Vec<oneshot::Sender<Result<()>>> = Vec::new();
        let rest = self.rest();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
            () = self.remote.suspected(), if !rest.is_zero() => doubted = true,
            asked = self.asked.recv() => waiting.extend(asked),
        }
        while !stop.is_cancelled() {
            let hurry = !waiting.is_empty();
            let round = tokio::select! {
                () = stop.cancelled() => break,
                round = self.round(hurry, std::mem::take(&mut doubted)) => round,
            };
            self.remote.was_asked(round.as_ref().err());
            // Whoever asked is answered by a round that began after the asking.
            for answer in waiting.drain(..) {
                let told = round.as_ref().map(|_| ()).map_err(Clone::clone);
                let _ = answer.send(told);
            }
            let wait = match round {
                Ok(wait) => {
                    failures = 0;
                    wait
                }
                Err(error) => {
                    self.failed(&error);
                    failures += 1;
                    self.retry_wait(failures, &error)
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                // The next listing may be far away; whether the remote is there is looked at now.
                () = self.remote.suspected(), if self.is_listed_rarely() => doubted = true,
                asked = self.asked.recv() => waiting.extend(asked),
            }
            while let Ok(asked) = self.asked.try_recv() {
                waiting.push(asked);
            }
        }
    }

    /// How long what the last life of the mount knew is good for, of a remote whose listing
    /// costs: such a remote is not asked for anything before.
    fn rest(&self) -> Duration {
        let can = self
            .index
            .read(|c| habits::capabilities(c, &self.remote.shown));
        let (Ok(Some(can)), Ok(row)) = (can, self.facts()) else {
            return Duration::ZERO;
        };
        let can = Capabilities::from_bits(can);
        // Whether names are asked for may be wanted otherwise now.
        let is_wanted = can.listing && can.probe == self.asks_on_miss;
        let (Some(page), Some(listed_ms), true) = (can.page, row.listed_ms, is_wanted) else {
            return Duration::ZERO;
        };
        let wait = self.pace.wait(of(&row, page), 0);
        // A clock that went back makes it no longer than one whole wait.
        let age = u64::try_from(self.clock.now_ms() - listed_ms);
        let rest = wait.saturating_sub(age.map_or(Duration::ZERO, Duration::from_millis));
        if !rest.is_zero() {
            self.remote.set_capabilities(can);
            self.remote.set_listed_every(wait);
        }
        rest
    }

    fn failed(&self, error: &Error) {
        if self.is_cut(error) {
            // That was told. Who waits for the listing waits no more, and asks.
            return (self.news)();
        }
        // What this machine's disk says is no news of the remote.
        let ours = matches!(error.kind(), Kind::NoSpace | Kind::Busy | Kind::ReadOnly);
        if ours || self.index.is_damaged() {
            tracing::warn!(remote = %self.remote.shown, %error, "what the remote told cannot be noted");
            return;
        }
        if !self.remote.is_away() {
            tracing::warn!(remote = %self.remote.shown, %error, "the remote cannot be used");
        }
        self.remote.went_away(error);
    }

    fn is_listed_rarely(&self) -> bool {
        self.remote.pages().is_some() || self.remote.is_cut_short()
    }

    /// Whether the round ended because the remote names too much.
    fn is_cut(&self, error: &Error) -> bool {
        error.kind() == Kind::NoSpace && self.remote.is_cut_short()
    }

    fn retry_wait(&mut self, failures: u32, error: &Error) -> Duration {
        let (first, longest) = match self.is_cut(error) {
            true => (FIRST_CUT, LONGEST_CUT),
            false => (FIRST_RETRY, LONGEST_RETRY),
        };
        let ceiling = first.saturating_mul(1 << failures.min(10)).min(longest);
        let wait = ceiling.mul_f64(0.5 + self.chance.fraction() / 2.0);
        if self.is_cut(error) {
            self.cut_until = Some(Instant::now() + wait);
        }
        wait
    }

    /// How long a remote that was cut short is let be, whether it went away and came back or not.
    fn cut_rest(&self) -> Option<Duration> {
        let until = self.cut_until.filter(|_| self.remote.is_cut_short())?;
        let rest = until.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    /// Brings the facts up to date once. Returns how long nothing needs to be asked.
    async fn round(&mut self, hurry: bool, doubted: bool) -> Result<Duration> {
        if doubted {
            self.look_again().await?;
        }
        let capabilities = self.connect().await?;
        if !capabilities.listing {
            return self.look_for_listing().await;
        }
        if let Some(rest) = self.cut_rest().filter(|_| !hurry) {
            return Ok(rest);
        }
        let row = self.facts()?;
        let cursor = match row.cursor {
            Some(cursor) if row.listed_ms.is_some() && capabilities.changes => cursor,
            _ => return self.list_in_time(capabilities, hurry).await,
        };
        // Synced once in this life, the feed may hang at the remote; before, and until it is known
        // to be the one that it was, it asks at once.
        let fresh = self.remote.synced_ms() > 0 && !hurry && !self.remote.is_unsure();
        let wait = if fresh { LONG_POLL } else { Duration::ZERO };
        let asked = tokio::select! {
            asked = self.remote.backend.changes(&cursor, wait) => asked?,
            // Whoever asked is answered by what is there now, which tells whether it is there as well.
            () = self.remote.suspected(), if !hurry => return self.look_again().await,
            Some(answer) = self.asked.recv() => {
                // A question that hangs at the remote answers nobody: ask anew.
                let done = Box::pin(self.round_now()).await;
                let _ = answer.send(done.as_ref().map(|_| ()).map_err(Clone::clone));
                return done;
            }
        };
        match asked {
            Changes::Delta { changes, cursor } => self.apply(changes, cursor).await?,
            Changes::Relist => self.list_anew().await?,
        }
        self.remote.is_here();
        self.remote.set_synced();
        Ok(Duration::ZERO)
    }

    /// A remote that cannot say what it holds is asked for names one by one; perhaps it can by now.
    async fn look_for_listing(&self) -> Result<Duration> {
        let found = self.remote.backend.capabilities().await?;
        self.remote.set_capabilities(found);
        self.remote.is_here();
        if found.listing {
            return Ok(Duration::ZERO);
        }
        // There is nothing to wait for before a name can be said not to be there.
        self.remote.set_listed();
        self.remote.set_synced();
        (self.news)();
        Ok(self.pace.refresh)
    }

    /// Takes a listing, unless it costs and it is too early for the next. Returns how long after
    /// it there is nothing to ask.
    async fn list_in_time(&mut self, can: Capabilities, hurry: bool) -> Result<Duration> {
        let Some(page) = can.page else {
            self.list().await?;
            let wait = if can.changes {
                Duration::ZERO
            } else {
                self.pace.refresh
            };
            return Ok(wait);
        };
        let early = self.early(page)?;
        let is_first = !self.remote.is_listed() && self.broken < FIRST_TRIES;
        let is_first = is_first && !self.remote.is_cut_short();
        if !early.is_zero() && !hurry && !is_first {
            return Ok(early);
        }
        // One that breaks off may cost as much as a whole one.
        self.last = Some(Instant::now());
        self.broken += 1;
        let news = self.list().await?;
        let (url, bits) = (self.remote.shown.clone(), can.to_bits());
        self.index
            .edit_later(move |w| w.set_capabilities(&url, bits))
            .await?;
        self.broken = 0;
        self.quiet = match hurry || news {
            true => 0,
            false => self.quiet.saturating_add(1),
        };
        self.last = Some(Instant::now());
        self.early(page)
    }

    /// How long the remote is not to be listed again, as large as it has become since.
    fn early(&self, page: u32) -> Result<Duration> {
        let Some(last) = self.last else {
            return Ok(Duration::ZERO);
        };
        let quiet = if self.broken > 0 { 0 } else { self.quiet };
        let wait = self.pace.wait(self.requests(page)?, quiet);
        self.remote.set_listed_every(wait);
        Ok(wait.saturating_sub(last.elapsed()))
    }

    fn requests(&self, page: u32) -> Result<u64> {
        Ok(of(&self.facts()?, page))
    }

    async fn round_now(&mut self) -> Result<Duration> {
        if !self.remote.can_list() {
            return self.look_for_listing().await;
        }
        let row = self.facts()?;
        match row.cursor {
            Some(cursor) => match self.remote.backend.changes(&cursor, Duration::ZERO).await? {
                Changes::Delta { changes, cursor } => self.apply(changes, cursor).await?,
                Changes::Relist => self.list_anew().await?,
            },
            None => drop(self.list().await?),
        }
        self.remote.set_synced();
        Ok(Duration::ZERO)
    }

    /// Somebody's request ran into its deadline or was refused.
    async fn look_again(&self) -> Result<Duration> {
        self.remote.backend.capabilities().await?;
        self.remote.is_here();
        Ok(Duration::ZERO)
    }

    async fn connect(&mut self) -> Result<Capabilities> {
        if let Some(known) = self.remote.capabilities()
            && self.is_connected
            && !self.remote.is_away()
        {
            return Ok(known);
        }
        let found = self.remote.backend.capabilities().await?;
        self.is_connected = true;
        self.remote.set_capabilities(found);
        let was_away = self.remote.is_away();
        self.remote.is_here();
        if was_away && !self.remote.is_away() {
            tracing::info!(remote = %self.remote.shown, "the remote is back");
        }
        (self.news)();
        Ok(found)
    }

    fn facts(&self) -> Result<facts::RemoteRow> {
        let id = self.remote.id;
        let all = self.index.read(facts::remotes)?;
        all.into_iter()
            .find(|row| row.id == id)
            .ok_or_else(|| Error::new(Kind::Io, "the remote is not in the index"))
    }

    async fn apply(&mut self, changes: Vec<Change>, cursor: Cursor) -> Result<()> {
        let any = !changes.is_empty();
        let mut rest = changes;
        while rest.len() > CHUNK {
            let later = rest.split_off(CHUNK);
            let chunk = std::mem::replace(&mut rest, later);
            self.apply_some(chunk, None).await?;
        }
        self.apply_some(rest, Some(cursor)).await?;
        self.remote.is_whole();
        if any {
            crash::point("apply.changes");
        }
        if any {
            (self.news)();
        }
        Ok(())
    }

    /// Applies some changes, if they do not make the remote too large: deletions never do.
    async fn apply_some(&mut self, changes: Vec<Change>, cursor: Option<Cursor>) -> Result<()> {
        let (id, now, bound) = (self.remote.id, self.clock.now_ns(), self.bound);
        self.unchecked += changes.len();
        if self.unchecked >= CHUNK {
            cut(&self.remote, bound.room(&self.index))?;
            self.unchecked = 0;
        }
        let grown = self
            .index
            .edit_later(move |w| {
                let before = w.names_of(id)?;
                w.apply(id, &changes, None, now)?;
                let grown = bound.growth(before, w.names_of(id)?);
                if let (Ok(()), Some(cursor)) = (&grown, &cursor) {
                    w.apply(id, &[], Some(cursor), now)?;
                }
                // What was applied stays, whatever comes of the rest.
                Ok(grown)
            })
            .await?;
        cut(&self.remote, grown)
    }

    /// The remote does not know what its changes had come to.
    async fn list_anew(&self) -> Result<()> {
        let id = self.remote.id;
        self.index.edit_later(move |w| w.forget_order(id)).await?;
        self.list().await.map(drop)
    }

    /// Takes a whole listing. The merge runs beside the transfer; neither outruns the other.
    /// Returns whether it had anything new.
    async fn list(&self) -> Result<bool> {
        let id = self.remote.id;
        let known = self.facts()?;
        let is_another = is_another(&known, || self.remote.backend.epoch()).await?;
        let begun = self.index.edit_later(move |w| w.listing_begins(id)).await?;
        let (batches, inbox) = mpsc::channel(4);
        let (index, clock) = (self.index.clone(), self.clock.clone());
        let (remote, bound) = (self.remote.clone(), self.bound);
        let local_only = self.local_only.clone();
        let merge = tokio::task::spawn_blocking(move || {
            let listing = Merging::new(index, clock, remote, bound, begun);
            match is_another {
                true => listing.of_another(local_only).run(inbox),
                false => listing.run(inbox),
            }
        });
        let listed = self.remote.backend.list(batches).await;
        let merged = merge
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Io, "taking the listing failed")));
        // Where what came could not be taken, the remote was not let end its listing.
        let merged = merged?;
        // A listing that broke off says nothing about what it did not name.
        let cursor = listed?;
        let checked = believed(&known, &cursor, merged.named());
        self.remote.recognised(checked)?;
        let news = tokio::task::spawn_blocking(move || merged.finish())
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Io, "taking the listing failed")))?;
        let now = self.clock.now_ms();
        self.index
            .edit_later(move |w| w.listing_ends(id, &cursor, now))
            .await?;
        self.remote.is_here();
        self.remote.is_whole();
        self.remote.set_synced();
        self.remote.set_listed();
        (self.news)();
        Ok(news)
    }
}

/// Requests that the next listing of a remote takes, as far as the last one tells.
fn of(row: &facts::RemoteRow, page: u32) -> u64 {
    pace::requests(row.files + row.refused, page)
}

/// Tells that the remote names too much, if it does.
fn cut(remote: &Remote, checked: Result<()>) -> Result<()> {
    let checked = checked.map_err(|error| error.about(&remote.shown));
    if let Err(error) = &checked
        && remote.was_cut_short(error)
    {
        tracing::warn!(%error, "not all that the remote names is taken in");
    }
    checked
}
