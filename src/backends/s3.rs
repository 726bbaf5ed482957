//! A prefix of an S3 bucket, at Amazon's or any other store that speaks the protocol.
//!
//! A version is an ETag; whatever is asked of an object names it. Bodies are held to the store's
//! checksums as they pass. Writers' times and hashes are kept in the objects' metadata, as
//! rclone keeps times. The SDK's own retries are off, for [`retry`](super::retry) does that, and
//! every wait has one of our deadlines. Where a store ignores the conditions of a write, its
//! version is compared right before; [`Capabilities::conditional_put`] tells.

mod answer;
mod client;
mod copy;
mod door;
mod failure;
mod fetch;
mod guard;
mod keys;
mod listing;
mod multipart;
mod proof;
mod send;
mod walk;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::mpsc;

use self::answer::{Facts, missing, stale};
use self::door::Door;
use self::fetch::Source;
use self::guard::Guard;
use self::listing::Question;
use self::proof::Proof;
use super::url::Bucket;
use super::{Backend, Capabilities, Changes, Copying, Download, Found, Options, Upload, body};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;
use crate::secret::AccessKey;

/// Most requests that one file has in flight.
const LANES: usize = 4;

/// See the module.
pub struct S3 {
    door: Arc<Door>,
    guard: Guard,
    shown: String,
    /// Whether files go up to it.
    upload: bool,
    /// Whether a name that no listing has may be asked for.
    ask_on_miss: bool,
    /// Whether the bucket's listing is refused to us.
    unlisted: AtomicBool,
}

impl S3 {
    /// A client for `bucket`, which is called `shown`. Does no I/O.
    pub fn new(bucket: &Bucket, shown: &str, access: Option<AccessKey>, options: &Options) -> S3 {
        let lanes = LANES.min(options.requests);
        let door = Door::new(bucket.clone(), access, options.timeouts, lanes, fetch::ROOM);
        S3 {
            door: Arc::new(door),
            guard: Guard::new(options.conditions.clone()),
            shown: shown.to_owned(),
            upload: options.upload,
            ask_on_miss: options.ask_on_miss,
            unlisted: AtomicBool::new(false),
        }
    }

    async fn look(&self) -> Result<Capabilities> {
        let question = Question {
            prefix: self.door.keys.base().to_owned(),
            most: Some(1),
            ..Question::default()
        };
        let listed = listing::page(&self.door, &question, self.door.times.answer).await;
        let listing = match listed {
            Ok(_) => true,
            Err(error) if error.kind() == Kind::Denied && self.may_read().await? => false,
            Err(error) => return Err(error),
        };
        self.unlisted.store(!listing, Ordering::Relaxed);
        let (put, heeds) = self.writes().await?;
        Ok(Capabilities {
            put,
            conditional_put: heeds,
            delete: true,
            changes: false,
            listing,
            probe: self.ask_on_miss || !listing,
            copy: put && self.guard.may_copy(),
            page: Some(listing::PAGE as u32),
        })
    }

    /// Whether we may write, and whether the store heeds the conditions of writes. Where nothing
    /// goes up, nothing is written to find that out.
    async fn writes(&self) -> Result<(bool, bool)> {
        if !self.upload {
            return Ok((true, self.guard.known().unwrap_or(true)));
        }
        match self.guard.ask(&self.door).await {
            Ok(heeds) => Ok((true, heeds)),
            Err(error) if is_refusal(&error) => Ok((false, false)),
            Err(error) => Err(error),
        }
    }

    /// Whether keys that may not list may perhaps read. Amazon knows them, for it has other words
    /// for keys that it does not know; other stores prove it by saying that something that is
    /// not there is not there.
    async fn may_read(&self) -> Result<bool> {
        if self.door.bucket.endpoint.is_none() {
            return Ok(true);
        }
        let key = self.door.keys.ours("nothing")?;
        match self.head_key(&key).await {
            Ok(_) => Ok(true),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn head_key(&self, key: &str) -> Result<Option<Meta>> {
        self.door.head(key).await
    }

    async fn find_now(&self, path: &RelPath) -> Result<Found> {
        let key = self.door.keys.key(path)?;
        if let Some(meta) = self.head_key(&key).await? {
            return Ok(Found::Object(meta));
        }
        if self.unlisted.load(Ordering::Relaxed) {
            return Ok(self.guessed(path));
        }
        let question = Question {
            prefix: format!("{key}/"),
            most: Some(1),
            ..Question::default()
        };
        let below = listing::page(&self.door, &question, self.door.times.answer).await?;
        Ok(match below.last {
            Some(_) => Found::Directory,
            None => Found::Nothing,
        })
    }

    /// Whether objects may be beneath a name cannot be asked where nothing may be listed: a name
    /// without an extension may be a directory's.
    fn guessed(&self, path: &RelPath) -> Found {
        let name = path.file_name();
        match name.is_some_and(|name| name.as_bytes().contains(&b'.')) {
            true => Found::Nothing,
            false => Found::Directory,
        }
    }

    /// An empty range, which HTTP cannot ask for: where it lies, and nothing else.
    async fn get_nothing(
        &self,
        key: &str,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let meta = self.head_key(key).await?.ok_or_else(missing)?;
        if version.is_some_and(|version| *version != meta.version) {
            return Err(stale());
        }
        let range = body::cut(range, meta.size);
        if !range.is_empty() {
            // It became longer between two questions.
            return Err(Error::new(
                Kind::Unavailable,
                "the object changed meanwhile",
            ));
        }
        let body = Box::pin(stream::empty());
        Ok(Download {
            meta,
            range,
            body,
            is_proven: false,
            proof: None,
        })
    }

    async fn get_now(
        &self,
        path: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let key = self.door.keys.key(path)?;
        if let Some(range) = range.clone().filter(|range| range.is_empty()) {
            return self.get_nothing(&key, Some(range), version).await;
        }
        let answer = match fetch::ask(&self.door, &key, range.as_ref(), version).await {
            // Beyond the end: nothing of it, or all of an empty file.
            Err(error) if error.kind() == Kind::Range && range.is_some() => {
                return self.get_nothing(&key, range, version).await;
            }
            answer => answer?,
        };
        let (sent, size) = fetch::place(&answer)?;
        let meta = Facts::of_get(&answer).meta(size)?;
        if version.is_some_and(|version| *version != meta.version) {
            return Err(stale());
        }
        if sent != body::cut(range, size) {
            let why = "the answer is another range than the one asked for";
            return Err(answer::corrupt(why));
        }
        let is_whole = sent == (0..size);
        let proof = match meta.sha256.is_none() && !self.door.is_express() {
            true => Proof::of(&answer),
            false => None,
        };
        let source = Source {
            door: self.door.clone(),
            key,
            version: meta.version.clone(),
        };
        let body = source.stream(answer.body, sent.clone());
        let (is_proven, body, proof) = match proof {
            Some(proof) if is_whole => (true, proof::proven(body, size, proof), None),
            // Of the whole: for whoever puts it together.
            proof => (false, body, proof.map(|proof| Box::new(proof) as _)),
        };
        Ok(Download {
            meta,
            range: sent,
            body,
            is_proven,
            proof,
        })
    }
}

/// Whether keys were refused, or what they want to do.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unauthorized | Kind::Denied)
}

#[async_trait]
impl Backend for S3 {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.look().await.map_err(|e| e.about(&self.shown))
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        let listed = walk::list(&self.door, batches).await;
        listed.map_err(|e| e.about(&self.shown))?;
        Ok(Cursor {
            epoch: "s3".into(),
            seq: 0,
        })
    }

    async fn changes(&self, _since: &Cursor, _wait: Duration) -> Result<Changes> {
        Ok(Changes::Relist)
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        let head = async { self.head_key(&self.door.keys.key(key)?).await };
        head.await.map_err(|e| e.about(key))
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        let found = match self.find_now(key).await {
            // To keys that may not list, a store tells nothing of what is not there.
            Err(e) if is_refusal(&e) && self.unlisted.load(Ordering::Relaxed) => {
                Ok(self.guessed(key))
            }
            found => found,
        };
        found.map_err(|e| e.about(key))
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let got = self.get_now(key, range, version).await;
        got.map_err(|e| e.about(key))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let put = write::put(&self.door, &self.guard, key, &upload, &precondition).await;
        put.map_err(|e| e.about(key))
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        let made = copy::make(&self.door, &self.guard, key, &copying, &precondition).await;
        made.map_err(|e| e.about(key))
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let deleted = write::delete(&self.door, &self.guard, key, version).await;
        deleted.map_err(|e| e.about(key))
    }
}
