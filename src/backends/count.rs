//! A backend that counts what goes to and comes from a remote, one attempt at a time. A file that
//! comes among others counts as a request.
//!
//! Counts requests, failures and bytes; a clear answer (no such file, another version) is
//! no failure. Refused names are counted by who takes the listing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Backend, Capabilities, Changes, Copying, Download, Found, Upload};
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;

/// See the module.
pub struct Count {
    inner: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
}

impl Count {
    /// Counts what is asked of `inner`.
    pub fn new(inner: Arc<dyn Backend>, metrics: Arc<Metrics>) -> Count {
        Count { inner, metrics }
    }

    async fn counted<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        self.metrics.requests.add(1);
        let answer = asked.await;
        if let Err(error) = &answer {
            fail(&self.metrics, error);
        }
        answer
    }

    fn measured(&self, mut download: Download) -> Download {
        let metrics = self.metrics.clone();
        let body = download.body.inspect(move |chunk| match chunk {
            Ok(bytes) => metrics.bytes_down.add(bytes.len() as u64),
            Err(error) => fail(&metrics, error),
        });
        download.body = Box::pin(body);
        download
    }
}

fn fail(metrics: &Metrics, error: &Error) {
    let is_answer = matches!(error.kind(), Kind::NotFound | Kind::Stale | Kind::Conflict);
    metrics.failures.add(u64::from(!is_answer));
}

#[async_trait]
impl Backend for Count {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.counted(self.inner.capabilities()).await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.counted(self.inner.list(batches)).await
    }

    async fn epoch(&self) -> Result<Option<String>> {
        self.counted(self.inner.epoch()).await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.counted(self.inner.changes(since, wait)).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.counted(self.inner.head(key)).await
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        self.counted(self.inner.find(key)).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let got = self.counted(self.inner.get(key, range, version)).await;
        got.map(|download| self.measured(download))
    }

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        let got = self.counted(self.inner.get_among(key, version)).await;
        got.map(|download| self.measured(download))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let size = upload.size;
        let put = self.inner.put(key, upload, precondition);
        let meta = self.counted(put).await?;
        self.metrics.bytes_up.add(size);
        Ok(meta)
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        let made = self.inner.copy(key, copying, precondition).await;
        // Who makes no copies was not asked.
        match &made {
            Err(error) if error.kind() == Kind::Unsupported => {}
            made => {
                self.metrics.requests.add(1);
                made.as_ref()
                    .map_or_else(|error| fail(&self.metrics, error), drop);
            }
        }
        made
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.counted(self.inner.delete(key, version)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::{Fault, Memory, Op, upload_of};

    #[tokio::test]
    async fn p14_every_request_and_byte_is_counted() {
        let memory = Memory::new();
        let metrics = Arc::new(Metrics::default());
        let count = Count::new(Arc::new(memory.clone()), metrics.clone());
        let key = RelPath::new(b"a").unwrap();
        count
            .put(&key, upload_of(b"four", 1), Precondition::Absent)
            .await
            .unwrap();
        let mut got = count.get(&key, Some(1..3), None).await.unwrap();
        while got.body.next().await.is_some() {}
        count
            .put(&key, upload_of(b"no", 1), Precondition::Absent)
            .await
            .unwrap_err();
        memory.script(Op::Head, 1, Fault::Fail(Kind::Offline));
        count.head(&key).await.unwrap_err();
        let counts = metrics.snapshot();
        assert_eq!((counts.requests, counts.failures), (4, 1));
        assert_eq!((counts.bytes_up, counts.bytes_down), (4, 2));
    }
}
