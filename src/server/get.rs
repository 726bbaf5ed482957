//! `GET` and `HEAD` of a file.
//!
//! What is sent belongs to the version in the headers: the file is as its row says when it is
//! opened, and is compared again after its last byte was read. If it changed in between, the
//! connection is cut before the body is complete.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use futures_util::stream;
use sha2::{Digest, Sha256 as Hasher};

use crate::beneath::{Facts, facts_of};
use crate::error::{Error, Kind, Result};
use crate::index::served::{Row, Seen};
use crate::object::{ByteRange, Sha256, Version};
use crate::path::RelPath;
use crate::wire::{MTIME_HEADER, REPR_DIGEST, REVISION_HEADER, digest_header, revision_header};

use super::App;
use super::activity::Did;
use super::conditions::{Verdict, Wanted};
use super::disk::blocking;
use super::problem::{Answer, Problem};
use super::tree::{CHUNK, Look, Tree};

/// How long a read waits for a file's writer to finish.
const PATIENCE: Duration = Duration::from_secs(3);
/// Looks that may follow one another at once.
const TRIES: u32 = 3;

/// One try at answering.
enum Try {
    Done(Response<Body>),
    Problem(Problem),
    /// The disk is not as the index says.
    Differs,
}

/// Answers `GET` (or, with `is_head`, `HEAD`) of `key`.
pub async fn get(app: &Arc<App>, key: RelPath, headers: &HeaderMap, is_head: bool) -> Answer {
    answer(app, key, Wanted::new(headers, is_head), is_head).await
}

/// The same, with the conditions as they were understood.
pub async fn answer(app: &Arc<App>, key: RelPath, wanted: Wanted, is_head: bool) -> Answer {
    let wanted = Arc::new(wanted);
    let key = Arc::new(key);
    let deadline = Instant::now() + PATIENCE;
    let mut changes = app.tree.index.follow();
    let mut tries = 0;
    loop {
        let (tree, path, ask) = (app.tree.clone(), key.clone(), wanted.clone());
        let tried = app.disk.run(move || attempt(&tree, &path, &ask, is_head));
        let refused = match tried.await {
            Ok(Try::Done(response)) => return Ok(response),
            Ok(Try::Problem(problem)) => return Err(problem),
            Ok(Try::Differs) => None,
            // A link in the way, perhaps: then there is nothing here.
            Err(error) if error.kind() == Kind::Denied => Some(error),
            Err(error) => return Err(error.into()),
        };
        let (tree, path) = (app.tree.clone(), key.clone());
        let look = blocking(move || tree.look_at(&path)).await?;
        match (look, refused) {
            (Look::Gone | Look::Dir, _) => return Err(not_found(&key)),
            (_, Some(error)) => return Err(error.into()),
            (Look::File(_), None) if tries < TRIES => tries += 1,
            (Look::File(_) | Look::InMotion, None) if Instant::now() < deadline => {
                // The writer's end is not always announced as a change.
                let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
            (Look::File(_) | Look::InMotion, None) => return Err(in_motion(&key, &wanted)),
        }
    }
}

/// Not 503, which would say that the whole server is in trouble.
fn in_motion(key: &RelPath, wanted: &Wanted) -> Problem {
    match wanted.is_versioned() {
        true => {
            let why = format!("{key}: the file is being changed, and that version is gone");
            Problem::new(StatusCode::PRECONDITION_FAILED, why)
        }
        false => {
            let why = format!("{key}: the file is being written; try again later");
            Problem::new(StatusCode::LOCKED, why).retry_after(1)
        }
    }
}

fn not_found(key: &RelPath) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("{key}: there is no such file"),
    )
}

/// Everything up to the first byte, and for a small file all of it, without waiting for anybody.
fn attempt(tree: &Arc<Tree>, key: &RelPath, wanted: &Wanted, is_head: bool) -> Result<Try> {
    tree.root.check()?;
    let file = match tree.open(key) {
        Ok(file) => file,
        Err(error) => match error.kind() {
            Kind::NotFound | Kind::NotADirectory | Kind::IsADirectory => {
                return Ok(match tree.index.get(key)? {
                    Some(_) => Try::Differs,
                    None => Try::Problem(not_found(key)),
                });
            }
            _ => return Err(error),
        },
    };
    let seen = Seen::from(&facts_of(&file)?);
    let row = match tree.index.get(key)? {
        Some(row) if row.seen == seen => row,
        _ => return Ok(Try::Differs),
    };
    let (version, epoch) = (row.version()?, tree.index.epoch());
    let (range, status) = match wanted.judge(&version, &seen) {
        Verdict::Whole => (0..seen.size, StatusCode::OK),
        Verdict::Part(range) => (range, StatusCode::PARTIAL_CONTENT),
        Verdict::NotModified => return not_modified(&row, &version, epoch).map(Try::Done),
        Verdict::Failed => {
            let why = format!("{key}: the file has another version now");
            return Ok(Try::Problem(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                why,
            )));
        }
        Verdict::OutOfRange => return Ok(Try::Problem(Problem::range(seen.size))),
    };
    let length = range.end - range.start;
    if is_head {
        let head = respond(&row, (&version, epoch), (range, status), Body::empty());
        return head.map(Try::Done);
    }
    if length > CHUNK as u64 {
        let body = stream_of(tree, key, file, &row, range.clone());
        return sent(key, &row, (&version, epoch), (range, status), body);
    }
    let Some((bytes, row)) = read_small(tree, key, &file, row, &range) else {
        return Ok(Try::Differs);
    };
    sent(
        key,
        &row,
        (&version, epoch),
        (range, status),
        Body::from(bytes),
    )
}

/// The answer with a body, and a word about it for those who watch.
fn sent(
    key: &RelPath,
    row: &Row,
    version: (&Version, &str),
    part: (ByteRange, StatusCode),
    body: Body,
) -> Result<Try> {
    let length = part.0.end - part.0.start;
    let mut response = respond(row, version, part, body)?;
    Did::download(key, length).put_on(&mut response);
    Ok(Try::Done(response))
}

/// A small file in `version`, for an answer with many of them. None: whoever wants it asks for it by
/// itself, and is told what there is to tell.
pub fn small(tree: &Tree, key: &RelPath, version: &Version) -> Option<(Bytes, Row)> {
    let row = tree.index.get(key).ok()??;
    if row.seen.size > CHUNK as u64 || row.version().ok()? != *version {
        return None;
    }
    let file = tree.open(key).ok()?;
    let whole = 0..row.seen.size;
    match Seen::from(&facts_of(&file).ok()?) == row.seen {
        true => read_small(tree, key, &file, row, &whole),
        false => None,
    }
}

/// The bytes, if the file did not change meanwhile. A whole file is hashed the first time, so
/// that already its first reader can check what came.
fn read_small(
    tree: &Tree,
    key: &RelPath,
    file: &File,
    row: Row,
    range: &ByteRange,
) -> Option<(Bytes, Row)> {
    let length = usize::try_from(range.end - range.start).ok()?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start).ok()?;
    if Seen::from(&facts_of(file).ok()?) != row.seen {
        return None;
    }
    let mut row = row;
    if row.sha256.is_none() && length as u64 == row.seen.size {
        let sha256 = Sha256(Hasher::digest(&bytes).into());
        row.sha256 = Some(sha256);
        tree.index.learn(key.clone(), row.seen, sha256);
    }
    Some((bytes.into(), row))
}

/// A body on its way, read from the disk as fast as the client takes it.
struct Reading {
    tree: Arc<Tree>,
    key: RelPath,
    file: File,
    seen: Seen,
    at: u64,
    end: u64,
    /// Set while this may become the hash of the whole file.
    hasher: Option<Hasher>,
}

fn stream_of(tree: &Arc<Tree>, key: &RelPath, file: File, row: &Row, range: ByteRange) -> Body {
    let is_whole = range == (0..row.seen.size);
    let reading = Reading {
        tree: tree.clone(),
        key: key.clone(),
        file,
        seen: row.seen,
        at: range.start,
        end: range.end,
        hasher: (is_whole && row.sha256.is_none()).then(Hasher::new),
    };
    Body::from_stream(stream::try_unfold(reading, |reading| async move {
        if reading.at == reading.end {
            return Ok::<_, Error>(None);
        }
        blocking(move || reading.next()).await.map(Some)
    }))
}

impl Reading {
    fn next(mut self) -> Result<(Bytes, Reading)> {
        let left = usize::try_from(self.end - self.at).unwrap_or(CHUNK);
        let mut chunk = vec![0; CHUNK.min(left)];
        self.file.read_exact_at(&mut chunk, self.at)?;
        self.at += chunk.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        if self.at == self.end {
            self.finish()?;
        }
        Ok((chunk.into(), self))
    }

    /// The last chunk is held back until it is known that all belong to one version.
    fn finish(&mut self) -> Result<()> {
        let now = facts_of(&self.file)?;
        if now.nlink == 0 && self.is_replaced_only(&now) {
            return Ok(());
        }
        if Seen::from(&now) != self.seen {
            let why = "the file changed while it was sent";
            return Err(Error::new(Kind::Stale, why).about(&self.key));
        }
        if let Some(hasher) = self.hasher.take() {
            let sha256 = Sha256(hasher.finalize().into());
            self.tree.index.learn(self.key.clone(), self.seen, sha256);
        }
        Ok(())
    }
}

impl Reading {
    /// Another file has its name: that changes the inode, and none of its bytes.
    fn is_replaced_only(&self, now: &Facts) -> bool {
        let before = Seen {
            ctime_ns: now.ctime_ns,
            ..self.seen
        };
        Seen::from(now) == before
    }
}

fn respond(
    row: &Row,
    (version, epoch): (&Version, &str),
    (range, status): (ByteRange, StatusCode),
    body: Body,
) -> Result<Response<Body>> {
    let mut response = Response::new(body);
    let size = row.seen.size;
    let headers = response.headers_mut();
    describe(headers, row, version, epoch)?;
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, binary);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, value(text)?);
    }
    *response.status_mut() = status;
    Ok(response)
}

fn not_modified(row: &Row, version: &Version, epoch: &str) -> Result<Response<Body>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    describe(response.headers_mut(), row, version, epoch)?;
    Ok(response)
}

/// The headers that say which version this is; reads and writes answer with the same.
pub fn describe(headers: &mut HeaderMap, row: &Row, version: &Version, epoch: &str) -> Result<()> {
    headers.insert(header::ETAG, value(version.to_etag())?);
    let revision = value(revision_header(epoch, row.seq))?;
    headers.insert(HeaderName::from_static(REVISION_HEADER), revision);
    headers.insert(
        HeaderName::from_static(MTIME_HEADER),
        row.seen.mtime_ns.into(),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(date) = http_date(row.seen.mtime_ns) {
        headers.insert(header::LAST_MODIFIED, value(date)?);
    }
    if let Some(sha256) = &row.sha256 {
        let digest = value(digest_header(sha256))?;
        headers.insert(HeaderName::from_static(REPR_DIGEST), digest);
    }
    Ok(())
}

fn value(text: String) -> Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(|_| Error::new(Kind::Io, "a header cannot be written"))
}

/// Whole seconds; none before 1970 and after 9999, which the format does not have.
pub fn http_date(mtime_ns: i64) -> Option<String> {
    const END: u64 = 253_402_300_800;
    let seconds = u64::try_from(mtime_ns).ok()? / 1_000_000_000;
    (seconds < END).then(|| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
}
