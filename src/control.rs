//! The local socket of a mount: what can be asked, what is answered, and both ends.
//!
//! One request line in, any number of progress lines out, one last line with the
//! answer or the error; all lines are JSON. The socket lies in the runtime directory,
//! named by a hash of the mountpoint, so nobody has to touch the mount to learn about
//! it. Only its owner and root can open it.
//!
//! It knows the words, not what they mean: a [`Handler`] does.

mod client;
mod place;
mod server;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use crate::object::FileState;
pub use client::Client;
pub use place::{is_foreign, mountpoint, socket_path};
pub use server::{Listening, listen};

use crate::error::{Kind, Result};
use crate::metrics::Counts;

/// Longest request or answer line. A page of a listing and a status fit in it.
pub const LINE_MAX: usize = 16 << 20;
/// Most entries in one [`Answer::Listing`].
pub const PAGE: usize = 1000;
/// Most paths in one [`Request::Evict`] or [`Request::Warm`].
pub const BATCH: usize = 1000;

/// What can be asked of a mount. Paths are relative to the mountpoint and
/// percent-encoded ([`RelPath::encode`](crate::path::RelPath::encode)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// How things stand.
    Status,
    /// The entries of a directory, or the file itself, in byte order of their paths; at most
    /// [`PAGE`] of them, those that follow the path `after`.
    List {
        path: String,
        recursive: bool,
        after: Option<String>,
    },
    /// Ask every remote now what is new.
    Sync,
    /// Send what is pending now instead of when its delay is over; with `wait`, answer
    /// when nothing is pending any more.
    Flush { wait: bool },
    /// Drop the bytes of clean files: of these files and everything beneath these
    /// directories, or of `all`.
    Evict { paths: Vec<String>, all: bool },
    /// Unmount and stop; with `wait`, flush first. The answer comes before the daemon
    /// is gone; the caller waits for its end.
    Unmount { wait: bool },
    /// The versions that were set aside, and what killed writers left.
    Conflicts,
    /// Both versions of one conflict, side by side.
    Conflict { which: WhichConflict },
    /// Settle one conflict.
    Settle { which: WhichConflict, keep: Keep },
    /// Remove what killed writers left unfinished.
    DropUnfinished,
    /// Read the held files at `path` and beneath it, and say which are not what they should be;
    /// with `repair`, have clean ones come anew; with `remote`, compare with every remote, too.
    Verify {
        path: String,
        repair: bool,
        remote: bool,
    },
    /// Fetch the files at these paths and beneath them.
    Warm { paths: Vec<String> },
    /// Show again what was deleted here, at `path` and beneath it.
    Restore { path: String },
}

/// How a conflict is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhichConflict {
    /// By its number.
    Id(u64),
    /// By its path, if that has no other.
    Path(String),
}

/// Whose version of a conflict keeps the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The one set aside comes back, as a write that goes up.
    Ours,
    /// The remote's; the one set aside is dropped.
    Theirs,
}

/// A line on the way to the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is counted, for people: "uploading", "listing http://…".
    pub what: String,
    pub done: u64,
    /// None where it is not known yet.
    pub total: Option<u64>,
    /// The bytes that were moved, and those that are to be.
    #[serde(default)]
    pub bytes: Option<(u64, u64)>,
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    Listing {
        entries: Vec<Listed>,
        /// Whether more follow the last one.
        more: bool,
        /// Remotes that were never listed whole: not all that they have is known.
        #[serde(default)]
        unknown: Vec<String>,
    },
    Conflicts {
        conflicts: Vec<ConflictStatus>,
        orphans: Vec<OrphanStatus>,
    },
    Conflict(Box<ConflictDetail>),
    Verified(Box<Verified>),
    Warmed(Box<Warmed>),
    Done(Report),
}

/// What an order did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One line for people: "evicted 12 files, 3.4 MiB".
    pub text: String,
    /// How many files it was done for.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// What could not be done, a line each (at most a few; `failed` counts all).
    pub failures: Vec<String>,
    /// How many could not be done. The command exits with 1 unless it is 0.
    pub failed: u64,
    /// How many were left as they are, because they have to be.
    #[serde(default)]
    pub stayed: u64,
}

/// How a mount stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    pub mountpoint: String,
    pub store: String,
    /// When the mount began, in milliseconds since 1970.
    pub since_ms: i64,
    /// When this was written, by the same clock.
    pub now_ms: i64,
    /// `passthrough` or `page cache`.
    pub read_path: String,
    /// `hide` or `error`.
    pub offline: String,
    pub read_only: bool,
    pub upload: bool,
    pub stream: bool,
    pub remotes: Vec<RemoteStatus>,
    /// Files that the mount shows, wherever their bytes are.
    pub known: Amount,
    /// Of these, whole in the store.
    pub held: Amount,
    /// Of these, changed here and not yet at a remote that is to have them.
    pub dirty: Amount,
    /// Of these, on no remote: written here without `upload`, excluded, or there before.
    pub local_only: Amount,
    /// Deleted here, still at a remote.
    pub hidden: u64,
    pub outbox: OutboxStatus,
    pub counts: Counts,
    pub conflicts: Vec<ConflictStatus>,
    pub orphans: Vec<OrphanStatus>,
    pub limits: LimitsStatus,
    /// Free on the store's disk.
    pub free_bytes: u64,
    /// Why nothing can be written there; none: it can be.
    #[serde(default)]
    pub store_error: Option<String>,
    /// What the mount wants to say: recoveries, refused names, a slow fallback. A line each.
    pub notes: Vec<String>,
}

/// How many files, and how many bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub files: u64,
    pub bytes: u64,
}

/// How one remote stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Without credentials.
    pub url: String,
    pub state: RemoteState,
    /// Since when it is in that state.
    pub since_ms: i64,
    /// When its last complete sync ended.
    pub last_sync_ms: Option<i64>,
    pub last_error: Option<String>,
    /// Whether it was listed completely once.
    pub listed: bool,
    pub files: u64,
    pub bytes: u64,
    pub upload: bool,
    /// Why not all that it names was taken in; none: all was.
    #[serde(default)]
    pub cut_short: Option<String>,
    /// Names of it that cannot be files here.
    pub refused_names: u64,
    /// Of `put`, `conditional-put`, `delete`, `changes`, `listing`, `probe`, `copy`, `bucket`.
    pub capabilities: Vec<String>,
    /// Of a remote whose listing costs, once it was listed.
    #[serde(default)]
    pub listing: Option<ListingStatus>,
}

/// How often a remote is listed, and what that costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingStatus {
    /// Seconds between two listings, at present.
    pub every_s: u64,
    /// Requests that one takes.
    pub requests: u64,
    /// Requests a day that this makes.
    pub requests_a_day: u64,
}

/// Whether a remote can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteState {
    #[default]
    Connecting,
    Online,
    Away,
}

/// What still has to go up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    pub pending: u64,
    /// Of these, under way.
    pub uploading: u64,
    pub bytes: u64,
    /// When the oldest was queued.
    pub oldest_ms: Option<i64>,
    pub oldest_path: Option<String>,
    pub oldest_error: Option<String>,
    pub oldest_attempts: u64,
    /// Files not sent because they have to be repaired first: torn ones.
    pub held_back: u64,
    /// Of those pending, files that are published last and wait for others.
    #[serde(default)]
    pub behind: u64,
    /// The oldest of them, and what it waits for, where that is known.
    #[serde(default)]
    pub behind_path: Option<String>,
    #[serde(default)]
    pub behind_for: Option<String>,
    /// Files that a remote cannot take as they are; they stay here. Not among those pending.
    #[serde(default)]
    pub refused: u64,
    /// Why the oldest of them cannot be taken.
    #[serde(default)]
    pub refused_why: Option<String>,
}

/// A version of ours that was set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictStatus {
    pub id: u64,
    /// Percent-encoded.
    pub path: String,
    /// Where our version is, relative to the store.
    pub kept_at: String,
    pub remote: String,
    pub at_ms: i64,
    pub size: u64,
}

/// Both versions of a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictDetail {
    pub conflict: ConflictStatus,
    /// What was written here, and kept aside.
    pub mine: VersionStatus,
    /// What the path shows; none if there is no such file any more.
    pub theirs: Option<VersionStatus>,
    /// Whether they have the same bytes, where that can be told.
    pub equal: Option<bool>,
    /// The first byte that differs, where both could be read.
    pub first_difference: Option<u64>,
    /// From theirs to mine, line by line, where both are short texts.
    pub diff: Option<String>,
    /// Why theirs could not be read.
    pub unread: Option<String>,
}

/// One version of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Who made it: `this machine`, or the remote that it is from.
    pub by: String,
    pub size: u64,
    pub mtime_ns: i64,
    /// In hexadecimal, where it is known.
    pub sha256: Option<String>,
    /// The remote's own name for it.
    pub version: Option<String>,
    /// Whether its bytes are in the store.
    pub held: bool,
}

/// What reading the held files came to, in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Looked at, and the bytes that were read of them.
    pub files: u64,
    pub bytes: u64,
    /// The bytes that they should have.
    pub good: u64,
    /// Of no known hash; it is noted for the next time.
    pub noted: u64,
    /// Of an older version than the remote's; the new one comes when they are read.
    pub older: u64,
    /// Read whole, but nothing tells what they should be: not sent yet.
    pub unknown: u64,
    /// Being written just now.
    pub busy: u64,
    pub changed: u64,
    pub new: u64,
    pub rotten: u64,
    pub missing: u64,
    pub unreadable: u64,
    /// Of those rotten, fetched anew.
    pub repaired: u64,
    /// Those that are not good, one by one, at most [`PAGE`] of them.
    pub faults: Vec<Fault>,
    /// With remotes: how each compares.
    pub remotes: Vec<Audited>,
}

/// One file that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Percent-encoded.
    pub path: String,
    /// `changed`, `new`, `rotten`, `missing`, `unreadable`; of a remote `only-here`, `differs`,
    /// `unknown-here`, `gone-there`.
    pub what: String,
    /// What is known of it besides, or done about it.
    pub more: Option<String>,
    /// Whether it was written here and has not gone up.
    pub dirty: bool,
    pub repaired: bool,
    /// The remote that it is about.
    #[serde(default)]
    pub remote: Option<String>,
}

/// How one remote compares with what is here, in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    pub url: String,
    pub upload: bool,
    /// Why it could not be compared.
    pub error: Option<String>,
    /// There, and known here as it is; of these, not held.
    pub same: u64,
    pub not_held: u64,
    /// Held here and at no remote; of files that wait to go up: `waiting`.
    pub only_here: u64,
    pub waiting: u64,
    /// Held here, not there, and at another remote.
    #[serde(default)]
    pub elsewhere: u64,
    /// There with other bytes than here.
    pub differs: u64,
    /// There in a version, or under a name, that is not known here.
    pub unknown_here: u64,
    /// Known here, and there no more.
    pub gone_there: u64,
    /// Deleted here, still there.
    pub hidden: u64,
    /// Names that cannot be files here.
    pub refused: u64,
}

/// What warming came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// Fetched.
    pub files: u64,
    pub bytes: u64,
    /// What was missing when it began.
    pub missing: Amount,
    /// Files whose bytes were here.
    pub here: u64,
    /// Being written just now.
    pub busy: u64,
    /// Files that could not be had, and paths that are none; `failures` names the first ones.
    pub failed: u64,
    pub failures: Vec<NotWarmed>,
    /// Why it ended before all was tried.
    pub stopped: Option<Stopped>,
}

/// A file that could not be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotWarmed {
    /// Percent-encoded.
    pub path: String,
    pub why: String,
}

/// Why warming ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// The next file would have been too much: for `max-size`, `max-files` or `disk`.
    Full(String),
    /// The remote, without credentials, does not answer.
    Away(String),
    /// One file after the other cannot be had; why the last one cannot.
    Refused(String),
}

/// What a killed writer left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanStatus {
    /// In `.larder/orphans`.
    pub name: String,
    pub size: u64,
    pub at_ms: i64,
}

/// What bounds the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    pub max_bytes: Option<u64>,
    pub max_files: Option<u64>,
    pub min_free: u64,
}

/// One line of `larder ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// From the mountpoint, percent-encoded.
    pub path: String,
    pub kind: EntryKind,
    pub size: u64,
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    pub state: FileState,
    pub pinned: bool,
    /// The remote that has it, without credentials; the first one in the mount's order.
    pub remote: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
}

/// Whoever carries requests out. It may be dropped in the middle when the asker goes away.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; `progress` may be called at any rate, the latest is shown.
    async fn handle(
        &self,
        request: Request,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Answer>;
}

/// A line from the mount to the asker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    /// Still at work; none: nothing new to say.
    Progress(Option<Progress>),
    Ok(Answer),
    Error(Failure),
}

/// An error on its way through the socket.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    kind: Kind,
    about: Option<String>,
    message: String,
}

#[cfg(test)]
mod tests;
