//! Where a remote is: an address, checked and brought to one form.
//!
//! Promises that [`RemoteUrl::shown`] never holds credentials, and that equal remotes
//! have equal shown forms, so that it can name a remote in the index. Opens nothing.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::path::RelPath;
use crate::secret::Secret;

const FORMS: &str = "give http://host:port, https://host:port or file:///directory";

/// A remote's address.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    place: Place,
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
}

impl RemoteUrl {
    /// Reads an address. Errors: [`Kind::Invalid`]; [`Kind::Unsupported`] for schemes
    /// that this version does not speak. No error repeats credentials.
    pub fn parse(text: &str) -> Result<RemoteUrl> {
        let text = text.trim();
        RemoteUrl::read(text).map_err(|error| error.about(redact(text)))
    }

    fn read(text: &str) -> Result<RemoteUrl> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(invalid(&format!("not a remote's URL; {FORMS}")));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => http(text),
            "file" => file(rest),
            "s3" => {
                let why = format!("s3 is not supported by this version; {FORMS}");
                Err(Error::new(Kind::Unsupported, why))
            }
            _ => {
                let why = format!("unknown kind of remote; {FORMS}");
                Err(Error::new(Kind::Unsupported, why))
            }
        }
    }

    /// What and where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The address in its one form, without credentials.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Kind::Invalid, why)
}

fn http(text: &str) -> Result<RemoteUrl> {
    let mut url = Url::parse(text).map_err(|e| invalid(&format!("{e}; {FORMS}")))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("a remote's URL has no ? and no #"));
    }
    let login = login(&url)?;
    // Neither can fail: an http URL has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let base = url.as_str().trim_end_matches('/').to_owned();
    Ok(RemoteUrl {
        shown: base.clone().into(),
        place: Place::Http {
            tls: url.scheme() == "https",
            base,
            login,
        },
    })
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
fn file(rest: &str) -> Result<RemoteUrl> {
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
    Ok(RemoteUrl {
        shown: format!("file:///{}", inside.encode()).into(),
        place: Place::Directory(PathBuf::from(OsStr::from_bytes(&absolute))),
    })
}

/// A text that failed to parse, without what may be credentials or control characters.
fn redact(text: &str) -> String {
    let text: String = text.chars().take(200).collect();
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let start = text.find("://").map_or(0, |at| at + 3);
    let kept = text.rfind('@').map_or(start, |at| at.max(start));
    format!("{}{}", &text[..start], &text[kept..])
        .trim_start_matches('@')
        .replacen("://@", "://", 1)
        .escape_debug()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        RemoteUrl::parse(text).unwrap().shown().to_owned()
    }

    #[test]
    fn one_remote_has_one_form() {
        for same in ["http://Host:80/", "http://host", " http://u:p@host// "] {
            assert_eq!(shown(same), "http://host", "{same}");
        }
        assert_eq!(shown("https://h:5002/a/b/"), "https://h:5002/a/b");
        assert_eq!(shown("http://[::1]:5002"), "http://[::1]:5002");
        assert_eq!(
            shown("FILE:///srv//fx%20cache/./"),
            "file:///srv/fx%20cache"
        );
        assert_eq!(shown("file://localhost/srv"), "file:///srv");
    }

    #[test]
    fn a_directory_of_any_bytes_has_an_address() {
        let path = PathBuf::from(OsStr::from_bytes(b"/srv/a%b\xff c"));
        let url = RemoteUrl::try_from(path.as_path()).unwrap();
        assert_eq!(url.place(), &Place::Directory(path));
    }

    #[test]
    fn what_cannot_be_a_remote_is_one_clear_line() {
        let table = [
            ("s3://bucket/x", Kind::Unsupported),
            ("ftp://host", Kind::Unsupported),
            ("/srv/cache", Kind::Invalid),
            ("host:5002", Kind::Invalid),
            ("", Kind::Invalid),
            ("http://", Kind::Invalid),
            ("http://host:99999", Kind::Invalid),
            ("http://host/?q=1", Kind::Invalid),
            ("http://host/#f", Kind::Invalid),
            ("file://other/srv", Kind::Invalid),
            ("file:///srv/../etc", Kind::Invalid),
            ("file:///a%00b", Kind::Invalid),
        ];
        for (text, kind) in table {
            let error = RemoteUrl::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert_eq!(error.to_string().lines().count(), 1, "{text}");
        }
        let s3 = RemoteUrl::parse("s3://bucket").unwrap_err().to_string();
        assert!(s3.contains("s3 is not supported by this version"), "{s3}");
    }

    #[test]
    fn p10_credentials_are_never_shown() {
        let url = RemoteUrl::parse("http://me:sesame%21@host:1/").unwrap();
        let Place::Http { login, base, .. } = url.place() else {
            panic!("not http")
        };
        let (user, password) = login.clone().unwrap();
        assert_eq!((user.as_str(), base.as_str()), ("me", "http://host:1"));
        assert_eq!(password.unwrap().reveal(), "sesame!");
        assert!(!format!("{url} {url:?} {:?}", url.place()).contains("sesame"));
        for bad in [
            "http://me:sesame@host:x",
            "http://me:sesame@host/?a=b@c",
            "http://host?key=sesame",
            "me:sesame@host",
            "gopher://sesame@h",
        ] {
            let error = RemoteUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
