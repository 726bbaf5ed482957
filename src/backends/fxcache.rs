//! The client of an original FXCACHE server: a small program without listings, versions,
//! preconditions or durable writes, which many people run as it is.
//!
//! Takes what the server says with care: sizes and times come from the answer that brings
//! the bytes, never from its index; an error page, a body of another length or of another
//! version is never a file's. What the protocol cannot do is not pretended: uploads are
//! compared before they are sent, and in between somebody else's may be lost (promise P5 in
//! `SEMANTICS.md`); empty files and names with two dots in a row are refused.

mod answer;
pub mod foreign;
mod gather;
mod poll;
mod shapes;
mod truths;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::foreign::Foreign;
use self::gather::Gather;
use self::poll::Poll;
use self::truths::Truths;
use super::http::{ask, client, credentials, lost};
use super::pulse::{Pulse, alive};
use super::url::{Place, RemoteUrl};
use super::{Backend, Capabilities, Changes, Download, Found, Timeouts, Upload, body, verdict};
use crate::error::{Error, Kind, Result};
// The server serves its own index like any other file.
use crate::legacy::NAME as INDEX;
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;
use crate::secret::Secret;
use crate::wire::REVISION_HEADER;

/// See the module. Cloning shares everything.
#[derive(Clone)]
pub struct Fxcache(Arc<Inner>);

struct Inner {
    base: String,
    client: Client,
    times: Timeouts,
    refresh: Duration,
    /// The server's index as last fetched; none while it cannot be had.
    foreign: Mutex<Option<Arc<Foreign>>>,
    /// The server is still making its index: what it denies may be there.
    building: AtomicBool,
    /// What the server really has, where its index says otherwise.
    truths: Truths,
    gather: Gather,
    poll: Poll,
}

impl Fxcache {
    /// A client for `url`, which must be `http` or `https`; looks for news every `refresh`.
    pub fn new(
        url: &RemoteUrl,
        key: Option<Secret>,
        times: Timeouts,
        refresh: Duration,
    ) -> Result<Fxcache> {
        let Place::Http { base, tls, login } = url.place() else {
            return Err(Error::new(Kind::Invalid, "not an http remote").about(url));
        };
        let headers = credentials(key, login.as_ref()).map_err(|e| e.about(url))?;
        let built = client(&headers, *tls, &times).no_gzip().no_zstd().build();
        Ok(Fxcache(Arc::new(Inner {
            base: base.clone(),
            client: built.map_err(|e| lost(e).about(url))?,
            times,
            refresh,
            foreign: Mutex::new(None),
            building: AtomicBool::new(false),
            truths: Truths::default(),
            gather: Gather::default(),
            poll: Poll::new(refresh, Instant::now()),
        })))
    }
}

/// The name as it can be asked for. Errors: `Unsupported` for names that the server refuses.
fn asked(key: &RelPath) -> Result<&str> {
    let name = std::str::from_utf8(key.as_bytes()).map_err(|_| {
        Error::new(
            Kind::Unsupported,
            "an FXCACHE server knows UTF-8 names only",
        )
    })?;
    if name.contains("..") {
        let why = "an FXCACHE server refuses names with two dots in a row";
        return Err(Error::new(Kind::Unsupported, why));
    }
    Ok(name)
}

impl Inner {
    fn request(&self, method: Method, verb: &str, name: &str) -> RequestBuilder {
        let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        let url = format!("{}/{verb}?path={name}", self.base);
        self.client
            .request(method, url)
            .header(header::ACCEPT_ENCODING, "identity")
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Response> {
        let response = ask(request, self.times.answer).await?;
        match response.headers().contains_key(REVISION_HEADER) {
            true => Err(answer::a_larder()),
            false => Ok(response),
        }
    }

    async fn refused(&self, response: Response) -> Error {
        answer::refused(response, self.times.stall).await
    }

    fn foreign(&self) -> Option<Arc<Foreign>> {
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        foreign.clone()
    }

    /// What the server says of itself. Errors: `Unsupported` for a relative that has no files.
    async fn health(&self) -> Result<()> {
        let url = format!("{}/health", self.base);
        let response = self.ask(self.client.get(url)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(answer::somebody_else()),
            _ => return Err(self.refused(response).await),
        }
        let health = answer::health(response, self.times.stall).await?;
        self.building.store(health.is_building(), Ordering::Relaxed);
        Ok(())
    }

    /// The index as the server has it now, fetched if it is another than the one known.
    async fn fetch_index(&self) -> Result<Arc<Foreign>> {
        let known = self.foreign();
        let mut request = self.request(Method::GET, "download", INDEX);
        if let Some(known) = &known {
            request = request.header(header::IF_NONE_MATCH, known.tag());
        }
        let response = self.ask(request).await?;
        match (response.status(), known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => return Ok(known),
            (StatusCode::OK, _) => {}
            _ => return Err(self.refused(response).await),
        }
        let tag = answer::tag(response.headers())?;
        let fetched = Arc::new(Foreign::receive(response, tag, self.times.stall).await?);
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        *foreign = Some(fetched.clone());
        Ok(fetched)
    }

    /// Whether there is an index to list from. What cannot be used is none; what cannot be
    /// reached is an error.
    async fn has_index(&self) -> Result<bool> {
        match self.fetch_index().await {
            Ok(_) => Ok(true),
            Err(error) if error.kind().is_away() => Err(error),
            Err(error) => {
                tracing::info!(%error, "the server's index cannot be used: names are asked for one by one");
                let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
                *foreign = None;
                Ok(false)
            }
        }
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        let Ok(name) = asked(key) else {
            return Ok(None);
        };
        let response = self
            .ask(self.request(Method::HEAD, "download", name))
            .await?;
        match response.status() {
            StatusCode::OK => {
                let meta = answer::meta(response.headers())?;
                self.learn(key, Some(&meta));
                Ok(Some(meta))
            }
            StatusCode::NOT_FOUND if answer::is_json(response.headers()) => {
                self.learn(key, None);
                Ok(None)
            }
            _ => Err(self.refused(response).await),
        }
    }

    /// What an answer said of a key, to be held against the index.
    fn learn(&self, key: &RelPath, there: Option<&Meta>) {
        if let Some(foreign) = self.foreign() {
            let row = foreign.version(key).ok().flatten();
            self.truths.learn(key, row, there);
        }
    }

    async fn get(
        self: &Arc<Self>,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let name = asked(key).map_err(|_| verdict::missing())?;
        if let Some(range) = range.clone().filter(ByteRange::is_empty) {
            return verdict::nothing(self.head(key).await?, &range, version);
        }
        let mut request = self.request(Method::GET, "download", name);
        if let Some(range) = &range {
            request = request.header(header::RANGE, super::http::range_header(range));
        }
        let response = self.ask(request).await?;
        let headers = response.headers();
        let (meta, sent) = match (response.status(), range) {
            (StatusCode::OK, range) => {
                let meta = answer::meta(headers)?;
                let all = 0..meta.size;
                if body::cut(range, meta.size) != all {
                    let why = "the server sends whole files only, not the range asked for";
                    return Err(Error::new(Kind::Unsupported, why));
                }
                (meta, all)
            }
            (StatusCode::PARTIAL_CONTENT, Some(range)) => answer::part(headers, range)?,
            (_, range) => {
                let error = self.refused(response).await;
                return match (error.kind(), range) {
                    // Beyond the end; the original says so with status 500.
                    (Kind::Range, Some(range)) => {
                        verdict::nothing(self.head(key).await?, &range, version)
                    }
                    _ => Err(error),
                };
            }
        };
        if let Err(error) = verdict::same(&meta, version) {
            self.learn(key, Some(&meta));
            return Err(error);
        }
        let is_fresh = answer::is_fresh(response.headers(), &meta);
        let chunks = response.bytes_stream().map(|chunk| chunk.map_err(lost));
        let whole = body::exactly(chunks, sent.end - sent.start, self.times.pause);
        let body = match is_fresh {
            true => self
                .clone()
                .proved(key.clone(), meta.version.clone(), whole),
            false => whole,
        };
        Ok(Download {
            meta,
            range: sent,
            body,
            is_proven: false,
            proof: None,
        })
    }

    /// The original writes files in place: one that changed just now may be half of one. Its last
    /// bytes are given out once the server has said that it is still the same.
    fn proved(
        self: Arc<Self>,
        key: RelPath,
        version: Version,
        whole: super::ByteStream,
    ) -> super::ByteStream {
        let state = (self, whole.fuse(), None);
        let known = Arc::new((key, version));
        Box::pin(stream::try_unfold(state, move |(this, mut whole, held)| {
            let known = known.clone();
            async move {
                let held = match held {
                    Some(held) => Some(held),
                    None => whole.next().await.transpose()?,
                };
                let Some(held) = held else { return Ok(None) };
                let next = whole.next().await.transpose()?;
                let (key, version) = &*known;
                if next.is_none()
                    && this
                        .head(key)
                        .await?
                        .is_none_or(|now| now.version != *version)
                {
                    return Err(verdict::stale().about(key));
                }
                Ok(Some((held, (this, whole, next))))
            }
        }))
    }

    async fn put(&self, key: &RelPath, upload: Upload, only: Precondition) -> Result<Meta> {
        let name = asked(key)?;
        if upload.size == 0 {
            let why = "an FXCACHE server takes no empty files; it stays here";
            return Err(Error::new(Kind::Unsupported, why));
        }
        let now = self.head(key).await?;
        let holds = match &only {
            Precondition::None => true,
            Precondition::Absent => now.is_none(),
            Precondition::Matches(version) => now.is_some_and(|now| now.version == *version),
        };
        if !holds {
            return Err(verdict::conflict());
        }
        self.send(name, &upload).await?;
        match self.head(key).await? {
            Some(meta) if meta.size == upload.size => Ok(Meta {
                sha256: Some(upload.sha256),
                ..meta
            }),
            // Somebody else's came right behind it.
            _ => Err(verdict::conflict()),
        }
    }

    async fn send(&self, name: &str, upload: &Upload) -> Result<()> {
        let pulse = Pulse::default();
        let bytes = body::outgoing(upload, 0..upload.size, &pulse);
        let request = self
            .request(Method::POST, "upload", name)
            .header(header::CONTENT_LENGTH, upload.size)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap_stream(bytes));
        let patience = self.times.upload(upload.size);
        let response = alive(&pulse, patience, request.send())
            .await?
            .map_err(lost)?;
        match response.status() {
            StatusCode::OK => answer::stored(response, upload.size, self.times.stall).await,
            _ => Err(self.refused(response).await),
        }
    }

    /// Asks many names at once, together with whoever asks at the same time.
    async fn exists(self: &Arc<Self>, name: &str) -> Result<bool> {
        let this = self.clone();
        let batch = move |names| {
            let this = this.clone();
            async move { this.ask_batch(names).await }
        };
        self.gather.ask(name, batch).await
    }

    async fn ask_batch(&self, names: Vec<String>) -> Result<HashMap<String, bool>> {
        let url = format!("{}/exists_batch", self.base);
        let body = serde_json::json!({ "paths": names }).to_string();
        let request = self.client.post(url).body(body);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let response = self.ask(request).await?;
        match response.status() {
            StatusCode::OK => answer::batch(response, self.times.stall).await,
            _ => Err(self.refused(response).await),
        }
    }

    /// Whether the server's index is another than `known`.
    async fn has_news(&self, known: &str) -> Result<bool> {
        if self.building.load(Ordering::Relaxed) {
            self.health().await?;
        }
        let response = self
            .ask(self.request(Method::HEAD, "download", INDEX))
            .await?;
        self.poll.looked(Instant::now());
        match response.status() {
            StatusCode::OK => Ok(answer::tag(response.headers())? != known),
            _ => Ok(true),
        }
    }
}

#[async_trait]
impl Backend for Fxcache {
    async fn capabilities(&self) -> Result<Capabilities> {
        let asked = async {
            self.0.health().await?;
            let listing = self.0.has_index().await?;
            self.0.poll.looked(Instant::now());
            Ok(Capabilities {
                put: true,
                conditional_put: false,
                delete: false,
                changes: listing,
                listing,
                probe: true,
                copy: false,
                page: None,
            })
        };
        asked.await.map_err(|e: Error| e.about(&self.0.base))
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        let listed = async {
            let foreign = self.0.fetch_index().await?;
            self.0.poll.looked(Instant::now());
            let (this, rows) = (self.0.clone(), foreign.clone());
            let told = tokio::task::spawn_blocking(move || {
                rows.list(&batches, |listed| this.truths.correct(listed))
            });
            told.await
                .unwrap_or_else(|_| Err(Error::new(Kind::Io, "reading the index failed")))?;
            Ok(Cursor {
                epoch: foreign.tag().to_owned(),
                seq: 0,
            })
        };
        listed.await.map_err(|e: Error| e.about(&self.0.base))
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        let end = Instant::now() + wait;
        loop {
            if wait.is_zero() || self.0.poll.due() <= Instant::now() {
                let asked = self.0.has_news(&since.epoch).await;
                if asked.map_err(|e| e.about(&self.0.base))? {
                    return Ok(Changes::Relist);
                }
            }
            if Instant::now() >= end {
                return Ok(Changes::Delta {
                    changes: Vec::new(),
                    cursor: since.clone(),
                });
            }
            // In steps, for use may bring the next look forward.
            let step = Instant::now() + Duration::from_secs(1).min(self.0.refresh);
            tokio::time::sleep_until(self.0.poll.due().min(end).min(step)).await;
        }
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.0.poll.used();
        self.0.head(key).await.map_err(|e| e.about(key))
    }

    /// Where there is a listing, one probe; where there is none, the server's word for it in
    /// batches, as long as its index is not just being made.
    async fn find(&self, key: &RelPath) -> Result<Found> {
        let Ok(name) = asked(key) else {
            return Ok(Found::Nothing);
        };
        self.0.poll.used();
        let (listed, building) = (
            self.0.foreign().is_some(),
            self.0.building.load(Ordering::Relaxed),
        );
        let found = match listed || self.0.exists(name).await.map_err(|e| e.about(key))? || building
        {
            true => self.0.head(key).await.map_err(|e| e.about(key))?,
            false => None,
        };
        Ok(match found {
            Some(meta) => Found::Object(meta),
            None if (!listed || building) && shapes::is_directory(name) => Found::Directory,
            None => Found::Nothing,
        })
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.0.poll.used();
        let got = self.0.get(key, range, version).await;
        got.map_err(|e| e.about(key))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        self.0.poll.used();
        let put = self.0.put(key, upload, precondition).await;
        put.map_err(|e| e.about(key))
    }

    async fn delete(&self, key: &RelPath, _: Option<&Version>) -> Result<()> {
        let why = "an FXCACHE server deletes nothing";
        Err(Error::new(Kind::Unsupported, why).about(key))
    }
}
