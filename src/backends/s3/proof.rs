//! Whether a whole body is what the store was given: by a checksum that the store kept, or by
//! an ETag that is an MD5.
//!
//! The end of a body is passed on only when all of it was looked at, so that nobody has a
//! whole file of wrong bytes.

use std::collections::VecDeque;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::{ChecksumType, ServerSideEncryption};
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_checksums::http::HttpChecksum;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use md5::{Digest as _, Md5};

use super::answer::corrupt;
use crate::backends::{self, ByteStream, Proof as _};
use crate::error::Result;

/// How much of the end waits for the rest.
const HELD: u64 = 64 << 10;

/// What the bytes of an object add up to.
pub(super) struct Proof {
    sum: Sum,
    expected: Vec<u8>,
}

enum Sum {
    Md5(Md5),
    Kept(Box<dyn HttpChecksum>),
}

impl Proof {
    /// What the answer tells of the whole object, if anything.
    pub(super) fn of(answer: &GetObjectOutput) -> Option<Proof> {
        let in_parts = answer.checksum_type() == Some(&ChecksumType::Composite);
        let kept = [
            (ChecksumAlgorithm::Crc64Nvme, answer.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32c, answer.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc32, answer.checksum_crc32()),
            (ChecksumAlgorithm::Sha1, answer.checksum_sha1()),
        ];
        for (algorithm, text) in kept {
            // One of parts ends with their number, and is no base64.
            if let Some(Ok(expected)) = text.filter(|_| !in_parts).map(|t| STANDARD.decode(t)) {
                let sum = Sum::Kept(algorithm.into_impl());
                return Some(Proof { sum, expected });
            }
        }
        Proof::of_etag(answer)
    }

    fn of_etag(answer: &GetObjectOutput) -> Option<Proof> {
        let plain = matches!(
            answer.server_side_encryption(),
            None | Some(ServerSideEncryption::Aes256)
        );
        if !plain || answer.sse_customer_algorithm().is_some() {
            return None;
        }
        let digits = answer.e_tag()?.trim_matches('"');
        let mut expected = vec![0; 16];
        hex::decode_to_slice(digits, &mut expected).ok()?;
        let sum = Sum::Md5(Md5::new());
        Some(Proof { sum, expected })
    }
}

impl backends::Proof for Proof {
    fn take(&mut self, bytes: &[u8]) {
        match &mut self.sum {
            Sum::Md5(md5) => md5.update(bytes),
            Sum::Kept(sum) => sum.update(bytes),
        }
    }

    fn holds(self: Box<Self>) -> Result<()> {
        let found = match self.sum {
            Sum::Md5(md5) => Bytes::copy_from_slice(&md5.finalize()),
            Sum::Kept(sum) => sum.finalize(),
        };
        match found == self.expected {
            true => Ok(()),
            false => Err(corrupt(
                "the bytes are not those of the store's own checksum",
            )),
        }
    }
}

struct State {
    inner: ByteStream,
    proof: Option<Proof>,
    /// Bytes that still have to come.
    left: u64,
    held: VecDeque<Bytes>,
}

/// Passes `inner` on, which is exactly `length` bytes or ends with an error.
pub(super) fn proven(inner: ByteStream, length: u64, proof: Proof) -> ByteStream {
    let state = State {
        inner,
        proof: Some(proof),
        left: length,
        held: VecDeque::new(),
    };
    Box::pin(stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl State {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(proof) = &mut self.proof {
            let Some(bytes) = self.inner.next().await.transpose()? else {
                self.prove()?;
                break;
            };
            proof.take(&bytes);
            self.left = self.left.saturating_sub(bytes.len() as u64);
            if self.left > HELD {
                return Ok(Some(bytes));
            }
            self.held.push_back(bytes);
            if self.left == 0 {
                // What is too long says so now.
                self.inner.next().await.transpose()?;
                self.prove()?;
            }
        }
        Ok(self.held.pop_front())
    }

    fn prove(&mut self) -> Result<()> {
        let proof = self.proof.take();
        proof.map_or(Ok(()), |proof| Box::new(proof).holds())
    }
}
