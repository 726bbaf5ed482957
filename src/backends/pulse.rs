//! A deadline that progress pushes back, for work whose length nobody knows beforehand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Kind, Result};

/// Beaten by the work, watched by [`alive`].
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Signs>);

#[derive(Debug, Default)]
struct Signs {
    beats: AtomicU64,
    paused: AtomicU64,
    resumed: AtomicU64,
}

/// While it lives, the work waits for something else than whom it waits for otherwise.
pub(super) struct Pause(Pulse);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.0.resumed.fetch_add(1, Relaxed);
    }
}

impl Pulse {
    /// Says that the work went on.
    pub(super) fn beat(&self) {
        self.0.beats.fetch_add(1, Relaxed);
    }

    /// Says that the work waits for us: standing still is no fault until the pause ends.
    pub(super) fn pause(&self) -> Pause {
        self.0.paused.fetch_add(1, Relaxed);
        Pause(self.clone())
    }

    /// Whether nobody waits for the work any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// How often.
    pub(super) fn count(&self) -> u64 {
        self.0.beats.load(Relaxed)
    }

    /// How often it went on, after a pause too; none while it pauses.
    fn signs(&self) -> Option<u64> {
        let resumed = self.0.resumed.load(Relaxed);
        let is_paused = self.0.paused.load(Relaxed) > resumed;
        (!is_paused).then(|| self.count() + resumed)
    }
}

/// The outcome of `work`, or `TimedOut` once `pulse` stood still for as long as `patience`
/// gives it after so many beats (at most twice that). Pauses do not count.
pub(super) async fn alive<T>(
    pulse: &Pulse,
    patience: impl Fn(u64) -> Duration,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::pin!(work);
    loop {
        let before = pulse.signs();
        let stall = patience(pulse.count());
        match timeout(stall, &mut work).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) if before.is_none() || pulse.signs() != before => {}
            Err(_) => {
                let why = format!("no progress for {} s", stall.as_secs_f32());
                return Err(Error::new(Kind::TimedOut, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p6_work_lives_as_long_as_it_goes_on_and_no_longer() {
        let pulse = Pulse::default();
        let stall = Duration::from_millis(400);
        let busy = async {
            for _ in 0..12 {
                tokio::time::sleep(stall / 8).await;
                pulse.beat();
            }
        };
        alive(&pulse, |_| stall, busy).await.unwrap();
        let stuck = alive(&pulse, |_| stall, std::future::pending::<()>()).await;
        assert_eq!(stuck.unwrap_err().kind(), Kind::TimedOut);
    }
}
