//! The words of the LAN protocol that client and server share: headers and JSON lines.
//!
//! Paths are byte strings: `path` where they are UTF-8 without control characters, else `path_b64` (standard
//! Base64 with padding). Line formats are NDJSON, one object a line.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::object::{Change, Listed, Meta, Object, Revision, Sha256, Version};
use crate::path::RelPath;

pub mod times;

/// Where the files are. Answers about one say in `Content-Location` which it is.
pub const FILES: &str = "/v1/files/";
/// Request and response header: the writer's modification time in nanoseconds since 1970.
pub const MTIME_HEADER: &str = "x-mtime-ns";
/// Response header: the epoch and the number of the change that made this version, `EPOCH:SEQ`.
pub const REVISION_HEADER: &str = "x-revision";
/// Request header that carries the API key; `Authorization: Bearer` is the other way.
pub const KEY_HEADER: &str = "x-api-key";
/// RFC 9530: the digest of the whole representation, in responses.
pub const REPR_DIGEST: &str = "repr-digest";
/// RFC 9530: the digest of the content sent, in requests.
pub const CONTENT_DIGEST: &str = "content-digest";
/// Longest line of a listing: the longest path in Base64 and its numbers.
pub const LINE_MAX: usize = 16 * 1024;
/// Most files asked for in one `POST /v1/batch`.
pub const BATCH_MAX: usize = 64;
/// Media type of the answer: for every line asked, in that order, the line of a listing and so many
/// bytes as its `size` says; without `size`, the file is to be asked for by itself.
pub const BATCH_TYPE: &str = "application/x-larder-batch";
/// The protocol's version, in `Info::version`.
pub const PROTOCOL: u32 = 1;

/// `GET /v1/info`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    /// `larder/<version>`.
    pub server: String,
    /// Of this protocol.
    pub version: u32,
    pub epoch: String,
    pub seq: u64,
    pub files: u64,
    pub bytes: u64,
    /// Of `batch`, `put`, `delete`, `changes`: what the asking client may use.
    pub capabilities: Vec<String>,
}

/// A line of `/v1/index` or `/v1/changes`: an object, a deletion, or the cursor that ends it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub deleted: bool,
}

impl Line {
    /// The line for an object.
    pub fn object(seq: Option<u64>, object: &Object) -> Line {
        Line {
            seq,
            size: Some(object.meta.size),
            mtime_ns: Some(object.meta.mtime_ns),
            etag: Some(object.meta.version.as_str().to_owned()),
            sha256: object.meta.sha256.map(Sha256::to_hex),
            ..Line::of_path(&object.key)
        }
    }

    /// The line for a deletion.
    pub fn deleted(seq: u64, key: &RelPath) -> Line {
        Line {
            seq: Some(seq),
            deleted: true,
            ..Line::of_path(key)
        }
    }

    /// The line that asks for a version of a file, among others.
    pub fn wanted(key: &RelPath, version: &Version) -> Line {
        Line {
            etag: Some(version.as_str().to_owned()),
            ..Line::of_path(key)
        }
    }

    /// Which file and version it asks for.
    pub fn into_wanted(self) -> Result<(RelPath, Version)> {
        let key = RelPath::new(&self.raw_path()?)?;
        let version = Version::new(self.etag.as_deref().unwrap_or_default())?;
        match key.is_root() {
            true => Err(Error::new(Kind::Invalid, "the path is empty")),
            false => Ok((key, version)),
        }
    }

    /// The line for a file that is to be asked for by itself.
    pub fn alone(key: &RelPath) -> Line {
        Line::of_path(key)
    }

    /// The line that ends a listing.
    pub fn end(epoch: &str, seq: u64) -> Line {
        Line {
            epoch: Some(epoch.to_owned()),
            seq: Some(seq),
            ..Line::default()
        }
    }

    fn of_path(key: &RelPath) -> Line {
        match std::str::from_utf8(key.as_bytes()) {
            // JSON writes six bytes for most control characters: the line would get too long.
            Ok(text) if !text.bytes().any(|byte| byte.is_ascii_control()) => Line {
                path: Some(text.to_owned()),
                ..Line::default()
            },
            _ => Line {
                path_b64: Some(STANDARD.encode(key.as_bytes())),
                ..Line::default()
            },
        }
    }

    /// Whether this is the line that ends a listing.
    pub fn is_end(&self) -> bool {
        self.path.is_none() && self.path_b64.is_none()
    }

    fn raw_path(&self) -> Result<Vec<u8>> {
        match (&self.path, &self.path_b64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map_err(|_| Error::new(Kind::Corrupt, "path_b64 is not Base64")),
            _ => Err(Error::new(Kind::Corrupt, "a line needs one path")),
        }
    }

    fn meta(&self, revision: Option<Revision>) -> Result<Meta> {
        let missing = |what| Error::new(Kind::Corrupt, format!("a line lacks {what}"));
        let size = self.size.ok_or_else(|| missing("size"))?;
        if size > i64::MAX as u64 {
            return Err(Error::new(Kind::Corrupt, "a size is over 2^63"));
        }
        Ok(Meta {
            size,
            mtime_ns: self.mtime_ns.ok_or_else(|| missing("mtime_ns"))?,
            version: Version::new(self.etag.as_deref().ok_or_else(|| missing("etag"))?)?,
            sha256: self.sha256.as_deref().map(Sha256::from_hex).transpose()?,
            revision,
            arrival: None,
        })
    }

    /// What the line says, its number being of `epoch` where that is known. A bad name is not an
    /// error but a refusal; bad numbers are errors.
    pub fn into_change(self, epoch: Option<&Arc<str>>) -> Result<Change> {
        let raw = self.raw_path()?;
        let key = match RelPath::new(&raw) {
            Ok(key) if !key.is_root() => key,
            other => {
                let why = other
                    .err()
                    .map_or("the path is empty".into(), |e| e.message().to_owned());
                let shown = String::from_utf8_lossy(&raw)
                    .escape_debug()
                    .take(300)
                    .collect();
                return Ok(Change::Refused { shown, why });
            }
        };
        let revision = epoch.zip(self.seq).map(|(epoch, seq)| Revision {
            epoch: epoch.clone(),
            seq,
        });
        if self.deleted {
            return Ok(Change::Deleted(key, revision));
        }
        let meta = self.meta(revision)?;
        Ok(Change::Put(Object { key, meta }))
    }

    /// Like [`into_change`](Line::into_change) where deletions make no sense.
    pub fn into_listed(self) -> Result<Listed> {
        match self.into_change(None)? {
            Change::Put(object) => Ok(Listed::Object(object)),
            Change::Refused { shown, why } => Ok(Listed::Refused { shown, why }),
            Change::Deleted(..) => Err(Error::new(Kind::Corrupt, "a deletion in a listing")),
        }
    }
}

/// Writes an `X-Revision` value.
pub fn revision_header(epoch: &str, seq: u64) -> String {
    format!("{epoch}:{seq}")
}

/// Reads it; none if it is not one.
pub fn parse_revision(header: &str) -> Option<Revision> {
    let (epoch, seq) = header.rsplit_once(':')?;
    Some(Revision {
        epoch: epoch.into(),
        seq: seq.parse().ok()?,
    })
}

/// Writes a `Content-Digest` or `Repr-Digest` value.
pub fn digest_header(sha256: &Sha256) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256.0))
}

/// Finds the SHA-256 in a digest header; none if it holds other algorithms only.
pub fn parse_digest(header: &str) -> Result<Option<Sha256>> {
    for member in header.split(',') {
        let Some(value) = member.trim().strip_prefix("sha-256=") else {
            continue;
        };
        let inner = value
            .split(';')
            .next()
            .and_then(|v| v.trim().strip_prefix(':'))
            .and_then(|v| v.strip_suffix(':'))
            .and_then(|v| STANDARD.decode(v).ok())
            .ok_or_else(|| Error::new(Kind::Corrupt, "the digest is malformed"))?;
        return Sha256::from_slice(&inner).map(Some);
    }
    Ok(None)
}

/// An error body, RFC 9457 (`application/problem+json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_round_trip(bytes in proptest::collection::vec(any::<u8>(), 1..40), size in 0u64..1 << 62, mtime_ns: i64) {
            let Ok(key) = RelPath::new(&bytes) else { return Ok(()) };
            let object = Object { key, meta: Meta {
                size, mtime_ns, version: Version::new("v-1").unwrap(), sha256: Some(Sha256([7; 32])),
                revision: parse_revision(&revision_header("e:1", 3)), arrival: None } };
            let text = serde_json::to_string(&Line::object(Some(3), &object)).unwrap();
            let back: Line = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.into_change(Some(&"e:1".into())).unwrap(), Change::Put(object));
        }
    }

    #[test]
    fn p10_bad_names_become_refusals_and_bad_numbers_errors() {
        for name in ["", "..", "a/../b", "/a", "a//b", ".larder/x", "a\0"] {
            let line = Line {
                path: Some(name.into()),
                ..Line::default()
            };
            assert!(
                matches!(line.into_change(None).unwrap(), Change::Refused { .. }),
                "{name:?}"
            );
        }
        let line = Line {
            path: Some("a".into()),
            size: Some(1 << 63),
            mtime_ns: Some(0),
            etag: Some("x".into()),
            ..Line::default()
        };
        assert!(line.into_change(None).is_err());
    }

    #[test]
    fn p10_no_name_makes_a_line_too_long() {
        let name = vec!["\u{1}\"\\".repeat(85); 16].join("/");
        let key = RelPath::new(name.as_bytes()).unwrap();
        let text = serde_json::to_string(&Line::deleted(u64::MAX, &key)).unwrap();
        assert!(text.len() < LINE_MAX, "{}", text.len());
        let back: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(back.raw_path().unwrap(), name.as_bytes());
    }

    #[test]
    fn digests_round_trip() {
        let hash = Sha256([9; 32]);
        assert_eq!(parse_digest(&digest_header(&hash)).unwrap(), Some(hash));
        assert_eq!(parse_digest("md5=:AAAA:").unwrap(), None);
        assert!(parse_digest("sha-256=:zz:").is_err());
    }
}
