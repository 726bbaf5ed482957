//! A request's body on its way to whoever reads it, with a deadline, and back to us for the rest.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use futures_util::Stream;
use s3s::StdError;
use s3s::stream::{ByteStream, DynByteStream, RemainingLength};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::server::put::{STALL, drain};

/// The body. What is left of it can be read after the reader has gone.
pub struct Incoming(Arc<Mutex<Source>>);

struct Source {
    frames: BodyDataStream,
    limit: Option<Pin<Box<Sleep>>>,
    begun: bool,
    /// Bytes to come, where the client said so.
    left: Option<u64>,
}

impl Incoming {
    pub fn new(body: Body) -> Incoming {
        let left = body.size_hint().exact();
        Incoming(Arc::new(Mutex::new(Source {
            frames: body.into_data_stream(),
            limit: None,
            begun: false,
            left,
        })))
    }

    /// For one reader.
    pub fn stream(&self) -> DynByteStream {
        Box::pin(Reader(self.0.clone()))
    }

    /// Takes what was not read, for a while; see [`drain`].
    pub async fn drain(&self) {
        drain(&mut Reader(self.0.clone())).await;
    }

    /// Whether a byte of it was asked for.
    pub fn is_begun(&self) -> bool {
        lock(&self.0).begun
    }
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader(Arc<Mutex<Source>>);

impl Stream for Reader {
    type Item = Result<Bytes, StdError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut source = lock(&self.0);
        let source = &mut *source;
        source.begun = true;
        match Pin::new(&mut source.frames).poll_next(context) {
            Poll::Ready(frame) => {
                source.limit = None;
                if let (Some(left), Some(Ok(bytes))) = (&mut source.left, &frame) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(StdError::from)))
            }
            Poll::Pending => {
                let limit = source
                    .limit
                    .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
                std::task::ready!(limit.as_mut().poll(context));
                let error = io::Error::new(io::ErrorKind::TimedOut, "the body stalled");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl ByteStream for Reader {
    fn remaining_length(&self) -> RemainingLength {
        let left = lock(&self.0).left.map(usize::try_from);
        match left {
            Some(Ok(left)) => RemainingLength::new_exact(left),
            _ => RemainingLength::unknown(),
        }
    }
}
