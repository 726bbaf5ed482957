//! Which files stay here. Pure.

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

/// A set of patterns. One without a slash is compared with every name in a path; one
/// that ends with a slash only with names of directories; one with a slash elsewhere
/// with the path from the root. What lies in an excluded directory is excluded.
#[derive(Debug, Clone)]
pub struct Excludes {
    names: GlobSet,
    directories: GlobSet,
    paths: GlobSet,
}

impl Excludes {
    /// Compiles `patterns`. Errors: [`Kind::Invalid`] names the pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Excludes> {
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
        Ok(Excludes {
            names: build(names)?,
            directories: build(directories)?,
            paths: build(paths)?,
        })
    }

    /// Whether the file at `path` stays here.
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
            "exclude {shown:?} is not a pattern ({why}); write for example \"*.tmp\" or \"scratch/\""
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
    set.build().map_err(|e| {
        Error::new(
            Kind::Invalid,
            format!("the exclude patterns do not compile: {e}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn p4_temporary_names_stay_here() {
        let set = Excludes::new(DEFAULT_EXCLUDES).unwrap();
        for text in [
            "a.tmp",
            "TB/x.pkl.tmp",
            ".fxcache_index.db",
            ".fxcache_index.db-wal",
            "run/_meta/state.json",
            "x.db-wal",
            "prices.duckdb",
            "a.s3key123",
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
    fn patterns_with_a_slash_start_at_the_root() {
        let set = Excludes::new(&["runs/*/scratch", "/top", "raw/**/x.csv"]).unwrap();
        assert!(set.matches(&path("runs/7/scratch/a")));
        assert!(!set.matches(&path("old/runs/7/scratch/a")));
        assert!(!set.matches(&path("runs/7/8/scratch")));
        assert!(set.matches(&path("raw/a/b/x.csv")));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Excludes::new(&["a[", "b"]).unwrap_err();
        assert!(error.to_string().contains("\"a[\""), "{error}");
        assert!(Excludes::new(&[""]).is_err());
    }
}
