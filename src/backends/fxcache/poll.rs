//! When the server's index is to be looked at again: every refresh interval while somebody uses
//! the mount, and less and less often while nobody does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many intervals an idle mount waits at most.
const IDLE: u32 = 8;

pub(super) struct Poll {
    refresh: Duration,
    uses: AtomicU64,
    next: Mutex<Next>,
}

struct Next {
    due: Instant,
    every: Duration,
    /// Uses until the last look.
    uses: u64,
}

impl Poll {
    /// The first look is due at once.
    pub(super) fn new(refresh: Duration, now: Instant) -> Poll {
        Poll {
            refresh,
            uses: AtomicU64::new(0),
            next: Mutex::new(Next {
                due: now,
                every: refresh,
                uses: 0,
            }),
        }
    }

    /// Somebody uses the mount.
    pub(super) fn used(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// The index was looked at, at `now`.
    pub(super) fn looked(&self, now: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = self.uses.load(Ordering::Relaxed);
        next.every = match uses == next.uses {
            true => (next.every * 2).min(self.refresh * IDLE),
            false => self.refresh,
        };
        next.uses = uses;
        next.due = now + next.every;
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Instant {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match self.uses.load(Ordering::Relaxed) == next.uses {
            true => next.due,
            // Somebody is back: as soon as it would have been without the rest.
            false => next.due - next.every + self.refresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p8_an_idle_mount_asks_less_and_a_used_one_as_often_as_said() {
        const REFRESH: Duration = Duration::from_secs(30);
        let mut now = Instant::now();
        let poll = Poll::new(REFRESH, now);
        let mut rests = Vec::new();
        for _ in 0..5 {
            poll.looked(now);
            rests.push((poll.due() - now).as_secs());
        }
        assert_eq!(rests, [60, 120, 240, 240, 240]);
        // In the middle of a long rest somebody comes back.
        now += Duration::from_secs(100);
        poll.used();
        assert!(poll.due() <= now);
        poll.looked(now);
        assert_eq!(poll.due() - now, REFRESH);
    }
}
