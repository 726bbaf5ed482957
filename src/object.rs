//! What a remote has: objects, their versions, and changes to them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// A node's number, which is also its inode number. The root is 1; none is used twice in one
/// life of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A remote's number in the index of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteId(pub u32);

/// A remote's opaque name for one version of one object: an ETag without its quotes.
///
/// Two equal versions of one key are the same bytes; nothing else is read into it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Box<str>);

impl Version {
    /// Validates `text`: 1 to 256 visible ASCII characters without `"`.
    pub fn new(text: &str) -> Result<Version> {
        let fits = (1..=256).contains(&text.len())
            && text
                .bytes()
                .all(|b| (0x21..=0x7e).contains(&b) && b != b'"');
        if !fits {
            return Err(Error::new(Kind::Corrupt, "the version is not a valid ETag"));
        }
        Ok(Version(text.into()))
    }

    /// A version that is just a number.
    pub fn numbered(number: u64) -> Version {
        Version(format!("v{number}").into())
    }

    /// Reads an `ETag` header value; weak tags are refused, for they promise nothing about bytes.
    pub fn from_etag(header: &str) -> Result<Version> {
        let inner = header
            .trim()
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .ok_or_else(|| Error::new(Kind::Corrupt, "the ETag is weak or not quoted"))?;
        Version::new(inner)
    }

    /// The version as an `ETag`, `If-Match` or `If-None-Match` value.
    pub fn to_etag(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The bare text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Sha256> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Error::new(Kind::Corrupt, "not a SHA-256 in hexadecimal"))?;
        Ok(Sha256(bytes))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// What stands in for the hash of bytes that nobody here has read: what their remote calls
    /// them, and how many they are. A store that names versions by their bytes calls a copy so, too.
    pub fn stand_in(version: &Version, size: u64) -> Sha256 {
        let mut hasher = Hasher::new();
        hasher.update(b"unread ");
        hasher.update(size.to_le_bytes());
        hasher.update(version.as_str());
        Sha256(hasher.finalize().into())
    }

    /// Takes 32 raw bytes, as a database stores them.
    pub fn from_slice(bytes: &[u8]) -> Result<Sha256> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::new(Kind::Corrupt, "a SHA-256 is not 32 bytes"))?;
        Ok(Sha256(bytes))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Where something stands among all changes of one remote: of two in one epoch, the one with the
/// higher number came later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Names one life of the remote's index, as in [`Cursor`].
    pub epoch: Arc<str>,
    /// The change's number in it.
    pub seq: u64,
}

/// What a remote says of one version of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Length in bytes.
    pub size: u64,
    /// The writer's modification time, in nanoseconds since 1970 (UTC).
    pub mtime_ns: i64,
    /// Which version this is.
    pub version: Version,
    /// Hash of the bytes, where the remote gives one.
    pub sha256: Option<Sha256>,
    /// When the version came, where the remote says so. Answers overtake one another on their
    /// way; this tells which is the older.
    pub revision: Option<Revision>,
    /// When the remote got the version, where it tells that as well as the writer's time.
    pub arrival: Option<Arrival>,
}

/// When a remote got a version. The listing of an S3 bucket tells this and not the writer's time,
/// which is in the object's own metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// In nanoseconds since 1970 (UTC), by the remote's clock.
    pub at_ns: i64,
    /// Whether `mtime_ns` is no more than this: the writer's time was not told, and whoever asks
    /// for the object learns it.
    pub only: bool,
}

/// Listings tell arrivals more finely than the objects themselves.
const ARRIVAL_ROUNDING_NS: u64 = 1_000_000_000;

impl Arrival {
    /// Whether both can be the same arrival, told with different precision.
    pub fn is_same(&self, other: &Arrival) -> bool {
        self.at_ns.abs_diff(other.at_ns) < ARRIVAL_ROUNDING_NS
    }
}

impl Meta {
    /// Whether the writer's time is not known.
    pub fn is_rough(&self) -> bool {
        self.arrival.is_some_and(|arrival| arrival.only)
    }
}

/// A named object in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The remote's own path of it.
    pub key: RelPath,
    /// Size, time, version.
    pub meta: Meta,
}

/// One line of a listing. A remote's bad names are carried to where they are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// An object whose name can be a file here.
    Object(Object),
    /// A name that cannot; `why` is for people.
    Refused { shown: String, why: String },
}

/// One thing that happened at a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The object is new, or has another version now.
    Put(Object),
    /// The object is gone, since then.
    Deleted(RelPath, Option<Revision>),
    /// See [`Listed::Refused`].
    Refused { shown: String, why: String },
}

/// Where a reader of a remote's changes stands. Ordered within one epoch only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Names one life of the remote's index.
    pub epoch: String,
    /// The last change seen in that life.
    pub seq: u64,
}

/// What must be true at the remote for a write to happen, checked there in one step with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing; the last writer wins.
    None,
    /// The key holds nothing.
    Absent,
    /// The key holds this version.
    Matches(Version),
}

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// At a remote only.
    Remote,
    /// At a remote, and some of it here.
    Partial,
    /// Here and at a remote, the same.
    Clean,
    /// Here, and waiting to go up.
    Dirty,
    /// On its way up.
    Uploading,
    /// Here only, and it stays here.
    Local,
    /// The remote has another version, and ours is set aside.
    Conflict,
    /// Here in an older version than the remote has.
    Stale,
}

impl FileState {
    /// The word for it, as in `user.larder.state`.
    pub fn word(self) -> &'static str {
        match self {
            FileState::Remote => "remote",
            FileState::Partial => "partial",
            FileState::Clean => "clean",
            FileState::Dirty => "dirty",
            FileState::Uploading => "uploading",
            FileState::Local => "local",
            FileState::Conflict => "conflict",
            FileState::Stale => "stale",
        }
    }
}

/// Half-open range of bytes.
pub type ByteRange = Range<u64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_weak_and_malformed_etags_are_refused() {
        assert_eq!(Version::from_etag("\"a-1\"").unwrap().as_str(), "a-1");
        for bad in ["W/\"a\"", "a", "\"\"", "\"a b\"", "\"a\"b\"", "\""] {
            assert!(Version::from_etag(bad).is_err(), "{bad}");
        }
    }
}
