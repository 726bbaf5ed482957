//! `s3://bucket/prefix`, and how the bucket is reached and written to.

use std::net::Ipv4Addr;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::invalid;
use super::query::{Query, decode};
use crate::error::Result;

/// Longest key, in bytes.
pub const KEY_MAX: usize = 1024;

/// What stays literal in the shown form of a prefix.
const PREFIX: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// What an endpoint inside a query has to escape.
const ENDPOINT: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'#').add(b'+');

/// A prefix of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The part of every key before the `/` that a file's own path follows; empty for the whole
    /// bucket. Begins and ends without `/`; a `//` inside it is as it was given.
    pub prefix: String,
    /// Where the bucket lives, if that is said here.
    pub region: Option<String>,
    /// The address of a store other than Amazon's, without a slash at its end.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the path, not into the host's name.
    pub path_style: Option<bool>,
    /// The profile of the S3 tools' configuration that says who asks.
    pub profile: Option<String>,
    /// The storage class of what is written.
    pub storage_class: Option<String>,
    /// How what is written is encrypted there.
    pub encryption: Option<Encryption>,
}

/// Encryption by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the store's own.
    Aes256,
    /// With a key of the key service; without a name, the account's default.
    Kms(Option<String>),
}

impl Bucket {
    /// `rest` is what follows `s3://`.
    pub(super) fn read(rest: &str, query: &mut Query) -> Result<Bucket> {
        if rest.contains('#') {
            return Err(invalid("write a # of the prefix as %23"));
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoint = query.text("endpoint")?.map(|text| endpoint(&text));
        let storage_class = query.text("storage-class")?;
        Ok(Bucket {
            name: bucket_name(name)?,
            prefix: prefix_text(&decode(prefix)?)?,
            region: query
                .text("region")?
                .map(|text| word(&text, "region"))
                .transpose()?,
            endpoint: endpoint.transpose()?,
            path_style: query.switch("path-style")?,
            profile: query.text("profile")?,
            storage_class: storage_class
                .map(|text| word(&text, "storage-class").map(|word| word.to_ascii_uppercase()))
                .transpose()?,
            encryption: encryption(query)?,
        })
    }

    /// The name it has in the index: what else the URL says does not make it another remote.
    pub(super) fn shown(&self) -> String {
        let mut shown = format!("s3://{}", self.name);
        if !self.prefix.is_empty() {
            shown.push('/');
            shown.extend(utf8_percent_encode(&self.prefix, PREFIX));
        }
        if let Some(endpoint) = &self.endpoint {
            shown.push_str("?endpoint=");
            shown.extend(utf8_percent_encode(endpoint, ENDPOINT));
        }
        shown
    }

    /// Whether requests name the bucket in the path: where nothing is said, at every store that
    /// is not Amazon's, for few others have a host name for each bucket.
    pub fn is_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }
}

fn bucket_name(name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(invalid("the bucket is missing; give s3://bucket/prefix"));
    }
    if name.contains('@') {
        let why = "keys do not belong into the URL; set LARDER_S3_ACCESS_KEY_ID and LARDER_S3_SECRET_ACCESS_KEY";
        return Err(invalid(why));
    }
    if name.contains(':') || name.parse::<Ipv4Addr>().is_ok() {
        let why = "s3:// is followed by the bucket; a host goes into the option: s3://bucket/prefix?endpoint=http://host:port";
        return Err(invalid(why));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
        && !name.contains("..");
    match fits {
        true => Ok(name.to_owned()),
        false => Err(invalid(
            "not a bucket's name: 3 to 63 lower-case letters, digits, - and .",
        )),
    }
}

fn prefix_text(text: &str) -> Result<String> {
    let prefix = text.trim_matches('/');
    if prefix.split('/').any(|part| part == "." || part == "..") {
        return Err(invalid("a prefix has no . and no .. between slashes"));
    }
    // The shortest name below it has to fit.
    if prefix.len() + 2 > KEY_MAX {
        return Err(invalid(
            "the prefix is too long: keys have 1,024 bytes at most",
        ));
    }
    Ok(prefix.to_owned())
}

fn endpoint(text: &str) -> Result<String> {
    let form = "the option endpoint is a URL such as http://127.0.0.1:9000";
    let url = Url::parse(text).map_err(|_| invalid(form))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(form));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let why = "keys do not belong into the endpoint; set LARDER_S3_ACCESS_KEY_ID and LARDER_S3_SECRET_ACCESS_KEY";
        return Err(invalid(why));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("the option endpoint has no ? and no #"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn encryption(query: &mut Query) -> Result<Option<Encryption>> {
    let key = query.text("kms-key")?;
    let sse = query.text("sse")?.map(|text| text.to_ascii_lowercase());
    match (sse.as_deref(), key) {
        (None, None) => Ok(None),
        (Some("aes256"), None) => Ok(Some(Encryption::Aes256)),
        (Some("aws:kms") | None, key) => Ok(Some(Encryption::Kms(key))),
        (Some("aes256"), Some(_)) => Err(invalid("the option kms-key goes with sse=aws:kms")),
        (Some(_), _) => Err(invalid("the option sse is AES256 or aws:kms")),
    }
}

/// A region's or a class's name: it becomes part of host names and headers.
fn word(text: &str, what: &str) -> Result<String> {
    let fits = text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match fits {
        true => Ok(text.to_owned()),
        false => Err(invalid(&format!("the option {what} is one word"))),
    }
}
