//! Paths and keys: the bucket's names are text of at most 1,024 bytes below a prefix, ours
//! are bytes without `.`, `..` and empty parts.

use crate::error::{Error, Kind, Result};
use crate::object::Listed;
use crate::path::{RESERVED, RelPath};

/// Longest key, in bytes.
const KEY_MAX: usize = 1024;

/// What the names of our marks begin with where a store takes no names in a directory of ours.
const PLAIN_MARK: &str = ".larder-probe-";

/// What stands before a file's own path in its key.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Empty, or ends with a slash.
    base: String,
}

/// What a key of the bucket is here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    File(RelPath),
    /// A mark that stands for a directory, or something of ours.
    Nothing,
    /// A name that no file can have.
    Refused(Listed),
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        let base = match prefix {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Keys { base }
    }

    /// What every key begins with.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The key of `path`. Errors: `Unsupported` for a path that is not text, `NameTooLong`.
    pub(super) fn key(&self, path: &RelPath) -> Result<String> {
        let Ok(text) = std::str::from_utf8(path.as_bytes()) else {
            let why = "a bucket's names are UTF-8, and this one is not";
            return Err(Error::new(Kind::Unsupported, why));
        };
        if path.is_root() {
            return Err(Error::new(
                Kind::IsADirectory,
                "the prefix itself is no object",
            ));
        }
        self.below(text)
    }

    /// The key of something of ours that is no file.
    pub(super) fn ours(&self, name: &str) -> Result<String> {
        self.below(&format!("{RESERVED}/{name}"))
    }

    /// The key of a mark of ours, which is no file.
    pub(super) fn mark(&self, name: &str) -> Result<String> {
        self.ours(&format!("probe-{name}"))
    }

    /// The same where a store takes no names in a directory of ours.
    pub(super) fn plain_mark(&self, name: &str) -> Result<String> {
        self.below(&format!("{PLAIN_MARK}{name}"))
    }

    fn below(&self, text: &str) -> Result<String> {
        let key = format!("{}{text}", self.base);
        match key.len() <= KEY_MAX {
            true => Ok(key),
            false => Err(Error::new(
                Kind::NameTooLong,
                "a bucket's keys have 1,024 bytes at most, its prefix included",
            )),
        }
    }

    /// What an object of a listing is, which is `size` bytes long.
    pub(super) fn found(&self, key: &str, size: u64) -> Found {
        let Some(rest) = key.strip_prefix(&self.base) else {
            return refused(key, "it is not below the prefix");
        };
        let is_ours = rest.starts_with(PLAIN_MARK)
            || rest
                .strip_prefix(RESERVED)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // Consoles and other tools make an empty `dir/` so that a directory is there.
        let is_mark = size == 0 && (rest.is_empty() || rest.ends_with('/'));
        if is_ours || is_mark {
            return Found::Nothing;
        }
        match RelPath::new(rest.as_bytes()) {
            Ok(path) if !path.is_root() => Found::File(path),
            Ok(_) => refused(rest, "a name is empty"),
            Err(error) => refused(rest, error.message()),
        }
    }
}

fn refused(key: &str, why: &str) -> Found {
    Found::Refused(Listed::Refused {
        shown: key.escape_debug().take(300).collect(),
        why: why.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_what_cannot_be_a_file_is_refused_and_marks_of_directories_are_nothing() {
        let keys = Keys::new("p//q");
        let long = format!("p//q/{}", "x".repeat(256));
        for key in [
            "p//q/a//b",
            "p//q/.",
            "p//q/a/../b",
            "p//q//a",
            "p//q/a\0b",
            "p//q/dir/x/.larder/y",
            "other/a",
            &long,
        ] {
            assert!(matches!(keys.found(key, 0), Found::Refused(_)), "{key}");
        }
        assert!(matches!(keys.found("p//q/dir/", 1), Found::Refused(_)));
        assert!(matches!(keys.found("p//q/", 1), Found::Refused(_)));
        for key in [
            "p//q/dir/",
            "p//q/",
            "p//q/.larder/probe-1",
            "p//q/.larder",
            "p//q/.larder-probe-1",
        ] {
            assert_eq!(keys.found(key, 0), Found::Nothing, "{key}");
        }
        let path = RelPath::new(b"a/.larderx").unwrap();
        assert_eq!(keys.key(&path).unwrap(), "p//q/a/.larderx");
        assert_eq!(keys.found("p//q/a/.larderx", 7), Found::File(path));
    }

    #[test]
    fn a_path_that_no_key_can_be_is_an_error_that_says_why() {
        let keys = Keys::new("");
        let bytes = keys.key(&RelPath::new(b"\xff").unwrap()).unwrap_err();
        assert_eq!(bytes.kind(), Kind::Unsupported);
        let deep = ["x".repeat(255).as_str(); 5].join("/");
        let long = keys
            .key(&RelPath::new(deep.as_bytes()).unwrap())
            .unwrap_err();
        assert_eq!(long.kind(), Kind::NameTooLong);
        assert!(keys.key(&RelPath::root()).is_err());
    }
}
