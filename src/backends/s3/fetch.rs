//! Bytes of an object on their way down; large ones by several requests at once.
//!
//! The bytes come in order whatever brought them. What comes early waits in memory: at most
//! [`ROOM`] parts of all downloads of a remote together; whoever finds no room there
//! streams its next part alone.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream as Coming;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, corrupt, stale};
use super::door::{Door, timed};
use super::failure::broken;
use crate::backends::http::{content_range, range_header};
use crate::backends::{ByteStream, body};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Version};

/// The length of one part.
const PART: u64 = 8 << 20;
/// From this length on, a body comes in parts.
const LARGE: u64 = 2 * PART;
/// Parts of all downloads that may wait in memory.
pub(super) const ROOM: usize = 12;

/// One version of one object.
pub(super) struct Source {
    pub(super) door: Arc<Door>,
    pub(super) key: String,
    pub(super) version: Version,
}

/// A part that came, and its place in memory.
type Part = (Vec<Bytes>, OwnedSemaphorePermit);

/// Asks for `range` of an object, or for all of it.
pub(super) async fn ask(
    door: &Door,
    key: &str,
    range: Option<&ByteRange>,
    version: Option<&Version>,
) -> Result<GetObjectOutput> {
    let request = door
        .client()
        .await?
        .get_object()
        .bucket(door.name())
        .key(key)
        .set_range(range.map(range_header))
        .set_if_match(version.map(Version::to_etag));
    // Asked for behind the SDK's back, which would check bodies that come whole and no others.
    let request = request.customize().mutate_request(|request| {
        request
            .headers_mut()
            .insert("x-amz-checksum-mode", "ENABLED");
    });
    let answer = timed(door.times.answer, request.send()).await;
    answer.map_err(|error| match error.kind() {
        Kind::Conflict => stale(),
        _ => error,
    })
}

/// Which bytes an answer brings, and how long the whole object is.
pub(super) fn place(answer: &GetObjectOutput) -> Result<(ByteRange, u64)> {
    let length = answer::size(answer.content_length())?;
    match answer.content_range() {
        None => Ok((0..length, length)),
        Some(text) => match content_range(text) {
            Some((range, size)) if range.end - range.start == length => Ok((range, size)),
            _ => Err(corrupt("the answer's length is not that of its range")),
        },
    }
}

/// The pieces of an answer's body.
fn pieces(body: Coming) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(bytes) => Some((Ok(bytes), Some(body))),
            Err(error) => Some((Err(broken(&error)), None)),
        }
    })
}

async fn pass(out: &mpsc::Sender<Result<Bytes>>, bytes: Bytes) -> Result<()> {
    let gone = |_| Error::new(Kind::Cancelled, "nobody reads the body any more");
    out.send(Ok(bytes)).await.map_err(gone)
}

impl Source {
    /// `range` of the object, of which `first` is an answer that brings it from its start.
    pub(super) fn stream(self, first: Coming, range: ByteRange) -> ByteStream {
        let times = self.door.times;
        let length = range.end - range.start;
        if length < LARGE || self.door.lanes < 2 {
            return body::exactly(pieces(first), length, times.pause);
        }
        let (out, mut came) = mpsc::channel(2);
        let source = Arc::new(self);
        let task = tokio::spawn(async move {
            if let Err(error) = source.fetch(first, range, &out).await {
                // Nobody hears it if nobody reads any more.
                let _ = out.send(Err(error)).await;
            }
        });
        let task = AbortOnDropHandle::new(task);
        let pieces = stream::poll_fn(move |context| {
            let _runs_while_read = &task;
            came.poll_recv(context)
        });
        // A part may have to be asked for before its first byte comes.
        body::exactly(pieces, length, times.answer + times.pause)
    }

    async fn fetch(
        self: &Arc<Self>,
        first: Coming,
        range: ByteRange,
        out: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<()> {
        let mut next = range.start + PART;
        let mut ahead = VecDeque::new();
        self.look_ahead(&mut ahead, &mut next, range.end);
        self.beginning(first, out).await?;
        loop {
            self.look_ahead(&mut ahead, &mut next, range.end);
            if let Some(part) = ahead.pop_front() {
                let stopped = |_| Error::new(Kind::Cancelled, "the download was stopped");
                let (pieces, _place): Part = part.await.map_err(stopped)??;
                for bytes in pieces {
                    pass(out, bytes).await?;
                }
            } else if next < range.end {
                let part = next..range.end.min(next + PART);
                next = part.end;
                let mut pieces = self.part(part).await?;
                while let Some(bytes) = pieces.next().await {
                    pass(out, bytes?).await?;
                }
            } else {
                return Ok(());
            }
        }
    }

    /// The answer under way brings the first part; the rest of it is not waited for.
    async fn beginning(&self, first: Coming, out: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
        let mut first = Box::pin(pieces(first));
        let mut left = PART;
        while left > 0 {
            let late = |_| Error::new(Kind::TimedOut, "no byte came in time");
            let came = timeout(self.door.times.pause, first.next()).await;
            let came = came.map_err(late)?;
            let mut bytes = came.ok_or_else(|| corrupt("the body ended early"))??;
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= bytes.len() as u64;
            pass(out, bytes).await?;
        }
        Ok(())
    }

    /// Asks for the parts to come, as far as there is room for them.
    fn look_ahead(
        self: &Arc<Self>,
        ahead: &mut VecDeque<AbortOnDropHandle<Result<Part>>>,
        next: &mut u64,
        end: u64,
    ) {
        while *next < end && ahead.len() + 1 < self.door.lanes {
            let Ok(place) = self.door.room.clone().try_acquire_owned() else {
                return;
            };
            let part = *next..end.min(*next + PART);
            *next = part.end;
            let source = self.clone();
            let task = tokio::spawn(async move {
                let mut coming = source.part(part).await?;
                let mut pieces = Vec::new();
                while let Some(bytes) = coming.next().await {
                    pieces.push(bytes?);
                }
                Ok((pieces, place))
            });
            ahead.push_back(AbortOnDropHandle::new(task));
        }
    }

    async fn part(&self, range: ByteRange) -> Result<ByteStream> {
        let answer = ask(&self.door, &self.key, Some(&range), Some(&self.version)).await?;
        if answer::version(answer.e_tag())? != self.version {
            return Err(stale());
        }
        let (sent, _) = place(&answer)?;
        if sent != range {
            return Err(corrupt(
                "the answer is another range than the one asked for",
            ));
        }
        let length = range.end - range.start;
        Ok(body::exactly(
            pieces(answer.body),
            length,
            self.door.times.pause,
        ))
    }
}
