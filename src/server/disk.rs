//! Where disk work runs: in place while the disk answers at once, else on a thread that may wait.
//!
//! A small file from a warm disk takes less time than handing it to another thread. A
//! sleeping disk or a slow share, though, must not hold up everybody's connections.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

/// An answer slower than this makes the disk a slow one,
const SLOW: Duration = Duration::from_millis(5);
/// for this many requests.
const WARY: u32 = 64;

/// How the disk has been answering.
#[derive(Debug, Default)]
pub struct Disk {
    wary: AtomicU32,
}

impl Disk {
    /// Runs short disk work.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let timed = move || {
            let start = Instant::now();
            let done = work();
            (done, start.elapsed())
        };
        let wary = self.wary.load(Ordering::Relaxed);
        let (done, took) = match wary {
            0 => timed(),
            _ => {
                self.wary.store(wary - 1, Ordering::Relaxed);
                let (done, took) = blocking(move || Ok(timed())).await?;
                (done, took)
            }
        };
        if took > SLOW {
            self.wary.store(WARY, Ordering::Relaxed);
        }
        done
    }
}

/// Runs work that may take its time.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(
            Kind::Io,
            format!("a worker ended early: {error}"),
        )),
    }
}
