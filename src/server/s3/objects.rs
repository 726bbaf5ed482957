//! `GetObject` and `HeadObject`: the answers of `/v1/files`, with S3's names for things.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use s3s::dto::{GetObjectOutput, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::object::Sha256;
use crate::path::RelPath;
use crate::server::activity::Did;
use crate::server::conditions::Wanted;
use crate::server::get as read;
use crate::wire::{MTIME_HEADER, REPR_DIGEST, parse_digest, times};

use super::Visit;
use super::refusal::{failed, refused};

/// Where clients keep a file's time.
const META_MTIME: HeaderName = HeaderName::from_static("x-amz-meta-mtime");
const SUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const SUM_TYPE: HeaderName = HeaderName::from_static("x-amz-checksum-type");
/// The version of what has none.
const NULL_VERSION: &str = "null";

/// What a read asks for beside the key.
pub struct Reading<'a> {
    pub key: &'a str,
    pub version_id: Option<&'a str>,
    pub part: Option<i32>,
    pub with_sums: bool,
}

/// A path for writing to.
pub fn key_of(key: &str) -> S3Result<RelPath> {
    let path = RelPath::new(key.as_bytes()).map_err(failed)?;
    if path.is_root() {
        return Err(s3_error!(InvalidArgument, "the key is empty"));
    }
    Ok(path)
}

/// A path for reading from: what is no path is not there.
pub fn key_there(key: &str) -> S3Result<RelPath> {
    key_of(key).map_err(|_| s3_error!(NoSuchKey, "there is no such file"))
}

pub fn only_current(version_id: Option<&str>) -> S3Result<()> {
    match version_id {
        None | Some(NULL_VERSION) => Ok(()),
        Some(_) => Err(s3_error!(
            NoSuchVersion,
            "this server keeps no old versions"
        )),
    }
}

/// The answer: the headers say it all, the output has the body.
pub async fn get(
    visit: &Visit,
    asked: Reading<'_>,
    headers: &HeaderMap,
    is_head: bool,
) -> S3Result<(GetObjectOutput, HeaderMap)> {
    visit.app.counters.read_of(is_head);
    only_current(asked.version_id)?;
    if asked.part.is_some_and(|part| part != 1) {
        return Err(s3_error!(InvalidRange, "a file has one part"));
    }
    let key = key_there(asked.key)?;
    let wanted = Wanted::new(headers, is_head)
        .with_dates(headers)
        .with_limits(headers);
    let found = read::answer(&visit.app, key, wanted, is_head).await;
    let response = found.map_err(refused)?;
    for did in Did::all_of(&response) {
        visit.did(did);
    }
    let (parts, body) = response.into_parts();
    let described = describe(parts.headers, parts.status, asked.with_sums)?;
    match parts.status {
        StatusCode::NOT_MODIFIED => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            error.set_headers(described);
            Err(error)
        }
        _ => Ok((output(&described, body), described)),
    }
}

/// The headers say it all, but the status is made from this.
fn output(headers: &HeaderMap, body: Body) -> GetObjectOutput {
    let range = headers.get(header::CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    let body = s3s::Body::http_body_unsync(body);
    GetObjectOutput {
        content_range: range.map(str::to_owned),
        body: Some(StreamingBlob::new(body)),
        ..GetObjectOutput::default()
    }
}

/// The file's time as metadata, and its checksum where it is asked for and is that of the body.
fn describe(mut headers: HeaderMap, status: StatusCode, with_sums: bool) -> S3Result<HeaderMap> {
    let text = mtime_in(&headers).map(times::show);
    if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(META_MTIME, value);
    }
    // An object always has a date; one before 1970 has none in this format.
    let first = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
    headers.entry(header::LAST_MODIFIED).or_insert(first);
    if with_sums
        && status == StatusCode::OK
        && let Some(sum) = sum_in(&headers)
        && let Ok(value) = HeaderValue::try_from(STANDARD.encode(sum.0))
    {
        headers.insert(SUM, value);
        let whole = HeaderValue::from_static("FULL_OBJECT");
        headers.insert(SUM_TYPE, whole);
    }
    Ok(headers)
}

pub fn mtime_in(headers: &HeaderMap) -> Option<i64> {
    headers.get(MTIME_HEADER)?.to_str().ok()?.parse().ok()
}

pub fn sum_in(headers: &HeaderMap) -> Option<Sha256> {
    let digest = headers.get(REPR_DIGEST)?.to_str().ok()?;
    parse_digest(digest).ok()?
}
