//! An S3 store in this process: the real protocol with signatures (crate `s3s`) on the loopback,
//! objects in memory. Behaves as Amazon's does, or worse where a test says so.
//!
//! `s3s-fs` is no such store: its listings have no ETags, a key may not be both an object and the
//! beginning of others, and its conditions are not checked in one step with the write.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use sha2::Sha256;
use tokio::sync::oneshot;

pub const BUCKET: &str = "bucket";
pub const KEY: &str = "AKIALARDERTEST000001";
pub const SECRET: &str = "a-secret-that-nobody-may-see";

/// What keeps its letters in an encoded key.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'/');

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    List,
    Head,
    Get,
    Put,
    Delete,
    Copy,
    /// Beginning a multipart upload.
    Begin,
    Part,
    Complete,
    Abort,
    ListUploads,
}

/// How the store behaves.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whether the conditions of writes count; Garage 2 ignores them.
    pub conditions: bool,
    /// Whether copies are made, and whether the conditions on what they replace count.
    pub copies: bool,
    pub copy_conditions: bool,
    /// Whether those of deletes do.
    pub delete_conditions: bool,
    /// Whether checksums are kept and told.
    pub checksums: bool,
    /// Whether what users say of an object is kept.
    pub metadata: bool,
    /// Whether listing is allowed.
    pub listing: bool,
    /// How long every answer takes.
    pub delay: Duration,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            conditions: true,
            copies: true,
            copy_conditions: true,
            delete_conditions: true,
            checksums: true,
            metadata: true,
            listing: true,
            delay: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub bytes: Bytes,
    pub etag: String,
    pub modified: SystemTime,
    pub metadata: HashMap<String, String>,
    pub content_type: Option<String>,
    pub storage_class: Option<String>,
    pub encryption: Option<String>,
    pub sha256: Option<String>,
    pub crc64nvme: Option<String>,
}

#[derive(Debug, Clone)]
struct Begun {
    key: String,
    since: SystemTime,
    metadata: HashMap<String, String>,
    /// Whether SHA-256 of parts are kept, which has to be said at the beginning.
    hashed: bool,
    parts: BTreeMap<i32, (Bytes, String)>,
}

#[derive(Default)]
struct State {
    habits: Habits,
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Begun>,
    counts: HashMap<Op, u64>,
    faults: HashMap<Op, VecDeque<&'static str>>,
    /// Requests that are being answered, and the most there ever were.
    busy: u64,
    busiest: u64,
    numbered: u64,
    /// Bytes of objects that were sent.
    sent: Arc<AtomicU64>,
}

/// See the module. Stops when it is dropped.
pub struct S3Server {
    addr: SocketAddr,
    store: Store,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Store(Arc<Mutex<State>>);

impl S3Server {
    pub fn start(habits: Habits) -> S3Server {
        let store = Store(Arc::default());
        store.state().habits = habits;
        let mut service = S3ServiceBuilder::new(store.clone());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let (stop, mut stopped) = oneshot::channel();
        let (told, addr) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let socket = tokio::select! {
                        _ = &mut stopped => break,
                        accepted = listener.accept() => accepted.unwrap().0,
                    };
                    let _ = socket.set_nodelay(true);
                    let service = service.clone();
                    tokio::spawn(async move {
                        let http = hyper::server::conn::http1::Builder::new();
                        let _ = http.serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            });
            runtime.shutdown_background();
        });
        S3Server {
            addr: addr.recv().unwrap(),
            store,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address of a remote below `prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}", self.endpoint())
    }

    /// The keys as `larder` reads them.
    pub fn env() -> [(&'static str, &'static str); 2] {
        [
            ("LARDER_S3_ACCESS_KEY_ID", KEY),
            ("LARDER_S3_SECRET_ACCESS_KEY", SECRET),
        ]
    }

    pub fn set(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.store.state().habits);
    }

    /// The next `times` requests of a kind fail with `code`.
    pub fn fail(&self, op: Op, times: usize, code: &'static str) {
        let mut state = self.store.state();
        let faults = state.faults.entry(op).or_default();
        faults.extend(std::iter::repeat_n(code, times));
    }

    /// How often it was asked.
    pub fn count(&self, op: Op) -> u64 {
        self.store.state().counts.get(&op).copied().unwrap_or(0)
    }

    /// How often it was asked at all.
    pub fn requests(&self) -> u64 {
        self.store.state().counts.values().sum()
    }

    /// How many bytes of objects it has sent.
    pub fn sent(&self) -> u64 {
        self.store.state().sent.load(Ordering::SeqCst)
    }

    /// The most requests that were ever answered at a time.
    pub fn busiest(&self) -> u64 {
        self.store.state().busiest
    }

    /// Every key, in order.
    pub fn keys(&self) -> Vec<String> {
        self.store.state().objects.keys().cloned().collect()
    }

    pub fn object(&self, key: &str) -> Option<Stored> {
        self.store.state().objects.get(key).cloned()
    }

    /// Puts an object there as another tool would.
    pub fn place(&self, key: &str, bytes: impl Into<Bytes>) {
        self.change(key, bytes, |_| ());
    }

    /// Puts an object there, changed before anybody sees it.
    pub fn change(&self, key: &str, bytes: impl Into<Bytes>, change: impl FnOnce(&mut Stored)) {
        let bytes = bytes.into();
        let mut stored = Stored {
            etag: hex::encode(Md5::digest(&bytes)),
            bytes,
            modified: SystemTime::now(),
            metadata: HashMap::new(),
            content_type: None,
            storage_class: None,
            encryption: None,
            sha256: None,
            crc64nvme: None,
        };
        change(&mut stored);
        self.store.state().objects.insert(key.to_owned(), stored);
    }

    pub fn remove(&self, key: &str) {
        self.store.state().objects.remove(key);
    }

    /// Multipart uploads that were neither completed nor given up: their keys.
    pub fn unfinished(&self) -> Vec<String> {
        let state = self.store.state();
        state
            .uploads
            .values()
            .map(|begun| begun.key.clone())
            .collect()
    }

    /// Leaves a multipart upload behind, as a killed program does.
    pub fn abandon(&self, key: &str, age: Duration) {
        let mut state = self.store.state();
        state.numbered += 1;
        let id = format!("abandoned-{}", state.numbered);
        let begun = Begun {
            key: key.to_owned(),
            since: SystemTime::now() - age,
            metadata: HashMap::new(),
            hashed: false,
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id, begun);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Counts a request as long as it is answered.
struct Busy(Store);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn asked(&self, op: Op, bucket: &str) -> S3Result<Busy> {
        let (delay, fault) = {
            let mut state = self.state();
            *state.counts.entry(op).or_default() += 1;
            state.busy += 1;
            state.busiest = state.busiest.max(state.busy);
            let fault = state.faults.get_mut(&op).and_then(VecDeque::pop_front);
            (state.habits.delay, fault)
        };
        let busy = Busy(self.clone());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(code) = fault {
            let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap();
            return Err(S3Error::with_message(code, "as the test wants it"));
        }
        match bucket == BUCKET {
            true => Ok(busy),
            false => Err(s3_error!(NoSuchBucket)),
        }
    }
}

impl State {
    fn check(
        &self,
        key: &str,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<()> {
        if !self.habits.conditions {
            return Ok(());
        }
        let now = self.objects.get(key);
        let wrong = match (if_match, now) {
            (None, _) => false,
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(wanted), Some(now)) => !is_match(wanted, now),
        };
        let exists = if_none_match.is_some() && now.is_some();
        match wrong || exists {
            true => Err(s3_error!(PreconditionFailed)),
            false => Ok(()),
        }
    }

    fn kept(&self, metadata: Option<Metadata>) -> HashMap<String, String> {
        match self.habits.metadata {
            true => metadata.unwrap_or_default().into_iter().collect(),
            false => HashMap::new(),
        }
    }
}

fn is_match(wanted: &ETagCondition, now: &Stored) -> bool {
    match wanted {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.as_strong() == Some(now.etag.as_str()),
    }
}

fn etag(stored: &Stored) -> Option<ETag> {
    Some(ETag::Strong(stored.etag.clone()))
}

async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else {
        return Ok(Bytes::new());
    };
    let mut bytes = Vec::new();
    let mut body = body;
    while let Some(piece) = body
        .try_next()
        .await
        .map_err(|_| s3_error!(IncompleteBody))?
    {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

fn checked(bytes: &[u8], promised: Option<&String>) -> S3Result<String> {
    let found = STANDARD.encode(Sha256::digest(bytes));
    match promised.is_some_and(|promised| *promised != found) {
        true => Err(s3_error!(BadDigest)),
        false => Ok(found),
    }
}

fn encoded(key: &str, how: Option<&EncodingType>) -> String {
    match how {
        Some(_) => utf8_percent_encode(key, PLAIN)
            .to_string()
            .replace("%20", "+"),
        None => key.to_owned(),
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let _busy = self.asked(Op::List, &input.bucket).await?;
        let state = self.state();
        if !state.habits.listing {
            return Err(s3_error!(AccessDenied));
        }
        let prefix = input.prefix.clone().unwrap_or_default();
        let most = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone());
        let from = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        let (mut contents, mut folders) = (Vec::new(), Vec::<CommonPrefix>::new());
        let (mut last, mut is_truncated) = (None, false);
        let how = input.encoding_type.as_ref();
        for (key, stored) in state.objects.range((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                break;
            };
            let cut = input.delimiter.as_ref().and_then(|d| rest.find(d.as_str()));
            let folder = cut.map(|at| key[..=prefix.len() + at].to_owned());
            let is_told =
                folder.is_some() && (folder == last || folder == input.continuation_token);
            if is_told {
                continue;
            }
            if contents.len() + folders.len() == most {
                is_truncated = true;
                break;
            }
            match folder {
                Some(folder) => {
                    let prefix = Some(encoded(&folder, how));
                    folders.push(CommonPrefix { prefix });
                    last = Some(folder);
                }
                None => {
                    contents.push(Object {
                        key: Some(encoded(key, how)),
                        size: Some(stored.bytes.len() as i64),
                        e_tag: etag(stored),
                        last_modified: Some(stored.modified.into()),
                        ..Object::default()
                    });
                    last = Some(key.clone());
                }
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some((contents.len() + folders.len()) as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            contents: Some(contents),
            common_prefixes: Some(folders),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            prefix: input.prefix,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Head, &input.bucket).await?;
        let state = self.state();
        let stored = state
            .objects
            .get(&input.key)
            .ok_or_else(|| s3_error!(NoSuchKey))?;
        let told = state.habits.checksums && input.checksum_mode.is_some();
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.bytes.len() as i64),
            e_tag: etag(stored),
            last_modified: Some(stored.modified.into()),
            metadata: Some(stored.metadata.clone().into_iter().collect()),
            content_type: stored.content_type.clone(),
            checksum_sha256: stored.sha256.clone().filter(|_| told),
            checksum_crc64nvme: stored.crc64nvme.clone().filter(|_| told),
            ..HeadObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Get, &input.bucket).await?;
        let state = self.state();
        let stored = state
            .objects
            .get(&input.key)
            .ok_or_else(|| s3_error!(NoSuchKey))?;
        if input
            .if_match
            .as_ref()
            .is_some_and(|wanted| !is_match(wanted, stored))
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = stored.bytes.len() as u64;
        let range = match input.range {
            Some(range) => range.check(size).map_err(|_| s3_error!(InvalidRange))?,
            None => 0..size,
        };
        let content_range = input
            .range
            .map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        let told =
            state.habits.checksums && input.checksum_mode.is_some() && content_range.is_none();
        let length = bytes.len() as i64;
        let pieces: Vec<_> = (0..bytes.len())
            .step_by(64 << 10)
            .map(|at| Ok::<_, std::io::Error>(bytes.slice(at..bytes.len().min(at + (64 << 10)))))
            .collect();
        let sent = state.sent.clone();
        let pieces = futures_util::stream::iter(pieces).inspect_ok(move |piece: &Bytes| {
            sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
        });
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(pieces)),
            content_length: Some(length),
            content_range,
            e_tag: etag(stored),
            last_modified: Some(stored.modified.into()),
            metadata: Some(stored.metadata.clone().into_iter().collect()),
            content_type: stored.content_type.clone(),
            checksum_sha256: stored.sha256.clone().filter(|_| told),
            checksum_crc64nvme: stored.crc64nvme.clone().filter(|_| told),
            ..GetObjectOutput::default()
        }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let bytes = whole(input.body).await?;
        let _busy = self.asked(Op::Put, &input.bucket).await?;
        let sha256 = checked(&bytes, input.checksum_sha256.as_ref())?;
        let mut state = self.state();
        state.check(
            &input.key,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let stored = Stored {
            etag: hex::encode(Md5::digest(&bytes)),
            bytes,
            modified: SystemTime::now(),
            metadata: state.kept(input.metadata),
            content_type: input.content_type,
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            encryption: input
                .server_side_encryption
                .map(|sse| sse.as_str().to_owned()),
            sha256: input.checksum_sha256.map(|_| sha256),
            crc64nvme: None,
        };
        let e_tag = etag(&stored);
        state.objects.insert(input.key, stored);
        Ok(S3Response::new(PutObjectOutput {
            e_tag,
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Delete, &input.bucket).await?;
        let mut state = self.state();
        let now = state.objects.get(&input.key);
        let other = input
            .if_match
            .as_ref()
            .zip(now)
            .is_some_and(|(w, now)| !is_match(w, now));
        if other && state.habits.delete_conditions {
            return Err(s3_error!(PreconditionFailed));
        }
        state.objects.remove(&input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Copy, &input.bucket).await?;
        let from = match &input.copy_source {
            CopySource::Bucket { key, .. } if self.state().habits.copies => key,
            _ => return Err(s3_error!(NotImplemented)),
        };
        // Conditions on what is replaced, which this version of the protocol's crate does not know.
        let header = |name: &str| {
            let value = req.headers.get(name)?;
            ETagCondition::parse_http_header(value.as_bytes()).ok()
        };
        let (if_match, if_none_match) = (header("if-match"), header("if-none-match"));
        let mut state = self.state();
        let source = state.objects.get(&**from).cloned();
        let source = source.ok_or_else(|| s3_error!(NoSuchKey))?;
        let wanted = input.copy_source_if_match.as_ref();
        if wanted.is_some_and(|wanted| !is_match(wanted, &source)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if state.habits.copy_conditions {
            state.check(&input.key, if_match.as_ref(), if_none_match.as_ref())?;
        }
        let replaces = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        if *input.key == **from && !replaces {
            return Err(s3_error!(InvalidRequest));
        }
        let copy = Stored {
            // One that came in parts is whole from here on.
            etag: hex::encode(Md5::digest(&source.bytes)),
            modified: SystemTime::now(),
            metadata: match replaces {
                true => state.kept(input.metadata),
                false => source.metadata.clone(),
            },
            content_type: match replaces {
                true => input.content_type,
                false => source.content_type.clone(),
            },
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            encryption: input
                .server_side_encryption
                .map(|sse| sse.as_str().to_owned()),
            ..source
        };
        let result = CopyObjectResult {
            e_tag: etag(&copy),
            last_modified: Some(copy.modified.into()),
            ..CopyObjectResult::default()
        };
        state.objects.insert(input.key, copy);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Begin, &input.bucket).await?;
        let mut state = self.state();
        state.numbered += 1;
        let id = format!("upload-{}", state.numbered);
        let begun = Begun {
            key: input.key.clone(),
            since: SystemTime::now(),
            metadata: state.kept(input.metadata),
            hashed: input
                .checksum_algorithm
                .is_some_and(|algorithm| algorithm.as_str() == ChecksumAlgorithm::SHA256),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), begun);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let bytes = whole(input.body).await?;
        let _busy = self.asked(Op::Part, &input.bucket).await?;
        let sha256 = checked(&bytes, input.checksum_sha256.as_ref())?;
        let etag = hex::encode(Md5::digest(&bytes));
        let mut state = self.state();
        let begun = state.uploads.get_mut(&input.upload_id);
        let begun = begun.ok_or_else(|| s3_error!(NoSuchUpload))?;
        begun.parts.insert(input.part_number, (bytes, etag.clone()));
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_sha256: input.checksum_sha256.map(|_| sha256),
            ..UploadPartOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Complete, &input.bucket).await?;
        let mut state = self.state();
        state.check(
            &input.key,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let begun = state.uploads.get(&input.upload_id).cloned();
        let begun = begun.ok_or_else(|| s3_error!(NoSuchUpload))?;
        let named = input.multipart_upload.and_then(|named| named.parts);
        let named = named.unwrap_or_default();
        let (mut bytes, mut sums) = (Vec::new(), Vec::new());
        for part in &named {
            let sent = begun.parts.get(&part.part_number.unwrap_or(0));
            let (piece, etag) = sent.ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().map(ETag::value) != Some(etag.as_str()) {
                return Err(s3_error!(InvalidPart));
            }
            if part.checksum_sha256.is_some() && !begun.hashed {
                return Err(s3_error!(InvalidDigest));
            }
            let is_last = part.part_number == named.last().and_then(|last| last.part_number);
            if !is_last && piece.len() < 5 << 20 {
                return Err(s3_error!(EntityTooSmall));
            }
            bytes.extend_from_slice(piece);
            sums.extend_from_slice(&hex::decode(etag).unwrap());
        }
        let stored = Stored {
            etag: format!("{}-{}", hex::encode(Md5::digest(&sums)), named.len()),
            bytes: bytes.into(),
            modified: SystemTime::now(),
            metadata: begun.metadata,
            content_type: None,
            storage_class: None,
            encryption: None,
            sha256: None,
            crc64nvme: None,
        };
        let e_tag = etag(&stored);
        state.uploads.remove(&input.upload_id);
        state.objects.insert(input.key.clone(), stored);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag,
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::Abort, &input.bucket).await?;
        let gone = self.state().uploads.remove(&input.upload_id);
        gone.ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let _busy = self.asked(Op::ListUploads, &input.bucket).await?;
        let prefix = input.prefix.unwrap_or_default();
        let state = self.state();
        let uploads = state
            .uploads
            .iter()
            .filter(|(_, begun)| begun.key.starts_with(&prefix));
        let uploads = uploads.map(|(id, begun)| MultipartUpload {
            key: Some(encoded(&begun.key, input.encoding_type.as_ref())),
            upload_id: Some(id.clone()),
            initiated: Some(begun.since.into()),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            is_truncated: Some(false),
            encoding_type: input.encoding_type,
            ..ListMultipartUploadsOutput::default()
        }))
    }
}
