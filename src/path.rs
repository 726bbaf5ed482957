//! Names and paths, validated where they are made.
//!
//! A [`Name`] is one component, a [`RelPath`] a sequence of them below some root;
//! both are bytes, not text. Whoever holds one needs no further check: it cannot
//! climb, it cannot name anything of ours, it fits the file system (promise P10).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::error::{Error, Kind, Result};

/// The directory inside a store or a served directory that holds everything of ours.
pub const RESERVED: &str = ".larder";

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path, in bytes.
pub const PATH_MAX: usize = 4096;

/// What stays literal in a path inside a URL: RFC 3986 unreserved and `/`.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// One validated component: not empty, `.`, `..` or [`RESERVED`]; no NUL, no `/`; at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Validates `bytes`. Errors: [`Kind::Invalid`], [`Kind::NameTooLong`].
    pub fn new(bytes: &[u8]) -> Result<Name> {
        check(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as the operating system wants them.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// For looking up in maps whose keys are names; bytes order and compare as names do.
impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

fn check(name: &[u8]) -> Result<()> {
    let why = match name {
        b"" => "a name is empty",
        b"." | b".." => "a name is a dot directory",
        _ if name == RESERVED.as_bytes() => "the name .larder is reserved",
        _ if name.contains(&0) => "a name holds a NUL byte",
        _ if name.contains(&b'/') => "a name holds a slash",
        _ if name.len() > NAME_MAX => {
            return Err(Error::new(Kind::NameTooLong, "a name is over 255 bytes"));
        }
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, why))
}

/// A path below a root, without leading or trailing slash; empty for the root itself.
///
/// Ordered by bytes, which is the order that every listing comes in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// The root itself.
    pub fn root() -> RelPath {
        RelPath::default()
    }

    /// Validates every component of `bytes`; the empty string is the root.
    /// Errors: [`Kind::Invalid`], [`Kind::NameTooLong`].
    pub fn new(bytes: &[u8]) -> Result<RelPath> {
        if bytes.len() > PATH_MAX {
            return Err(Error::new(Kind::NameTooLong, "a path is over 4,096 bytes"));
        }
        if !bytes.is_empty() {
            bytes.split(|b| *b == b'/').try_for_each(check)?;
        }
        Ok(RelPath(bytes.into()))
    }

    /// Reads the percent-encoded form that [`encode`](RelPath::encode) writes.
    pub fn decode(text: &str) -> Result<RelPath> {
        let bytes: Vec<u8> = percent_decode_str(text).collect();
        RelPath::new(&bytes)
    }

    /// The path as it stands in a URL: percent-encoded, slashes kept.
    pub fn encode(&self) -> String {
        encode(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as the operating system wants them.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The last component; none for the root.
    pub fn file_name(&self) -> Option<Name> {
        self.components().last().map(|last| Name(last.into()))
    }

    /// Everything but the last component; none for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(RelPath(self.0[..cut].into()))
    }

    /// The path of `name` inside this directory. Errors: [`Kind::NameTooLong`].
    pub fn join(&self, name: &Name) -> Result<RelPath> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        if bytes.len() > PATH_MAX {
            return Err(Error::new(Kind::NameTooLong, "a path is over 4,096 bytes"));
        }
        Ok(RelPath(bytes.into_boxed_slice()))
    }

    /// Whether this path is `ancestor` or lies beneath it.
    pub fn is_under(&self, ancestor: &RelPath) -> bool {
        ancestor.is_root()
            || self
                .0
                .strip_prefix(&*ancestor.0)
                .is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
    }
}

/// Bytes as [`RelPath::encode`] writes them, be they a path or not.
pub fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, KEEP).to_string()
}

/// Bytes for people: UTF-8 as it is, but control characters and bad bytes escaped,
/// so that a name can neither break a line nor drive a terminal.
fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        show(&self.0, f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn p10_bad_names_are_refused() {
        let long = vec![b'x'; 256];
        let bad: [&[u8]; 7] = [b"", b".", b"..", b".larder", b"a\0b", b"a/b", &long];
        for name in bad {
            assert!(Name::new(name).is_err(), "{name:?}");
        }
        let paths: [&[u8]; 7] = [b"/", b"/a", b"a/", b"a//b", b"a/../b", b"a/.larder", b"./a"];
        for path in paths {
            assert!(RelPath::new(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn shown_names_stay_on_their_line() {
        let path = RelPath::new(b"a\nb\x1b/\xffc\xc3\xa9").unwrap();
        assert_eq!(path.to_string(), "a\\nb\\u{1b}/\\xffcé");
    }

    #[test]
    fn parents_and_prefixes() {
        let path = RelPath::new(b"a/b/c").unwrap();
        assert_eq!(path.parent(), Some(RelPath::new(b"a/b").unwrap()));
        assert_eq!(RelPath::new(b"a").unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert!(path.is_under(&RelPath::new(b"a/b").unwrap()));
        assert!(path.is_under(&path));
        assert!(
            !RelPath::new(b"ab")
                .unwrap()
                .is_under(&RelPath::new(b"a").unwrap())
        );
    }

    proptest! {
        #[test]
        fn encoding_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = RelPath::new(&bytes) {
                prop_assert_eq!(RelPath::decode(&path.encode()).unwrap(), path);
            }
        }

        #[test]
        fn p10_no_accepted_path_climbs(bytes in proptest::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(b'a')], 0..16)) {
            if let Ok(path) = RelPath::new(&bytes) {
                prop_assert!(path.components().all(|c| !c.is_empty() && c != b"." && c != b".."));
            }
        }
    }
}
