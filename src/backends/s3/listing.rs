//! What a bucket says it holds, page by page, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object as Listing};
use percent_encoding::percent_decode_str;

use super::answer;
use super::door::{Door, timed};
use super::keys::Found;
use crate::error::{Error, Kind, Result};
use crate::object::{Arrival, Listed, Meta, Object};

/// The most that a store tells in one answer.
pub(super) const PAGE: i32 = 1000;

/// Which keys to tell, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    /// All of them begin with this.
    pub(super) prefix: String,
    /// All of them come after this.
    pub(super) after: Option<String>,
    /// Where the answer before broke off.
    pub(super) token: Option<String>,
    /// Whether what follows the next slash is told as one.
    pub(super) folded: bool,
    pub(super) most: Option<i32>,
}

/// One page of an answer.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Keys and what they are, in ascending order.
    pub(super) entries: Vec<(String, Listed)>,
    /// Every key of the page, also those that are nothing: the last one.
    pub(super) last: Option<String>,
    /// What stands there of ours, and since when.
    pub(super) ours: Vec<(String, SystemTime)>,
    pub(super) folders: Vec<String>,
    pub(super) token: Option<String>,
}

/// Asks for one page.
pub(super) async fn page(door: &Door, question: &Question, limit: Duration) -> Result<Page> {
    let request = door
        .client()
        .await?
        .list_objects_v2()
        .bucket(door.name())
        .prefix(&question.prefix)
        .set_start_after(question.after.clone())
        .set_continuation_token(question.token.clone())
        .set_delimiter(question.folded.then(|| "/".to_owned()))
        .max_keys(question.most.unwrap_or(PAGE))
        .encoding_type(EncodingType::Url);
    let ending = Ending::default();
    let request = request.customize().interceptor(ending.clone());
    let answer = timed(limit, request.send()).await?;
    if !ending.has_come() {
        return Err(answer::corrupt("the listing breaks off"));
    }
    let mut page = Page::default();
    let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
    for listing in answer.contents() {
        let key = listing.key().ok_or_else(nameless)?;
        let key = name(key, is_encoded)?;
        if page.last.as_ref().is_some_and(|last| *last >= key) {
            let why = "the bucket is not listed in order, and such buckets cannot be used";
            return Err(Error::new(Kind::Unsupported, why));
        }
        match listed(door, &key, listing)? {
            Some(listed) => page.entries.push((key.clone(), listed)),
            None => {
                let since = listing.last_modified().and_then(|at| (*at).try_into().ok());
                page.ours.extend(since.map(|since| (key.clone(), since)));
            }
        }
        page.last = Some(key);
    }
    for folder in answer.common_prefixes() {
        let folder = folder.prefix().ok_or_else(nameless)?;
        page.folders.push(name(folder, is_encoded)?);
    }
    page.token = token(&answer, question)?;
    Ok(page)
}

/// Whether the end of an answer came: the SDK reads one that is cut short as one that names less,
/// and what a listing does not name is gone.
#[derive(Debug, Clone, Default)]
struct Ending(Arc<AtomicBool>);

impl Ending {
    fn has_come(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Intercept for Ending {
    fn name(&self) -> &'static str {
        "the end of a listing"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let bytes = context.response().body().bytes().unwrap_or_default();
        let is_whole = bytes.trim_ascii_end().ends_with(b"ListBucketResult>");
        self.0.store(is_whole, Ordering::SeqCst);
        Ok(())
    }
}

fn nameless() -> Error {
    answer::corrupt("the listing has an object without a key")
}

fn token(answer: &ListObjectsV2Output, question: &Question) -> Result<Option<String>> {
    if answer.is_truncated() != Some(true) {
        return Ok(None);
    }
    match answer.next_continuation_token() {
        // The same place again would never end.
        Some(token) if question.token.as_deref() != Some(token) => Ok(Some(token.to_owned())),
        _ => Err(answer::corrupt(
            "the listing breaks off without saying where",
        )),
    }
}

/// Names come encoded as in a form, because XML cannot hold all of them.
pub(super) fn name(text: &str, is_encoded: bool) -> Result<String> {
    if !is_encoded {
        return Ok(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| answer::corrupt("the listing has a key that is not UTF-8"));
    Ok(decoded?.into_owned())
}

fn listed(door: &Door, key: &str, listing: &Listing) -> Result<Option<Listed>> {
    let size = answer::size(listing.size())?;
    let path = match door.keys.found(key, size) {
        Found::File(path) => path,
        Found::Refused(refused) => return Ok(Some(refused)),
        Found::Nothing => return Ok(None),
    };
    let at_ns = answer::nanoseconds(listing.last_modified())?;
    let version = match answer::version(listing.e_tag()) {
        Ok(version) => version,
        Err(error) => {
            let (shown, why) = (path.to_string(), error.message().to_owned());
            return Ok(Some(Listed::Refused { shown, why }));
        }
    };
    let meta = Meta {
        size,
        mtime_ns: at_ns,
        version,
        sha256: None,
        revision: None,
        arrival: Some(Arrival { at_ns, only: true }),
    };
    Ok(Some(Listed::Object(Object { key: path, meta })))
}
