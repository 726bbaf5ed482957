//! How errors look in S3: the one table from our refusals to its codes.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode as Code};

use crate::error::{Error, Kind};
use crate::server::problem::Problem;

/// A refusal in S3's words.
pub fn refused(problem: Problem) -> S3Error {
    let (code, status) = match problem.kind() {
        Some(kind) => of_kind(kind),
        None => of_status(problem.status()),
    };
    let mut headers = HeaderMap::new();
    problem.mark(&mut headers);
    headers.remove(header::WWW_AUTHENTICATE);
    let xml = HeaderValue::from_static("application/xml");
    headers.insert(header::CONTENT_TYPE, xml);
    let mut error = S3Error::with_message(code, problem.detail().to_owned());
    error.set_headers(headers);
    if let Some(status) = status {
        error.set_status_code(status);
    }
    error
}

/// An error in S3's words.
pub fn failed(error: Error) -> S3Error {
    refused(error.into())
}

fn custom(name: &'static str) -> Code {
    // Any text is a code.
    name.parse().unwrap_or(Code::InternalError)
}

/// Exhaustive on purpose: a new kind must be given its code here. With a status where the code's
/// own is another.
fn of_kind(kind: Kind) -> (Code, Option<StatusCode>) {
    let code = match kind {
        Kind::NotFound => Code::NoSuchKey,
        // A file in a directory's place and the other way round: S3 knows no such thing.
        Kind::Exists | Kind::NotADirectory | Kind::IsADirectory | Kind::NotEmpty => {
            return (Code::InvalidArgument, Some(StatusCode::CONFLICT));
        }
        Kind::Invalid => Code::InvalidArgument,
        Kind::NameTooLong => Code::KeyTooLongError,
        Kind::Corrupt => Code::BadDigest,
        Kind::Denied | Kind::ReadOnly | Kind::Unauthorized => Code::AccessDenied,
        Kind::NoSpace => {
            let status = StatusCode::INSUFFICIENT_STORAGE;
            return (custom("InsufficientStorage"), Some(status));
        }
        Kind::Unsupported => Code::NotImplemented,
        Kind::Conflict | Kind::Stale => Code::PreconditionFailed,
        Kind::TimedOut => Code::RequestTimeout,
        Kind::Offline | Kind::Unavailable | Kind::Busy | Kind::Cancelled => Code::SlowDown,
        Kind::Range => Code::InvalidRange,
        Kind::NoAttribute | Kind::TooSmall | Kind::Io => Code::InternalError,
    };
    (code, None)
}

/// Refusals by rule.
fn of_status(status: StatusCode) -> (Code, Option<StatusCode>) {
    let code = match status {
        StatusCode::NOT_FOUND => Code::NoSuchKey,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::AccessDenied,
        // A client that may try again would only be refused again.
        StatusCode::TOO_MANY_REQUESTS => Code::AccessDenied,
        StatusCode::PRECONDITION_FAILED => Code::PreconditionFailed,
        StatusCode::RANGE_NOT_SATISFIABLE => Code::InvalidRange,
        StatusCode::BAD_REQUEST => Code::IncompleteBody,
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
        // Somebody writes the file, or the first scan goes on: it is worth coming again.
        StatusCode::LOCKED | StatusCode::SERVICE_UNAVAILABLE => Code::SlowDown,
        _ => Code::InternalError,
    };
    (code, None)
}

/// What S3 has and this server has not.
pub fn unspoken(what: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(Code::NotImplemented, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_codes_they_look_for() {
        let code = |error: S3Error| {
            let status = error.status_code().unwrap().as_u16();
            (error.code().as_str().to_owned(), status)
        };
        let of = |kind| code(failed(Error::new(kind, "x")));
        assert_eq!(of(Kind::NotFound), ("NoSuchKey".into(), 404));
        assert_eq!(of(Kind::Conflict), ("PreconditionFailed".into(), 412));
        assert_eq!(of(Kind::NoSpace), ("InsufficientStorage".into(), 507));
        assert_eq!(of(Kind::IsADirectory), ("InvalidArgument".into(), 409));
        assert_eq!(of(Kind::Offline), ("SlowDown".into(), 503));
        let range = refused(Problem::range(7));
        let headers = range.headers().unwrap();
        assert_eq!(headers.get("content-range").unwrap(), "bytes */7");
        assert_eq!(code(range), ("InvalidRange".into(), 416));
        let locked = Problem::new(StatusCode::LOCKED, "x");
        assert_eq!(code(refused(locked)), ("SlowDown".into(), 503));
    }
}
