//! What changes a bucket: putting and deleting objects, on condition.
//!
//! Where the store does not heed conditions, its version is compared right before. Who writes in
//! between is overwritten, and nobody can tell.

use std::sync::Arc;

use super::answer::{self, conflict};
use super::door::{Door, timed};
use super::failure::failed;
use super::guard::Guard;
use super::{multipart, send};
use crate::backends::Upload;
use crate::backends::pulse::{Pulse, alive};
use crate::error::{Kind, Result};
use crate::object::{Meta, Precondition, Version};
use crate::path::RelPath;

/// Publishes `upload` under `path`.
pub(super) async fn put(
    door: &Arc<Door>,
    guard: &Guard,
    path: &RelPath,
    upload: &Upload,
    only: &Precondition,
) -> Result<Meta> {
    let key = door.keys.key(path)?;
    let condition = Condition::new(door, guard, only).await?;
    let put = match upload.size < multipart::LARGE {
        true => single(door, &key, upload, &condition).await,
        false => multipart::put(door, &key, upload, &condition).await,
    };
    let etag = put.map_err(|error| match (error.kind(), only) {
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

/// What must be true for a write, and who sees to that.
pub(super) struct Condition<'a> {
    only: &'a Precondition,
    /// Whether the store does.
    is_heeded: bool,
}

impl<'a> Condition<'a> {
    pub(super) async fn new(
        door: &Door,
        guard: &Guard,
        only: &'a Precondition,
    ) -> Result<Condition<'a>> {
        let is_heeded = *only == Precondition::None || guard.ask(door).await?;
        Ok(Condition { only, is_heeded })
    }

    /// Whether it holds now.
    pub(super) async fn holds(&self, door: &Door, key: &str) -> Result<()> {
        if *self.only == Precondition::None {
            return Ok(());
        }
        let now = door.head(key).await?.map(|meta| meta.version);
        let holds = match self.only {
            Precondition::None => true,
            Precondition::Absent => now.is_none(),
            Precondition::Matches(version) => now.as_ref() == Some(version),
        };
        if holds { Ok(()) } else { Err(conflict()) }
    }

    /// What to tell the store with the write that comes next: where it does not heed that, what
    /// is there now is compared.
    pub(super) async fn told(&self, door: &Door, key: &str) -> Result<Told> {
        if !self.is_heeded {
            self.holds(door, key).await?;
            return Ok(Told::default());
        }
        Ok(Told::of(self.only))
    }
}

/// The headers `If-None-Match` and `If-Match`.
#[derive(Default)]
pub(super) struct Told {
    pub(super) none: Option<String>,
    pub(super) same: Option<String>,
}

impl Told {
    /// What tells a store of `only`.
    pub(super) fn of(only: &Precondition) -> Told {
        let mut told = Told::default();
        match only {
            Precondition::None => {}
            Precondition::Absent => told.none = Some("*".into()),
            Precondition::Matches(version) => told.same = Some(version.to_etag()),
        }
        told
    }
}

/// In one request.
async fn single(
    door: &Door,
    key: &str,
    upload: &Upload,
    condition: &Condition<'_>,
) -> Result<Option<String>> {
    let pulse = Pulse::default();
    let body = send::sent(upload, 0..upload.size, upload.sha256, &pulse).await?;
    let request = door.client().await?.put_object();
    let request = send::describe(door, request.bucket(door.name()), key, &upload.into())
        .content_length(i64::try_from(upload.size).unwrap_or(i64::MAX))
        .checksum_sha256(send::base64(upload.sha256))
        .body(body);
    let told = condition.told(door, key).await?;
    let request = request.set_if_none_match(told.none).set_if_match(told.same);
    let patience = door.times.upload(upload.size);
    let answer = alive(&pulse, patience, Box::pin(request.send())).await?;
    Ok(answer.map_err(failed)?.e_tag)
}

/// Removes what is at `path`, if it is `version`.
pub(super) async fn delete(
    door: &Door,
    guard: &Guard,
    path: &RelPath,
    version: Option<&Version>,
) -> Result<()> {
    let key = door.keys.key(path)?;
    let Some(version) = version else {
        return remove(door, &key, None).await;
    };
    // Conditional deletes are younger than conditional writes, and nobody refuses what they do
    // not know: the version is compared first in any case.
    match door.head(&key).await? {
        None => return Ok(()),
        Some(meta) if meta.version != *version => return Err(conflict()),
        Some(_) => {}
    }
    let told = guard.known().unwrap_or(false).then_some(version);
    match remove(door, &key, told).await {
        Err(error) if error.kind() == Kind::Unsupported && told.is_some() => {
            remove(door, &key, None).await
        }
        // Also what is said of a version of something that is not there.
        Err(error) if error.kind() == Kind::Conflict && door.head(&key).await?.is_none() => Ok(()),
        removed => removed,
    }
}

async fn remove(door: &Door, key: &str, version: Option<&Version>) -> Result<()> {
    let request = door.client().await?.delete_object();
    let request = request
        .bucket(door.name())
        .key(key)
        .set_if_match(version.map(Version::to_etag));
    match timed(door.times.publish, request.send()).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        removed => removed.map(|_| ()),
    }
}
