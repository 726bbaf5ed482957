//! Objects written, copied and deleted, by the ways that `/v1/files` has.

use axum::body::BodyDataStream;
use axum::http::{Extensions, HeaderMap, HeaderName, StatusCode, header};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, DeleteObjectInput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition,
    Error as NotDeleted, Metadata, MetadataDirective, ObjectIdentifier, PutObjectInput,
    PutObjectOutput, StreamingBlob,
};
use s3s::{S3Error, S3Request, S3Result, TrailingHeaders, s3_error};

use crate::error::Kind;
use crate::index::served::Row;
use crate::object::{Precondition, Sha256, Version};
use crate::path::RelPath;
use crate::server::activity::Did;
use crate::server::conditions::Wanted;
use crate::server::put::{Promise, accept};
use crate::server::tree::is_withheld;
use crate::server::{delete, get as read};
use crate::wire::times;

use super::Visit;
use super::checks::{After, Checked};
use super::chunked::Trailers;
use super::list::{etag, time};
use super::objects::{key_of, key_there, mtime_in, only_current, sum_in};
use super::refusal::{failed, refused, unspoken};

const CONTENT_SUM: &str = "x-amz-content-sha256";
/// What a copy asks of its source, and what a read calls it.
const OF_SOURCE: [(&str, HeaderName); 5] = [
    ("x-amz-copy-source-if-match", header::IF_MATCH),
    ("x-amz-copy-source-if-none-match", header::IF_NONE_MATCH),
    (
        "x-amz-copy-source-if-modified-since",
        header::IF_MODIFIED_SINCE,
    ),
    (
        "x-amz-copy-source-if-unmodified-since",
        header::IF_UNMODIFIED_SINCE,
    ),
    ("x-amz-copy-source-range", header::RANGE),
];
/// Objects in one deletion.
const MOST_DELETED: usize = 1000;

/// A body with everything that was promised of it.
pub fn checked(
    body: Option<StreamingBlob>,
    headers: &HeaderMap,
    extensions: &Extensions,
    signed: Option<TrailingHeaders>,
) -> S3Result<Checked<StreamingBlob>> {
    let plain = extensions.get::<Trailers>().cloned();
    let after = match (signed, plain) {
        (Some(trailers), _) => After::Signed(trailers),
        (None, Some(trailers)) => After::Plain(trailers),
        (None, None) => After::Nothing,
    };
    let body = body.unwrap_or_else(|| StreamingBlob::new(s3s::Body::empty()));
    Checked::new(body, headers, after)
}

/// What the headers of a body promise of its bytes.
pub fn promise(headers: &HeaderMap, length: Option<i64>) -> Promise {
    let sum = headers.get(CONTENT_SUM).and_then(|sum| sum.to_str().ok());
    Promise {
        length: length.map(i64::cast_unsigned),
        sha256: sum.and_then(|sum| Sha256::from_hex(sum).ok()),
        empty: true,
        ..Promise::plain()
    }
}

/// The file's time in an object's metadata. One that cannot be read is not kept, like the rest.
pub fn mtime_of(metadata: Option<&Metadata>) -> Option<i64> {
    times::read(metadata?.get(times::MTIME)?)
}

/// The precondition of a write.
pub fn precondition(headers: &HeaderMap) -> S3Result<Precondition> {
    let read = |name: HeaderName| {
        let value = headers.get(&name).map(|value| value.as_bytes());
        let read = value.map(ETagCondition::parse_http_header).transpose();
        read.map_err(|_| s3_error!(InvalidArgument, "{name} cannot be read"))
    };
    match (read(header::IF_MATCH)?, read(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::ETag(ETag::Strong(tag))), None) => {
            // What cannot be a version of ours is none that a file has.
            let version = Version::new(&tag).map_err(|_| s3_error!(PreconditionFailed))?;
            Ok(Precondition::Matches(version))
        }
        _ => Err(unspoken(
            "a write takes either If-Match with one ETag or If-None-Match: *",
        )),
    }
}

/// `PutObject`.
pub async fn put(visit: &Visit, request: S3Request<PutObjectInput>) -> S3Result<PutObjectOutput> {
    visit.app.counters.write();
    let (input, headers) = (request.input, request.headers);
    if let Some(dir) = input.key.strip_suffix('/') {
        return marker(visit, dir, input.content_length);
    }
    let key = key_of(&input.key)?;
    let promise = Promise {
        mtime_ns: mtime_of(input.metadata.as_ref()),
        precondition: precondition(&headers)?,
        ..promise(&headers, input.content_length)
    };
    let trailers = request.trailing_headers;
    let mut body = checked(input.body, &headers, &request.extensions, trailers)?;
    let taken = accept(&visit.app, &key, promise, &mut body).await;
    let (row, _) = taken.map_err(|problem| body.fault().unwrap_or_else(|| refused(problem)))?;
    visit.did(Did::upload(&key, row.seen.size));
    let sums = body.sums();
    Ok(PutObjectOutput {
        e_tag: Some(etag(&row)?),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        ..PutObjectOutput::default()
    })
}

/// Some programs make a directory by an empty object `dir/` before they write into it. It is
/// taken and means nothing: directories come with their files.
fn marker(visit: &Visit, dir: &str, length: Option<i64>) -> S3Result<PutObjectOutput> {
    visit.app.uploads().map_err(failed)?;
    let dir = key_of(dir)?;
    if length != Some(0) || is_withheld(&dir) {
        let why = "a key that ends with a slash is a directory, which has no bytes";
        return Err(s3_error!(InvalidArgument, "{}", why));
    }
    Ok(PutObjectOutput {
        e_tag: Some(ETag::Strong("directory".to_owned())),
        ..PutObjectOutput::default()
    })
}

/// What is copied.
pub struct Source {
    pub body: BodyDataStream,
    pub promise: Promise,
}

/// Opens the source of a copy, in one version from its first byte to its last.
pub async fn source(visit: &Visit, source: &CopySource, headers: &HeaderMap) -> S3Result<Source> {
    let CopySource::Bucket {
        bucket,
        key,
        version_id,
    } = source
    else {
        return Err(unspoken("a copy is made of bucket/key"));
    };
    visit.is_bucket(bucket)?;
    only_current(version_id.as_deref())?;
    let key = key_there(key)?;
    let mut asked = HeaderMap::new();
    for (theirs, ours) in OF_SOURCE {
        if let Some(value) = headers.get(theirs) {
            asked.insert(ours, value.clone());
        }
    }
    let wanted = Wanted::new(&asked, false)
        .with_dates(&asked)
        .with_limits(&asked);
    let found = read::answer(&visit.app, key, wanted, false).await;
    let response = found.map_err(refused)?;
    let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Err(s3_error!(PreconditionFailed));
    }
    if asked.contains_key(header::RANGE) && !is_part {
        return Err(s3_error!(
            InvalidArgument,
            "the range to copy cannot be read"
        ));
    }
    let (parts, body) = response.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(Source {
        body: body.into_data_stream(),
        promise: Promise {
            length,
            sha256: sum_in(&parts.headers).filter(|_| !is_part),
            mtime_ns: mtime_in(&parts.headers),
            empty: true,
            ..Promise::plain()
        },
    })
}

/// `CopyObject`. The time comes along, unless another is given.
pub async fn copy(
    visit: &Visit,
    request: S3Request<CopyObjectInput>,
) -> S3Result<CopyObjectOutput> {
    visit.app.counters.write();
    let (input, headers) = (request.input, request.headers);
    let key = key_of(&input.key)?;
    let precondition = precondition(&headers)?;
    let mut source = source(visit, &input.copy_source, &headers).await?;
    let directive = input.metadata_directive.as_ref();
    let mtime_ns = match directive.map(MetadataDirective::as_str) {
        Some(MetadataDirective::REPLACE) => mtime_of(input.metadata.as_ref()),
        _ => source.promise.mtime_ns,
    };
    let promise = Promise {
        precondition,
        mtime_ns,
        ..source.promise
    };
    let taken = accept(&visit.app, &key, promise, &mut source.body).await;
    let (row, _) = taken.map_err(refused)?;
    visit.did(Did::upload(&key, row.seen.size));
    Ok(CopyObjectOutput {
        copy_object_result: Some(result(&row)?),
        ..CopyObjectOutput::default()
    })
}

fn result(row: &Row) -> S3Result<CopyObjectResult> {
    Ok(CopyObjectResult {
        e_tag: Some(etag(row)?),
        last_modified: Some(time(row.seen.mtime_ns)),
        ..CopyObjectResult::default()
    })
}

/// `DeleteObject`. What is not there is deleted already.
pub async fn delete(visit: &Visit, request: S3Request<DeleteObjectInput>) -> S3Result<()> {
    only_current(request.input.version_id.as_deref())?;
    let condition = precondition(&request.headers)?;
    remove(visit, &request.input.key, condition).await
}

async fn remove(visit: &Visit, key: &str, condition: Precondition) -> S3Result<()> {
    visit.app.counters.deletion();
    delete::is_allowed(&visit.app).map_err(refused)?;
    let Ok(path) = RelPath::new(key.as_bytes()) else {
        return Ok(());
    };
    match delete::take_away(&visit.app, &path, condition).await {
        Ok(()) => {
            visit.did(Did::delete(&path));
            Ok(())
        }
        Err(problem) => match problem.kind() {
            Some(Kind::NotFound | Kind::IsADirectory) => Ok(()),
            _ => Err(refused(problem)),
        },
    }
}

/// `DeleteObjects`: one after the other, each with its own answer.
pub async fn delete_all(
    visit: &Visit,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<DeleteObjectsOutput> {
    let asked = request.input.delete;
    if asked.objects.len() > MOST_DELETED {
        return Err(s3_error!(MalformedXML, "at most 1,000 keys can be named"));
    }
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in asked.objects {
        match delete_one(visit, &object).await {
            Ok(()) => deleted.push(DeletedObject {
                key: Some(object.key),
                ..DeletedObject::default()
            }),
            Err(error) => errors.push(not_deleted(object.key, &error)),
        }
    }
    let is_quiet = asked.quiet.unwrap_or(false);
    Ok(DeleteObjectsOutput {
        deleted: (!is_quiet).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    })
}

async fn delete_one(visit: &Visit, object: &ObjectIdentifier) -> S3Result<()> {
    only_current(object.version_id.as_deref())?;
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(unspoken("deletions have no conditions on size and time"));
    }
    let condition = match &object.e_tag {
        None => Precondition::None,
        Some(tag) => {
            let version = Version::new(tag.value()).map_err(|_| s3_error!(PreconditionFailed))?;
            Precondition::Matches(version)
        }
    };
    remove(visit, &object.key, condition).await
}

fn not_deleted(key: String, error: &S3Error) -> NotDeleted {
    NotDeleted {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        ..NotDeleted::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_a_condition_that_cannot_be_honoured_is_refused() {
        let of = |pairs: &[(HeaderName, &str)]| {
            let headers = pairs.iter().map(|(n, v)| (n.clone(), v.parse().unwrap()));
            let error = |error: S3Error| error.code().as_str().to_owned();
            precondition(&headers.collect()).map_err(error)
        };
        let (matches, absent) = (header::IF_MATCH, header::IF_NONE_MATCH);
        assert_eq!(of(&[]), Ok(Precondition::None));
        assert_eq!(of(&[(absent.clone(), "*")]), Ok(Precondition::Absent));
        let version = Version::new("5-1").unwrap();
        for quoted in ["\"5-1\"", "5-1"] {
            let found = of(&[(matches.clone(), quoted)]);
            assert_eq!(found, Ok(Precondition::Matches(version.clone())));
        }
        for (name, value) in [
            (matches.clone(), "*"),
            (matches.clone(), "W/\"5-1\""),
            (absent, "\"5-1\""),
        ] {
            assert_eq!(of(&[(name, value)]).unwrap_err(), "NotImplemented");
        }
        assert_eq!(
            of(&[(matches, "\"a b\"")]).unwrap_err(),
            "PreconditionFailed"
        );
    }
}
