//! What changes a bucket: putting and deleting objects, on condition.

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::{self, conflict};
use super::door::{Door, timed};
use super::failure::failed;
use super::send;
use crate::backends::Upload;
use crate::backends::pulse::{Pulse, alive};
use crate::backends::url::Encryption;
use crate::error::{Kind, Result};
use crate::object::{Meta, Precondition, Version};
use crate::path::RelPath;
use crate::wire::times;

/// Publishes `upload` under `path`.
pub(super) async fn put(
    door: &Door,
    path: &RelPath,
    upload: &Upload,
    only: &Precondition,
) -> Result<Meta> {
    let key = door.keys.key(path)?;
    let etag = single(door, &key, upload, only).await;
    let etag = etag.map_err(|error| match (error.kind(), only) {
        // There is nothing that could be replaced.
        (Kind::NotFound, Precondition::Matches(_)) => conflict(),
        _ => error,
    })?;
    Ok(Meta {
        size: upload.size,
        mtime_ns: upload.mtime_ns,
        version: answer::version(etag.as_deref())?,
        sha256: Some(upload.sha256),
        revision: None,
        arrival: None,
    })
}

/// In one request.
async fn single(
    door: &Door,
    key: &str,
    upload: &Upload,
    only: &Precondition,
) -> Result<Option<String>> {
    let pulse = Pulse::default();
    let body = send::sent(&upload.file, 0..upload.size, upload.sha256, &pulse).await?;
    let length = i64::try_from(upload.size).unwrap_or(i64::MAX);
    let request = door
        .client()
        .await?
        .put_object()
        .bucket(door.name())
        .key(key)
        .body(body)
        .content_length(length)
        .content_type(content_type(key))
        .checksum_sha256(STANDARD.encode(upload.sha256.0))
        .metadata(times::MTIME, times::show(upload.mtime_ns))
        .metadata(answer::SHA256, upload.sha256.to_hex());
    let request = kept(door, request);
    let request = match only {
        Precondition::None => request,
        Precondition::Absent => request.if_none_match("*"),
        Precondition::Matches(version) => request.if_match(version.to_etag()),
    };
    let patience = door.times.upload(upload.size);
    let answer = alive(&pulse, patience, Box::pin(request.send())).await?;
    Ok(answer.map_err(failed)?.e_tag)
}

/// How the store is to keep it.
fn kept(door: &Door, request: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
    let class = door.bucket.storage_class.as_deref().map(StorageClass::from);
    let request = request.set_storage_class(class);
    match &door.bucket.encryption {
        None => request,
        Some(Encryption::Aes256) => request.server_side_encryption(ServerSideEncryption::Aes256),
        Some(Encryption::Kms(key)) => request
            .server_side_encryption(ServerSideEncryption::AwsKms)
            .set_ssekms_key_id(key.clone()),
    }
}

/// What the name says of what is inside.
fn content_type(key: &str) -> &'static str {
    let name = key.rsplit('/').next().unwrap_or(key);
    let guessed = mime_guess::from_path(name).first_raw();
    guessed.unwrap_or("application/octet-stream")
}

/// Removes what is at `path`, if it is `version`.
pub(super) async fn delete(door: &Door, path: &RelPath, version: Option<&Version>) -> Result<()> {
    let key = door.keys.key(path)?;
    if let Some(version) = version {
        match door.head(&key).await? {
            None => return Ok(()),
            Some(meta) if meta.version != *version => return Err(conflict()),
            Some(_) => {}
        }
    }
    let request = door.client().await?.delete_object();
    let request = request.bucket(door.name()).key(&key);
    let deleted = timed(door.times.publish, request.send()).await;
    match deleted {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}
