//! The table of settings: their names, where they may come from, what they default to.

use std::fmt;
use std::path::PathBuf;

use super::pattern::DEFAULT_PUBLISH_LAST;

/// Which command a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `[mount]`, and `[mounts."<mountpoint>"]`.
    Mount,
    /// `[serve]`.
    Serve,
}

impl Section {
    /// The table's name in `larder.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Section::Mount => "mount",
            Section::Serve => "serve",
        }
    }

    pub(super) fn settings(self) -> &'static [Setting] {
        match self {
            Section::Mount => MOUNT,
            Section::Serve => SERVE,
        }
    }

    pub(super) fn setting(self, name: &str) -> Option<&'static Setting> {
        self.settings().iter().find(|s| s.name == name)
    }
}

/// Where a value came from; a later one wins over an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built in.
    Default,
    /// A table of the configuration file.
    File { path: PathBuf, table: String },
    /// An environment variable.
    Environment(&'static str),
    /// The command line.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, table } => write!(f, "{} [{table}]", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag("dir") => f.write_str("argument DIR"),
            Source::Flag(name) => write!(f, "flag --{}", name.replace('_', "-")),
        }
    }
}

/// How an environment variable's text becomes the setting's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// As it is.
    Plain,
    /// `cache` or `stream`, of `REMOTE_FXCACHE_MODE`.
    FxcacheMode,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// In the file; a flag is the same with dashes.
    pub name: &'static str,
    /// Variables that set it, the one that wins first.
    pub env: &'static [(&'static str, Reading)],
    /// Its default as text; none: not set.
    pub default: Option<&'static str>,
    /// Whether it holds several values.
    pub list: bool,
    /// Whether its value is never shown, and refused in the file.
    pub secret: bool,
}

const fn one(
    name: &'static str,
    env: &'static [(&'static str, Reading)],
    default: Option<&'static str>,
) -> Setting {
    Setting {
        name,
        env,
        default,
        list: false,
        secret: false,
    }
}

const fn several(name: &'static str, env: &'static [(&'static str, Reading)]) -> Setting {
    Setting {
        list: true,
        ..one(name, env, None)
    }
}

const fn hidden(name: &'static str, env: &'static [(&'static str, Reading)]) -> Setting {
    Setting {
        secret: true,
        ..one(name, env, None)
    }
}

use Reading::{FxcacheMode, Plain};

static MOUNT: &[Setting] = &[
    // First, for the others depend on it.
    one("profile", &[("LARDER_PROFILE", Plain)], Some("none")),
    several(
        "remote",
        &[("LARDER_REMOTE", Plain), ("REMOTE_FXCACHE_URL", Plain)],
    ),
    hidden("key", &[("LARDER_KEY", Plain)]),
    one("key_file", &[("LARDER_KEY_FILE", Plain)], None),
    one(
        "s3_access_key_id",
        &[("LARDER_S3_ACCESS_KEY_ID", Plain)],
        None,
    ),
    hidden(
        "s3_secret_access_key",
        &[("LARDER_S3_SECRET_ACCESS_KEY", Plain)],
    ),
    one(
        "s3_secret_access_key_file",
        &[("LARDER_S3_SECRET_ACCESS_KEY_FILE", Plain)],
        None,
    ),
    hidden("s3_session_token", &[("LARDER_S3_SESSION_TOKEN", Plain)]),
    one(
        "s3_session_token_file",
        &[("LARDER_S3_SESSION_TOKEN_FILE", Plain)],
        None,
    ),
    one("store", &[("LARDER_STORE", Plain)], None),
    one(
        "upload",
        &[("LARDER_UPLOAD", Plain), ("REMOTE_FXCACHE_UPLOAD", Plain)],
        Some("false"),
    ),
    one("read_only", &[("LARDER_READ_ONLY", Plain)], Some("false")),
    one(
        "stream",
        &[
            ("LARDER_STREAM", Plain),
            ("REMOTE_FXCACHE_MODE", FxcacheMode),
        ],
        Some("false"),
    ),
    one("max_size", &[("LARDER_MAX_SIZE", Plain)], Some("none")),
    one("min_free", &[("LARDER_MIN_FREE", Plain)], Some("1GiB")),
    one("max_files", &[("LARDER_MAX_FILES", Plain)], Some("none")),
    one("offline", &[("LARDER_OFFLINE", Plain)], Some("hide")),
    one(
        "conflicts",
        &[("LARDER_CONFLICTS", Plain)],
        Some("keep-both"),
    ),
    one(
        "propagate_deletes",
        &[("LARDER_PROPAGATE_DELETES", Plain)],
        Some("false"),
    ),
    one(
        "allow_other",
        &[("LARDER_ALLOW_OTHER", Plain)],
        Some("false"),
    ),
    several("exclude", &[("LARDER_EXCLUDE", Plain)]),
    one(
        "default_excludes",
        &[("LARDER_DEFAULT_EXCLUDES", Plain)],
        Some("true"),
    ),
    Setting {
        default: Some(DEFAULT_PUBLISH_LAST),
        ..several("publish_last", &[("LARDER_PUBLISH_LAST", Plain)])
    },
    one("refresh", &[("LARDER_REFRESH", Plain)], Some("30s")),
    one(
        "list_budget",
        &[("LARDER_LIST_BUDGET", Plain)],
        Some("20000"),
    ),
    one(
        "max_listed",
        &[("LARDER_MAX_LISTED", Plain)],
        Some("20000000"),
    ),
    one(
        "ask_on_miss",
        &[("LARDER_ASK_ON_MISS", Plain)],
        Some("false"),
    ),
    one(
        "passthrough",
        &[("LARDER_PASSTHROUGH", Plain)],
        Some("true"),
    ),
    one("threads", &[("LARDER_THREADS", Plain)], Some("4")),
    one("transfers", &[("LARDER_TRANSFERS", Plain)], Some("8")),
    one("prefetch", &[("LARDER_PREFETCH", Plain)], Some("24")),
    one("uploads", &[("LARDER_UPLOADS", Plain)], Some("4")),
    one("log", &[("LARDER_LOG", Plain)], Some("info")),
];

static SERVE: &[Setting] = &[
    one(
        "dir",
        &[("LARDER_DIR", Plain), ("FXCACHE_PATH", Plain)],
        None,
    ),
    one(
        "host",
        &[("LARDER_HOST", Plain), ("FXCACHE_SERVER_HOST", Plain)],
        Some("0.0.0.0"),
    ),
    one(
        "port",
        &[("LARDER_PORT", Plain), ("FXCACHE_SERVER_PORT", Plain)],
        Some("5002"),
    ),
    hidden("key", &[("LARDER_KEY", Plain)]),
    one("key_file", &[("LARDER_KEY_FILE", Plain)], None),
    hidden("read_key", &[("LARDER_READ_KEY", Plain)]),
    one("read_key_file", &[("LARDER_READ_KEY_FILE", Plain)], None),
    one(
        "open_writes",
        &[("LARDER_OPEN_WRITES", Plain)],
        Some("false"),
    ),
    one(
        "allow_delete",
        &[("LARDER_ALLOW_DELETE", Plain)],
        Some("false"),
    ),
    one("s3_bucket", &[("LARDER_S3_BUCKET", Plain)], None),
    one("tls_cert", &[("LARDER_TLS_CERT", Plain)], None),
    one("tls_key", &[("LARDER_TLS_KEY", Plain)], None),
    one("sweep", &[("LARDER_SWEEP", Plain)], Some("10m")),
    one("log", &[("LARDER_LOG", Plain)], Some("info")),
];

/// Variables of ours that are no settings.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "LARDER_CONFIG",
    "LARDER_RUNTIME_DIR",
    crate::crash::VARIABLE,
];

/// The one of `known` that looks most like `wanted`, if any does.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
