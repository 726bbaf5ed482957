//! Bursts of local writes are let come to their end before they go up: who writes many files waits
//! for the disk and the processors that uploads would take from him.
//!
//! A pure rule over times that are passed in. Nothing waits for long: a writer that goes on and on
//! has its files going up beside it.

use std::time::Duration;

use tokio::time::Instant;

/// Writes that follow each other so soon are of one burst.
const QUIET: Duration = Duration::from_millis(50);
/// Longest that the queue waits for the end of one.
const MOST: Duration = Duration::from_secs(1);

/// The latest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    /// What a write at `now` makes of the burst before.
    pub fn wrote(before: Option<Burst>, now: Instant) -> Burst {
        let first = match before {
            Some(burst) if now.duration_since(burst.last) < QUIET => burst.first,
            _ => now,
        };
        Burst { first, last: now }
    }

    /// How long the queue waits, as far as is known at `now`.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let until = (self.last + QUIET).min(self.first + MOST);
        Some(until.duration_since(now)).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn p3_a_single_write_holds_the_queue_for_a_moment() {
        let now = Instant::now();
        let burst = Burst::wrote(None, now);
        assert_eq!(burst.wait(now + 10 * MS), Some(QUIET - 10 * MS));
        assert_eq!(burst.wait(now + QUIET), None);
    }

    #[test]
    fn p3_files_go_up_beside_a_writer_that_does_not_end() {
        let begun = Instant::now();
        let (mut now, mut burst) = (begun, None);
        let mut waits = Vec::new();
        while now < begun + 3 * MOST {
            let wrote = Burst::wrote(burst, now);
            waits.push(wrote.wait(now).is_some());
            burst = Some(wrote);
            now += 10 * MS;
        }
        let first = MOST.as_millis() as usize / 10;
        assert!(waits[..first].iter().all(|waits| *waits));
        assert!(waits[first..].iter().all(|waits| !waits));
        // The next burst is another one.
        let next = Burst::wrote(burst, now + QUIET);
        assert!(next.wait(now + QUIET).is_some());
    }
}
