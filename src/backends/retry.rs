//! A backend that asks again when asking again may help: a few times, ever later, with
//! full jitter, and never beyond a total deadline.
//!
//! An upload or a copy whose answer was lost is not repeated blindly: the remote is asked
//! first what it has. Listings are not repeated, for half of one may have been taken already;
//! neither are bodies that break off, whose rest the caller can ask for.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::verdict::conflict;
use super::{Backend, Capabilities, Changes, Copying, Download, Found, Upload};
use crate::clock::Chance;
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// All attempts, the first included.
    pub attempts: u32,
    /// The longest wait before the second attempt; it doubles from there.
    pub first: Duration,
    /// The longest wait before any attempt.
    pub most: Duration,
    /// No attempt begins later than this after the first did.
    pub total: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            attempts: 3,
            first: Duration::from_millis(100),
            most: Duration::from_secs(1),
            total: Duration::from_secs(4),
        }
    }
}

/// See the module.
pub struct Retry {
    inner: Arc<dyn Backend>,
    policy: Policy,
    chance: Chance,
}

/// One operation's attempts so far.
struct Attempts<'a> {
    retry: &'a Retry,
    begun: Instant,
    made: u32,
}

impl Attempts<'_> {
    /// Waits until the next attempt may begin; gives `error` back when none may.
    async fn next(&mut self, error: Error) -> Result<()> {
        let policy = &self.retry.policy;
        self.made += 1;
        if !error.kind().is_transient() || self.made >= policy.attempts {
            return Err(error);
        }
        let doubled = policy.first.saturating_mul(1 << (self.made - 1).min(16));
        let wait = doubled
            .min(policy.most)
            .mul_f64(self.retry.chance.fraction());
        if self.begun.elapsed() + wait > policy.total {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl Retry {
    /// Repeats what fails at `inner`.
    pub fn new(inner: Arc<dyn Backend>, policy: Policy) -> Retry {
        let chance = Chance::from_system();
        Retry {
            inner,
            policy,
            chance,
        }
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts {
            retry: self,
            begun: Instant::now(),
            made: 0,
        }
    }

    async fn again<T, F: Future<Output = Result<T>> + Send>(
        &self,
        ask: impl Fn() -> F + Send + Sync,
    ) -> Result<T> {
        let mut attempts = self.attempts();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.next(error).await?,
            }
        }
    }

    /// What `send` comes to, which publishes something under `key`. `is_ours` tells that from what
    /// others do.
    async fn publish<F: Future<Output = Result<Meta>> + Send>(
        &self,
        key: &RelPath,
        send: impl Fn() -> F + Send + Sync,
        is_ours: &(dyn Fn(&Meta) -> bool + Send + Sync),
        precondition: &Precondition,
    ) -> Result<Meta> {
        let mut attempts = self.attempts();
        let mut outcome = send().await;
        loop {
            match outcome {
                Ok(meta) => return Ok(meta),
                Err(error) => attempts.next(error).await?,
            }
            // From here on an earlier attempt may have arrived, or may still arrive.
            outcome = match self.settle(key, is_ours, precondition).await {
                Ok(Some(meta)) => Ok(meta),
                Ok(None) => match send().await {
                    Err(lost) if lost.kind() == Kind::Conflict => {
                        let settled = self.settle(key, is_ours, precondition).await;
                        settled.and_then(|ours| ours.ok_or(lost))
                    }
                    other => other,
                },
                Err(error) => Err(error),
            };
        }
    }

    /// What became of an upload without an answer: ours if it arrived, none if the
    /// remote is as it was before, `Conflict` if somebody else was there.
    async fn settle(
        &self,
        key: &RelPath,
        is_ours: &(dyn Fn(&Meta) -> bool + Send + Sync),
        precondition: &Precondition,
    ) -> Result<Option<Meta>> {
        let now = self.inner.head(key).await?;
        let still = match (&now, precondition) {
            (Some(meta), _) if is_ours(meta) => return Ok(now),
            (_, Precondition::None) => true,
            (now, Precondition::Absent) => now.is_none(),
            (Some(meta), Precondition::Matches(version)) => meta.version == *version,
            (None, Precondition::Matches(_)) => false,
        };
        match still {
            true => Ok(None),
            false => Err(conflict().about(key)),
        }
    }
}

/// Whether `meta` can only be what was sent. Without a hash, length and time must do:
/// they are the sender's, to the nanosecond.
fn is_ours(meta: &Meta, upload: &Upload) -> bool {
    match meta.sha256 {
        Some(sha256) => sha256 == upload.sha256,
        None => meta.size == upload.size && meta.mtime_ns == upload.mtime_ns,
    }
}

#[async_trait]
impl Backend for Retry {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.again(|| self.inner.capabilities()).await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.inner.list(batches).await
    }

    async fn epoch(&self) -> Result<Option<String>> {
        self.again(|| self.inner.epoch()).await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.again(|| self.inner.changes(since, wait)).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.again(|| self.inner.head(key)).await
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        self.again(|| self.inner.find(key)).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.again(|| self.inner.get(key, range.clone(), version))
            .await
    }

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        self.again(|| self.inner.get_among(key, version)).await
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let put = || self.inner.put(key, upload.clone(), precondition.clone());
        let is_ours = |meta: &Meta| is_ours(meta, &upload);
        self.publish(key, put, &is_ours, &precondition).await
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        let copy = || self.inner.copy(key, copying.clone(), precondition.clone());
        let is_ours = |meta: &Meta| copying.is_made(meta);
        self.publish(key, copy, &is_ours, &precondition).await
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.again(|| self.inner.delete(key, version)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::{Fault, Memory, Op, upload_of};

    fn key() -> RelPath {
        RelPath::new(b"a/b").unwrap()
    }

    fn retrying(memory: &Memory) -> Retry {
        let policy = Policy {
            first: Duration::from_micros(10),
            ..Policy::default()
        };
        Retry::new(Arc::new(memory.clone()), policy)
    }

    #[tokio::test]
    async fn p6_what_may_pass_is_asked_again_a_few_times_and_the_rest_once() {
        let memory = Memory::new();
        let retry = retrying(&memory);
        memory.script(Op::Head, 2, Fault::Fail(Kind::Unavailable));
        assert!(retry.head(&key()).await.unwrap().is_none());
        assert_eq!(memory.calls(Op::Head), 3);
        memory.script(Op::Head, 3, Fault::Fail(Kind::Offline));
        assert_eq!(retry.head(&key()).await.unwrap_err().kind(), Kind::Offline);
        assert_eq!(memory.calls(Op::Head), 6);
        memory.script(Op::Head, 1, Fault::Fail(Kind::Unauthorized));
        let error = retry.head(&key()).await.unwrap_err();
        assert_eq!(
            (error.kind(), memory.calls(Op::Head)),
            (Kind::Unauthorized, 7)
        );
    }

    #[tokio::test]
    async fn p6_no_attempt_begins_after_the_total_deadline() {
        let memory = Memory::new();
        let policy = Policy {
            total: Duration::ZERO,
            ..Policy::default()
        };
        let retry = Retry::new(Arc::new(memory.clone()), policy);
        memory.script(Op::Head, 1, Fault::Fail(Kind::Offline));
        assert!(retry.head(&key()).await.is_err());
        assert_eq!(memory.calls(Op::Head), 1);
    }

    #[tokio::test]
    async fn p5_an_upload_that_lost_its_answer_is_not_sent_twice() {
        for only in [Precondition::None, Precondition::Absent] {
            let memory = Memory::new();
            let retry = retrying(&memory);
            memory.script(Op::Put, 1, Fault::LoseAnswer(Kind::TimedOut));
            let meta = retry
                .put(&key(), upload_of(b"ours", 5), only)
                .await
                .unwrap();
            assert_eq!(memory.object(&key()).unwrap().0, meta);
            assert_eq!((memory.calls(Op::Put), memory.calls(Op::Head)), (1, 1));
        }
    }

    #[tokio::test]
    async fn p5_an_upload_that_did_not_arrive_is_sent_again() {
        let memory = Memory::new();
        let old = memory.set_object(&key(), b"old", 1);
        memory.script(Op::Put, 1, Fault::Fail(Kind::Offline));
        memory.script(Op::Head, 1, Fault::Fail(Kind::Offline));
        let only = Precondition::Matches(old.version);
        let retry = retrying(&memory);
        let sent = upload_of(b"new", 5);
        retry.put(&key(), sent, only).await.unwrap();
        assert_eq!(&memory.object(&key()).unwrap().1[..], b"new");
        assert_eq!((memory.calls(Op::Put), memory.calls(Op::Head)), (2, 2));
    }

    #[tokio::test]
    async fn p5_somebody_elses_version_is_a_conflict_also_after_a_lost_answer() {
        let memory = Memory::new();
        memory.set_object(&key(), b"theirs", 1);
        memory.script(Op::Put, 1, Fault::Fail(Kind::TimedOut));
        let retry = retrying(&memory);
        let sent = upload_of(b"ours", 5);
        let error = retry
            .put(&key(), sent, Precondition::Absent)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(&memory.object(&key()).unwrap().1[..], b"theirs");
    }

    #[tokio::test]
    async fn p5_a_copy_that_lost_its_answer_is_made_once() {
        let memory = Memory::new();
        let source = memory.set_object(&key(), b"bytes", 1);
        let copying = Copying {
            from: key(),
            version: source.version,
            size: 5,
            mtime_ns: 7,
            sha256: source.sha256,
        };
        let to = RelPath::new(b"to").unwrap();
        let retry = retrying(&memory);
        memory.script(Op::Copy, 1, Fault::LoseAnswer(Kind::TimedOut));
        let copy = retry.copy(&to, copying.clone(), Precondition::Absent);
        assert_eq!(copy.await.unwrap(), memory.object(&to).unwrap().0);
        assert_eq!((memory.calls(Op::Copy), memory.calls(Op::Head)), (1, 1));
        // What did not arrive is asked for again.
        memory.remove_object(&to);
        memory.script(Op::Copy, 1, Fault::Fail(Kind::Unavailable));
        let copy = retry.copy(&to, copying, Precondition::Absent);
        assert_eq!(copy.await.unwrap().mtime_ns, 7);
        assert_eq!((memory.calls(Op::Copy), memory.calls(Op::Head)), (3, 2));
    }

    #[tokio::test]
    async fn a_listing_is_not_repeated() {
        let memory = Memory::new();
        memory.script(Op::List, 1, Fault::Fail(Kind::Offline));
        let (batches, _taken) = mpsc::channel(1);
        assert!(retrying(&memory).list(batches).await.is_err());
        assert_eq!(memory.calls(Op::List), 1);
    }
}
