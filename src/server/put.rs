//! `PUT` of a file.
//!
//! The body goes to a temporary file, is checked and made durable, and gets its name in one
//! step together with the precondition's check; of several conditional writers one wins.
//! A request that ends early leaves nothing behind.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode, header};
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256 as Hasher};

use crate::beneath::{FileKind, Onto, facts_of, set_times_of};
use crate::error::{About, Error, Kind, Result};
use crate::index::served::{Knew, Note, Row, Seen};
use crate::object::{Precondition, Sha256};
use crate::path::RelPath;
use crate::wire::{CONTENT_DIGEST, MTIME_HEADER, parse_digest};

use super::App;
use super::activity::Did;
use super::conditions::precondition;
use super::disk::blocking;
use super::get::describe;
use super::home::{Incoming, Parked};
use super::problem::{Answer, Problem};
use super::tree::{CHUNK, Look, Tree, is_withheld};

/// What is said to an upload without a byte, where that is no file.
pub const EMPTY: &str = "Empty body";
/// How long an upload may send nothing.
pub const STALL: Duration = Duration::from_secs(60);
/// How long a refused upload is listened to.
const DRAIN: Duration = Duration::from_secs(10);

/// What the headers promise and ask.
pub struct Promise {
    pub length: Option<u64>,
    pub sha256: Option<Sha256>,
    pub mtime_ns: Option<i64>,
    pub precondition: Precondition,
    /// Whether a body without a byte is a file.
    pub empty: bool,
}

impl Promise {
    /// The newest body wins, its time is now, and an empty one is none.
    pub fn plain() -> Promise {
        Promise {
            length: None,
            sha256: None,
            mtime_ns: None,
            precondition: Precondition::None,
            empty: false,
        }
    }

    fn new(headers: &HeaderMap) -> Result<Promise> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let number = |name: &'static str| {
            let bad = || Error::new(Kind::Invalid, format!("{name} is not a number"));
            text(name).map(|text| text.trim().parse::<i64>().map_err(|_| bad()))
        };
        if headers.contains_key(header::CONTENT_RANGE) {
            // RFC 9110, 14.5: it would be taken for all of the file.
            let why = "a part of a file cannot be put; send all of it";
            return Err(Error::new(Kind::Invalid, why));
        }
        let length = number(header::CONTENT_LENGTH.as_str()).transpose()?;
        let digest = text(CONTENT_DIGEST).map(parse_digest).transpose()?;
        Ok(Promise {
            length: length.map(i64::cast_unsigned),
            sha256: digest.flatten(),
            mtime_ns: number(MTIME_HEADER).transpose()?,
            precondition: precondition(headers)?,
            empty: true,
        })
    }
}

/// Takes the body and publishes it as `key`.
pub async fn put(app: &Arc<App>, key: RelPath, headers: &HeaderMap, body: Body) -> Answer {
    let mut frames = body.into_data_stream();
    let answer = take(app, key, headers, &mut frames).await;
    if answer.is_err() {
        drain(&mut frames).await;
    }
    answer
}

/// Takes the rest of a body that is not wanted, for a while. Most clients hear no answer
/// before they have sent everything; they would see a broken connection in place of the reason.
pub async fn drain<E>(frames: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) {
    let all = async { while let Some(Ok(_)) = frames.next().await {} };
    let _ = tokio::time::timeout(DRAIN, all).await;
}

async fn take(
    app: &Arc<App>,
    key: RelPath,
    headers: &HeaderMap,
    frames: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin),
) -> Answer {
    let promise = Promise::new(headers)?;
    let (row, is_new) = accept(app, &key, promise, frames).await?;
    let mut response = Response::new(Body::empty());
    if is_new {
        *response.status_mut() = StatusCode::CREATED;
    }
    Did::upload(&key, row.seen.size).put_on(&mut response);
    describe(
        response.headers_mut(),
        &row,
        &row.version()?,
        app.tree.index.epoch(),
    )?;
    Ok(response)
}

/// Receives the whole body, and publishes it in one step. Also says whether the path was empty before.
pub async fn accept<E: Display>(
    app: &Arc<App>,
    key: &RelPath,
    promise: Promise,
    frames: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<(Row, bool), Problem> {
    app.tree.root.check()?;
    let received = receive(app, frames).await?;
    if received.length == 0 && !promise.empty {
        return Err(Problem::new(StatusCode::BAD_REQUEST, EMPTY));
    }
    let (tree, key) = (app.tree.clone(), key.clone());
    Ok(blocking(move || received.publish(&tree, &key, &promise)).await?)
}

/// Bytes that are not a file yet.
pub struct Held {
    pub bytes: Parked,
    pub length: u64,
    pub sha256: Sha256,
}

/// Receives the whole body and sets it aside.
pub async fn hold<E: Display>(
    app: &Arc<App>,
    promise: Promise,
    frames: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Held, Problem> {
    app.tree.root.check()?;
    let mut received = receive(app, frames).await?;
    let sha256 = received.check(&promise)?;
    Ok(Held {
        length: received.length,
        bytes: received.incoming.park(),
        sha256,
    })
}

/// A body that came, or is coming.
struct Received {
    incoming: Incoming,
    hasher: Hasher,
    length: u64,
}

/// Reads the whole body, a hop to another thread for every chunk: one in all for a small file.
async fn receive<E: Display>(
    app: &Arc<App>,
    frames: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Received, Problem> {
    app.uploads()?;
    let mut received = None;
    let mut waiting: Vec<Bytes> = Vec::new();
    let mut held = 0;
    loop {
        let frame = tokio::time::timeout(STALL, frames.next())
            .await
            .map_err(|_| Error::new(Kind::TimedOut, "the upload stalled for 60 seconds"))?;
        let ended = frame.is_none();
        if let Some(frame) = frame {
            let frame = frame.map_err(|error| cut_off(&error))?;
            held += frame.len();
            waiting.push(frame);
        }
        if held < CHUNK && !ended {
            continue;
        }
        let (owner, so_far) = (app.clone(), received.take());
        let batch = std::mem::take(&mut waiting);
        held = 0;
        let taken = blocking(move || match so_far {
            Some(so_far) => Received::take(so_far, &batch),
            None => Received::begin(&owner)?.take(&batch),
        });
        let taken = taken.await?;
        if ended {
            return Ok(taken);
        }
        received = Some(taken);
    }
}

fn cut_off(error: &impl Display) -> Problem {
    let why = format!("the upload was cut off: {error}");
    Problem::new(StatusCode::BAD_REQUEST, why)
}

impl Received {
    fn begin(app: &App) -> Result<Received> {
        Ok(Received {
            incoming: app.uploads()?.begin()?,
            hasher: Hasher::new(),
            length: 0,
        })
    }

    fn take(mut self, batch: &[Bytes]) -> Result<Received> {
        for bytes in batch {
            self.hasher.update(bytes);
            self.length += bytes.len() as u64;
            self.incoming.file.write_all(bytes)?;
        }
        Ok(self)
    }

    /// Whether the bytes are those that were promised; their hash.
    fn check(&mut self, promise: &Promise) -> Result<Sha256> {
        let sha256 = Sha256(self.hasher.finalize_reset().into());
        if promise.length.is_some_and(|length| length != self.length) {
            return Err(Error::new(
                Kind::Corrupt,
                "the body does not have the promised length",
            ));
        }
        if promise.sha256.is_some_and(|promised| promised != sha256) {
            return Err(Error::new(
                Kind::Corrupt,
                "digest mismatch: the body is not the one that was promised",
            ));
        }
        Ok(sha256)
    }

    /// Checks, syncs and publishes. Also says whether the path was empty before.
    fn publish(mut self, tree: &Tree, key: &RelPath, promise: &Promise) -> Result<(Row, bool)> {
        let sha256 = self.check(promise)?;
        if let Some(mtime_ns) = promise.mtime_ns {
            set_times_of(&self.incoming.file, None, Some(mtime_ns))?;
        }
        self.incoming.file.sync_all()?;
        let _alone = tree.lock(key);
        tree.root.check()?;
        let is_new = check(tree, key, &promise.precondition)?;
        let onto = match promise.precondition {
            Precondition::Absent => Onto::NoReplace,
            Precondition::None | Precondition::Matches(_) => Onto::Replace,
        };
        self.rename(tree, key, onto)?;
        let seen = Seen::from(&facts_of(&self.incoming.file)?);
        tree.forget_motion(key);
        let note = Note::Saw {
            key: key.clone(),
            seen,
            sha256: Some(sha256),
            knew: Knew::Anything,
        };
        let row = tree.index.write(vec![note])?.pop().flatten();
        let row = row.ok_or_else(|| Error::new(Kind::Io, "the index did not take the file"))?;
        Ok((row, is_new))
    }

    /// Renames into the tree and makes the name durable, with whatever directories it needs.
    fn rename(&mut self, tree: &Tree, key: &RelPath, mut onto: Onto) -> Result<()> {
        let dir = tree.root.dir();
        let parent = key.parent().unwrap_or_default();
        let mut made = false;
        // A directory that a delete just emptied may vanish between two steps.
        for _ in 0..8 {
            match self.incoming.publish(dir, key, onto) {
                Ok(()) => return sync_up(tree, parent, made).about(key),
                Err(error) if error.kind() == Kind::NotFound => {
                    dir.make_dirs(&parent)?;
                    made = true;
                }
                // Not every file system has it; the path's lock keeps our own writers apart.
                Err(error) if onto == Onto::NoReplace && is_unknown(&error) => {
                    onto = Onto::Replace;
                }
                Err(error) => return Err(as_conflict(error, onto).about(key)),
            }
        }
        Err(Error::new(Kind::Busy, "its directory keeps vanishing").about(key))
    }
}

/// Syncs a directory, and those above it when they may be new too.
fn sync_up(tree: &Tree, dir: RelPath, upwards: bool) -> Result<()> {
    let mut at = Some(dir);
    while let Some(here) = at {
        match tree.root.dir().sync(&here) {
            // Shares and foreign disks may not know how; they do what they do.
            Err(error) if !is_unknown(&error) => return Err(error),
            _ => at = here.parent().filter(|_| upwards),
        }
    }
    Ok(())
}

/// Whether the error says that the file system does not have this operation.
pub fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unsupported | Kind::Invalid)
}

/// Somebody else was first.
fn as_conflict(error: Error, onto: Onto) -> Error {
    match (error.kind(), onto) {
        (Kind::Exists, Onto::NoReplace) => Error::new(Kind::Conflict, "the file exists already"),
        _ => error,
    }
}

/// Whether the precondition holds. Must be called under the path's lock. Tells whether nothing is there.
pub fn check(tree: &Tree, key: &RelPath, precondition: &Precondition) -> Result<bool> {
    let conflict = |why: &str| Err(Error::new(Kind::Conflict, why.to_owned()).about(key));
    if is_withheld(key) {
        let why = "this name is kept for what servers keep for themselves";
        return Err(Error::new(Kind::Denied, why).about(key));
    }
    let look = tree.look_at(key)?;
    match (&look, precondition) {
        (Look::Dir, _) => {
            Err(Error::new(Kind::IsADirectory, "there is a directory of this name").about(key))
        }
        (Look::Gone, Precondition::Matches(_)) => conflict("the file is gone"),
        (Look::Gone, _) => match tree.root.dir().stat(key) {
            Ok(facts) if facts.kind != FileKind::File => {
                let why = "something that is not a regular file has this name";
                Err(Error::new(Kind::Exists, why).about(key))
            }
            _ => Ok(true),
        },
        (_, Precondition::Absent) => conflict("the file exists already"),
        (Look::File(row), Precondition::Matches(version)) if row.version()? != *version => {
            conflict("the file has another version now")
        }
        (Look::InMotion, Precondition::Matches(_)) => {
            conflict("the file is being changed right now")
        }
        (Look::File(_) | Look::InMotion, _) => Ok(false),
    }
}
