//! A remote as the mount sees it: a backend, its place in the order, and whether it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{Backend, Capabilities};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::object::RemoteId;

/// Whether a remote can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Not known yet; asked as if it were there.
    Connecting,
    /// It answered last.
    Online,
    /// It did not, since `since_ms`, for this reason.
    Away { since_ms: i64, why: String },
}

/// One remote of the mount.
pub struct Remote {
    pub id: RemoteId,
    /// Its URL without credentials.
    pub shown: String,
    pub upload: bool,
    pub backend: Arc<dyn Backend>,
    clock: Clock,
    presence: watch::Sender<Presence>,
    listed: watch::Sender<bool>,
    cut_short: watch::Sender<Option<Arc<str>>>,
    capabilities: watch::Sender<Option<Capabilities>>,
    synced_ms: AtomicI64,
    listed_every_ms: AtomicU64,
    suspected: Notify,
    /// Something else is in its place.
    is_strange: AtomicBool,
    /// It was not asked yet whether it is the one that is known.
    is_unsure: AtomicBool,
}

impl Remote {
    /// A remote that nothing is known of yet, but whether it was ever `listed`.
    pub fn new(
        id: RemoteId,
        shown: String,
        upload: bool,
        backend: Arc<dyn Backend>,
        listed: bool,
        clock: Clock,
    ) -> Remote {
        Remote {
            id,
            shown,
            upload,
            backend,
            clock,
            presence: watch::Sender::new(Presence::Connecting),
            listed: watch::Sender::new(listed),
            cut_short: watch::Sender::new(None),
            capabilities: watch::Sender::new(None),
            synced_ms: AtomicI64::new(0),
            listed_every_ms: AtomicU64::new(0),
            suspected: Notify::new(),
            is_strange: AtomicBool::new(false),
            is_unsure: AtomicBool::new(false),
        }
    }

    /// Whether it can be used, now and as it changes.
    pub fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }

    /// Whether it is known to be away.
    pub fn is_away(&self) -> bool {
        matches!(*self.presence.borrow(), Presence::Away { .. })
    }

    /// Its feed is about to ask it.
    pub fn is_to_be_asked(&self) {
        self.is_unsure.store(true, Ordering::SeqCst);
    }

    /// Its feed has asked it, or failed to.
    pub fn was_asked(&self, failed: Option<&Error>) {
        if failed.is_none() && self.is_strange.swap(false, Ordering::SeqCst) {
            // The one that is known is back, and said what is new since.
            self.is_here();
        }
        let is_unsure = failed.is_some_and(|error| error.kind().is_away());
        if self.is_unsure.swap(is_unsure, Ordering::SeqCst) && !is_unsure {
            self.presence.send_modify(|_| ());
        }
    }

    /// Whether it may be another one than the one that is known: nothing goes up to that. A bucket
    /// is the one that has its name.
    pub fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::SeqCst) && self.pages().is_none()
    }

    /// Notes what its feed found: one that is not recognised is away, whatever it answers.
    pub fn recognised(&self, checked: Result<()>) -> Result<()> {
        self.is_strange.store(checked.is_err(), Ordering::SeqCst);
        checked
    }

    /// It answered.
    pub fn is_here(&self) {
        if self.is_strange.load(Ordering::SeqCst) {
            return;
        }
        self.presence.send_if_modified(|now| {
            let news = *now != Presence::Online;
            *now = Presence::Online;
            news
        });
    }

    /// It did not answer.
    pub fn went_away(&self, error: &Error) {
        let since_ms = self.clock.now_ms();
        self.presence.send_if_modified(|now| match now {
            Presence::Away { why, .. } => {
                *why = error.to_string();
                false
            }
            Presence::Connecting | Presence::Online => {
                *now = Presence::Away {
                    since_ms,
                    why: error.to_string(),
                };
                true
            }
        });
    }

    /// Takes notice of how a request ended: a refused connection means away, a deadline that
    /// passed, or a refusal of everything, means that somebody should look.
    pub fn heard(&self, error: &Error) {
        match error.kind() {
            Kind::Offline => {
                self.went_away(error);
                self.suspected.notify_one();
            }
            Kind::TimedOut | Kind::Unauthorized | Kind::Unavailable => {
                self.suspected.notify_one();
            }
            _ => {}
        }
    }

    /// Ends when somebody has reason to doubt that the remote is there.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Whether a whole listing was ever taken: until then absence is not known (promise P2).
    pub fn listed(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// Whether a whole listing was ever taken.
    pub fn is_listed(&self) -> bool {
        *self.listed.borrow()
    }

    /// A whole listing was taken.
    pub fn set_listed(&self) {
        self.listed.send_replace(true);
    }

    /// Why not all that it names was taken in; none: all was, as far as is known.
    pub fn cut_short(&self) -> Option<Arc<str>> {
        self.cut_short.borrow().clone()
    }

    /// The same, now and as it changes.
    pub fn whole(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.cut_short.subscribe()
    }

    /// Whether it names more than was taken in: what is not known of it can only be asked for.
    pub fn is_cut_short(&self) -> bool {
        self.cut_short.borrow().is_some()
    }

    /// It names more than is taken in. Returns whether that is news.
    pub fn was_cut_short(&self, error: &Error) -> bool {
        let why = Arc::from(error.message());
        self.cut_short.send_replace(Some(why)).is_none()
    }

    /// All that it names was taken in.
    pub fn is_whole(&self) {
        self.cut_short.send_if_modified(|why| why.take().is_some());
    }

    /// What it can do, once that is known.
    pub fn capabilities(&self) -> Option<Capabilities> {
        *self.capabilities.borrow()
    }

    /// Whether it may have files that no listing names, and can be asked.
    pub fn probes(&self) -> bool {
        !self.is_away() && (self.is_cut_short() || self.capabilities().is_some_and(|can| can.probe))
    }

    /// Whether it is known that all its files are in its listing.
    pub fn never_probes(&self) -> bool {
        !self.is_cut_short() && self.capabilities().is_some_and(|can| !can.probe)
    }

    /// Whether it can say what it holds, as far as is known.
    pub fn can_list(&self) -> bool {
        self.capabilities().is_none_or(|can| can.listing)
    }

    /// How many objects one request of its listing names, where requests cost.
    pub fn pages(&self) -> Option<u32> {
        self.capabilities().and_then(|can| can.page)
    }

    /// The time between its listings at present, where they cost; none before the first.
    pub fn listed_every(&self) -> Option<Duration> {
        let ms = self.listed_every_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// Notes when it will be listed again by itself.
    pub fn set_listed_every(&self, wait: Duration) {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.listed_every_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// Notes what it can do.
    pub fn set_capabilities(&self, found: Capabilities) {
        self.capabilities.send_replace(Some(found));
    }

    /// When its facts were last known to be complete, in milliseconds since 1970; 0 for never.
    pub fn synced_ms(&self) -> i64 {
        self.synced_ms.load(Ordering::Relaxed)
    }

    /// Its facts are complete as of now.
    pub fn set_synced(&self) {
        self.synced_ms.store(self.clock.now_ms(), Ordering::Relaxed);
    }
}

/// The remotes of a mount, in its order.
#[derive(Clone)]
pub struct Remotes(pub Arc<[Arc<Remote>]>);

impl Remotes {
    /// The remote `id`.
    pub fn get(&self, id: RemoteId) -> Option<&Arc<Remote>> {
        self.0.iter().find(|r| r.id == id)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.iter()
    }

    /// Whether any is known to be away.
    pub fn any_away(&self) -> bool {
        self.0.iter().any(|r| r.is_away())
    }

    /// Whether every one is known to be away.
    pub fn all_away(&self) -> bool {
        self.0.iter().all(|r| r.is_away())
    }

    /// Whether there is no listing to wait for: all were listed at least once, or cannot be for now.
    pub fn absence_is_known(&self) -> bool {
        self.0
            .iter()
            .all(|r| r.is_listed() || r.is_away() || r.is_cut_short())
    }
}
