//! The listing of a bucket, from the index: both versions of the request.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{
    Bucket, CommonPrefix, ETag, EncodingType, ListBucketsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object, ObjectStorageClass, Owner,
    Timestamp,
};
use s3s::{S3Result, s3_error};

use crate::error::{Error, Kind};
use crate::index::served::Row;
use crate::path;
use crate::server::App;
use crate::server::disk::blocking;
use crate::server::listing::scanned;

use super::Visit;
use super::page::{Page, Start, Wish};
use super::refusal::{failed, refused};

/// Keys on a page.
const MOST: i32 = 1000;
/// What the directory is called where any name would do.
const NAME: &str = "larder";

/// `ListBuckets`: one.
pub fn buckets(visit: &Visit) -> ListBucketsOutput {
    let app = &visit.app;
    let name = app.s3.bucket.clone().unwrap_or_else(|| NAME.to_owned());
    let since = time(app.activity.began_ms.saturating_mul(1_000_000));
    ListBucketsOutput {
        buckets: Some(vec![Bucket {
            name: Some(name),
            creation_date: Some(since),
            ..Bucket::default()
        }]),
        owner: Some(Owner {
            display_name: Some(NAME.to_owned()),
            id: Some(NAME.to_owned()),
        }),
        ..ListBucketsOutput::default()
    }
}

/// `ListObjectsV2`.
pub async fn second(visit: &Visit, asked: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let start = match (&asked.continuation_token, &asked.start_after) {
        (Some(token), _) => from_token(token)?,
        (None, Some(key)) => Start::After(key.as_bytes().to_vec()),
        (None, None) => Start::First,
    };
    let most = most(asked.max_keys)?;
    let wish = wish(asked.prefix.as_ref(), asked.delimiter.as_ref(), start, most);
    let page = page(&visit.app, wish).await?;
    let text = Text::new(asked.encoding_type.as_ref())?;
    Ok(ListObjectsV2Output {
        key_count: i32::try_from(page.keys.len() + page.groups.len()).ok(),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(to_token),
        contents: Some(text.objects(&page)?),
        common_prefixes: Some(text.groups(&page)),
        name: Some(asked.bucket),
        prefix: Some(text.of(asked.prefix.as_deref().unwrap_or_default())),
        delimiter: asked.delimiter.as_deref().map(|d| text.of(d)),
        start_after: asked.start_after.as_deref().map(|key| text.of(key)),
        continuation_token: asked.continuation_token,
        max_keys: Some(most),
        encoding_type: asked.encoding_type,
        ..ListObjectsV2Output::default()
    })
}

/// `ListObjects`, which older programs still ask for.
pub async fn first(visit: &Visit, asked: ListObjectsInput) -> S3Result<ListObjectsOutput> {
    let start = match asked.marker.as_deref().filter(|marker| !marker.is_empty()) {
        None => Start::First,
        // A common prefix as the marker: the last page ended with it.
        Some(marker) if ends_group(marker, asked.delimiter.as_deref()) => {
            Start::Beyond(marker.as_bytes().to_vec())
        }
        Some(marker) => Start::After(marker.as_bytes().to_vec()),
    };
    let most = most(asked.max_keys)?;
    let wish = wish(asked.prefix.as_ref(), asked.delimiter.as_ref(), start, most);
    let page = page(&visit.app, wish).await?;
    let text = Text::new(asked.encoding_type.as_ref())?;
    let next = page.next.as_ref().map(|next| match next {
        Start::First => String::new(),
        Start::After(last) | Start::Beyond(last) => text.of(&String::from_utf8_lossy(last)),
    });
    Ok(ListObjectsOutput {
        is_truncated: Some(page.next.is_some()),
        next_marker: next,
        contents: Some(text.objects(&page)?),
        common_prefixes: Some(text.groups(&page)),
        name: Some(asked.bucket),
        prefix: Some(text.of(asked.prefix.as_deref().unwrap_or_default())),
        delimiter: asked.delimiter.as_deref().map(|d| text.of(d)),
        marker: Some(text.of(asked.marker.as_deref().unwrap_or_default())),
        max_keys: Some(most),
        encoding_type: asked.encoding_type,
        ..ListObjectsOutput::default()
    })
}

fn ends_group(marker: &str, delimiter: Option<&str>) -> bool {
    delimiter.is_some_and(|delimiter| !delimiter.is_empty() && marker.ends_with(delimiter))
}

fn wish(prefix: Option<&String>, delimiter: Option<&String>, start: Start, most: i32) -> Wish {
    Wish {
        prefix: prefix.cloned().unwrap_or_default(),
        delimiter: delimiter.cloned().filter(|text| !text.is_empty()),
        start,
        most: usize::try_from(most).unwrap_or(0),
    }
}

fn most(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MOST) {
        below if below < 0 => Err(s3_error!(InvalidArgument, "max-keys is below zero")),
        asked => Ok(asked.min(MOST)),
    }
}

/// Reads the page. Until everything was seen once there is none, as in the native protocol.
async fn page(app: &Arc<App>, wish: Wish) -> S3Result<Page> {
    app.tree.root.check().map_err(failed)?;
    scanned(app).await.map_err(refused)?;
    let turn = app.listings.clone().acquire_owned().await;
    let turn = turn.map_err(|_| failed(Error::new(Kind::Unavailable, "the server is stopping")))?;
    let tree = app.tree.clone();
    let read = blocking(move || {
        let _turn = turn;
        wish.page(|from, before, limit| tree.index.between(from, before, limit))
    });
    read.await.map_err(failed)
}

/// A place as a token; what is in it is nobody's business but ours.
fn to_token(next: &Start) -> String {
    let (kind, last) = match next {
        Start::First => (b'f', &[][..]),
        Start::After(last) => (b'a', &last[..]),
        Start::Beyond(last) => (b'b', &last[..]),
    };
    URL_SAFE_NO_PAD.encode([&[kind], last].concat())
}

fn from_token(token: &str) -> S3Result<Start> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    match bytes.split_first() {
        Some((b'f', [])) => Ok(Start::First),
        Some((b'a', last)) => Ok(Start::After(last.to_vec())),
        Some((b'b', last)) => Ok(Start::Beyond(last.to_vec())),
        _ => Err(s3_error!(
            InvalidArgument,
            "the continuation token is not ours"
        )),
    }
}

/// How names are written: as they are, or encoded for what XML cannot hold.
struct Text {
    is_encoded: bool,
}

impl Text {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Text> {
        match encoding.map(EncodingType::as_str) {
            None | Some("") => Ok(Text { is_encoded: false }),
            Some(EncodingType::URL) => Ok(Text { is_encoded: true }),
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "encoding-type can be `url` only"
            )),
        }
    }

    fn of(&self, text: &str) -> String {
        match self.is_encoded {
            true => path::encode(text.as_bytes()),
            false => text.to_owned(),
        }
    }

    fn objects(&self, page: &Page) -> S3Result<Vec<Object>> {
        page.keys
            .iter()
            .map(|(key, row)| self.object(key, row))
            .collect()
    }

    fn object(&self, key: &str, row: &Row) -> S3Result<Object> {
        let class = ObjectStorageClass::from_static(ObjectStorageClass::STANDARD);
        Ok(Object {
            key: Some(self.of(key)),
            e_tag: Some(etag(row)?),
            last_modified: Some(time(row.seen.mtime_ns)),
            size: Some(row.seen.size.cast_signed()),
            storage_class: Some(class),
            ..Object::default()
        })
    }

    fn groups(&self, page: &Page) -> Vec<CommonPrefix> {
        let groups = page.groups.iter().map(|group| CommonPrefix {
            prefix: Some(self.of(group)),
        });
        groups.collect()
    }
}

/// The version. It is no MD5, and does not look like one.
pub fn etag(row: &Row) -> S3Result<ETag> {
    let version = row.version().map_err(failed)?;
    Ok(ETag::Strong(version.as_str().to_owned()))
}

/// A file's time as every answer has it: whole seconds, none before 1970, which headers lack.
pub fn time(mtime_ns: i64) -> Timestamp {
    let seconds = u64::try_from(mtime_ns).unwrap_or(0) / 1_000_000_000;
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back_to_their_place() {
        for start in [
            Start::First,
            Start::After(b"a/\xc3\xa9".to_vec()),
            Start::Beyond(b"d/".to_vec()),
        ] {
            assert_eq!(from_token(&to_token(&start)).unwrap(), start);
        }
        for bad in ["", "%", "eA", "Zg=="] {
            assert!(from_token(bad).is_err(), "{bad}");
        }
    }
}
