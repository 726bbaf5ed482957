//! The LAN server's client: the native protocol over HTTP/1.1.
//!
//! Promises that nothing is believed that the headers do not prove: every object has a
//! strong ETag, a length and a time; every body is exactly as long as its headers said.
//! Follows no redirects and uses no proxy, so the key reaches the named host only. Does
//! not retry (see [`retry`](super::retry)) and does not hash what comes down.

mod answer;
mod batch;
mod connection;
mod failure;
pub mod lines;
pub mod listing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use reqwest::header;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use tokio::sync::mpsc;

pub use self::answer::content_range;
pub(super) use self::answer::small;
use self::batch::Batches;
pub(super) use self::connection::{ask, client, credentials};
pub(super) use self::failure::{find, lost, root, system_kind};
use self::lines::Lines;
use self::listing::{collect, delta};
use super::pulse::{Pulse, alive};
use super::url::{Place, RemoteUrl};
use super::{Backend, Capabilities, Changes, Download, Timeouts, Upload, body, verdict};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;
use crate::secret::Secret;
use crate::wire::{self, Info};

/// Longest answer to `/v1/info`.
const INFO_MAX: usize = 64 * 1024;

/// A LAN server.
pub struct Http {
    base: String,
    /// For objects: bytes come as they are.
    files: Client,
    /// For listings: bytes may come compressed.
    lists: Client,
    batches: Batches,
    times: Timeouts,
}

impl Http {
    /// A client for `url`, which must be `http` or `https`. Does no I/O but, for `https`,
    /// reading the system's certificates.
    pub fn new(url: &RemoteUrl, key: Option<Secret>, times: Timeouts) -> Result<Http> {
        let Place::Http { base, tls, login } = url.place() else {
            return Err(Error::new(Kind::Invalid, "not an http remote").about(url));
        };
        let headers = credentials(key, login.as_ref()).map_err(|e| e.about(url))?;
        let client = || client(&headers, *tls, &times);
        let built = |made: reqwest::Result<Client>| made.map_err(|e| lost(e).about(url));
        let files = built(client().no_gzip().no_zstd().build())?;
        Ok(Http {
            base: base.clone(),
            batches: Batches::new(base, files.clone(), times),
            files,
            lists: built(client().build())?,
            times,
        })
    }

    fn file(&self, method: Method, key: &RelPath) -> RequestBuilder {
        let url = format!("{}/v1/files/{}", self.base, key.encode());
        self.files
            .request(method, url)
            .header(header::ACCEPT_ENCODING, "identity")
    }

    /// The lines of a listing, each read within `limit`.
    async fn lines(&self, url: String, limit: Duration) -> Result<Result<Lines, StatusCode>> {
        let response = ask(self.lists.get(url), limit).await?;
        match response.status() {
            StatusCode::OK => {
                let chunks = response.bytes_stream().map(|c| c.map_err(lost));
                Ok(Ok(Lines::new(chunks, limit)))
            }
            gone @ StatusCode::GONE => Ok(Err(gone)),
            _ => Err(answer::refused(response, self.times.stall).await),
        }
    }

    async fn head_now(&self, key: &RelPath) -> Result<Option<Meta>> {
        let request = self.file(Method::HEAD, key);
        let response = answer::of(key, ask(request, self.times.answer).await?)?;
        match response.status() {
            StatusCode::OK => answer::meta(response.headers()).map(Some),
            _ => match answer::refused(response, self.times.stall).await {
                e if e.kind() == Kind::NotFound => Ok(None),
                e => Err(e),
            },
        }
    }

    async fn get_now(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        let mut request = self.file(Method::GET, key);
        match &range {
            Some(range) if range.is_empty() => {
                return verdict::nothing(self.head_now(key).await?, range, version);
            }
            Some(range) => request = request.header(header::RANGE, range_header(range)),
            None => {}
        }
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, version.to_etag());
        }
        let response = answer::of(key, ask(request, self.times.answer).await?)?;
        let (meta, sent) = match (response.status(), range) {
            (StatusCode::OK, range) => answer::whole(response.headers(), range)?,
            (StatusCode::PARTIAL_CONTENT, Some(range)) => answer::part(response.headers(), range)?,
            // Beyond the end: nothing of it, or all of an empty file.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) => {
                return verdict::nothing(self.head_now(key).await?, &range, version);
            }
            _ => return Err(answer::refused(response, self.times.stall).await),
        };
        verdict::same(&meta, version)?;
        let chunks = response.bytes_stream().map(|c| c.map_err(lost));
        Ok(Download {
            body: body::exactly(chunks, sent.end - sent.start, self.times.pause),
            range: sent,
            meta,
            is_proven: false,
            proof: None,
        })
    }

    async fn put_now(&self, key: &RelPath, upload: Upload, only: Precondition) -> Result<Meta> {
        let pulse = Pulse::default();
        let bytes = body::outgoing(&upload, 0..upload.size, &pulse);
        let mut request = self
            .file(Method::PUT, key)
            .header(header::CONTENT_LENGTH, upload.size)
            .header(wire::CONTENT_DIGEST, wire::digest_header(&upload.sha256))
            .header(wire::MTIME_HEADER, upload.mtime_ns)
            .body(reqwest::Body::wrap_stream(bytes));
        request = match only {
            Precondition::None => request,
            Precondition::Absent => request.header(header::IF_NONE_MATCH, "*"),
            Precondition::Matches(v) => request.header(header::IF_MATCH, v.to_etag()),
        };
        let patience = self.times.upload(upload.size);
        let response = alive(&pulse, patience, request.send())
            .await?
            .map_err(lost)?;
        let response = answer::of(key, response)?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED => answer::stored(response.headers(), &upload),
            StatusCode::PRECONDITION_FAILED => Err(verdict::conflict()),
            _ => Err(answer::refused(response, self.times.stall).await),
        }
    }

    async fn info(&self) -> Result<Info> {
        let url = format!("{}/v1/info", self.base);
        let asked = async {
            let response = ask(self.files.get(url), self.times.answer).await?;
            if response.status() != StatusCode::OK {
                return Err(answer::refused(response, self.times.stall).await);
            }
            answer::info(&answer::small(response, INFO_MAX, self.times.stall).await?)
        };
        asked.await.map_err(|e| e.about(&self.base))
    }

    async fn delete_now(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let mut request = self.file(Method::DELETE, key);
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, version.to_etag());
        }
        let response = answer::of(key, ask(request, self.times.publish).await?)?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            // Also what HTTP says of a version of something that is not there.
            StatusCode::PRECONDITION_FAILED => match self.head_now(key).await? {
                Some(_) => Err(verdict::conflict()),
                None => Ok(()),
            },
            _ => match answer::refused(response, self.times.stall).await {
                e if e.kind() == Kind::NotFound => Ok(()),
                e => Err(e),
            },
        }
    }
}

pub(in crate::backends) fn range_header(range: &ByteRange) -> String {
    match range.end {
        // Open ends are for readers that do not know the size; servers parse 63 bits.
        end if end > i64::MAX as u64 => format!("bytes={}-", range.start),
        end => format!("bytes={}-{}", range.start, end - 1),
    }
}

#[async_trait]
impl Backend for Http {
    async fn capabilities(&self) -> Result<Capabilities> {
        let (found, has_batches) = answer::capabilities(&self.info().await?);
        self.batches.set_open(has_batches);
        Ok(found)
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        let listed = async {
            let url = format!("{}/v1/index", self.base);
            match self.lines(url, self.times.stall).await? {
                Ok(lines) => collect(lines, batches).await,
                Err(_) => Err(Error::new(Kind::Unavailable, "the server has no index now")),
            }
        };
        listed.await.map_err(|e| e.about(&self.base))
    }

    async fn epoch(&self) -> Result<Option<String>> {
        Ok(Some(self.info().await?.epoch))
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        let asked = async {
            let seconds = wait.as_millis().div_ceil(1000);
            let epoch = percent_encoding::utf8_percent_encode(
                &since.epoch,
                percent_encoding::NON_ALPHANUMERIC,
            );
            let (base, seq) = (&self.base, since.seq);
            let url = format!("{base}/v1/changes?epoch={epoch}&since={seq}&wait={seconds}");
            match self.lines(url, wait + self.times.grace).await? {
                Ok(lines) => delta(lines, since).await,
                Err(_) => Ok(Changes::Relist),
            }
        };
        asked.await.map_err(|e| e.about(&self.base))
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.head_now(key).await.map_err(|e| e.about(key))
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

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        let got = self.get_together(key, version).await;
        got.map_err(|e| e.about(key))
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        let put = self.put_now(key, upload, precondition).await;
        put.map_err(|e| e.about(key))
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        let deleted = self.delete_now(key, version).await;
        deleted.map_err(|e| e.about(key))
    }
}
