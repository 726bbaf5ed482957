//! Bytes of a file as the body of a request: streamed, counted, and held to their hash.
//!
//! The last piece leaves only when all of them are known to be what was promised, so that a
//! file that changed meanwhile ends in a request without an end, which no store accepts.

use std::fs::File;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream as Sent, SdkBody};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256 as Hasher};

use super::answer::corrupt;
use crate::backends::ByteStream;
use crate::backends::body;
use crate::backends::pulse::Pulse;
use crate::error::{Error, Result};
use crate::object::{ByteRange, Sha256};

/// `range` of `file`, if its hash is `sha256`. Beats `pulse` with every piece.
pub(super) async fn sent(
    file: &Arc<File>,
    range: ByteRange,
    sha256: Sha256,
    pulse: &Pulse,
) -> Result<Sent> {
    let length = range.end - range.start;
    let mut pieces = checked(file.clone(), range, sha256);
    // What is one piece goes as one, and is signed as such.
    if length <= body::CHUNK as u64 {
        let bytes = pieces.next().await.transpose()?.unwrap_or_default();
        if bytes.is_empty() && sha256 != hash(b"") {
            return Err(changed());
        }
        pulse.beat();
        return Ok(Sent::from(bytes));
    }
    let beat = pulse.clone();
    let pieces = pieces.inspect(move |_| beat.beat());
    let body = Streamed {
        pieces: Mutex::new(Box::pin(pieces)),
        left: length,
    };
    Ok(Sent::new(SdkBody::from_body_1_x(body)))
}

fn checked(file: Arc<File>, range: ByteRange, sha256: Sha256) -> ByteStream {
    let (mut left, mut hasher) = (range.end - range.start, Hasher::new());
    let pieces = body::range_stream(file, range, Arc::new(|_| Ok(())));
    Box::pin(pieces.map(move |piece| {
        let piece = piece?;
        hasher.update(&piece);
        left = left.saturating_sub(piece.len() as u64);
        let is_other = left == 0 && hasher.finalize_reset().as_slice() != sha256.0;
        if is_other { Err(changed()) } else { Ok(piece) }
    }))
}

pub(super) fn hash(bytes: &[u8]) -> Sha256 {
    Sha256(Hasher::digest(bytes).into())
}

pub(super) fn changed() -> Error {
    corrupt("the file changed while it was sent")
}

struct Streamed {
    /// Never contended: it makes the stream shareable, which the SDK asks of a body.
    pieces: Mutex<ByteStream>,
    left: u64,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let pieces = this
            .pieces
            .get_mut()
            .unwrap_or_else(|lost| lost.into_inner());
        let polled = Pin::new(pieces).poll_next(context);
        polled.map(|piece| {
            piece.map(|piece| {
                let piece = piece?;
                this.left = this.left.saturating_sub(piece.len() as u64);
                Ok(Frame::data(piece))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
