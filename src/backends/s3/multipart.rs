//! A large object, sent in parts: several at once, each with its hash, and nobody sees any of
//! it before the last step, which carries the condition.
//!
//! An upload that fails or is dropped is given up at the store. What a killed process began
//! stays there, unseen, until the same key is uploaded a day later or the bucket's own rule
//! removes it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, EncodingType};
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256 as Hasher};

use super::answer;
use super::door::{Door, timed};
use super::failure::failed;
use super::listing::name;
use super::send;
use super::write::Condition;
use crate::backends::Upload;
use crate::backends::body::off_thread;
use crate::backends::pulse::{Pulse, alive};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Sha256};

/// From this size on, an object is sent in parts.
pub(super) const LARGE: u64 = 16 << 20;
/// The length of a part, where the object is not too large for it.
const PART: u64 = 8 << 20;
/// The most parts of one object.
const PARTS: u64 = 10_000;
const MIB: u64 = 1 << 20;
/// A begun upload of the same key that is older than this belongs to nobody.
const LEFT: Duration = Duration::from_secs(24 * 3600);

/// One part, looked at and not sent yet.
struct Planned {
    number: i32,
    range: ByteRange,
    sha256: Sha256,
}

/// Looks at a file part by part, in order; ends with an error if all of it is not what was
/// promised.
struct Plan {
    upload: Upload,
    hasher: Hasher,
    part: u64,
    at: u64,
    number: i32,
}

/// Uploads `upload` as `key`; returns its ETag.
pub(super) async fn put(
    door: &Arc<Door>,
    key: &str,
    upload: &Upload,
    condition: &Condition<'_>,
) -> Result<Option<String>> {
    // Rather than sending all of it in vain.
    condition.holds(door, key).await?;
    sweep(door, key).await;
    let begun = Begun::begin(door, key, upload).await?;
    let parts = stream::unfold(Some(Plan::new(upload)), Plan::next)
        .map(|planned| async { begun.send(upload, planned?).await })
        .buffered(door.lanes.max(1))
        .try_collect();
    let done = async { begun.complete(parts.await?, condition).await };
    match done.await {
        Ok(etag) => {
            begun.forget();
            Ok(etag)
        }
        Err(error) => {
            begun.give_up().await;
            Err(error)
        }
    }
}

/// How long the parts of an object of `size` bytes are.
fn part_length(size: u64) -> u64 {
    PART.max(size.div_ceil(PARTS).next_multiple_of(MIB))
}

impl Plan {
    fn new(upload: &Upload) -> Plan {
        Plan {
            upload: upload.clone(),
            hasher: Hasher::new(),
            part: part_length(upload.size),
            at: 0,
            number: 0,
        }
    }

    async fn next(plan: Option<Plan>) -> Option<(Result<Planned>, Option<Plan>)> {
        let mut plan = plan?;
        if plan.at == plan.upload.size {
            let is_other = plan.hasher.finalize().as_slice() != plan.upload.sha256.0;
            return is_other.then(|| (Err(send::changed()), None));
        }
        let looked = off_thread(move || {
            let range = plan.at..plan.upload.size.min(plan.at + plan.part);
            let sha256 = plan.look(&range)?;
            plan.at = range.end;
            plan.number += 1;
            let number = plan.number;
            let planned = Planned {
                number,
                range,
                sha256,
            };
            Ok((planned, plan))
        });
        Some(match looked.await {
            Ok((planned, plan)) => (Ok(planned), Some(plan)),
            Err(error) => (Err(error), None),
        })
    }

    fn look(&mut self, range: &ByteRange) -> Result<Sha256> {
        let mut part = Hasher::new();
        let mut buffer = vec![0; MIB as usize];
        let mut at = range.start;
        while at < range.end {
            let most = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            let n = read(&self.upload.file, &mut buffer[..most], at)?;
            part.update(&buffer[..n]);
            self.hasher.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(Sha256(part.finalize().into()))
    }
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
    match file.read_at(buffer, at)? {
        0 => Err(answer::corrupt("the file became shorter while it was read")),
        n => Ok(n),
    }
}

/// An upload that the store knows of.
struct Begun {
    door: Arc<Door>,
    key: String,
    id: String,
    is_over: std::sync::atomic::AtomicBool,
}

impl Begun {
    async fn begin(door: &Arc<Door>, key: &str, upload: &Upload) -> Result<Begun> {
        let request = door.client().await?.create_multipart_upload();
        let request = send::describe(door, request.bucket(door.name()), key, &upload.into())
            // A store that was not told so keeps no hash of a part, and refuses the one it is shown.
            .checksum_algorithm(ChecksumAlgorithm::Sha256);
        let begun = timed(door.times.answer, request.send()).await?;
        let id = begun.upload_id.ok_or_else(|| {
            answer::corrupt("the store began an upload and does not say how it is called")
        })?;
        Ok(Begun {
            door: door.clone(),
            key: key.to_owned(),
            id,
            is_over: false.into(),
        })
    }

    async fn send(&self, upload: &Upload, part: Planned) -> Result<CompletedPart> {
        let length = part.range.end - part.range.start;
        let pulse = Pulse::default();
        let body = send::sent(upload, part.range, part.sha256, &pulse).await?;
        let request = self
            .door
            .client()
            .await?
            .upload_part()
            .bucket(self.door.name())
            .key(&self.key)
            .upload_id(&self.id)
            .part_number(part.number)
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .checksum_sha256(send::base64(part.sha256))
            .body(body);
        let patience = self.door.times.upload(length);
        let sent = alive(&pulse, patience, Box::pin(request.send())).await?;
        let sent = sent.map_err(failed)?;
        Ok(CompletedPart::builder()
            .part_number(part.number)
            .set_e_tag(sent.e_tag)
            .set_checksum_sha256(sent.checksum_sha256)
            .build())
    }

    async fn complete(
        &self,
        parts: Vec<CompletedPart>,
        condition: &Condition<'_>,
    ) -> Result<Option<String>> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let request = self.door.client().await?.complete_multipart_upload();
        let request = request
            .bucket(self.door.name())
            .key(&self.key)
            .upload_id(&self.id)
            .multipart_upload(parts);
        let told = condition.told(&self.door, &self.key).await?;
        let request = request.set_if_none_match(told.none).set_if_match(told.same);
        let done = timed(self.door.times.publish, request.send()).await?;
        Ok(done.e_tag)
    }

    /// It became an object.
    fn forget(&self) {
        self.is_over
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    async fn give_up(&self) {
        self.forget();
        abort(&self.door, &self.key, &self.id).await;
    }
}

/// Given up by whoever wanted it: the store is told behind their back.
impl Drop for Begun {
    fn drop(&mut self) {
        if self.is_over.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (door, key, id) = (self.door.clone(), self.key.clone(), self.id.clone());
        runtime.spawn(async move { abort(&door, &key, &id).await });
    }
}

async fn abort(door: &Door, key: &str, id: &str) {
    let Ok(client) = door.client().await else {
        return;
    };
    let request = client.abort_multipart_upload();
    let request = request.bucket(door.name()).key(key).upload_id(id);
    match timed(door.times.answer, request.send()).await {
        Err(error) if error.kind() != Kind::NotFound => {
            tracing::info!(key, %error, "an upload that was given up could not be removed at the store");
        }
        _ => {}
    }
}

/// Removes what killed processes began long ago. Keys that may not list uploads leave that to the
/// bucket's own rules.
async fn sweep(door: &Door, key: &str) {
    if let Err(error) = try_sweep(door, key).await {
        tracing::debug!(key, %error, "begun uploads cannot be listed");
    }
}

async fn try_sweep(door: &Door, key: &str) -> Result<(), Error> {
    let request = door.client().await?.list_multipart_uploads();
    let request = request
        .bucket(door.name())
        .prefix(key)
        .encoding_type(EncodingType::Url);
    let found = timed(door.times.answer, request.send()).await?;
    let is_encoded = found.encoding_type() == Some(&EncodingType::Url);
    let now = std::time::SystemTime::now();
    for begun in found.uploads() {
        let same = name(begun.key().unwrap_or_default(), is_encoded)? == key;
        let since = begun.initiated().and_then(|at| (*at).try_into().ok());
        let is_left = since.is_some_and(|since: std::time::SystemTime| {
            now.duration_since(since).is_ok_and(|age| age > LEFT)
        });
        if let (true, true, Some(id)) = (same, is_left, begun.upload_id()) {
            abort(door, key, id).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_no_object_has_more_parts_than_a_store_takes() {
        assert_eq!(part_length(LARGE), PART);
        assert_eq!(part_length(PART * PARTS), PART);
        for size in [PART * PARTS + 1, 5 << 40, 48 << 40] {
            let part = part_length(size);
            assert!(
                size.div_ceil(part) <= PARTS && part.is_multiple_of(MIB),
                "{size}"
            );
        }
    }
}
