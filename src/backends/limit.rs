//! A backend that has at most so many requests in flight. A download counts until its
//! body was read or dropped. Waiting for changes does not count: it waits by design, and
//! must not keep others from working. Neither does the question whether the remote is there:
//! a remote that is busy with us must not seem away.
//!
//! A request waits for its turn as long as those before it get on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::pulse::{Pulse, alive};
use super::{Backend, Capabilities, Changes, Copying, Download, Found, Upload};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;

/// How long a request waits for its turn while nothing moves.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Limit {
    inner: Arc<dyn Backend>,
    places: Arc<Semaphore>,
    /// Beats with what comes down; what ends within a deadline of its own is a pause.
    pulse: Pulse,
    patience: Duration,
}

impl Limit {
    /// Lets at most `requests` (at least one) through to `inner` at a time.
    pub fn new(inner: Arc<dyn Backend>, requests: usize) -> Limit {
        let places = Arc::new(Semaphore::new(requests.clamp(1, Semaphore::MAX_PERMITS)));
        Limit {
            inner,
            places,
            pulse: Pulse::default(),
            patience: PATIENCE,
        }
    }

    /// A download, which keeps its place until its body was read or dropped.
    async fn down(&self, asked: impl Future<Output = Result<Download>>) -> Result<Download> {
        let place = self.place().await?;
        let busy = self.pulse.pause();
        let mut download = asked.await?;
        drop(busy);
        let pulse = self.pulse.clone();
        let body = download.body.map(move |chunk| {
            let _held = &place;
            pulse.beat();
            chunk
        });
        download.body = Box::pin(body);
        Ok(download)
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        let turn = self.places.clone().acquire_owned();
        match alive(&self.pulse, |_| self.patience, turn).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                let why = "too many requests are in flight already";
                Err(Error::new(Kind::TimedOut, why))
            }
        }
    }
}

#[async_trait]
impl Backend for Limit {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.inner.capabilities().await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.list(batches).await
    }

    async fn epoch(&self) -> Result<Option<String>> {
        self.inner.epoch().await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.inner.changes(since, wait).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.head(key).await
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.find(key).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.down(self.inner.get(key, range, version)).await
    }

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        self.down(self.inner.get_among(key, version)).await
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.put(key, upload, precondition).await
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.copy(key, copying, precondition).await
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let _place = self.place().await?;
        let _busy = self.pulse.pause();
        self.inner.delete(key, version).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::{Memory, Op};
    use crate::backends::rate::{Pace, Rate};

    #[tokio::test]
    async fn p9_a_download_holds_its_place_until_it_is_dropped() {
        let memory = Memory::new();
        let key = RelPath::new(b"a").unwrap();
        memory.set_object(&key, b"abc", 1);
        let mut limit = Limit::new(Arc::new(memory.clone()), 1);
        limit.patience = Duration::from_millis(20);
        let held = limit.get(&key, None, None).await.unwrap();
        assert_eq!(limit.head(&key).await.unwrap_err().kind(), Kind::TimedOut);
        assert_eq!(memory.calls(Op::Head), 0);
        let cursor = memory.cursor();
        limit.changes(&cursor, Duration::ZERO).await.unwrap();
        drop(held);
        assert!(limit.head(&key).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn p6_a_turn_is_waited_for_as_long_as_others_get_on() {
        let memory = Memory::new();
        let key = RelPath::new(b"a").unwrap();
        memory.set_object(&key, &[1; 128 * 1024], 1);
        // Longer than anybody waits while nothing moves.
        let slow = Rate::new(Arc::new(memory.clone()), Pace::new(128 * 1024));
        let mut limit = Limit::new(Arc::new(slow), 1);
        limit.patience = Duration::from_millis(600);
        let mut first = limit.get(&key, None, None).await.unwrap();
        let reading = async {
            while let Some(chunk) = first.body.next().await {
                chunk.unwrap();
            }
            drop(first);
        };
        let (head, is_there, ()) = tokio::join!(limit.head(&key), limit.capabilities(), reading);
        assert!(head.unwrap().is_some() && is_there.is_ok());
    }
}
