//! Learns the writers' times of what a listing told only the arrival of: asks for each such
//! object once, a few at a time, in the background.
//!
//! What is learned is stored with the version it belongs to, so a restart asks for nothing that
//! is known. A remote that is away is left alone until its next listing.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::backends::remote::Remote;
use crate::clock::Clock;
use crate::error::Result;
use crate::index::Index;
use crate::index::learn::{Rough, rough};
use crate::object::Meta;

/// Questions at a time: readers come first.
const WIDTH: usize = 8;
/// Answers that are written down together.
const PAGE: usize = 256;

/// One remote's.
pub struct Times {
    remote: Arc<Remote>,
    index: Arc<Index>,
    clock: Clock,
}

impl Times {
    pub fn new(remote: Arc<Remote>, index: Arc<Index>, clock: Clock) -> Times {
        Times {
            remote,
            index,
            clock,
        }
    }

    /// Runs until `stop`: now, and after each listing.
    pub async fn run(self, stop: CancellationToken) {
        let mut listed = self.remote.listed();
        loop {
            let pass = async {
                listed.mark_unchanged();
                if let Err(error) = self.pass().await {
                    tracing::debug!(remote = %self.remote.shown, %error, "not all times are learned; after the next listing");
                }
                listed.changed().await
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = pass => if changed.is_err() { return },
            }
        }
    }

    /// Asks for everything whose time is not known. Errors: the remote's, or the index's.
    async fn pass(&self) -> Result<()> {
        loop {
            let id = self.remote.id;
            let page = self.index.read(|c| rough(c, id, PAGE))?;
            if page.is_empty() {
                return Ok(());
            }
            let asked: Vec<_> = futures_util::stream::iter(page)
                .map(|rough| self.ask(rough))
                .buffer_unordered(WIDTH)
                .collect()
                .await;
            let mut failed = None;
            let mut learned = Vec::with_capacity(asked.len());
            for answer in asked {
                match answer {
                    Ok(answer) => learned.push(answer),
                    Err(error) => failed = Some(error),
                }
            }
            let now = self.clock.now_ns();
            self.index
                .edit_later(move |w| {
                    for (rough, found) in learned {
                        w.correct(id, &rough.key, Some(&rough.version), found, now)?;
                    }
                    Ok(())
                })
                .await?;
            if let Some(error) = failed {
                self.remote.heard(&error);
                return Err(error);
            }
            self.remote.is_here();
        }
    }

    async fn ask(&self, rough: Rough) -> Result<(Rough, Option<Meta>)> {
        let mut found = self.remote.backend.head(&rough.key).await?;
        // There is nobody else to ask, whatever it says.
        if let Some(arrival) = found.as_mut().and_then(|meta| meta.arrival.as_mut()) {
            arrival.only = false;
        }
        Ok((rough, found))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::backends::memory::{Fault, Memory, Op};
    use crate::error::Kind;
    use crate::index::EVENTS;
    use crate::object::{Arrival, Change, Object};
    use crate::path::RelPath;

    #[tokio::test(flavor = "multi_thread")]
    async fn p13_every_time_is_learned_once() {
        let dir = tempfile::tempdir().unwrap();
        let (events, _kept) = sync_channel(EVENTS);
        let (index, _) = Index::open(&dir.path().join("index.db"), events).unwrap();
        let index = Arc::new(index);
        let rows = index.edit(|w| w.set_remotes(&[("s3://b".into(), false)]));
        let id = rows.unwrap()[0].id;
        let memory = Memory::new();
        let told: Vec<_> = (0..2 * PAGE + 3)
            .map(|n| {
                let key = RelPath::new(format!("f{n}").as_bytes()).unwrap();
                let mut meta = memory.set_object(&key, b"abc", n as i64);
                let at_ns = 1_700_000_000_000_000_000;
                meta.mtime_ns = at_ns;
                meta.arrival = Some(Arrival { at_ns, only: true });
                Change::Put(Object { key, meta })
            })
            .collect();
        let all = told.len() as u64;
        index.edit(move |w| w.apply(id, &told, None, 1)).unwrap();
        let backend = Arc::new(memory.clone());
        let url = "s3://b".to_owned();
        let remote = Arc::new(Remote::new(id, url, false, backend, true, Clock::System));
        // The first pass meets a failure; the next listing tries again.
        memory.script(Op::Head, 1, Fault::Fail(Kind::Unavailable));
        let (times, stop) = (
            Times::new(remote.clone(), index.clone(), Clock::System),
            CancellationToken::new(),
        );
        let running = tokio::spawn(times.run(stop.clone()));
        let begun = Instant::now();
        while !index.read(|c| rough(c, id, 1)).unwrap().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "not learned");
            remote.set_listed();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(memory.calls(Op::Head), all + 1);
        stop.cancel();
        running.await.unwrap();
    }
}
