//! The flags that are settings, and their way into the layers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Context, place};
use crate::config::{Flags, profile_folder};
use crate::error::Result;

/// Settings of a mount. Each can also stand in larder.toml and in the environment.
#[derive(Debug, Args, Default)]
pub struct MountFlags {
    /// Where files come from: http://HOST:5002, https://…, s3://BUCKET/PREFIX or file:///DIR, with
    /// options behind a ?, such as ?upload&rate=10MiB; repeat it for more, the nearest first
    #[arg(long, short, value_name = "URL")]
    remote: Vec<OsString>,
    /// Take remote, mode and folder from the environment of another program: lumibot
    #[arg(long, value_name = "NAME")]
    profile: Option<OsString>,
    /// File that holds the key for the http remotes (or set LARDER_KEY)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Name of the access key for s3 remotes (or set LARDER_S3_ACCESS_KEY_ID); without one, what the
    /// AWS tools use here
    #[arg(long, value_name = "ID")]
    s3_access_key_id: Option<OsString>,
    /// File that holds its secret (or set LARDER_S3_SECRET_ACCESS_KEY)
    #[arg(long, value_name = "FILE")]
    s3_secret_access_key_file: Option<PathBuf>,
    /// File that holds the session token of a temporary access key (or set LARDER_S3_SESSION_TOKEN)
    #[arg(long, value_name = "FILE")]
    s3_session_token_file: Option<PathBuf>,
    /// Keep the files here instead of in the directory under the mountpoint
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Send what is written here to every remote whose URL does not say ?upload=false
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    upload: Option<OsString>,
    /// Allow no writing here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    read_only: Option<OsString>,
    /// Keep nothing: drop a file's bytes after its last close
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    stream: Option<OsString>,
    /// Most bytes of files to keep, such as 20GiB; least recently used files go first
    #[arg(long, value_name = "SIZE")]
    max_size: Option<OsString>,
    /// Bytes to leave free on the disk [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<OsString>,
    /// Most files to keep
    #[arg(long, value_name = "NUMBER")]
    max_files: Option<OsString>,
    /// While a remote is away, names that cannot be read: hide (default) or error
    #[arg(long, value_name = "hide|error")]
    offline: Option<OsString>,
    /// When both sides changed a file: keep-both (default) or local-wins
    #[arg(long, value_name = "keep-both|local-wins")]
    conflicts: Option<OsString>,
    /// Delete at the remotes what is deleted here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    propagate_deletes: Option<OsString>,
    /// Let other users of this machine use the mount
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    allow_other: Option<OsString>,
    /// Never send files that match: "*.bak", "scratch/"; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
    /// Send temporary files, locks and live databases too
    #[arg(long)]
    no_default_excludes: bool,
    /// Send files that match only after those written beside and beneath them; may be repeated; none
    /// for no such order [default: *.meta.json manifest.json _SUCCESS]
    #[arg(long, value_name = "GLOB")]
    publish_last: Vec<OsString>,
    /// How often to list a remote that does not tell its changes [default: 30s]
    #[arg(long, value_name = "TIME")]
    refresh: Option<OsString>,
    /// Most requests a day for listing a bucket again, or none for no limit: a large one is listed
    /// more rarely than --refresh says [default: 20000]
    #[arg(long, value_name = "NUMBER")]
    list_budget: Option<OsString>,
    /// Most files that one remote may name, or none for no limit: a listing that goes on is cut short
    /// [default: 20000000]
    #[arg(long, value_name = "NUMBER")]
    max_listed: Option<OsString>,
    /// Ask the bucket for a name that its last listing lacks, instead of saying that it is not there
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ask_on_miss: Option<OsString>,
    /// Read through the daemon even where the kernel could read directly
    #[arg(long)]
    no_passthrough: bool,
    /// Threads that answer the kernel [default: 4]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<OsString>,
    /// Downloads at a time [default: 8]
    #[arg(long, value_name = "NUMBER")]
    transfers: Option<OsString>,
    /// Files to fetch at a time for readers that go through a folder in order, before they ask; 0
    /// for none [default: 24]
    #[arg(long, value_name = "NUMBER")]
    prefetch: Option<OsString>,
    /// Uploads at a time [default: 4]
    #[arg(long, value_name = "NUMBER")]
    uploads: Option<OsString>,
    /// What to log: error, warn, info, debug, trace, or a filter such as larder=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<OsString>,
}

impl MountFlags {
    /// The folder that is meant, which need not be there: the one that was named, or the profile's.
    pub fn place(&self, named: Option<&Path>, context: &Context) -> Result<Option<PathBuf>> {
        let folder = match named {
            Some(named) => Some(named.to_owned()),
            None => profile_folder(&context.file()?, &context.env, &self.flags())?,
        };
        folder.map(|folder| place::future(&folder)).transpose()
    }

    /// The flags that were given.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        flags.set("remote", self.remote.clone());
        flags.set("profile", self.profile.clone());
        flags.set("key_file", self.key_file.clone());
        flags.set("s3_access_key_id", self.s3_access_key_id.clone());
        let secret = self.s3_secret_access_key_file.clone();
        flags.set("s3_secret_access_key_file", secret);
        flags.set("s3_session_token_file", self.s3_session_token_file.clone());
        flags.set("store", self.store.clone());
        flags.set("upload", self.upload.clone());
        flags.set("read_only", self.read_only.clone());
        flags.set("stream", self.stream.clone());
        flags.set("max_size", self.max_size.clone());
        flags.set("min_free", self.min_free.clone());
        flags.set("max_files", self.max_files.clone());
        flags.set("offline", self.offline.clone());
        flags.set("conflicts", self.conflicts.clone());
        flags.set("propagate_deletes", self.propagate_deletes.clone());
        flags.set("allow_other", self.allow_other.clone());
        flags.set("exclude", self.exclude.clone());
        flags.set(
            "default_excludes",
            self.no_default_excludes.then_some("false"),
        );
        flags.set("publish_last", self.publish_last.clone());
        flags.set("refresh", self.refresh.clone());
        flags.set("list_budget", self.list_budget.clone());
        flags.set("max_listed", self.max_listed.clone());
        flags.set("ask_on_miss", self.ask_on_miss.clone());
        flags.set("passthrough", self.no_passthrough.then_some("false"));
        flags.set("threads", self.threads.clone());
        flags.set("transfers", self.transfers.clone());
        flags.set("prefetch", self.prefetch.clone());
        flags.set("uploads", self.uploads.clone());
        flags.set("log", self.log.clone());
        flags
    }
}

/// Settings of the server.
#[derive(Debug, Args, Default)]
pub struct ServeFlags {
    /// Address to listen at [default: 0.0.0.0, every interface]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<OsString>,
    /// Port to listen at; 0 takes a free one [default: 5002]
    #[arg(long, value_name = "PORT")]
    port: Option<OsString>,
    /// File that holds the key that writers must show (or set LARDER_KEY)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File that holds the key that readers must show (or set LARDER_READ_KEY)
    #[arg(long, value_name = "FILE")]
    read_key_file: Option<PathBuf>,
    /// Without a key, let every machine write, not only this one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    open_writes: Option<OsString>,
    /// Let clients delete files
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    allow_delete: Option<OsString>,
    /// The only bucket name that S3 clients may use for the folder [default: any]
    #[arg(long, value_name = "NAME")]
    s3_bucket: Option<OsString>,
    /// Certificate chain (PEM); with --tls-key the server speaks HTTPS
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// How often to compare the whole directory with the index [default: 10m]
    #[arg(long, value_name = "TIME")]
    sweep: Option<OsString>,
    /// What to log: error, warn, info, debug, trace, or a filter such as larder=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<OsString>,
}

impl ServeFlags {
    /// The flags that were given, with the directory.
    pub fn flags(&self, dir: Option<&PathBuf>) -> Flags {
        let mut flags = Flags::default();
        flags.set("dir", dir);
        flags.set("host", self.host.clone());
        flags.set("port", self.port.clone());
        flags.set("key_file", self.key_file.clone());
        flags.set("read_key_file", self.read_key_file.clone());
        flags.set("open_writes", self.open_writes.clone());
        flags.set("allow_delete", self.allow_delete.clone());
        flags.set("s3_bucket", self.s3_bucket.clone());
        flags.set("tls_cert", self.tls_cert.clone());
        flags.set("tls_key", self.tls_key.clone());
        flags.set("sweep", self.sweep.clone());
        flags.set("log", self.log.clone());
        flags
    }
}
