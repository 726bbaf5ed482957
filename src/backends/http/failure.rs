//! What it means when no answer comes, or not all of it: causes into kinds.

use std::error::Error as StdError;
use std::io;

use rustls::{CertificateError as Why, Error as TlsError, InvalidMessage};

use crate::error::{Error, Kind};

/// The error behind a request or a body that failed on its way.
pub(in crate::backends) fn lost(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if let Some(ours) = find::<Error>(&error) {
        return ours.clone();
    }
    let system = system_kind(&error);
    let kind = if error.is_timeout() || system == Some(io::ErrorKind::TimedOut) {
        Kind::TimedOut
    } else if error.is_builder() {
        Kind::Invalid
    } else if error.is_connect() || error.is_request() {
        Kind::Offline
    } else {
        match system {
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => Kind::Corrupt,
            None if error.is_decode() || error.is_body() => Kind::Corrupt,
            _ => Kind::Offline,
        }
    };
    Error::new(kind, root(&error))
}

/// The innermost cause, which names the trouble; what is around it names our libraries.
pub(in crate::backends) fn root(error: &(dyn StdError + 'static)) -> String {
    if let Some(why) = find::<TlsError>(error).and_then(no_trust) {
        return why.to_owned();
    }
    if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        return "what answers there is no HTTP; if it is a server with a certificate, write https:// in its URL".to_owned();
    }
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// What is wrong with a certificate, or that there is none, and what to do.
fn no_trust(error: &TlsError) -> Option<&'static str> {
    if let TlsError::InvalidMessage(InvalidMessage::InvalidContentType) = error {
        return Some("what answers there does not speak TLS; write http:// in its URL");
    }
    let TlsError::InvalidCertificate(why) = error else {
        return None;
    };
    Some(match why {
        Why::UnknownIssuer => {
            "the server's certificate is of nobody whom this machine trusts; add who issued it to the system's certificates"
        }
        Why::Expired | Why::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it there"
        }
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; are both clocks right?"
        }
        Why::NotValidForName | Why::NotValidForNameContext { .. } => {
            "the server's certificate is for another name; use one that it is for in the URL"
        }
        _ => return None,
    })
}

/// The first cause that is a `T`.
pub(in crate::backends) fn find<'a, T: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a T> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        at = inner(error);
    }
    None
}

/// What the system said, if it said anything.
pub(in crate::backends) fn system_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut at = Some(error);
    while let Some(error) = at {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(kind) = kind.filter(|kind| *kind != io::ErrorKind::Other) {
            return Some(kind);
        }
        at = inner(error);
    }
    None
}

/// The next cause; an [`io::Error`] hides what it carries from `source`.
fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}
