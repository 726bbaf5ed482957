//! What an answer proves: headers into facts.

use std::collections::HashMap;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Kind, Result};
use crate::object::{Arrival, Meta, Sha256, Version};
use crate::wire::times;

/// The name of the metadata that tells the hash of the bytes, for stores that keep none.
pub(super) const SHA256: &str = "larder-sha256";

/// What HEAD and GET say alike.
pub(super) struct Facts<'a> {
    pub(super) etag: Option<&'a str>,
    pub(super) modified: Option<&'a DateTime>,
    pub(super) metadata: Option<&'a HashMap<String, String>>,
    pub(super) sha256: Option<&'a str>,
}

impl<'a> Facts<'a> {
    pub(super) fn of_head(output: &'a HeadObjectOutput) -> Facts<'a> {
        Facts {
            etag: output.e_tag(),
            modified: output.last_modified(),
            metadata: output.metadata(),
            sha256: output.checksum_sha256(),
        }
    }

    pub(super) fn of_get(output: &'a GetObjectOutput) -> Facts<'a> {
        Facts {
            etag: output.e_tag(),
            modified: output.last_modified(),
            metadata: output.metadata(),
            sha256: output.checksum_sha256(),
        }
    }

    /// The facts about an object of `size` bytes.
    pub(super) fn meta(&self, size: u64) -> Result<Meta> {
        let at_ns = nanoseconds(self.modified)?;
        let kept = |name| self.metadata.and_then(|all| all.get(name));
        let mtime_ns = kept(times::MTIME).and_then(|text| times::read(text));
        let told = kept(SHA256).and_then(|text| Sha256::from_hex(text.trim()).ok());
        Ok(Meta {
            size,
            mtime_ns: mtime_ns.unwrap_or(at_ns),
            version: version(self.etag)?,
            sha256: self.sha256.and_then(whole_sha256).or(told),
            revision: None,
            arrival: Some(Arrival { at_ns, only: false }),
        })
    }
}

/// A checksum of the whole object; that of one which came in parts ends with their number.
fn whole_sha256(text: &str) -> Option<Sha256> {
    Sha256::from_slice(&STANDARD.decode(text).ok()?).ok()
}

/// When the store got it, in nanoseconds since 1970.
pub(super) fn nanoseconds(time: Option<&DateTime>) -> Result<i64> {
    let time = time.ok_or_else(|| corrupt("the answer lacks Last-Modified"))?;
    i64::try_from(time.as_nanos()).map_err(|_| corrupt("the answer's Last-Modified is absurd"))
}

/// The version that an ETag names.
pub(super) fn version(etag: Option<&str>) -> Result<Version> {
    let etag = etag.ok_or_else(|| corrupt("the answer lacks an ETag; is this an S3 store?"))?;
    Version::from_etag(etag)
}

/// A length that a store told.
pub(super) fn size(length: Option<i64>) -> Result<u64> {
    let length = length.ok_or_else(|| corrupt("the answer lacks a length"))?;
    u64::try_from(length).map_err(|_| corrupt("the answer's length is negative"))
}

pub(super) fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, why)
}

pub(super) fn stale() -> Error {
    Error::new(Kind::Stale, "the remote no longer has this version")
}

pub(super) fn conflict() -> Error {
    Error::new(Kind::Conflict, "the remote has another version")
}

pub(super) fn missing() -> Error {
    Error::new(Kind::NotFound, "the remote has no such file")
}
