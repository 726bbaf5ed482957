//! Far bytes: one trait, one file an implementation, wrappers that are backends
//! around a backend.
//!
//! A backend speaks for one remote. It validates what comes in (names, versions,
//! lengths) and turns every failure into [`Error`](crate::error::Error)s of the
//! right kind; it does not retry, cache or decide. Every call ends within its
//! deadline.

pub mod body;
pub mod count;
pub mod dir;
pub mod fxcache;
pub mod http;
pub mod lan;
pub mod limit;
pub mod memory;
mod pulse;
pub mod rate;
pub mod remote;
pub mod retry;
pub mod s3;
pub mod url;
mod verdict;

use std::any::Any;
use std::fs::File;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::object::{ByteRange, Change, Cursor, Listed, Meta, Precondition, Sha256, Version};
use crate::path::RelPath;
use crate::secret::Credentials;

use self::url::{Place, RemoteUrl};

/// Bytes on their way down.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a remote can do. Learned once, at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Takes writes from us.
    pub put: bool,
    /// Checks preconditions in one step with the write.
    pub conditional_put: bool,
    /// Takes deletes from us.
    pub delete: bool,
    /// Tells changes as they happen, so that no listing has to be repeated.
    pub changes: bool,
    /// Can say what it holds. Where it cannot, names are asked for with [`Backend::find`].
    pub listing: bool,
    /// May hold what its listing does not name: such a name is asked for once in a while.
    pub probe: bool,
    /// Makes objects of others of its own, see [`Backend::copy`].
    pub copy: bool,
    /// How many objects one request of a listing names, where each request costs something.
    pub page: Option<u32>,
}

/// Where the page stands in the bits.
const PAGE_AT: u32 = 8;

impl Capabilities {
    /// Whether it is an original FXCACHE server: no other but a bucket has what its listing lacks.
    pub fn is_original(self) -> bool {
        self.probe && !self.is_bucket()
    }

    /// Whether it is an S3 bucket: nobody else has listings that cost.
    pub fn is_bucket(self) -> bool {
        self.page.is_some()
    }

    /// As one number, so that they can be remembered.
    pub fn to_bits(self) -> i64 {
        let switches = [
            self.put,
            self.conditional_put,
            self.delete,
            self.changes,
            self.listing,
            self.probe,
            self.copy,
        ];
        let low = switches.iter().rev();
        let low = low.fold(0, |bits, switch| bits << 1 | i64::from(*switch));
        low | i64::from(self.page.unwrap_or_default()) << PAGE_AT
    }

    /// What [`to_bits`](Capabilities::to_bits) made a number of.
    pub fn from_bits(bits: i64) -> Capabilities {
        let is_set = |n: u32| bits >> n & 1 == 1;
        Capabilities {
            put: is_set(0),
            conditional_put: is_set(1),
            delete: is_set(2),
            changes: is_set(3),
            listing: is_set(4),
            probe: is_set(5),
            copy: is_set(6),
            page: u32::try_from(bits >> PAGE_AT).ok().filter(|page| *page > 0),
        }
    }
}

/// One object's bytes, coming.
pub struct Download {
    /// The version the bytes belong to.
    pub meta: Meta,
    /// Which bytes of it: exactly these come, or the stream ends with an error.
    pub range: ByteRange,
    /// The bytes, in order.
    pub body: ByteStream,
    /// Whether the backend looks at all of a whole body: if it ends it as [`Kind::Corrupt`],
    /// every byte that came before is in doubt.
    pub is_proven: bool,
    /// What all of the object adds up to, where this is a part of one whose SHA-256 is not known.
    pub proof: Option<Box<dyn Proof>>,
}

/// Tells whether the bytes of an object are right, once all of them went by in order.
pub trait Proof: Send {
    /// The bytes that follow.
    fn take(&mut self, bytes: &[u8]);

    /// Errors: `Corrupt` if they are not what the remote was given.
    fn holds(self: Box<Self>) -> Result<()>;
}

/// One object's bytes, to be sent. The file is read from its start by position, as
/// often as needed; it must not change meanwhile, and `sha256` proves that it did not.
#[derive(Debug, Clone)]
pub struct Upload {
    pub file: Arc<Source>,
    pub size: u64,
    pub mtime_ns: i64,
    pub sha256: Sha256,
    /// How fast it may be read.
    pub pace: rate::Pace,
}

/// A file whose bytes are sent.
#[derive(Debug)]
pub struct Source {
    file: File,
    // Fields are dropped in this order.
    _tied: Option<Arc<dyn Any + Send + Sync>>,
}

impl Source {
    /// A file with something that is dropped once the file is closed.
    pub fn tied(file: File, tied: Arc<dyn Any + Send + Sync>) -> Source {
        let _tied = Some(tied);
        Source { file, _tied }
    }
}

impl From<File> for Source {
    fn from(file: File) -> Source {
        Source { file, _tied: None }
    }
}

impl Deref for Source {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// An object to be made of another one of the same remote, or of itself with another time.
#[derive(Debug, Clone)]
pub struct Copying {
    /// What it is made of,
    pub from: RelPath,
    /// in this version.
    pub version: Version,
    pub size: u64,
    /// The time that it is to have.
    pub mtime_ns: i64,
    /// Hash of the bytes, where it is known.
    pub sha256: Option<Sha256>,
}

impl Copying {
    /// Whether `meta` can only be what was to be made. Without a hash of both, a store that names
    /// versions by their bytes tells.
    pub fn is_made(&self, meta: &Meta) -> bool {
        let same = match (self.sha256, meta.sha256) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.version == meta.version,
        };
        same && self.size == meta.size && self.mtime_ns == meta.mtime_ns
    }
}

/// What happened since a cursor.
#[derive(Debug)]
pub enum Changes {
    /// These, in order; ask again from `cursor`.
    Delta {
        changes: Vec<Change>,
        cursor: Cursor,
    },
    /// The remote no longer knows: take a whole listing.
    Relist,
}

/// What a remote that was asked for one name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It has this.
    Object(Meta),
    /// Nothing of the name itself, which is one that objects may well be beneath.
    Directory,
    /// Nothing.
    Nothing,
}

/// A remote.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Finds out what the remote can do; also the cheapest proof that it is there.
    async fn capabilities(&self) -> Result<Capabilities>;

    /// Sends the whole listing in batches of at most a few thousand, in ascending
    /// byte order of the keys. The cursor returned is not later than the listing.
    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor>;

    /// Which life of the remote this is, where it tells that before it is listed: another one than
    /// the cursor of an earlier listing has is another remote in its place.
    async fn epoch(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// What happened since `since`; waits up to `wait` for something to happen.
    /// Where [`Capabilities::changes`] is false, always [`Changes::Relist`].
    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes>;

    /// The object as it is now; none if there is no such object.
    async fn head(&self, key: &RelPath) -> Result<Option<Meta>>;

    /// The object, if there seems to be one: for a name that somebody looks for and no listing
    /// has. May be asked together with others, and answered from what the remote remembers.
    async fn find(&self, key: &RelPath) -> Result<Found> {
        Ok(self.head(key).await?.map_or(Found::Nothing, Found::Object))
    }

    /// Bytes of an object: all of it, or `range` cut to its length (nothing, beyond its end).
    /// Errors: `NotFound`; `Stale` if it no longer has `version`.
    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download>;

    /// All of an object that nobody waits for yet: it may come together with others.
    /// Errors: as [`get`](Backend::get).
    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        self.get(key, None, Some(version)).await
    }

    /// Publishes an object, all or nothing. Errors: `Conflict` if `precondition` fails,
    /// `Corrupt` if the bytes sent do not have the promised hash.
    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta>;

    /// Publishes an object, all or nothing, of bytes that the remote has already; they do not pass
    /// through here. Where [`Capabilities::copy`] is false, always `Unsupported`.
    /// Errors: `Stale` if what it is made of is not there in that version; `Conflict` if
    /// `precondition` fails; `Unsupported` if the bytes have to be sent.
    async fn copy(
        &self,
        key: &RelPath,
        _copying: Copying,
        _precondition: Precondition,
    ) -> Result<Meta> {
        Err(Error::new(Kind::Unsupported, "the remote makes no copies").about(key))
    }

    /// Removes an object. Removing what is not there succeeds.
    /// Errors: `Conflict` if it no longer has `version`.
    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()>;
}

/// How long each wait for a remote may last.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a connection stands, name lookup included.
    pub connect: Duration,
    /// Until an answer begins, connecting included.
    pub answer: Duration,
    /// Between two pieces of a body, in either direction.
    pub stall: Duration,
    /// Between two pieces of a body that somebody waits for: the rest is asked for once more, on
    /// another connection, within the time that he is given.
    pub pause: Duration,
    /// What a long poll may take beyond the wait that was asked for.
    pub grace: Duration,
    /// Until a remote that has every byte of an upload says that it is safe.
    pub publish: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            pause: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            publish: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// How long an upload of `size` bytes may stand still after so many chunks of it left:
    /// what follows the last one is the remote making it safe.
    fn upload(self, size: u64) -> impl Fn(u64) -> Duration {
        let chunks = size.div_ceil(body::CHUNK as u64);
        move |sent| match sent < chunks {
            true => self.stall,
            false => self.publish,
        }
    }
}

/// Whether a remote heeds the conditions of writes, where that has to be tried and is remembered.
#[derive(Clone, Default)]
pub struct Conditions {
    /// What an earlier trial said.
    pub known: Option<bool>,
    /// Told what a trial says.
    pub learned: Option<Arc<dyn Fn(bool) + Send + Sync>>,
}

impl Conditions {
    fn learn(&self, heeds: bool) {
        if let Some(learned) = &self.learned {
            learned(heeds);
        }
    }
}

impl std::fmt::Debug for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.known)
    }
}

/// How to deal with a remote, whatever it is.
#[derive(Debug, Clone)]
pub struct Options {
    pub timeouts: Timeouts,
    pub retry: retry::Policy,
    /// Most requests in flight at a time.
    pub requests: usize,
    /// Most bytes of files a second, both ways together.
    pub rate: Option<u64>,
    /// How often a remote that tells no changes by itself is looked at.
    pub refresh: Duration,
    /// Whether a name that no listing has is asked for before it is said not to be there.
    pub ask_on_miss: bool,
    /// Whether files go up to it, so that it may be tried what it does with them.
    pub upload: bool,
    /// What was found out about conditional writes before.
    pub conditions: Conditions,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeouts: Timeouts::default(),
            retry: retry::Policy::default(),
            requests: 32,
            rate: None,
            refresh: Duration::from_secs(30),
            ask_on_miss: false,
            upload: false,
            conditions: Conditions::default(),
            metrics: Arc::default(),
        }
    }
}

/// The backend for `url`: paced, counted, limited, retried. Does no I/O yet.
/// Errors: [`Kind::Invalid`] for a key where none can be used.
pub fn connect(
    url: &RemoteUrl,
    credentials: &Credentials,
    options: &Options,
) -> Result<Arc<dyn Backend>> {
    let options = Options {
        requests: url.options().requests.unwrap_or(options.requests),
        rate: url.options().rate.or(options.rate),
        ..options.clone()
    };
    let bare: Arc<dyn Backend> = match url.place() {
        Place::Http { .. } => Arc::new(lan::Lan::new(
            url,
            credentials.key.clone(),
            options.timeouts,
            options.refresh,
        )?),
        Place::Directory(path) => {
            if credentials.key.is_some() {
                let why = "a directory takes no key; leave it out";
                return Err(Error::new(Kind::Invalid, why).about(url));
            }
            Arc::new(dir::Directory::new(path, options.timeouts))
        }
        Place::S3(bucket) => {
            let access = credentials.access.clone();
            Arc::new(s3::S3::new(bucket, url.shown(), access, &options))
        }
    };
    Ok(wrap(bare, &options))
}

/// `bare` as [`connect`] gives it out: every attempt is counted, and waiting for the
/// next attempt takes nobody's place.
pub fn wrap(bare: Arc<dyn Backend>, options: &Options) -> Arc<dyn Backend> {
    let paced: Arc<dyn Backend> = match options.rate {
        Some(rate) => Arc::new(rate::Rate::new(bare, rate::Pace::new(rate))),
        None => bare,
    };
    let counted = Arc::new(count::Count::new(paced, options.metrics.clone()));
    let limited = Arc::new(limit::Limit::new(counted, options.requests));
    Arc::new(retry::Retry::new(limited, options.retry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_remote_can_do_is_remembered_bit_by_bit() {
        for bits in 0..128 {
            for page in [0, 1, 1000, i64::from(u32::MAX)] {
                let number = bits | page << PAGE_AT;
                assert_eq!(Capabilities::from_bits(number).to_bits(), number);
            }
        }
    }
}
