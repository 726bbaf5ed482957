//! A directory as a remote: a NAS mount, an SMB share, another disk.
//!
//! Promises that a directory that went away (unmounted, removed) is `Offline`, never
//! empty; that names are resolved beneath it and links are not followed; that uploads
//! appear whole. Preconditions hold among larders, which take turns by a lock in
//! `.larder`; other programs do not know it. Tells no changes: it has to be listed.

mod publish;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::pulse::{Pulse, alive};
use super::verdict::{missing, same, stale};
use super::{Backend, Capabilities, Changes, Download, Timeouts, Upload, body};
use crate::beneath::{Dir, Facts, FileKind, Mode, OFlags, facts_of};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;

/// Most threads that may hang in a file system that does not answer.
const THREADS: usize = 16;

/// A directory.
pub struct Directory {
    place: Arc<Place>,
    threads: Arc<Semaphore>,
    times: Timeouts,
}

/// Where it is, and which directory was there last: device and inode.
struct Place {
    path: PathBuf,
    known: Mutex<Option<(u64, u64)>>,
}

impl Directory {
    /// The directory at `path`, which need not be there yet. Does no I/O.
    pub fn new(path: &Path, times: Timeouts) -> Directory {
        Directory {
            place: Arc::new(Place {
                path: path.to_owned(),
                known: Mutex::new(None),
            }),
            threads: Arc::new(Semaphore::new(THREADS)),
            times,
        }
    }

    /// Runs `work` on the directory, off the async threads and no longer than `patience`
    /// beyond the last beat of `pulse`.
    async fn run<T: Send + 'static>(
        &self,
        pulse: &Pulse,
        patience: impl Fn(u64) -> Duration + Send,
        work: impl FnOnce(&Dir) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (place, threads) = (self.place.clone(), self.threads.clone());
        let running = async move {
            let thread = threads.acquire_owned().await;
            body::off_thread(move || {
                // Held until the thread is back, not until nobody waits for it.
                let _thread = thread;
                place.with_root(work)
            })
            .await
        };
        alive(pulse, patience, running).await?
    }

    async fn quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dir) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let answer = self.times.answer;
        self.run(&Pulse::default(), |_| answer, work).await
    }
}

impl Place {
    /// Does `work` on the directory. Where that says "not there" or worse, the directory
    /// itself may be what is not there any more.
    fn with_root<T>(&self, work: impl FnOnce(&Dir) -> Result<T>) -> Result<T> {
        let root = self.root()?;
        let outcome = work(&root);
        match outcome.as_ref().err().map(Error::kind) {
            Some(Kind::NotFound | Kind::Io | Kind::Stale) => self.root().and(outcome),
            _ => outcome,
        }
    }

    /// Opens the directory. Another one than before is taken for it only if it holds
    /// something: an unmounted file system leaves an empty directory behind.
    fn root(&self) -> Result<Dir> {
        let (root, facts) = self.open().map_err(|error| match error.kind() {
            Kind::Denied => error,
            _ => {
                let why = format!("the directory is not there: {}", error.message());
                Error::new(Kind::Offline, why).about(self.path.display())
            }
        })?;
        let now = (facts.dev, facts.ino);
        let before = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = before.is_some_and(|before| before != now);
        if is_other && root.read_dir(&RelPath::root())?.is_empty() {
            let why = "another, empty directory is in its place; is it unmounted?";
            return Err(Error::new(Kind::Offline, why).about(self.path.display()));
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(root)
    }

    fn open(&self) -> Result<(Dir, Facts)> {
        let root = Dir::open_ambient(&self.path)?;
        let facts = root.facts()?;
        match facts.nlink {
            0 => Err(Error::new(Kind::NotFound, "it was removed")),
            _ => Ok((root, facts)),
        }
    }
}

/// What is known of a regular file. Its version changes with its length, its time, and
/// when another file takes its name.
fn meta(facts: &Facts) -> Result<Meta> {
    let (size, mtime_ns, ino) = (facts.size, facts.mtime_ns, facts.ino);
    Ok(Meta {
        size,
        mtime_ns,
        version: Version::new(&format!("{size:x}-{mtime_ns:x}-{ino:x}"))?,
        sha256: None,
        revision: None,
        arrival: None,
    })
}

/// The object under `key`, if there is one: links, directories and devices are none.
fn look(root: &Dir, key: &RelPath) -> Result<Option<Meta>> {
    match root.stat(key) {
        Ok(facts) if facts.kind == FileKind::File => meta(&facts).map(Some),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn open(root: &Dir, key: &RelPath) -> Result<(File, Meta)> {
    let file = root.open_file(key, OFlags::RDONLY, Mode::empty());
    let file = file.map_err(|error| match error.kind() {
        Kind::IsADirectory | Kind::NotADirectory => missing().about(key),
        _ => error,
    })?;
    let meta = meta(&facts_of(&file)?)?;
    Ok((file, meta))
}

/// Whether the open file still is what it was when it was opened.
fn unchanged(file: &File, version: &Version) -> Result<()> {
    match meta(&facts_of(file)?)?.version == *version {
        true => Ok(()),
        false => Err(stale()),
    }
}

#[async_trait]
impl Backend for Directory {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.quick(|_| Ok(())).await?;
        Ok(Capabilities {
            put: true,
            conditional_put: true,
            delete: true,
            changes: false,
            listing: true,
            probe: false,
            copy: false,
            page: None,
        })
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.quick(|_| Ok(())).await?;
        let (out, mut walked) = mpsc::channel(2);
        let (place, threads) = (self.place.clone(), self.threads.clone());
        let walk = async move {
            let thread = threads.acquire_owned().await;
            body::off_thread(move || {
                let _thread = thread;
                walk::walk(&place, out)
            })
            .await
        };
        let pass_on = async {
            // The walker sends at least empty batches while it gets on.
            while let Ok(next) = timeout(self.times.publish, walked.recv()).await {
                match next {
                    None => return Ok(()),
                    Some(batch) if batch.is_empty() => {}
                    Some(batch) => {
                        let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing");
                        batches.send(batch).await.map_err(gone)?;
                    }
                }
            }
            let why = "the directory does not answer";
            Err(Error::new(Kind::TimedOut, why).about(self.place.path.display()))
        };
        tokio::try_join!(walk, pass_on)?;
        let known = *self
            .place
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (dev, ino) = known.unwrap_or_default();
        Ok(Cursor {
            // Another one in its place is known by it, in the next life of the mount, too.
            epoch: format!("directory {dev}:{ino}"),
            seq: 0,
        })
    }

    async fn changes(&self, _since: &Cursor, _wait: Duration) -> Result<Changes> {
        Ok(Changes::Relist)
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        let wanted = key.clone();
        let found = self.quick(move |root| match look(root, &wanted)? {
            Some(meta) => Ok(meta),
            None => Err(Error::new(Kind::NotFound, "no such file")),
        });
        match found.await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.about(key)),
        }
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let wanted = key.clone();
        let opened = self.quick(move |root| open(root, &wanted)).await;
        let (file, meta) = opened.map_err(|error| error.about(key))?;
        same(&meta, version).map_err(|error| error.about(key))?;
        let range = body::cut(range, meta.size);
        let opened = meta.version.clone();
        let check: body::Check = Arc::new(move |file| unchanged(file, &opened));
        let bytes = body::range_stream(Arc::new(file.into()), range.clone(), check);
        let body = body::exactly(bytes, range.end - range.start, self.times.stall);
        Ok(Download {
            meta,
            range,
            body,
            is_proven: false,
            proof: None,
        })
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let (wanted, limit) = (key.clone(), self.times.answer);
        let patience = self.times.upload(upload.size);
        let pulse = Pulse::default();
        let beat = pulse.clone();
        let put = self.run(&pulse, patience, move |root| {
            publish::put(root, &wanted, &upload, &precondition, &beat, limit)
        });
        put.await.map_err(|error| error.about(key))
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let (wanted, version, limit) = (key.clone(), version.cloned(), self.times.answer);
        let deleted =
            self.quick(move |root| publish::delete(root, &wanted, version.as_ref(), limit));
        deleted.await.map_err(|error| error.about(key))
    }
}
