//! Transfers that were given up, until nobody reads their files any more.
//!
//! A removed file takes its room until the last reader has closed it, and whoever was sending it does
//! so a moment after it heard. Who needs that room waits here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The transfers that were given up.
#[derive(Debug, Default)]
pub struct GivenUp {
    state: Mutex<State>,
    one_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ending: Vec<Weak<Reading>>,
    /// Whether one has ended that nobody waited for.
    has_ended: bool,
}

impl State {
    fn forget_ended(&mut self) {
        let before = self.ending.len();
        self.ending.retain(|reading| reading.strong_count() > 0);
        self.has_ended |= self.ending.len() < before;
    }
}

/// That somebody may have the file of a transfer open. It is to outlive the file.
#[derive(Debug)]
pub struct Reading(Arc<GivenUp>);

impl Drop for Reading {
    fn drop(&mut self) {
        // Under the lock: who has just found this one alive is waiting by now.
        let _state = self.0.state();
        self.0.one_ended.notify_all();
    }
}

impl GivenUp {
    /// What a transfer holds as long as its file may be open.
    pub fn reading(self: &Arc<Self>) -> Arc<Reading> {
        Arc::new(Reading(self.clone()))
    }

    /// The transfer was told to end.
    pub fn add(&self, reading: &Weak<Reading>) {
        let mut state = self.state();
        state.forget_ended();
        state.ending.push(reading.clone());
    }

    /// Waits until all have ended; those that have not after `at_most` are not waited for again.
    /// Returns whether any has ended since this was asked last. Blocks.
    pub fn wait(&self, at_most: Duration) -> bool {
        let is_ending = |state: &mut State| {
            state.forget_ended();
            !state.ending.is_empty()
        };
        let waited = self
            .one_ended
            .wait_timeout_while(self.state(), at_most, is_ending);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.ending.clear();
        std::mem::take(&mut state.has_ended)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn p11_who_needs_room_waits_for_those_who_were_told_to_end() {
        let given_up = Arc::new(GivenUp::default());
        assert!(!given_up.wait(LONG));
        let (other, reading) = (given_up.reading(), given_up.reading());
        // Nobody told the other one.
        given_up.add(&Arc::downgrade(&reading));
        let waiter = std::thread::spawn({
            let given_up = given_up.clone();
            move || given_up.wait(LONG)
        });
        drop(reading);
        assert!(waiter.join().unwrap());
        assert!(!given_up.wait(LONG));
        drop(other);
    }

    #[test]
    fn p11_one_that_ended_before_it_was_waited_for_counts_once() {
        let given_up = Arc::new(GivenUp::default());
        for _ in 0..3 {
            given_up.add(&Arc::downgrade(&given_up.reading()));
        }
        assert!(given_up.wait(LONG));
        assert!(!given_up.wait(LONG));
    }

    #[test]
    fn p6_one_that_does_not_end_is_waited_for_once() {
        let given_up = Arc::new(GivenUp::default());
        let reading = given_up.reading();
        given_up.add(&Arc::downgrade(&reading));
        assert!(!given_up.wait(Duration::from_millis(1)));
        assert!(!given_up.wait(LONG));
    }
}
