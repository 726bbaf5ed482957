//! The thread that compares the whole directory with the index: when, and what is said of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::Kind;
use crate::index::served::Note;
use crate::path::RelPath;

use super::refresh::Refresh;
use super::sweep::{Tally, sweep};
use super::tree::Tree;

/// Between sweeps where the system tells nothing, and for trying a directory that went away.
const SWEEP_BLIND: Duration = Duration::from_secs(60);
const SWEEP_AWAY: Duration = Duration::from_secs(5);

pub struct Sweeper {
    pub tree: Arc<Tree>,
    pub period: Duration,
    pub refresh: Arc<Refresh>,
    pub stop: Arc<AtomicBool>,
    pub asked: Receiver<()>,
    pub scanned: watch::Sender<bool>,
    pub failing: bool,
}

impl Sweeper {
    pub fn run(&mut self) {
        // The first request comes when the watcher is ready.
        let mut wait = None;
        loop {
            let asked = match wait {
                None => self
                    .asked
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => self.asked.recv_timeout(wait),
            };
            let is_over = matches!(asked, Err(RecvTimeoutError::Disconnected));
            if is_over || self.stop.load(Ordering::Relaxed) {
                return;
            }
            wait = Some(self.sweep());
        }
    }

    /// One sweep. Tells how long to wait for the next.
    fn sweep(&mut self) -> Duration {
        let start = Instant::now();
        self.refresh.begin();
        let tell = |tally: &Tally| self.refresh.tell(tally);
        let done = sweep(&self.tree, &RelPath::root(), &self.stop, tell);
        if self.stop.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let done = done.and_then(|tally| {
            self.tree.index.write(vec![Note::Scanned, Note::Prune])?;
            Ok(tally)
        });
        let (total, _) = self.tree.index.totals();
        self.refresh.end(&done, total, start.elapsed());
        match done {
            Ok(tally) => {
                self.failing = false;
                self.say(&tally, start.elapsed());
                match self.refresh.is_blind() {
                    true => self.period.min(SWEEP_BLIND),
                    false => self.period,
                }
            }
            Err(error) => {
                // Once for as long as it lasts, or a disk that is away fills the log.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the sweep could not finish; it is tried again until it does");
                }
                match error.kind() {
                    Kind::Offline => SWEEP_AWAY,
                    _ => SWEEP_BLIND,
                }
            }
        }
    }

    /// The first one is always worth a line, the others only if they found something.
    fn say(&self, tally: &Tally, took: Duration) {
        if self.scanned.send_replace(true) && tally.differences == 0 {
            return;
        }
        let (files, found, unreadable) = (tally.files, tally.differences, tally.unreadable);
        let seconds = took.as_secs_f32();
        tracing::info!(
            files,
            found,
            unreadable,
            seconds,
            "swept the served directory"
        );
    }
}
