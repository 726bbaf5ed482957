//! A deadline that progress pushes back, for work whose length nobody knows beforehand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Kind, Result};

/// Beaten by the work, watched by [`alive`].
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Says that the work went on.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The outcome of `work`, or `TimedOut` once `pulse` stood still for as long as `patience`
/// gives it after so many beats (at most twice that).
pub(super) async fn alive<T>(
    pulse: &Pulse,
    patience: impl Fn(u64) -> Duration,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::pin!(work);
    loop {
        let before = pulse.count();
        let stall = patience(before);
        match timeout(stall, &mut work).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) if pulse.count() != before => {}
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
