//! What an answer proves: headers into facts, statuses into kinds.
//!
//! Every text that comes from the server is cut, stripped of control characters, and
//! never trusted to say which kind of error it is.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use super::body;
use super::failure::lost;
use crate::backends::verdict::{missing, stale};
use crate::backends::{Capabilities, Upload};
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Meta, Revision, Version};
use crate::path::RelPath;
use crate::wire::{self, Info, Problem};

/// Longest error body that is read.
const PROBLEM_MAX: usize = 16 * 1024;
/// Longest part of it that is repeated.
const TEXT_MAX: usize = 200;

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, why)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str> {
    let value = headers
        .get(name)
        .ok_or_else(|| corrupt(format!("the answer lacks {name}; is this a larder server?")))?;
    value
        .to_str()
        .map_err(|_| corrupt(format!("the answer's {name} is not text")))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<T> {
    let text = text(headers, name)?;
    text.parse()
        .map_err(|_| corrupt(format!("the answer's {name} is not a number")))
}

/// An answer about `key`, as far as it says what it is about. On a connection on which somebody
/// between here and the server repeats an answer, each that follows is that of another request;
/// and files of one length and time have one tag.
pub(super) fn of(key: &RelPath, response: Response) -> Result<Response> {
    let Some(about) = response.headers().get(header::CONTENT_LOCATION) else {
        return Ok(response);
    };
    let about = about.as_bytes();
    let below = wire::FILES.as_bytes();
    let at = about.windows(below.len()).position(|part| part == below);
    let about = at.map_or(about, |at| &about[at + below.len()..]);
    let about: Vec<u8> = percent_encoding::percent_decode(about).collect();
    match about == key.as_bytes() {
        true => Ok(response),
        false => Err(corrupt("the answer is that of another request")),
    }
}

/// The facts about an object whose whole length is `size`.
fn facts(headers: &HeaderMap, size: u64) -> Result<Meta> {
    if size > i64::MAX as u64 {
        return Err(corrupt("a size is over 2^63"));
    }
    let encoded = headers.get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|coding| coding != "identity") {
        return Err(corrupt(
            "the file came compressed though it was asked for as it is",
        ));
    }
    let digest = headers.get(wire::REPR_DIGEST);
    let sha256 = match digest.map(|value| value.to_str()) {
        None => None,
        Some(Ok(value)) => wire::parse_digest(value)?,
        Some(Err(_)) => return Err(corrupt("the answer's digest is not text")),
    };
    Ok(Meta {
        version: Version::from_etag(text(headers, "etag")?)?,
        mtime_ns: number(headers, wire::MTIME_HEADER)?,
        size,
        sha256,
        revision: revision(headers),
        arrival: None,
    })
}

/// Where the version stands among the server's changes, if it says so.
pub(super) fn revision(headers: &HeaderMap) -> Option<Revision> {
    let value = headers.get(wire::REVISION_HEADER)?;
    wire::parse_revision(value.to_str().ok()?)
}

/// The facts in an answer whose length is the object's.
pub(super) fn meta(headers: &HeaderMap) -> Result<Meta> {
    // The tag first: an error page has a length, too.
    text(headers, "etag")?;
    facts(headers, number(headers, "content-length")?)
}

/// A 200, and which bytes it brings. Where a part was asked for, that part must be all.
pub(super) fn whole(headers: &HeaderMap, range: Option<ByteRange>) -> Result<(Meta, ByteRange)> {
    let meta = meta(headers)?;
    let all = 0..meta.size;
    match body::cut(range, meta.size) == all {
        true => Ok((meta, all)),
        false => {
            let why = "the server sends whole files only, not the range asked for";
            Err(Error::new(Kind::Unsupported, why))
        }
    }
}

/// A 206, and which bytes it brings: those asked for, as far as the object has them.
pub(super) fn part(headers: &HeaderMap, range: ByteRange) -> Result<(Meta, ByteRange)> {
    let (sent, size) = content_range(text(headers, "content-range")?)
        .ok_or_else(|| corrupt("the answer's content-range is malformed"))?;
    let meta = facts(headers, size)?;
    if sent != body::cut(Some(range), size) {
        return Err(corrupt(
            "the answer is another range than the one asked for",
        ));
    }
    if number::<u64>(headers, "content-length")? != sent.end - sent.start {
        return Err(corrupt("the answer's length is not that of its range"));
    }
    Ok((meta, sent))
}

/// `bytes 2-4/9` is `(2..5, 9)`.
pub fn content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (span, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

/// The answer to an upload that was taken.
pub(super) fn stored(headers: &HeaderMap, upload: &Upload) -> Result<Meta> {
    let mut meta = Meta {
        size: upload.size,
        version: Version::from_etag(text(headers, "etag")?)?,
        mtime_ns: number(headers, wire::MTIME_HEADER)?,
        sha256: Some(upload.sha256),
        revision: revision(headers),
        arrival: None,
    };
    if let Some(digest) = headers.get(wire::REPR_DIGEST) {
        let value = digest.to_str().unwrap_or_default();
        meta.sha256 = wire::parse_digest(value)?.or(meta.sha256);
    }
    match meta.sha256 == Some(upload.sha256) {
        true => Ok(meta),
        false => Err(corrupt("the server stored other bytes than were sent")),
    }
}

/// What `/v1/info` says.
pub(super) fn info(bytes: &[u8]) -> Result<Info> {
    let info: Info = serde_json::from_slice(bytes)
        .map_err(|_| corrupt("this is not a larder server; check host and port"))?;
    if info.version != wire::PROTOCOL {
        let (theirs, ours) = (info.version, wire::PROTOCOL);
        let why =
            format!("the server speaks protocol {theirs}, this larder {ours}; update the older");
        return Err(Error::new(Kind::Unsupported, why));
    }
    Ok(info)
}

/// What we may do, and whether it sends many files in one answer.
pub(super) fn capabilities(info: &Info) -> (Capabilities, bool) {
    let can = |what: &str| info.capabilities.iter().any(|c| c == what);
    let found = Capabilities {
        put: can("put"),
        conditional_put: can("put"),
        delete: can("delete"),
        changes: can("changes"),
        listing: true,
        probe: false,
        copy: false,
        page: None,
    };
    (found, can("batch"))
}

/// A whole body of at most `most` bytes.
pub(in crate::backends) async fn small(
    response: Response,
    most: usize,
    stall: Duration,
) -> Result<Vec<u8>> {
    let mut chunks = response.bytes_stream();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.map_err(lost)?);
            if bytes.len() > most {
                return Err(corrupt("the answer is too long"));
            }
        }
        Ok(bytes)
    };
    match timeout(stall, read).await {
        Ok(read) => read,
        Err(_) => Err(Error::new(Kind::TimedOut, "the answer stalled")),
    }
}

/// The error in an answer that is not the wanted one.
pub(super) async fn refused(response: Response, stall: Duration) -> Error {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_problem = kind.is_some_and(|k| k.as_bytes().starts_with(b"application/problem+json"));
    if status == StatusCode::NOT_FOUND && !is_problem {
        // Some other server's 404 must not pass for "no such file".
        let why = "the answer 404 is not from a larder server; check the address";
        return Error::new(Kind::Io, why);
    }
    let detail = match is_problem {
        true => problem(response, stall).await,
        false => None,
    };
    let mismatch = detail.as_ref().is_some_and(|d| d.contains("digest"));
    let kind = match status.as_u16() {
        400 if mismatch => Kind::Corrupt,
        400 | 414 | 422 => Kind::Invalid,
        401 | 403 => Kind::Unauthorized,
        404 => return missing(),
        405 | 501 => Kind::Unsupported,
        409 => Kind::Exists,
        412 => return stale(),
        413 | 507 => Kind::NoSpace,
        416 => Kind::Range,
        // A file that changed while the server looked at it.
        410 => return stale(),
        // Being written there.
        423 => Kind::Busy,
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Kind::Unavailable,
        300..400 => {
            let why = "the server redirects; give its final address";
            return Error::new(Kind::Io, why);
        }
        _ => Kind::Io,
    };
    // 403 says itself what is missing.
    let hint = match status {
        StatusCode::UNAUTHORIZED => "; check the key",
        _ => "",
    };
    let detail = detail.map_or(String::new(), |d| format!(": {d}"));
    Error::new(
        kind,
        format!("the server answers {}{detail}{hint}", status.as_u16()),
    )
}

/// What the server says for people, made safe to repeat.
async fn problem(response: Response, stall: Duration) -> Option<String> {
    let bytes = small(response, PROBLEM_MAX, stall).await.ok()?;
    let problem: Problem = serde_json::from_slice(&bytes).ok()?;
    let text = match problem.detail {
        Some(detail) => format!("{}: {detail}", problem.title),
        None => problem.title,
    };
    let shown = text.chars().filter(|c| !c.is_control());
    Some(shown.take(TEXT_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 2-4/9"), Some((2..5, 9)));
        for bad in [
            "2-4/9",
            "bytes 4-2/9",
            "bytes 2-9/9",
            "bytes */9",
            "bytes 2-4/*",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
