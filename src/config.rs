//! What the user wants, from every place where it can be said.
//!
//! Low to high: defaults, `larder.toml`, environment, flags. Every value remembers
//! where it came from, so that `larder config show` can say so and a bad one can be
//! refused in one line that names the value, its source and what is allowed.
//!
//! It reads the configuration file and key files, and nothing else; it does not
//! look at the mountpoint, the store or the network.

mod file;
mod layers;
mod lumibot;
mod pattern;
mod resolve;
mod settings;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use file::ConfigFile;
pub use layers::{Flags, Shown};
pub use pattern::{DEFAULT_EXCLUDES, Patterns};
pub use resolve::{Resolved, profile_folder, resolve_mount, resolve_serve};
pub use settings::{Section, Source, nearest};
pub use value::{parse_duration, parse_size, parse_switch};

use crate::secret::{Credentials, Secret};

/// What a mount does with names it knows but cannot read while the remote is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// They are hidden, so that a pipeline rebuilds as it would without a cache.
    Hide,
    /// They stay listed, and opening one is an error.
    Error,
}

impl fmt::Display for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Offline::Hide => "hide",
            Offline::Error => "error",
        })
    }
}

/// Which version keeps the path when both sides changed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The remote's keeps the path; ours is set aside and listed.
    KeepBoth,
    /// Ours keeps the path and replaces the remote's.
    LocalWins,
}

impl fmt::Display for ConflictPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConflictPolicy::KeepBoth => "keep-both",
            ConflictPolicy::LocalWins => "local-wins",
        })
    }
}

/// A program whose environment says what a mount is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Its remote cache, and the folder that it keeps its cache in.
    Lumibot,
}

/// One remote of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSpec {
    /// As it was given; it may hold credentials, so it is not for showing.
    pub url: String,
    /// Whether its path says which of the caches in one bucket it is: with another one, nothing of
    /// the one before is shown.
    pub is_partition: bool,
    /// What it is asked with.
    pub credentials: Credentials,
}

/// Everything a mount needs to know.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// Absolute.
    pub mountpoint: PathBuf,
    /// Where the files are kept; none: the directory under the mountpoint.
    pub store: Option<PathBuf>,
    /// In the order in which reads try them.
    pub remotes: Vec<RemoteSpec>,
    /// Whether what is written here goes up.
    pub upload: bool,
    /// Whether nothing may be written here.
    pub read_only: bool,
    /// Whether a file's bytes are dropped after its last close.
    pub stream: bool,
    /// Most bytes of files to keep.
    pub max_size: Option<u64>,
    /// Bytes to leave free on the store's disk.
    pub min_free: u64,
    /// Most files to keep.
    pub max_files: Option<u64>,
    /// See [`Offline`].
    pub offline: Offline,
    /// Whether a delete here deletes at the remote.
    pub propagate_deletes: bool,
    /// Whether other users of this machine may use the mount.
    pub allow_other: bool,
    /// What never goes up; see [`Patterns`].
    pub exclude: Vec<String>,
    /// What goes up after the files that were written before it beside and beneath it: the
    /// [`Patterns`] of sidecars and of marks that something is complete.
    pub publish_last: Vec<String>,
    /// See [`ConflictPolicy`].
    pub conflicts: ConflictPolicy,
    /// How often a remote without a change feed is listed again.
    pub refresh: Duration,
    /// Most requests a day for listings, of each remote where a listing costs; none: no limit.
    pub list_budget: Option<u64>,
    /// Most files of one remote that are taken from its listings; none: no limit.
    pub max_listed: Option<u64>,
    /// Whether a remote that can be asked is asked for a name that its listing lacks.
    pub ask_on_miss: bool,
    /// Whether reads may bypass the daemon where the kernel can do that.
    pub passthrough: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// Downloads at a time.
    pub transfers: usize,
    /// Files fetched at a time that no reader has asked for yet; 0: none.
    pub prefetch: usize,
    /// Uploads at a time.
    pub uploads: usize,
    /// What is logged: a level, or a filter such as `larder=debug`.
    pub log: String,
}

/// Everything the LAN server needs to know.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The directory that is served.
    pub dir: PathBuf,
    /// The address to listen at.
    pub host: String,
    /// The port to listen at; 0 takes a free one.
    pub port: u16,
    /// What writers must show.
    pub key: Option<Secret>,
    /// What readers must show.
    pub read_key: Option<Secret>,
    /// Whether anyone may write without a key.
    pub open_writes: bool,
    /// Whether files may be deleted through the server.
    pub allow_delete: bool,
    /// What the directory is called as an S3 bucket; none: whatever it is called.
    pub s3_bucket: Option<String>,
    /// Certificate chain in PEM; with `tls_key` the server speaks HTTPS.
    pub tls_cert: Option<PathBuf>,
    /// Private key in PEM.
    pub tls_key: Option<PathBuf>,
    /// How often the whole directory is compared with the index.
    pub sweep: Duration,
    /// What is logged.
    pub log: String,
}

/// The environment at one moment, so that tests can make their own.
#[derive(Debug, Clone, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Environment {
        Environment(std::env::vars_os().collect())
    }

    /// One made of these.
    pub fn of(pairs: &[(&str, &str)]) -> Environment {
        let own = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Environment(pairs.iter().map(own).collect())
    }

    /// The value of `name`; an empty one is as good as none.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value).filter(|v| !v.is_empty())
    }

    /// The names that are set, as far as they are text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(name, _)| name.to_str())
    }
}

#[cfg(test)]
mod tests;
