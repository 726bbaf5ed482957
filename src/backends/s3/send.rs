//! Bytes of a file as the body of a request: streamed, counted, and held to their hash.
//!
//! The last piece leaves only when all of them are known to be what was promised, so that a
//! file that changed meanwhile ends in a request without an end, which no store accepts.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use aws_sdk_s3::operation::copy_object::builders::CopyObjectFluentBuilder;
use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream as Sent, SdkBody};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256 as Hasher};

use super::answer::{self, corrupt};
use super::door::Door;
use crate::backends::ByteStream;
use crate::backends::Upload;
use crate::backends::body;
use crate::backends::pulse::Pulse;
use crate::backends::url::Encryption;
use crate::error::{Error, Result};
use crate::object::{ByteRange, Sha256};
use crate::wire::times;

/// `range` of `upload`, if its hash is `sha256`. Beats `pulse` as it goes.
pub(super) async fn sent(
    upload: &Upload,
    range: ByteRange,
    sha256: Sha256,
    pulse: &Pulse,
) -> Result<Sent> {
    let length = range.end - range.start;
    let mut pieces = checked(upload, range, sha256, pulse);
    // What is short goes as one, and is signed as such.
    if length <= body::CHUNK as u64 {
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        if bytes.is_empty() && sha256 != hash(b"") {
            return Err(changed());
        }
        return Ok(Sent::from(bytes.freeze()));
    }
    let body = Streamed {
        pieces: Mutex::new(pieces),
        left: length,
    };
    Ok(Sent::new(SdkBody::from_body_1_x(body)))
}

fn checked(upload: &Upload, range: ByteRange, sha256: Sha256, pulse: &Pulse) -> ByteStream {
    let (mut left, mut hasher) = (range.end - range.start, Hasher::new());
    let pieces = body::outgoing(upload, range, pulse);
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

pub(super) fn base64(sha256: Sha256) -> String {
    STANDARD.encode(sha256.0)
}

/// What can be said of an object that is about to be made, in one request or in parts.
pub(super) trait Described: Sized {
    fn object(self, key: &str, content_type: &str) -> Self;
    fn note(self, name: &str, value: String) -> Self;
    fn class(self, class: Option<StorageClass>) -> Self;
    fn sealed(self, how: ServerSideEncryption, key: Option<String>) -> Self;
}

macro_rules! described {
    ($($request:ty),*) => {$(
        impl Described for $request {
            fn object(self, key: &str, content_type: &str) -> Self {
                self.key(key).content_type(content_type)
            }
            fn note(self, name: &str, value: String) -> Self {
                self.metadata(name, value)
            }
            fn class(self, class: Option<StorageClass>) -> Self {
                self.set_storage_class(class)
            }
            fn sealed(self, how: ServerSideEncryption, key: Option<String>) -> Self {
                self.server_side_encryption(how).set_ssekms_key_id(key)
            }
        }
    )*};
}

described!(
    PutObjectFluentBuilder,
    CreateMultipartUploadFluentBuilder,
    CopyObjectFluentBuilder
);

/// What the bucket keeps of a file besides its bytes and its name.
pub(super) struct Facts {
    pub(super) mtime_ns: i64,
    pub(super) sha256: Option<Sha256>,
}

impl From<&Upload> for Facts {
    fn from(upload: &Upload) -> Facts {
        Facts {
            mtime_ns: upload.mtime_ns,
            sha256: Some(upload.sha256),
        }
    }
}

/// `request` with everything that the bucket keeps of a file besides its bytes.
pub(super) fn describe<R: Described>(door: &Door, request: R, key: &str, facts: &Facts) -> R {
    let class = door.bucket.storage_class.as_deref().map(StorageClass::from);
    let request = request
        .object(key, content_type(key))
        .note(times::MTIME, times::show(facts.mtime_ns))
        .class(class);
    let request = match facts.sha256 {
        Some(sha256) => request.note(answer::SHA256, sha256.to_hex()),
        None => request,
    };
    match &door.bucket.encryption {
        None => request,
        Some(Encryption::Aes256) => request.sealed(ServerSideEncryption::Aes256, None),
        Some(Encryption::Kms(key)) => request.sealed(ServerSideEncryption::AwsKms, key.clone()),
    }
}

/// What the name says of what is inside.
fn content_type(key: &str) -> &'static str {
    let name = key.rsplit('/').next().unwrap_or(key);
    let guessed = mime_guess::from_path(name).first_raw();
    guessed.unwrap_or("application/octet-stream")
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
