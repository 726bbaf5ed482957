//! How fast the bytes of one remote go: a token bucket over the bodies of files, both ways
//! together, and the backend around a backend that applies it.
//!
//! What counts is the content of files: on its way up as it leaves the file, on its way down as
//! it is handed on. So a download may begin with what buffers on the way already hold. Listings
//! and questions pass freely. Whoever waits here waits for us, not for the remote: it counts as no
//! silence of the remote's (see [`Pulse::pause`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::body::CHUNK;
use super::pulse::Pulse;
use super::{Backend, ByteStream, Capabilities, Changes, Copying, Download, Found, Upload};
use crate::error::Result;
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;

/// How much of the time before counts: so long after a pause bytes go as fast as they can.
const BURST: Duration = Duration::from_millis(250);
/// Pieces a second that one body alone is cut into, so that many slow bodies all keep moving.
const PIECES: u64 = 8;
/// Smaller pieces are not worth their trouble.
const LEAST: usize = 1024;

/// The speed of everything that holds a clone of it; by default there is no limit.
#[derive(Debug, Clone, Default)]
pub struct Pace(Option<Arc<Meter>>);

#[derive(Debug)]
struct Meter {
    /// Bytes a second.
    rate: u64,
    /// Until when what was let through is paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    /// At most `rate` (at least one) bytes a second.
    pub fn new(rate: u64) -> Pace {
        Pace(Some(Arc::new(Meter {
            rate: rate.max(1),
            paid: Mutex::new(earlier(Instant::now())),
        })))
    }

    /// Most bytes to ask for at a time, so that everybody keeps moving.
    pub fn piece(&self) -> usize {
        let Some(meter) = &self.0 else {
            return CHUNK;
        };
        let piece = usize::try_from(meter.rate / PIECES).unwrap_or(CHUNK);
        piece.clamp(LEAST, CHUNK)
    }

    /// Waits, in the order of asking, until `bytes` more may go.
    pub async fn take(&self, bytes: usize) {
        if let Some(meter) = &self.0 {
            sleep_until(meter.reserve(Instant::now(), bytes)).await;
        }
    }

    /// The same on a thread that may be blocked.
    pub fn take_blocking(&self, bytes: usize) {
        if let Some(meter) = &self.0 {
            let now = Instant::now();
            std::thread::sleep(meter.reserve(now, bytes).saturating_duration_since(now));
        }
    }

    /// `body` at this pace. `pulse` is told of the waiting.
    pub(super) fn through(
        &self,
        body: impl Stream<Item = Result<Bytes>> + Send + 'static,
        pulse: &Pulse,
    ) -> ByteStream {
        if self.0.is_none() {
            return Box::pin(body);
        }
        let most = self.piece();
        let cut = body.flat_map(move |chunk| match chunk {
            Ok(bytes) => stream::iter(pieces(bytes, most)).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        });
        let (pace, pulse) = (self.clone(), pulse.clone());
        Box::pin(cut.then(move |piece| {
            let (pace, pulse) = (pace.clone(), pulse.clone());
            async move {
                if let Ok(bytes) = &piece {
                    let _paused = pulse.pause();
                    pace.take(bytes.len()).await;
                }
                piece
            }
        }))
    }
}

impl Meter {
    /// When bytes that somebody asks for `now` may go. Who then does not send them has wasted them.
    fn reserve(&self, now: Instant, bytes: usize) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(earlier(now)) + cost;
        *paid
    }
}

fn earlier(now: Instant) -> Instant {
    now.checked_sub(BURST).unwrap_or(now)
}

fn pieces(mut bytes: Bytes, most: usize) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let next = bytes.split_to(most.min(bytes.len()));
        (!next.is_empty()).then_some(next)
    })
}

/// See the module.
pub struct Rate {
    inner: Arc<dyn Backend>,
    pace: Pace,
}

impl Rate {
    /// Holds the bodies of `inner` to `pace`.
    pub fn new(inner: Arc<dyn Backend>, pace: Pace) -> Rate {
        Rate { inner, pace }
    }

    fn paced(&self, mut download: Download) -> Download {
        // Its own deadlines run only while it is asked for more.
        download.body = self.pace.through(download.body, &Pulse::default());
        download
    }
}

#[async_trait]
impl Backend for Rate {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.inner.capabilities().await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.inner.list(batches).await
    }

    async fn epoch(&self) -> Result<Option<String>> {
        self.inner.epoch().await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.inner.changes(since, wait).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.inner.head(key).await
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        self.inner.find(key).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let download = self.inner.get(key, range, version).await?;
        Ok(self.paced(download))
    }

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        let download = self.inner.get_among(key, version).await?;
        Ok(self.paced(download))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let upload = Upload {
            pace: self.pace.clone(),
            ..upload
        };
        self.inner.put(key, upload, precondition).await
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        self.inner.copy(key, copying, precondition).await
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.inner.delete(key, version).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::body;
    use crate::backends::memory::{Memory, upload_of};
    use crate::backends::pulse::alive;
    use crate::error::Kind;

    const KIB: usize = 1024;

    fn key(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// A remote that holds a file `a` of `size` bytes, at `rate` bytes a second.
    fn limited(size: usize, rate: usize) -> Rate {
        let memory = Memory::new();
        memory.set_object(&key("a"), &vec![7; size], 1);
        Rate::new(Arc::new(memory), Pace::new(rate as u64))
    }

    async fn read(rate: &Rate) -> usize {
        let mut got = rate.get(&key("a"), None, None).await.unwrap();
        let mut sum = 0;
        while let Some(chunk) = got.body.next().await {
            sum += chunk.unwrap().len();
        }
        sum
    }

    #[test]
    fn everybody_pays_in_turn_and_a_pause_earns_a_short_burst() {
        let now = Instant::now();
        let meter = Meter {
            rate: 1000,
            paid: Mutex::new(now),
        };
        let after = |ms| now + Duration::from_millis(ms);
        assert_eq!(meter.reserve(now, 500), after(500));
        assert_eq!(meter.reserve(now, 1000), after(1500));
        assert_eq!(meter.reserve(after(100), 0), after(1500));
        // An hour of silence is worth no more than a burst.
        let later = now + Duration::from_secs(3600);
        assert_eq!(meter.reserve(later, 250), later);
        assert_eq!(meter.reserve(later, 1), later + Duration::from_millis(1));
    }

    #[tokio::test]
    async fn bytes_down_and_up_share_one_rate() {
        let rate = limited(512 * KIB, 2048 * KIB);
        let begun = Instant::now();
        let sent = upload_of(&vec![1; 512 * KIB], 1);
        let b = key("b");
        let up = rate.put(&b, sent, Precondition::Absent);
        let (one, other, meta) = tokio::join!(read(&rate), read(&rate), up);
        assert_eq!((one, other), (512 * KIB, 512 * KIB));
        assert_eq!(meta.unwrap().size, 512 * KIB as u64);
        // 1.5 MiB at 2 MiB a second, but for the burst.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(499), "{took:?}");
    }

    #[tokio::test]
    async fn what_is_no_body_does_not_wait() {
        // A minute's work, of which the first byte is taken.
        let rate = limited(64 * KIB, KIB);
        let mut slow = rate.get(&key("a"), None, None).await.unwrap();
        let body = tokio::time::timeout(Duration::from_millis(100), async {
            while slow.body.next().await.is_some() {}
        });
        assert!(body.await.is_err(), "the body came at once");
        let asked = async {
            rate.head(&key("a")).await.unwrap();
            rate.capabilities().await.unwrap();
        };
        let soon = Duration::from_secs(20);
        tokio::time::timeout(soon, asked).await.unwrap();
    }

    #[tokio::test]
    async fn p6_waiting_for_the_rate_is_no_silence_of_the_remote() {
        let stall = Duration::from_millis(200);
        // One chunk, and so one beat, at four times the burst.
        let upload = Upload {
            pace: Pace::new(256 * KIB as u64),
            ..upload_of(&vec![1; 256 * KIB], 1)
        };
        let pulse = Pulse::default();
        let mut sent = body::outgoing(&upload, 0..upload.size, &pulse);
        let all = async {
            let mut sum = 0;
            while let Some(piece) = sent.next().await {
                let piece = piece.unwrap();
                assert!(piece.len() <= 32 * KIB, "{}", piece.len());
                sum += piece.len();
            }
            sum
        };
        assert_eq!(alive(&pulse, |_| stall, all).await.unwrap(), 256 * KIB);
        let stuck = alive(&pulse, |_| stall, std::future::pending::<()>()).await;
        assert_eq!(stuck.unwrap_err().kind(), Kind::TimedOut);
    }
}
