//! Objects that come in parts.
//!
//! Parts lie beside the uploads that are on their way, without a name in the tree; the last request
//! puts them together by the way that every upload takes. What was begun is known to this process
//! only: after a restart nothing of it is left, and clients are told so. What is begun and left
//! alone goes after a day.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt, stream};
use lru::LruCache;
use s3s::dto::{
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, CopyPartResult,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Result, StdError, s3_error};

use crate::clock::Chance;
use crate::error::{Error, Kind};
use crate::index::served::Row;
use crate::path::RelPath;
use crate::server::App;
use crate::server::activity::Did;
use crate::server::disk::blocking;
use crate::server::put::{Held, Promise, accept, hold};
use crate::server::tree::CHUNK;

use super::Visit;
use super::checks::{After, Checked};
use super::list::{etag, time};
use super::objects::key_of;
use super::refusal::{failed, refused};
use super::write::{checked, mtime_of, precondition, promise, source};

/// Uploads that are open at the same time, parts of one, and the life of one that is left alone.
const MOST: usize = 256;
const PARTS: i32 = 10_000;
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Uploads that ended well and are remembered, for clients that did not hear it.
const DONE: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// See the module.
pub struct Uploads {
    open: Mutex<HashMap<String, Upload>>,
    done: Mutex<LruCache<String, (RelPath, Row)>>,
    chance: Chance,
}

impl Default for Uploads {
    fn default() -> Uploads {
        Uploads {
            open: Mutex::default(),
            done: Mutex::new(LruCache::new(DONE)),
            chance: Chance::from_system(),
        }
    }
}

/// One that was begun.
struct Upload {
    key: RelPath,
    mtime_ns: Option<i64>,
    touched: Instant,
    parts: BTreeMap<i32, Arc<Held>>,
    /// It is being put together.
    is_ending: bool,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_such() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "there is no such upload (any more): it ended, or the server was started again"
    )
}

impl Uploads {
    /// Begins one. Also gives those that were left alone, whose files go with them.
    fn begin(&self, key: RelPath, mtime_ns: Option<i64>) -> S3Result<(String, Vec<Upload>)> {
        let id = format!(
            "{:016x}{:016x}",
            self.chance.next_u64(),
            self.chance.next_u64()
        );
        let mut open = lock(&self.open);
        let is_old = |upload: &Upload| !upload.is_ending && upload.touched.elapsed() > LIFE;
        let old = open.extract_if(|_, upload| is_old(upload));
        let old = old.map(|(_, upload)| upload).collect();
        if open.len() >= MOST {
            return Err(s3_error!(
                SlowDown,
                "{MOST} uploads in parts are open already"
            ));
        }
        let upload = Upload {
            key,
            mtime_ns,
            touched: Instant::now(),
            parts: BTreeMap::new(),
            is_ending: false,
        };
        open.insert(id.clone(), upload);
        Ok((id, old))
    }

    /// Does something with an open upload.
    fn with<T>(
        &self,
        id: &str,
        key: &RelPath,
        act: impl FnOnce(&mut Upload) -> S3Result<T>,
    ) -> S3Result<T> {
        let mut open = lock(&self.open);
        match open.get_mut(id).filter(|upload| upload.key == *key) {
            Some(upload) if upload.is_ending => {
                Err(s3_error!(SlowDown, "the upload is being put together"))
            }
            Some(upload) => {
                upload.touched = Instant::now();
                act(upload)
            }
            None => Err(no_such()),
        }
    }

    fn add(&self, id: &str, key: &RelPath, number: i32, part: Held) -> S3Result<Option<Arc<Held>>> {
        self.with(id, key, |upload| {
            Ok(upload.parts.insert(number, Arc::new(part)))
        })
    }

    /// Takes the parts that make the file.
    fn end(
        &self,
        id: &str,
        key: &RelPath,
        wanted: &[CompletedPart],
    ) -> S3Result<(Vec<Arc<Held>>, Option<i64>)> {
        self.with(id, key, |upload| {
            let parts = chosen(&upload.parts, wanted)?;
            upload.is_ending = true;
            Ok((parts, upload.mtime_ns))
        })
    }

    /// It was put together, or was not and may be tried again.
    fn ended(&self, id: &str, row: Option<&Row>) -> Option<Upload> {
        let mut open = lock(&self.open);
        match row {
            Some(row) => {
                let upload = open.remove(id)?;
                lock(&self.done).put(id.to_owned(), (upload.key.clone(), row.clone()));
                Some(upload)
            }
            None => {
                if let Some(upload) = open.get_mut(id) {
                    upload.is_ending = false;
                }
                None
            }
        }
    }

    fn abort(&self, id: &str, key: &RelPath) -> S3Result<Option<Upload>> {
        self.with(id, key, |_| Ok(()))?;
        Ok(lock(&self.open).remove(id))
    }
}

/// The parts that are named, in their order, if they are those that came.
fn chosen(parts: &BTreeMap<i32, Arc<Held>>, wanted: &[CompletedPart]) -> S3Result<Vec<Arc<Held>>> {
    if wanted.is_empty() {
        return Err(s3_error!(MalformedXML, "an upload has at least one part"));
    }
    let mut last = 0;
    let mut chosen = Vec::with_capacity(wanted.len());
    for one in wanted {
        let number = one.part_number.unwrap_or(0);
        if number <= last {
            return Err(s3_error!(InvalidPartOrder));
        }
        last = number;
        let part = parts.get(&number).filter(|part| {
            let tag = one.e_tag.as_ref().map(ETag::value);
            tag.is_some_and(|tag| tag == part.sha256.to_hex())
        });
        let part = part.ok_or_else(|| s3_error!(InvalidPart, "part {number} did not come"))?;
        chosen.push(part.clone());
    }
    Ok(chosen)
}

/// Removing files takes its time.
async fn forget<T: Send + 'static>(gone: T) {
    let _ = blocking(move || {
        drop(gone);
        Ok(())
    })
    .await;
}

/// `CreateMultipartUpload`.
pub async fn create(
    visit: &Visit,
    input: CreateMultipartUploadInput,
) -> S3Result<CreateMultipartUploadOutput> {
    visit.app.counters.other();
    visit.app.uploads().map_err(failed)?;
    let key = key_of(&input.key)?;
    let mtime_ns = mtime_of(input.metadata.as_ref());
    let (id, old) = visit.app.s3.uploads.begin(key, mtime_ns)?;
    forget(old).await;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..CreateMultipartUploadOutput::default()
    })
}

fn numbered(number: i32) -> S3Result<i32> {
    match (1..=PARTS).contains(&number) {
        true => Ok(number),
        false => Err(s3_error!(
            InvalidArgument,
            "parts are numbered from 1 to {PARTS}"
        )),
    }
}

/// The part's ETag is its SHA-256: nobody takes 64 digits for an MD5.
fn tag(part: &Held) -> ETag {
    ETag::Strong(part.sha256.to_hex())
}

/// `UploadPart`.
pub async fn upload(
    visit: &Visit,
    request: S3Request<UploadPartInput>,
) -> S3Result<UploadPartOutput> {
    visit.app.counters.write();
    let (input, headers) = (request.input, request.headers);
    let (key, number) = (key_of(&input.key)?, numbered(input.part_number)?);
    let uploads = &visit.app.s3.uploads;
    uploads.with(&input.upload_id, &key, |_| Ok(()))?;
    let promise = promise(&headers, input.content_length);
    let trailers = request.trailing_headers;
    let mut body = checked(input.body, &headers, &request.extensions, trailers)?;
    let held = hold(&visit.app, promise, &mut body).await;
    let held = held.map_err(|problem| body.fault().unwrap_or_else(|| refused(problem)))?;
    let (tag, sums) = (tag(&held), body.sums());
    forget(uploads.add(&input.upload_id, &key, number, held)?).await;
    Ok(UploadPartOutput {
        e_tag: Some(tag),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        ..UploadPartOutput::default()
    })
}

/// `UploadPartCopy`: what clients copy big objects with.
pub async fn upload_copy(
    visit: &Visit,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<UploadPartCopyOutput> {
    visit.app.counters.write();
    let (input, headers) = (request.input, request.headers);
    let (key, number) = (key_of(&input.key)?, numbered(input.part_number)?);
    let uploads = &visit.app.s3.uploads;
    uploads.with(&input.upload_id, &key, |_| Ok(()))?;
    let mut source = source(visit, &input.copy_source, &headers).await?;
    let mtime_ns = source.promise.mtime_ns;
    let held = hold(&visit.app, source.promise, &mut source.body).await;
    let held = held.map_err(refused)?;
    let result = CopyPartResult {
        e_tag: Some(tag(&held)),
        last_modified: mtime_ns.map(time),
        ..CopyPartResult::default()
    };
    forget(uploads.add(&input.upload_id, &key, number, held)?).await;
    Ok(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..UploadPartCopyOutput::default()
    })
}

/// `AbortMultipartUpload`.
pub async fn abort(visit: &Visit, id: &str, key: &str) -> S3Result<()> {
    visit.app.counters.other();
    forget(visit.app.s3.uploads.abort(id, &key_of(key)?)?).await;
    Ok(())
}

/// `CompleteMultipartUpload`. It goes on when the client does not wait for it, and says the same
/// again when it is asked again.
pub async fn complete(
    visit: &Visit,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    visit.app.counters.write();
    let (input, headers) = (request.input, request.headers);
    let key = key_of(&input.key)?;
    let uploads = &visit.app.s3.uploads;
    let known = lock(&uploads.done).get(&input.upload_id).cloned();
    if let Some((_, row)) = known.filter(|(path, _)| *path == key) {
        return told(input.bucket, input.key, &row);
    }
    let wanted = input.multipart_upload.and_then(|list| list.parts);
    let precondition = precondition(&headers)?;
    let wanted = wanted.unwrap_or_default();
    let (parts, mtime_ns) = uploads.end(&input.upload_id, &key, &wanted)?;
    let length = parts.iter().map(|part| part.length).sum();
    let body = Checked::new(Box::pin(joined(parts)), &headers, After::Nothing);
    let promise = Promise {
        length: Some(input.mpu_object_size.map_or(length, i64::cast_unsigned)),
        mtime_ns,
        precondition,
        empty: true,
        ..Promise::plain()
    };
    let ending = Ending {
        app: visit.app.clone(),
        id: input.upload_id,
        key: key.clone(),
    };
    let ended = tokio::spawn(async move { ending.run(body, promise).await });
    let ended = ended
        .await
        .map_err(|error| s3_error!(error, InternalError))?;
    let row = ended?;
    visit.did(Did::upload(&key, row.seen.size));
    told(input.bucket, input.key, &row)
}

fn told(bucket: String, key: String, row: &Row) -> S3Result<CompleteMultipartUploadOutput> {
    Ok(CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket),
        key: Some(key),
        e_tag: Some(etag(row)?),
        ..CompleteMultipartUploadOutput::default()
    })
}

/// Puts the parts together.
struct Ending {
    app: Arc<App>,
    id: String,
    key: RelPath,
}

impl Ending {
    async fn run<S>(self, body: S3Result<Checked<S>>, promise: Promise) -> S3Result<Row>
    where
        S: Stream<Item = Result<Bytes, StdError>> + Unpin,
    {
        let taken = match body {
            Ok(mut body) => {
                let taken = accept(&self.app, &self.key, promise, &mut body).await;
                taken.map_err(|problem| body.fault().unwrap_or_else(|| refused(problem)))
            }
            Err(error) => Err(error),
        };
        let row = taken.map(|(row, _)| row);
        forget(self.app.s3.uploads.ended(&self.id, row.as_ref().ok())).await;
        row
    }
}

/// The parts' bytes, one part after the other.
fn joined(parts: Vec<Arc<Held>>) -> impl Stream<Item = Result<Bytes, StdError>> {
    stream::iter(parts).flat_map(|part| {
        let reading = Reading {
            part,
            file: None,
            at: 0,
        };
        stream::try_unfold(reading, |reading| async move {
            if reading.at == reading.part.length {
                return Ok(None);
            }
            let read = blocking(move || reading.next()).await;
            read.map(Some).map_err(StdError::from)
        })
    })
}

struct Reading {
    part: Arc<Held>,
    file: Option<File>,
    at: u64,
}

impl Reading {
    fn next(mut self) -> Result<(Bytes, Reading), Error> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.part.bytes.open()?,
        };
        let left = usize::try_from(self.part.length - self.at).unwrap_or(CHUNK);
        let mut chunk = vec![0; CHUNK.min(left)];
        let read = file.read_exact_at(&mut chunk, self.at);
        read.map_err(|error| Error::new(Kind::Io, format!("a part cannot be read: {error}")))?;
        self.at += chunk.len() as u64;
        self.file = Some(file);
        Ok((chunk.into(), self))
    }
}
