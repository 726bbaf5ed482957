//! How fresh the index is: the sweep that goes on, the last one that ended, and the one
//! that somebody asked for and waits for.
//!
//! It only remembers; the [sweeper](super::sweeper) sweeps. A refresh that was asked for is
//! done when a sweep that began after the question has ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;

use super::sweep::Tally;

/// What was asked for. Both notice everything; they differ in what is said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Full,
    Incremental,
}

/// Where the refresh that was asked for last stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// A sweep for it has not begun.
    Asked {
        mode: Mode,
        since_ms: i64,
    },
    Running {
        mode: Mode,
        since_ms: i64,
    },
    Done {
        mode: Mode,
        tally: Tally,
        /// Files in the index after it.
        total: u64,
        took: Duration,
    },
    Failed(String),
}

/// The last sweep that went through everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub at_ms: i64,
    pub took: Duration,
}

/// See the module.
pub struct Refresh {
    clock: Clock,
    phase: Mutex<Phase>,
    last: Mutex<Option<Swept>>,
    sweeping: AtomicBool,
    blind: AtomicBool,
    files: AtomicU64,
    found: AtomicU64,
}

impl Refresh {
    /// The first sweep is asked for by the start itself.
    pub fn new(mode: Mode, clock: Clock) -> Refresh {
        let since_ms = clock.now_ms();
        Refresh {
            clock,
            phase: Mutex::new(Phase::Asked { mode, since_ms }),
            last: Mutex::default(),
            sweeping: AtomicBool::new(false),
            blind: AtomicBool::new(false),
            files: AtomicU64::new(0),
            found: AtomicU64::new(0),
        }
    }

    /// Asks for one; false while another is waited for. The caller then asks for the sweep.
    pub fn ask(&self, mode: Mode) -> bool {
        let mut phase = self.lock();
        if matches!(*phase, Phase::Asked { .. } | Phase::Running { .. }) {
            return false;
        }
        let since_ms = self.clock.now_ms();
        *phase = Phase::Asked { mode, since_ms };
        true
    }

    /// A sweep begins.
    pub fn begin(&self) {
        self.sweeping.store(true, Ordering::Relaxed);
        self.tell(&Tally::default());
        let mut phase = self.lock();
        if let Phase::Asked { mode, since_ms } = *phase {
            *phase = Phase::Running { mode, since_ms };
        }
    }

    /// How far it is.
    pub fn tell(&self, tally: &Tally) {
        self.files.store(tally.files, Ordering::Relaxed);
        let found = tally.differences.saturating_sub(tally.gone);
        self.found.store(found, Ordering::Relaxed);
    }

    /// It ended. One that did not begin for the refresh leaves that waiting.
    pub fn end(&self, done: &Result<Tally>, total: u64, took: Duration) {
        self.sweeping.store(false, Ordering::Relaxed);
        if done.is_ok() {
            let at_ms = self.clock.now_ms();
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(Swept { at_ms, took });
        }
        let mut phase = self.lock();
        if let Phase::Running { mode, .. } = *phase {
            *phase = match done {
                Ok(tally) => Phase::Done {
                    mode,
                    tally: *tally,
                    total,
                    took,
                },
                Err(error) => Phase::Failed(error.to_string()),
            };
        }
    }

    pub fn phase(&self) -> Phase {
        self.lock().clone()
    }

    /// Files seen, and files new or changed, by the sweep that goes on.
    pub fn so_far(&self) -> (u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.files), read(&self.found))
    }

    /// The last sweep of this run that ended well.
    pub fn last(&self) -> Option<Swept> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_sweeping(&self) -> bool {
        self.sweeping.load(Ordering::Relaxed)
    }

    /// Whether the system does not tell of changes. Tells what it was before.
    pub fn set_blind(&self, blind: bool) -> bool {
        self.blind.swap(blind, Ordering::Relaxed)
    }

    pub fn is_blind(&self) -> bool {
        self.blind.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_is_done_by_a_sweep_that_began_after_it_was_asked_for() {
        let refresh = Refresh::new(Mode::Full, Clock::System);
        let tally = Tally {
            files: 3,
            differences: 2,
            gone: 1,
            unreadable: 0,
        };
        let end = || refresh.end(&Ok(tally), 9, Duration::ZERO);
        assert!(!refresh.ask(Mode::Full));
        refresh.begin();
        refresh.tell(&tally);
        assert_eq!(refresh.so_far(), (3, 1));
        end();
        assert!(matches!(refresh.phase(), Phase::Done { total: 9, .. }));
        // One by the clock goes on when the question comes.
        refresh.begin();
        assert!(refresh.ask(Mode::Incremental));
        end();
        assert!(matches!(refresh.phase(), Phase::Asked { .. }));
        refresh.begin();
        assert!(!refresh.ask(Mode::Full));
        end();
        let mode = Mode::Incremental;
        assert!(matches!(refresh.phase(), Phase::Done { mode: m, .. } if m == mode));
        assert!(refresh.last().is_some());
    }
}
