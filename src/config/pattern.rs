//! Which files a list of patterns means: those that stay here, those that go up last. Pure.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// What never goes up unless the user says otherwise: names that are temporary by
/// convention, locks, and files that belong to a database in use.
pub const DEFAULT_EXCLUDES: &[&str] = &[
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.swp",
    "*~",
    ".#*",
    ".~lock.*",
    ".nfs*",
    ".fuse_hidden*",
    ".DS_Store",
    "*.lock",
    "*.s3tmp",
    "*.s3key*",
    ".fxcache_index.db*",
    "_meta/",
    "*-journal",
    "*-wal",
    "*-shm",
    "*.wal",
    "*.duckdb",
    "*.sqlite",
    "*.sqlite3",
];

/// What goes up only after the files that were written beside and beneath it, unless the user
/// says otherwise: names that say that something else is complete. Words, as in the environment.
pub(super) const DEFAULT_PUBLISH_LAST: &str = "*.meta.json manifest.json _SUCCESS";

/// A set of patterns. One without a slash is compared with every name in a path; one
/// that ends with a slash only with names of directories; one with a slash elsewhere
/// with the path from the root. What lies in a directory that matches, matches.
#[derive(Debug, Clone)]
pub struct Patterns {
    names: GlobSet,
    directories: GlobSet,
    paths: GlobSet,
}

impl Patterns {
    /// Compiles `patterns`. Errors: [`Kind::Invalid`] names the pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Patterns> {
        let mut names = GlobSetBuilder::new();
        let mut directories = GlobSetBuilder::new();
        let mut paths = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let (body, only_directories) = match pattern.strip_suffix('/') {
                Some(body) => (body, true),
                None => (pattern, false),
            };
            let set = match (body.contains('/'), only_directories) {
                (true, _) => &mut paths,
                (false, true) => &mut directories,
                (false, false) => &mut names,
            };
            set.add(compile(body.trim_start_matches('/'), pattern)?);
        }
        Ok(Patterns {
            names: build(names)?,
            directories: build(directories)?,
            paths: build(paths)?,
        })
    }

    /// Whether they mean the file at `path`.
    pub fn matches(&self, path: &RelPath) -> bool {
        let mut at = Some(path.clone());
        let mut is_file = true;
        while let Some(here) = at.filter(|p| !p.is_root()) {
            let name = here.file_name();
            let named = |set: &GlobSet| name.as_ref().is_some_and(|n| set.is_match(n.as_os_str()));
            let found = named(&self.names)
                || (!is_file && named(&self.directories))
                || self.paths.is_match(here.as_os_str());
            if found {
                return true;
            }
            is_file = false;
            at = here.parent();
        }
        false
    }
}

fn compile(body: &str, shown: &str) -> Result<globset::Glob> {
    let refused = |why: String| {
        let text = format!(
            "{shown:?} is not a pattern ({why}); write for example \"*.tmp\" or \"scratch/\""
        );
        Error::new(Kind::Invalid, text)
    };
    if body.is_empty() {
        return Err(refused("it is empty".into()));
    }
    GlobBuilder::new(body)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|e| refused(e.kind().to_string()))
}

fn build(set: GlobSetBuilder) -> Result<GlobSet> {
    set.build()
        .map_err(|e| Error::new(Kind::Invalid, format!("the patterns do not compile: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn p4_temporary_names_stay_here() {
        let set = Patterns::new(DEFAULT_EXCLUDES).unwrap();
        for text in [
            "a.tmp",
            "TB/x.pkl.tmp",
            ".fxcache_index.db",
            ".fxcache_index.db-wal",
            "run/_meta/state.json",
            "x.db-wal",
            "prices.duckdb",
            "a.s3key",
            "a.s3key.tmp",
            "a.parquet.s3tmp",
            "bars/series.json.lock",
            "binance/BTC_USDT_1m.duckdb.wal",
            "half.tmp/inside.pkl",
        ] {
            assert!(set.matches(&path(text)), "{text}");
        }
        for text in [
            "TB/a_b.pkl",
            "MT/result_0x1.pkl",
            "_meta",
            "tmp",
            "8/b/i/n.json",
            "a.db",
        ] {
            assert!(!set.matches(&path(text)), "{text}");
        }
    }

    #[test]
    fn what_says_that_others_are_complete_goes_last() {
        let words: Vec<_> = DEFAULT_PUBLISH_LAST.split_whitespace().collect();
        let set = Patterns::new(&words).unwrap();
        for text in ["a/x.parquet.meta.json", "runs/7/manifest.json", "_SUCCESS"] {
            assert!(set.matches(&path(text)), "{text}");
        }
        for text in ["a/x.parquet", "meta.json", "a_SUCCESS"] {
            assert!(!set.matches(&path(text)), "{text}");
        }
    }

    #[test]
    fn patterns_with_a_slash_start_at_the_root() {
        let set = Patterns::new(&["runs/*/scratch", "/top", "raw/**/x.csv"]).unwrap();
        assert!(set.matches(&path("runs/7/scratch/a")));
        assert!(!set.matches(&path("old/runs/7/scratch/a")));
        assert!(!set.matches(&path("runs/7/8/scratch")));
        assert!(set.matches(&path("raw/a/b/x.csv")));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Patterns::new(&["a[", "b"]).unwrap_err();
        assert!(error.to_string().contains("\"a[\""), "{error}");
        assert!(Patterns::new(&[""]).is_err());
    }
}
