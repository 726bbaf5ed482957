//! What went wrong at a bucket, in our words: codes and statuses into kinds, and what to do.
//!
//! A store's own text is repeated only where it cannot be about keys, cut and cleaned.

use std::error::Error as StdError;
use std::time::SystemTime;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::backends::http::{find, root, system_kind};
use crate::error::{Error, Kind};

/// Longest part of a store's text that is repeated.
const TEXT_MAX: usize = 200;

const KEYS: &str = "LARDER_S3_ACCESS_KEY_ID and LARDER_S3_SECRET_ACCESS_KEY";

/// What a store answered that was not what was asked for.
#[derive(Debug, Default)]
struct Refusal {
    status: u16,
    code: String,
    text: String,
    /// Where the bucket is, if the answer tells.
    region: Option<String>,
    /// The store's clock, if the answer tells.
    date: Option<String>,
}

/// The error behind a request that failed.
pub(super) fn failed<E>(error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let Some(raw) = error.raw_response() {
        let status = raw.status().as_u16();
        // Some work takes a store so long that it begins to answer before it knows how it ends.
        if !(200..300).contains(&status) || error.code().is_some() {
            return refusal(status, raw, error.code(), error.message()).error(SystemTime::now());
        }
    }
    if let Some(ours) = find::<Error>(&error) {
        return ours.clone();
    }
    let cause = root(&error);
    match &error {
        SdkError::TimeoutError(_) => Error::new(Kind::TimedOut, cause),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            Error::new(Kind::TimedOut, "no connection in time")
        }
        SdkError::DispatchFailure(failure) if failure.is_io() => Error::new(Kind::Offline, cause),
        SdkError::DispatchFailure(failure) if !failure.is_user() => {
            keyless(&error, &cause).unwrap_or_else(|| Error::new(Kind::Offline, cause))
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            keyless(&error, &cause).unwrap_or_else(|| Error::new(Kind::Invalid, cause))
        }
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => match system_kind(&error) {
            Some(_) => Error::new(Kind::Offline, cause),
            None => Error::new(
                Kind::Corrupt,
                "the answer cannot be read; is this an S3 store?",
            ),
        },
        _ => Error::new(Kind::Io, cause),
    }
}

/// What a request that never left mostly suffers from: nobody has keys.
fn keyless(error: &(dyn StdError + 'static), cause: &str) -> Option<Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string().to_ascii_lowercase();
        if ["credential", "identity", "token"]
            .iter()
            .any(|word| text.contains(word))
        {
            // The last place looked at is a machine's own metadata, which says nothing to others.
            let cause = match cause.contains("IMDS") || cause.contains("no providers") {
                true => String::new(),
                false => format!(" ({cause})"),
            };
            let why = format!(
                "no keys were found{cause}: set {KEYS}, a profile, or log in with `aws sso login`"
            );
            return Some(Error::new(Kind::Unauthorized, why));
        }
        at = error.source();
    }
    None
}

fn refusal(status: u16, raw: &HttpResponse, code: Option<&str>, text: Option<&str>) -> Refusal {
    let header = |name| raw.headers().get(name).map(clean);
    let body = raw.body().bytes().map(String::from_utf8_lossy);
    let inside = |tag: &str| {
        let (_, rest) = body.as_ref()?.split_once(&format!("<{tag}>"))?;
        let (value, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(clean(value))
    };
    Refusal {
        status,
        code: clean(code.unwrap_or_default()),
        text: clean(text.unwrap_or_default()),
        region: header("x-amz-bucket-region").or_else(|| inside("Region")),
        date: header("date"),
    }
}

fn clean(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(TEXT_MAX).collect()
}

impl Refusal {
    fn error(&self, now: SystemTime) -> Error {
        let (kind, why) = match self.known(now) {
            Some(known) => known,
            None => (self.by_status(), self.repeated()),
        };
        Error::new(kind, why)
    }

    /// What the code says, where that is more than a status does.
    fn known(&self, now: SystemTime) -> Option<(Kind, String)> {
        let said = |kind, why: &str| Some((kind, why.to_owned()));
        match self.code.as_str() {
            "NoSuchKey" | "NotFound" => said(Kind::NotFound, "the remote has no such file"),
            "NoSuchBucket" => said(
                Kind::Io,
                "there is no such bucket: check its name, and the endpoint",
            ),
            "PreconditionFailed" => said(Kind::Conflict, "the remote has another version"),
            "ConditionalRequestConflict" | "OperationAborted" | "NoSuchUpload" => said(
                Kind::Unavailable,
                "somebody else writes the same file at the remote",
            ),
            "InvalidAccessKeyId" => said(
                Kind::Unauthorized,
                &format!("the store does not know the access key: check {KEYS}"),
            ),
            "SignatureDoesNotMatch" => said(
                Kind::Unauthorized,
                &format!("the secret is not that of the access key: check {KEYS}"),
            ),
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" => {
                said(
                    Kind::Unauthorized,
                    "the temporary keys are not valid any more: get new ones, for example with `aws sso login`",
                )
            }
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => {
                Some((Kind::Denied, denied(&self.code)))
            }
            "RequestTimeTooSkewed" => Some((Kind::Unauthorized, self.skewed(now))),
            "InvalidObjectState" => said(
                Kind::Denied,
                "the object is in an archive: restore it at the store first",
            ),
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "IncompleteBody"
            | "XAmzContentChecksumMismatch" => said(
                Kind::Corrupt,
                "the store got other bytes than were promised",
            ),
            "KeyTooLongError" => said(Kind::NameTooLong, "the store takes no key of this length"),
            "EntityTooLarge" => said(Kind::Unsupported, "the store takes no object of this size"),
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                said(Kind::NoSpace, "the store is full")
            }
            "NotImplemented" | "MethodNotAllowed" => Some((Kind::Unsupported, self.repeated())),
            "SlowDown"
            | "RequestTimeout"
            | "RequestTimeoutException"
            | "InternalError"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "SlowDownRead"
            | "SlowDownWrite" => Some((Kind::Unavailable, self.repeated())),
            _ if self.is_elsewhere() => Some((Kind::Invalid, self.elsewhere())),
            code if code.starts_with("KMS.") => Some((Kind::Denied, self.repeated())),
            "" if matches!(self.status, 401 | 403) => Some((Kind::Unauthorized, denied("403"))),
            _ => None,
        }
    }

    fn is_elsewhere(&self) -> bool {
        matches!(
            self.code.as_str(),
            "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
        ) || (matches!(self.status, 301 | 307 | 400)
            && self.code.is_empty()
            && self.region.is_some())
    }

    fn elsewhere(&self) -> String {
        // "... the region 'us-east-1' is wrong; expecting 'eu-west-1'"
        let told = self.text.split_once("expecting '").map(|(_, rest)| rest);
        let told = told
            .and_then(|rest| rest.split_once('\''))
            .map(|(name, _)| name);
        let is_name = |name: &&str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        match self.region.as_deref().or(told).filter(is_name) {
            Some(region) => format!(
                "the bucket is in the region {region}: add the option region={region} to the remote's URL"
            ),
            None => "the bucket is in another region, or at another endpoint: set the options region and endpoint in the remote's URL".into(),
        }
    }

    fn skewed(&self, now: SystemTime) -> String {
        let theirs = self
            .date
            .as_deref()
            .and_then(|date| httpdate::parse_http_date(date).ok());
        let off = theirs.map(|theirs| match now.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        });
        match off {
            Some((off, which)) if off.as_secs() >= 60 => format!(
                "this machine's clock is {} minutes {which} the store's: set it right",
                off.as_secs() / 60
            ),
            _ => "this machine's clock differs too much from the store's: set it right".into(),
        }
    }

    fn by_status(&self) -> Kind {
        match self.status {
            400 | 414 | 422 => Kind::Invalid,
            401 | 403 => Kind::Unauthorized,
            404 => Kind::NotFound,
            405 | 501 => Kind::Unsupported,
            412 => Kind::Conflict,
            413 | 507 => Kind::NoSpace,
            416 => Kind::Range,
            408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 => Kind::Unavailable,
            _ => Kind::Io,
        }
    }

    /// The store's own words; of a refusal of keys, no more than its name.
    fn repeated(&self) -> String {
        let code = match self.code.as_str() {
            "" => self.status.to_string(),
            code => code.to_owned(),
        };
        match self.text.is_empty() || self.by_status() == Kind::Unauthorized {
            true => format!("the store answers {code}"),
            false => format!("the store answers {code}: {}", self.text),
        }
    }
}

fn denied(code: &str) -> String {
    format!(
        "the store refuses access ({code}): check the keys, and that they may list and read here, and write if files go up"
    )
}

/// The error behind a body that broke off.
pub(super) fn broken(error: &(dyn StdError + 'static)) -> Error {
    let kind = match system_kind(error) {
        Some(std::io::ErrorKind::TimedOut) => Kind::TimedOut,
        _ => Kind::Offline,
    };
    Error::new(kind, root(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn refused(status: u16, code: &str, text: &str) -> Refusal {
        Refusal {
            status,
            code: code.into(),
            text: text.into(),
            ..Refusal::default()
        }
    }

    #[test]
    fn a_wrong_clock_is_told_with_its_error() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut skewed = refused(403, "RequestTimeTooSkewed", "");
        assert!(skewed.skewed(now).contains("differs too much"));
        skewed.date = Some(httpdate::fmt_http_date(now - Duration::from_secs(3600)));
        let error = skewed.error(now).to_string();
        assert!(error.contains("60 minutes ahead of the store's"), "{error}");
        skewed.date = Some(httpdate::fmt_http_date(now + Duration::from_secs(1200)));
        let error = skewed.error(now).to_string();
        assert!(error.contains("20 minutes behind the store's"), "{error}");
    }

    #[test]
    fn another_region_is_named() {
        let text = "the authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        let error = refused(400, "AuthorizationHeaderMalformed", text).error(SystemTime::now());
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("region=eu-west-1"), "{error}");
        let bare = Refusal {
            region: Some("ap-south-1".into()),
            ..refused(301, "", "")
        };
        let error = bare.error(SystemTime::now()).to_string();
        assert!(error.contains("region=ap-south-1"), "{error}");
        let unknown = refused(301, "PermanentRedirect", "").error(SystemTime::now());
        assert!(unknown.to_string().contains("options region and endpoint"));
    }
}
