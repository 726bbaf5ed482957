//! What an FXCACHE server's answers prove.
//!
//! A version is made of the two things that its index and its answers both tell: length and
//! time. The ETag holds them (`"<mtime>-<size>-<checksum of the path>"`); an answer without
//! that form falls back on its length and `Last-Modified`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::backends::body;
use crate::backends::http::{content_range, small};
use crate::backends::verdict::missing;
use crate::error::{Error, Kind, Result};
use crate::object::{ByteRange, Meta, Version};

/// Longest answer that is not a file.
const ANSWER_MAX: usize = 1 << 20;
/// Longest part of an error's text that is repeated.
const TEXT_MAX: usize = 200;
/// A file that changed this shortly before the answer may be about to change again.
const FRESH: Duration = Duration::from_secs(3);

fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, why)
}

/// `GET /health`, as far as it tells servers apart.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    fxcache_path: Option<serde_json::Value>,
    lmdb_path: Option<serde_json::Value>,
    db_file_count: Option<u64>,
    last_refresh: Option<String>,
}

impl Health {
    /// Whether the first index of its files is not whole yet.
    pub(super) fn is_building(&self) -> bool {
        self.last_refresh.is_none() || self.db_file_count == Some(0)
    }
}

pub(super) fn somebody_else() -> Error {
    let why = "neither a larder server nor an FXCACHE server answers here; check host and port";
    Error::new(Kind::Io, why)
}

/// A larder has taken the place of the server that was spoken to. It speaks this language too, but
/// its versions have other names: whoever mixes the two sees every file change twice.
pub(super) fn a_larder() -> Error {
    let why = "a larder answers now where an FXCACHE server did; it is connected to anew";
    Error::new(Kind::Offline, why)
}

pub(super) async fn health(response: Response, stall: Duration) -> Result<Health> {
    let health: Health = json(response, stall).await.map_err(|e| {
        if e.kind().is_away() {
            e
        } else {
            somebody_else()
        }
    })?;
    if health.lmdb_path.is_some() {
        let why = "this FXCACHE server keeps its values in LMDB and has no files to mount";
        return Err(Error::new(Kind::Unsupported, why));
    }
    match health.fxcache_path {
        Some(_) => Ok(health),
        None => Err(somebody_else()),
    }
}

async fn json<T: for<'a> Deserialize<'a>>(response: Response, stall: Duration) -> Result<T> {
    let bytes = small(response, ANSWER_MAX, stall).await?;
    serde_json::from_slice(&bytes).map_err(|_| corrupt("the answer is not what it should be"))
}

/// Which of the names exist.
pub(super) async fn batch(response: Response, stall: Duration) -> Result<HashMap<String, bool>> {
    #[derive(Deserialize)]
    struct Found {
        exists: bool,
    }
    #[derive(Deserialize)]
    struct Answer {
        results: HashMap<String, Found>,
    }
    let answer: Answer = json(response, stall).await?;
    let results = answer.results.into_iter();
    Ok(results.map(|(name, found)| (name, found.exists)).collect())
}

/// The answer to an upload of `size` bytes.
pub(super) async fn stored(response: Response, size: u64, stall: Duration) -> Result<()> {
    #[derive(Deserialize)]
    struct Stored {
        size: u64,
        status: String,
    }
    let stored: Stored = json(response, stall).await?;
    match stored.status == "ok" && stored.size == size {
        true => Ok(()),
        false => Err(corrupt("the server stored another number of bytes")),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn length(headers: &HeaderMap) -> Result<u64> {
    text(headers, &header::CONTENT_LENGTH)
        .and_then(|text| text.parse().ok())
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| corrupt("the answer has no length"))
}

/// Whether the body is JSON: an error of the server's own, and no page of somebody's.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    text(headers, &header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"))
}

/// The answer's own name for what it brings, to be asked with again.
pub(super) fn tag(headers: &HeaderMap) -> Result<String> {
    let tag = text(headers, &header::ETAG).filter(|tag| tag.len() <= 256);
    tag.map(str::to_owned)
        .ok_or_else(|| corrupt("the answer has no ETag"))
}

/// Seconds since 1970 with a fraction, as Python writes them, in nanoseconds.
pub(super) fn nanoseconds(seconds: f64) -> Option<i64> {
    // In two parts: the product would lose the last digits. Neither NaN nor beyond 64 bits.
    (seconds.abs() < 9.2e9).then(|| {
        let fraction = (seconds.fract() * 1e9).round();
        seconds.trunc() as i64 * 1_000_000_000 + fraction as i64
    })
}

/// The version of a file of this length and time.
pub(super) fn version(size: u64, mtime_ns: i64) -> Result<Version> {
    Version::new(&format!("{size:x}-{mtime_ns:x}"))
}

/// Time and length in an ETag of the original's form.
fn of_tag(tag: &str) -> Option<(i64, u64)> {
    let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (rest, _) = tag.rsplit_once('-')?;
    let (mtime, size) = rest.rsplit_once('-')?;
    Some((nanoseconds(mtime.parse().ok()?)?, size.parse().ok()?))
}

fn date(headers: &HeaderMap, name: &header::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

/// The facts about a file whose whole length is `size`.
fn facts(headers: &HeaderMap, size: u64) -> Result<Meta> {
    let told = text(headers, &header::ETAG).and_then(of_tag);
    let mtime_ns = match told {
        Some((mtime_ns, tagged)) if tagged == size => mtime_ns,
        // Written to between the server's look at it and its answer.
        Some(_) => return Err(corrupt("the answer's length is not that of its version")),
        None => {
            let modified = date(headers, &header::LAST_MODIFIED);
            let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let since = since.ok_or_else(|| corrupt("the answer says no time; is this a file?"))?;
            i64::try_from(since.as_nanos()).map_err(|_| corrupt("the answer's time is no time"))?
        }
    };
    Ok(Meta {
        size,
        mtime_ns,
        version: version(size, mtime_ns)?,
        sha256: None,
        revision: None,
        arrival: None,
    })
}

/// The facts in an answer whose length is the file's.
pub(super) fn meta(headers: &HeaderMap) -> Result<Meta> {
    facts(headers, length(headers)?)
}

/// A 206, and which bytes it brings: those asked for, as far as the file has them.
pub(super) fn part(headers: &HeaderMap, range: ByteRange) -> Result<(Meta, ByteRange)> {
    let (sent, size) = text(headers, &header::CONTENT_RANGE)
        .and_then(content_range)
        .ok_or_else(|| corrupt("the answer's content-range is malformed"))?;
    let meta = facts(headers, size)?;
    if sent != body::cut(Some(range), size) || length(headers)? != sent.end - sent.start {
        return Err(corrupt(
            "the answer is another range than the one asked for",
        ));
    }
    Ok((meta, sent))
}

/// Whether the file changed so shortly before the answer, by the server's own clock, that its
/// writer may not be done.
pub(super) fn is_fresh(headers: &HeaderMap, meta: &Meta) -> bool {
    let Some(now) = date(headers, &header::DATE) else {
        return true;
    };
    let changed = Duration::from_nanos(u64::try_from(meta.mtime_ns).unwrap_or(0));
    now.duration_since(UNIX_EPOCH + changed)
        .map_or(true, |age| age < FRESH)
}

/// The error in an answer that is not the wanted one.
pub(super) async fn refused(response: Response, stall: Duration) -> Error {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let status = response.status();
    let said = match is_json(response.headers()) {
        true => json::<Refusal>(response, stall).await.ok().map(|r| r.error),
        false => None,
    };
    let said = said.unwrap_or_default();
    let kind = kind_of(status, &said);
    if kind == Kind::NotFound {
        return missing();
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED => "; check the key",
        _ => "",
    };
    let shown: String = said
        .chars()
        .filter(|c| !c.is_control())
        .take(TEXT_MAX)
        .collect();
    let detail = if shown.is_empty() {
        shown
    } else {
        format!(": {shown}")
    };
    let why = format!("the server answers {}{detail}{hint}", status.as_u16());
    Error::new(kind, why)
}

/// The original answers 500 to most of what it does not like, and says what in Python's words.
fn kind_of(status: StatusCode, said: &str) -> Kind {
    let errno = |number: u32| said.contains(&format!("[Errno {number}]"));
    match status.as_u16() {
        416 => Kind::Range,
        500 if said.starts_with("416") => Kind::Range,
        404 if !said.is_empty() => Kind::NotFound,
        // A page of some other program's.
        404 | 405 => Kind::Unsupported,
        400 if said == "Invalid path" => Kind::Unsupported,
        400 | 422 => Kind::Invalid,
        401 | 403 => Kind::Unauthorized,
        413 | 507 => Kind::NoSpace,
        500 if errno(28) || errno(122) => Kind::NoSpace,
        500 if errno(21) || errno(17) || errno(20) => Kind::Exists,
        500 if errno(36) => Kind::NameTooLong,
        500 if errno(13) || errno(30) => Kind::ReadOnly,
        300..400 => Kind::Io,
        408 | 429 | 500..600 => Kind::Unavailable,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_originals_tag() {
        let of = |tag: &str| of_tag(tag);
        assert_eq!(
            of("\"1795186679.5516276-5-1804\""),
            Some((1_795_186_679_551_627_636, 5))
        );
        assert_eq!(of("\"1e9-5-1804\""), Some((1_000_000_000_000_000_000, 5)));
        for bad in ["", "\"\"", "\"5-1\"", "\"a-5-1\"", "\"nan-5-1\"", "1.5-5-1"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_originals_words_become_kinds() {
        let kind = |status: u16, said| kind_of(StatusCode::from_u16(status).unwrap(), said);
        assert_eq!(
            kind(500, "416 Requested Range Not Satisfiable"),
            Kind::Range
        );
        assert_eq!(kind(404, "File not found"), Kind::NotFound);
        assert_eq!(kind(404, ""), Kind::Unsupported);
        assert_eq!(
            kind(500, "[Errno 28] No space left on device"),
            Kind::NoSpace
        );
        assert_eq!(kind(500, "[Errno 21] Is a directory: 'x'"), Kind::Exists);
        assert_eq!(kind(500, ""), Kind::Unavailable);
    }
}
