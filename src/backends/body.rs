//! Bytes on their way, either direction.
//!
//! A file's bytes as a stream, read by position off the async threads; and the guard that
//! every download passes: exactly the promised number of bytes, each chunk within its
//! deadline, or an error. It does not hash.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout;

use super::pulse::Pulse;
use super::{ByteStream, Source, Upload};
use crate::error::{Error, Kind, Result};
use crate::object::ByteRange;

/// What has to come of a body within the longest time between two pieces of it: a server that gives
/// a byte now and then would hold its readers for hours.
const LEAST: usize = 1024;

/// How much is read at a time.
pub const CHUNK: usize = 256 * 1024;

/// Looked at once the last byte was read, before it is given out.
pub type Check = Arc<dyn Fn(&File) -> Result<()> + Send + Sync>;

/// `range` of what is sent, at the upload's pace; `pulse` beats once for each [`CHUNK`] of it. A
/// file that is shorter ends the stream with `Corrupt`.
pub(super) fn outgoing(upload: &Upload, range: ByteRange, pulse: &Pulse) -> ByteStream {
    let chunks = range_stream(upload.file.clone(), range, Arc::new(|_| Ok(())));
    let beat = pulse.clone();
    let chunks = chunks.inspect(move |_| beat.beat());
    upload.pace.through(chunks, pulse)
}

/// `range` of a file, if `check` still holds when its last byte was read.
pub fn range_stream(file: Arc<Source>, range: ByteRange, check: Check) -> ByteStream {
    let step = move |at: u64| {
        let (file, check) = (file.clone(), check.clone());
        async move {
            if at >= range.end {
                return None;
            }
            let end = range.end.min(at.saturating_add(CHUNK as u64));
            let last = end == range.end;
            let read = move || {
                let bytes = read_range(&file, at..end)?;
                if last {
                    check(&file)?;
                }
                Ok(bytes)
            };
            // After an error there is no next step.
            Some(match off_thread(read).await {
                Ok(bytes) => (Ok(bytes), end),
                Err(error) => (Err(error), u64::MAX),
            })
        }
    };
    Box::pin(stream::unfold(range.start, step))
}

fn read_range(file: &File, range: ByteRange) -> Result<Bytes> {
    let length = usize::try_from(range.end - range.start).unwrap_or(CHUNK);
    let mut bytes = BytesMut::zeroed(length);
    match file.read_exact_at(&mut bytes, range.start) {
        Ok(()) => Ok(bytes.freeze()),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            let why = "the file became shorter while it was read";
            Err(Error::new(Kind::Corrupt, why))
        }
        Err(e) => Err(e.into()),
    }
}

/// Runs what may block on a thread that may be blocked.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "the work was stopped")))
}

/// Passes on exactly `length` bytes, each chunk within `stall`, and [`LEAST`] bytes within as long
/// at least; anything else ends the stream with an error: `Corrupt` for too few or too many,
/// `TimedOut`, or what `inner` said.
pub(super) fn exactly(
    inner: impl Stream<Item = Result<Bytes>> + Send + 'static,
    length: u64,
    stall: Duration,
) -> ByteStream {
    let state = Some((Box::pin(inner), length, Trickle::default()));
    Box::pin(stream::unfold(state, move |state| async move {
        let (mut inner, left, mut trickle) = state?;
        match next_within(&mut inner, left, stall, &mut trickle).await {
            Ok(None) => None,
            Ok(Some(bytes)) => {
                let left = left - bytes.len() as u64;
                Some((Ok(bytes), Some((inner, left, trickle))))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// Passes on what comes, each chunk within `stall`, and [`LEAST`] bytes within as long at least.
pub(super) fn steady(
    inner: impl Stream<Item = Result<Bytes>> + Send + 'static,
    stall: Duration,
) -> ByteStream {
    let state = Some((Box::pin(inner), Trickle::default()));
    Box::pin(stream::unfold(state, move |state| async move {
        let (mut inner, mut trickle) = state?;
        match next_steadily(&mut inner, stall, |_| true, &mut trickle).await {
            Some(Ok(bytes)) => Some((Ok(bytes), Some((inner, trickle)))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    }))
}

/// What came lately of a body, and how long it was waited for: not how long its taker took.
#[derive(Default)]
struct Trickle {
    waited: Duration,
    came: usize,
}

impl Trickle {
    fn took(&mut self, waited: Duration, came: usize, stall: Duration) -> Result<()> {
        self.waited += waited;
        self.came += came;
        if self.came >= LEAST {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        if self.waited <= stall {
            return Ok(());
        }
        let (bytes, seconds) = (self.came, self.waited.as_secs_f32());
        let why = format!("only {bytes} bytes came within {seconds:.0} s");
        Err(Error::new(Kind::TimedOut, why))
    }
}

/// The next chunk; `goes_on`: whether more is to come after one of that length.
async fn next_steadily(
    inner: &mut (impl Stream<Item = Result<Bytes>> + Unpin),
    stall: Duration,
    goes_on: impl Fn(u64) -> bool,
    trickle: &mut Trickle,
) -> Option<Result<Bytes>> {
    let begun = Instant::now();
    let Ok(next) = timeout(stall, inner.next()).await else {
        let why = format!("no byte came for {} s", stall.as_secs_f32());
        return Some(Err(Error::new(Kind::TimedOut, why)));
    };
    if let Some(Ok(bytes)) = &next
        && goes_on(bytes.len() as u64)
        && let Err(error) = trickle.took(begun.elapsed(), bytes.len(), stall)
    {
        return Some(Err(error));
    }
    next
}

async fn next_within(
    inner: &mut (impl Stream<Item = Result<Bytes>> + Unpin),
    left: u64,
    stall: Duration,
    trickle: &mut Trickle,
) -> Result<Option<Bytes>> {
    let next = next_steadily(inner, stall, |length| length < left, trickle).await;
    match next.transpose()? {
        None if left > 0 => {
            let why = format!("the body ended {left} bytes early");
            Err(Error::new(Kind::Corrupt, why))
        }
        Some(bytes) if bytes.len() as u64 > left => Err(Error::new(
            Kind::Corrupt,
            "the body is longer than promised",
        )),
        other => Ok(other),
    }
}

/// `range` as far as it lies within `size` bytes; all of them if there is no range.
pub(super) fn cut(range: Option<ByteRange>, size: u64) -> ByteRange {
    let range = range.unwrap_or(0..size);
    let start = range.start.min(size);
    start..range.end.clamp(start, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::upload_of;
    use std::io::Write;

    async fn all(mut stream: ByteStream) -> (usize, Option<Kind>) {
        let mut sum = 0;
        while let Some(next) = stream.next().await {
            match next {
                Ok(bytes) => sum += bytes.len(),
                Err(e) => {
                    assert!(stream.next().await.is_none(), "went on after an error");
                    return (sum, Some(e.kind()));
                }
            }
        }
        (sum, None)
    }

    fn guarded(chunks: &[&'static [u8]], length: u64) -> ByteStream {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Bytes::from_static(c))).collect();
        exactly(stream::iter(chunks), length, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn p1_a_body_is_exactly_as_long_as_promised() {
        assert_eq!(all(guarded(&[b"ab", b"c"], 3)).await, (3, None));
        assert_eq!(all(guarded(&[], 0)).await, (0, None));
        assert_eq!(all(guarded(&[b"ab"], 3)).await, (2, Some(Kind::Corrupt)));
        let long = guarded(&[b"ab", b"cd"], 3);
        assert_eq!(all(long).await, (2, Some(Kind::Corrupt)));
    }

    #[tokio::test]
    async fn p6_a_body_that_stalls_ends() {
        let stalled = exactly(stream::pending(), 3, Duration::from_millis(20));
        assert_eq!(all(stalled).await, (0, Some(Kind::TimedOut)));
    }

    #[tokio::test]
    async fn p6_a_body_that_trickles_ends_and_a_slow_one_does_not() {
        let trickling = |piece: &'static [u8], pieces: usize| {
            let pieces = stream::iter(0..pieces).then(move |_| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(Bytes::from_static(piece))
            });
            let stall = Duration::from_millis(200);
            exactly(pieces, 1 << 20, stall)
        };
        let (came, why) = all(trickling(b"x", 1 << 20)).await;
        assert!(came < 40 && why == Some(Kind::TimedOut), "{came} {why:?}");
        // As long as its pieces come, and something with them, it takes as long as it takes.
        let (came, why) = all(trickling(&[7; 4096], 64)).await;
        assert_eq!((came, why), (64 * 4096, Some(Kind::Corrupt)));
    }

    #[tokio::test]
    async fn a_file_streams_in_chunks_and_notices_that_it_shrank() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; CHUNK + 5]).unwrap();
        let file = Arc::new(Source::from(file));
        let upload = Upload {
            file: file.clone(),
            ..upload_of(b"", 1)
        };
        let pulse = Pulse::default();
        let whole = outgoing(&upload, 0..CHUNK as u64 + 5, &pulse);
        assert_eq!(all(whole).await, (CHUNK + 5, None));
        assert_eq!(pulse.count(), 2);
        let short = outgoing(&upload, 0..CHUNK as u64 + 6, &pulse);
        assert_eq!(all(short).await, (CHUNK, Some(Kind::Corrupt)));
        let check: Check = Arc::new(|_| Err(Error::new(Kind::Stale, "changed")));
        let changed = range_stream(file, 2..10, check);
        assert_eq!(all(changed).await, (0, Some(Kind::Stale)));
    }

    #[test]
    fn ranges_are_cut_to_the_size() {
        assert_eq!(cut(None, 5), 0..5);
        assert_eq!(cut(Some(2..9), 5), 2..5);
        assert_eq!(cut(Some(7..9), 5), 5..5);
        assert_eq!(cut(Some(3..3), 5), 3..3);
    }
}
