//! Where a remote is: an address, checked and brought to one form.
//!
//! Promises that [`RemoteUrl::shown`] never holds credentials, and that equal remotes
//! have equal shown forms, so that it can name a remote in the index. How a remote is used
//! ([`options`](RemoteUrl::options), a region, a storage class) is no part of that form.
//! Opens nothing.

mod bucket;
mod query;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::Url;

pub use self::bucket::{Bucket, Encryption};
use self::query::Query;
pub use self::query::UrlOptions;
use crate::error::{Error, Kind, Result};
use crate::path::RelPath;
use crate::secret::Secret;

const FORMS: &str =
    "give http://host:port, https://host:port, s3://bucket/prefix or file:///directory";

/// A remote's address.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    place: Place,
    options: UrlOptions,
    shown: Box<str>,
}

/// What kind of remote, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A LAN server. `base` ends without a slash and without credentials.
    Http {
        base: String,
        tls: bool,
        /// Sent as Basic authentication, for a proxy in front of the server.
        login: Option<(String, Option<Secret>)>,
    },
    /// A directory: an absolute path.
    Directory(PathBuf),
    /// What lies below a prefix of an S3 bucket.
    S3(Bucket),
}

impl RemoteUrl {
    /// Reads an address. Errors: [`Kind::Invalid`]; [`Kind::Unsupported`] for schemes
    /// that this version does not speak. No error repeats credentials.
    pub fn parse(text: &str) -> Result<RemoteUrl> {
        let text = text.trim();
        RemoteUrl::read(text).map_err(|error| error.about(redact(text)))
    }

    fn read(text: &str) -> Result<RemoteUrl> {
        let (whole, query) = match text.split_once('?') {
            Some((whole, query)) => (whole, query),
            None => (text, ""),
        };
        let Some((scheme, rest)) = whole.split_once("://") else {
            return Err(invalid(&format!("not a remote's URL; {FORMS}")));
        };
        let mut query = Query::read(query)?;
        let options = query.common()?;
        let (place, shown) = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => http(whole)?,
            "file" => file(rest)?,
            "s3" => {
                let bucket = Bucket::read(rest, &mut query)?;
                let shown = bucket.shown();
                (Place::S3(bucket), shown)
            }
            _ => {
                let why = format!("unknown kind of remote; {FORMS}");
                return Err(Error::new(Kind::Unsupported, why));
            }
        };
        query.done()?;
        let shown = shown.into();
        Ok(RemoteUrl {
            place,
            options,
            shown,
        })
    }

    /// What and where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What it says about how the remote is to be used.
    pub fn options(&self) -> UrlOptions {
        self.options
    }

    /// Whether both are parts of one bucket of one store.
    pub fn is_beside(&self, other: &RemoteUrl) -> bool {
        match (&self.place, &other.place) {
            (Place::S3(a), Place::S3(b)) => (&a.name, &a.endpoint) == (&b.name, &b.endpoint),
            _ => false,
        }
    }

    /// The address in its one form, without credentials and without options.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Kind::Invalid, why)
}

fn http(text: &str) -> Result<(Place, String)> {
    let mut url = Url::parse(text).map_err(|e| invalid(&format!("{e}; {FORMS}")))?;
    if url.fragment().is_some() {
        return Err(invalid("a remote's URL has no #"));
    }
    if url.path().contains('@') {
        let why =
            "a remote's URL has no @ behind its host; in a password, / is written %2F and \\ %5C";
        return Err(invalid(why));
    }
    let login = login(&url)?;
    // Neither can fail: an http URL has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let base = url.as_str().trim_end_matches('/').to_owned();
    let shown = base.clone();
    let tls = url.scheme() == "https";
    Ok((Place::Http { base, tls, login }, shown))
}

fn login(url: &Url) -> Result<Option<(String, Option<Secret>)>> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let text = |part: &str| {
        let bytes = percent_decode_str(part).decode_utf8();
        bytes
            .map(|text| text.into_owned())
            .map_err(|_| invalid("the credentials in the URL are not UTF-8"))
    };
    let password = url.password().map(|p| Secret::new(&text(p)?)).transpose()?;
    Ok(Some((text(url.username())?, password)))
}

/// `rest` is what follows `file://`: an optional `localhost`, then an absolute path.
fn file(rest: &str) -> Result<(Place, String)> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(invalid("a file:// remote needs an absolute path"));
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    let inner = bytes
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect::<Vec<_>>()
        .join(&b'/');
    let inside = RelPath::new(&inner)
        .map_err(|e| Error::new(e.kind(), format!("not a usable directory: {}", e.message())))?;
    let mut absolute = b"/".to_vec();
    absolute.extend_from_slice(inside.as_bytes());
    let place = Place::Directory(PathBuf::from(OsStr::from_bytes(&absolute)));
    Ok((place, format!("file:///{}", inside.encode())))
}

/// A text that failed to parse, without what may be credentials or control characters.
fn redact(text: &str) -> String {
    let (scheme, rest) = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
        .map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    let kept = match (rest.rfind('@'), plain.rfind('@')) {
        (None, _) => plain,
        (Some(last), Some(at)) if last == at => &plain[at + 1..],
        // Behind the mark of a query, or in a password that has such a mark: nobody can tell.
        _ => "…",
    };
    let scheme = scheme.map_or(String::new(), |scheme| format!("{scheme}://"));
    let shown = format!("{scheme}{kept}");
    shown
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The `file://` address of a directory.
impl TryFrom<&std::path::Path> for RemoteUrl {
    type Error = Error;

    fn try_from(path: &std::path::Path) -> Result<RemoteUrl> {
        let bytes = path.as_os_str().as_bytes();
        let encoded = bytes
            .split(|b| *b == b'/')
            .map(|part| percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect::<Vec<_>>()
            .join("/");
        RemoteUrl::parse(&format!("file://{encoded}"))
    }
}
