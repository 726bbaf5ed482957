//! `aws-chunked` bodies of requests that carry no signature.
//!
//! Signed ones are read by `s3s`, which verifies each chunk. Without a signature there is
//! nothing to verify, but the lines between the chunks must not become part of a file.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use futures_util::Stream;
use s3s::stream::{ByteStream, DynByteStream};
use s3s::{S3Result, StdError, s3_error};

use super::body::Incoming;

/// Longest line between chunks, and all lines after the last one together.
const LINE: usize = 1024;
const TAIL: usize = 16 << 10;
const LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// The lines after the last chunk: checksums. None before the body was read to its end.
#[derive(Debug, Clone, Default)]
pub struct Trailers(Arc<Mutex<Option<HeaderMap>>>);

impl Trailers {
    pub fn take(&self) -> Option<HeaderMap> {
        let mut trailers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trailers.take()
    }

    fn set(&self, headers: HeaderMap) {
        let mut trailers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *trailers = Some(headers);
    }
}

/// Where in the body we are.
enum At {
    /// In the line that tells a chunk's size.
    Size,
    /// This many bytes before a chunk's end.
    Data(u64),
    /// In the line end after a chunk.
    Gap,
    /// In the lines after the last chunk.
    Tail,
    End,
}

/// The body without its lines.
pub struct Chunked {
    inner: DynByteStream,
    at: At,
    line: Vec<u8>,
    /// What came and was not looked at.
    rest: Bytes,
    left: u64,
    trailers: Trailers,
}

impl Chunked {
    /// The plain body of a request that is not signed, with headers that fit to it.
    pub fn unwrap(parts: &mut Parts, body: &Incoming) -> S3Result<DynByteStream> {
        let kind = parts.headers.get(CONTENT);
        let is_chunked = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"STREAMING-"))
            || parts.headers.contains_key(LENGTH);
        if !is_chunked {
            return Ok(body.stream());
        }
        let length = parts.headers.get(LENGTH).and_then(|v| v.to_str().ok());
        let length: Option<u64> = length.and_then(|text| text.trim().parse().ok());
        let left = length.ok_or_else(|| {
            s3_error!(
                MissingContentLength,
                "x-amz-decoded-content-length is missing"
            )
        })?;
        parts.headers.insert(header::CONTENT_LENGTH, left.into());
        let trailers = Trailers::default();
        parts.extensions.insert(trailers.clone());
        Ok(Box::pin(Chunked::new(body.stream(), left, trailers)))
    }

    fn new(inner: DynByteStream, left: u64, trailers: Trailers) -> Chunked {
        Chunked {
            inner,
            at: At::Size,
            line: Vec::new(),
            rest: Bytes::new(),
            left,
            trailers,
        }
    }

    /// Goes through what came, up to the next bytes of the file.
    fn step(&mut self) -> io::Result<Option<Bytes>> {
        while !self.rest.is_empty() {
            match self.at {
                At::Data(size) => return self.data(size).map(Some),
                At::Size | At::Gap | At::Tail => {
                    let most = if matches!(self.at, At::Tail) {
                        TAIL
                    } else {
                        LINE
                    };
                    let end = self.rest.iter().position(|b| *b == b'\n');
                    let piece = self
                        .rest
                        .split_to(end.map_or(self.rest.len(), |end| end + 1));
                    self.line.extend_from_slice(&piece);
                    if self.line.len() > most {
                        return Err(malformed());
                    }
                    if end.is_some() {
                        self.line_end()?;
                    }
                }
                At::End => return Err(malformed()),
            }
        }
        Ok(None)
    }

    fn data(&mut self, size: u64) -> io::Result<Bytes> {
        let take = usize::try_from(size).unwrap_or(usize::MAX);
        let piece = self.rest.split_to(take.min(self.rest.len()));
        let taken = piece.len() as u64;
        self.left = self.left.checked_sub(taken).ok_or_else(malformed)?;
        self.at = match size - taken {
            0 => At::Gap,
            size => At::Data(size),
        };
        Ok(piece)
    }

    /// A line is complete. Those of the tail are kept until it ends.
    fn line_end(&mut self) -> io::Result<()> {
        match self.at {
            At::Size => {
                self.at = match size_of(&self.line)? {
                    0 => At::Tail,
                    size => At::Data(size),
                };
                self.line.clear();
            }
            At::Gap if self.line == b"\r\n" => {
                self.at = At::Size;
                self.line.clear();
            }
            At::Tail => {
                let is_last = self.line == b"\r\n" || self.line.ends_with(b"\n\r\n");
                if is_last {
                    self.finish()?;
                }
            }
            At::Gap | At::Data(_) | At::End => return Err(malformed()),
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.left != 0 {
            return Err(malformed());
        }
        self.at = At::End;
        let tail = std::mem::take(&mut self.line);
        self.trailers.set(headers_of(&tail)?);
        Ok(())
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the aws-chunked body is malformed",
    )
}

/// `5f;chunk-signature=…`: the size alone counts.
fn size_of(line: &[u8]) -> io::Result<u64> {
    let line = line.strip_suffix(b"\r\n").ok_or_else(malformed)?;
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let is_number = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(malformed)
}

fn headers_of(tail: &[u8]) -> io::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in tail.split(|b| *b == b'\n').map(<[u8]>::trim_ascii) {
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|b| *b == b':').ok_or_else(malformed)?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| malformed())?;
        headers.insert(name, value);
    }
    Ok(headers)
}

impl Stream for Chunked {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.step() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(this.inner.as_mut().poll_next(context)) {
                Some(Ok(bytes)) => this.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if matches!(this.at, At::End) => return Poll::Ready(None),
                // Some clients leave the last, empty line out.
                None if matches!(this.at, At::Tail) => {
                    if let Err(error) = this.finish() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                None => return Poll::Ready(Some(Err(malformed().into()))),
            }
        }
    }
}

impl ByteStream for Chunked {}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};
    use proptest::prelude::*;

    /// The body in pieces of `step` bytes, unwrapped.
    fn unwrapped(body: &[u8], left: u64, step: usize) -> Result<(Vec<u8>, HeaderMap), String> {
        let pieces: Vec<io::Result<Bytes>> = body
            .chunks(step)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let incoming = Incoming::new(Body::from_stream(stream::iter(pieces)));
        let trailers = Trailers::default();
        let mut chunked = Chunked::new(incoming.stream(), left, trailers.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(piece) = chunked.next().await {
                all.extend_from_slice(&piece.map_err(|error| error.to_string())?);
            }
            Ok((all, trailers.take().unwrap()))
        })
    }

    const BODY: &[u8] = b"5;chunk-signature=00\r\nhello\r\n6\r\n world\r\n0;chunk-signature=11\r\nx-amz-checksum-crc32: abc=\r\n\r\n";

    #[test]
    fn the_lines_are_taken_out_wherever_the_pieces_end() {
        for step in 1..BODY.len() {
            let (bytes, trailers) = unwrapped(BODY, 11, step).unwrap();
            assert_eq!(bytes, b"hello world");
            assert_eq!(trailers.get("x-amz-checksum-crc32").unwrap(), "abc=");
        }
        let bare = unwrapped(b"1\r\nx\r\n0\r\n\r\n", 1, 3).unwrap();
        assert_eq!((bare.0, bare.1.len()), (b"x".to_vec(), 0));
    }

    #[test]
    fn p1_a_body_that_is_not_what_it_says_is_an_error() {
        for (body, left) in [
            (&BODY[..BODY.len() - 50], 11),
            (BODY, 10),
            (BODY, 12),
            (b"hello", 5),
            (b"5\r\nhelloX\n0\r\n\r\n", 5),
            (b"5\r\nhello\r\n0\r\n\r\nmore", 5),
            (b"5\r\nhello\r\n", 5),
            (b"\r\n", 0),
            (b"ffffffffffffffff\r\nx", 1),
            (b"0\r\nno header\r\n\r\n", 0),
        ] {
            assert!(unwrapped(body, left, 7).is_err(), "{body:?}");
        }
        let long = [b"1;".to_vec(), vec![b'x'; 2000]].concat();
        assert!(unwrapped(&long, 1, 64).is_err());
    }

    proptest! {
        #[test]
        fn p10_any_bytes_end(body: Vec<u8>, left in 0u64..9, step in 1usize..9) {
            let _ = unwrapped(&body, left, step);
        }
    }
}
