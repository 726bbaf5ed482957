//! Objects that the store makes of others in the same bucket: their bytes do not pass through here.
//!
//! What it is made of is named with its version; what is replaced is held to the condition of a
//! put. A store that makes no copies is asked once.

use std::time::Duration;

use aws_sdk_s3::types::MetadataDirective;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::{self, conflict, stale};
use super::door::{Door, timed};
use super::guard::Guard;
use super::send::{self, Facts};
use super::write::Condition;
use crate::backends::Copying;
use crate::error::{Error, Kind, Result};
use crate::object::{Meta, Precondition, Version};
use crate::path::RelPath;

/// The largest object that one request copies.
const MOST: u64 = 5 << 30;
/// The slowest that a store copies, in bytes a second.
const PACE: u64 = 8 << 20;

/// What need not be encoded in the name of a source.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The object `key` as the header that names a source wants it.
pub(super) fn source(door: &Door, key: &str) -> String {
    format!("{}/{}", door.name(), utf8_percent_encode(key, PLAIN))
}

/// Makes `path` of what `copying` names.
pub(super) async fn make(
    door: &Door,
    guard: &Guard,
    path: &RelPath,
    copying: &Copying,
    only: &Precondition,
) -> Result<Meta> {
    let (key, from) = (door.keys.key(path)?, door.keys.key(&copying.from)?);
    if copying.size > MOST {
        return Err(unsupported(
            "the store copies no object of this size in one request",
        ));
    }
    if from == key && came_in_parts(&copying.version) {
        // Sent in parts again it keeps its version, and whoever has it need not fetch it.
        return Err(unsupported(
            "a copy of what came in parts has another version",
        ));
    }
    if !guard.ask_copies(door).await? {
        return Err(unsupported("the store makes no copies on these conditions"));
    }
    let facts = Facts {
        mtime_ns: copying.mtime_ns,
        sha256: copying.sha256,
    };
    let condition = Condition::new(door, guard, only).await?;
    let request = door.client().await?.copy_object().bucket(door.name());
    let request = send::describe(door, request, &key, &facts)
        .copy_source(source(door, &from))
        .copy_source_if_match(copying.version.to_etag())
        .metadata_directive(MetadataDirective::Replace);
    let told = condition.told(door, &key).await?;
    let request = request.set_if_none_match(told.none).set_if_match(told.same);
    let limit = door.times.publish + Duration::from_secs(copying.size / PACE);
    let made = match timed(limit, request.send()).await {
        Err(error) => return Err(meant(door, guard, &from, copying, error).await?),
        Ok(answer) => answer.copy_object_result,
    };
    Ok(Meta {
        size: copying.size,
        mtime_ns: copying.mtime_ns,
        version: answer::version(made.as_ref().and_then(|made| made.e_tag()))?,
        sha256: copying.sha256,
        revision: None,
        arrival: None,
    })
}

fn unsupported(why: &str) -> Error {
    Error::new(Kind::Unsupported, why)
}

/// Whether an ETag is that of an object that came in parts: an MD5, and their number.
fn came_in_parts(version: &Version) -> bool {
    let parts = version.as_str().rsplit_once('-');
    parts.is_some_and(|(md5, number)| {
        md5.len() == 32
            && md5.bytes().all(|b| b.is_ascii_hexdigit())
            && (1..=5).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// What `error` is about: a store says the same of the source and of what is replaced.
async fn meant(
    door: &Door,
    guard: &Guard,
    from: &str,
    copying: &Copying,
    error: Error,
) -> Result<Error> {
    match error.kind() {
        Kind::Unsupported => guard.makes_no_copies(),
        Kind::Conflict | Kind::NotFound => {
            let now = door.head(from).await?.map(|meta| meta.version);
            return Ok(match now.as_ref() == Some(&copying.version) {
                true => conflict(),
                false => stale(),
            });
        }
        _ => {}
    }
    Ok(error)
}
