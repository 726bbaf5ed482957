//! S3, as much of it as programs use that keep their files in a bucket, on the same port.
//!
//! The crate `s3s` reads and writes the protocol and verifies signatures. Everything else is
//! what `/v1/files` does: bytes come and go by `get.rs`, `put.rs` and `delete.rs`, listings come
//! from the index, and what is refused there is refused here. It keeps nothing of an object but its
//! bytes and its time; ACLs, tags, types and storage classes are not kept. What would change
//! the meaning of a request (encryption, old versions, appending) is refused, not ignored.
//!
//! The files: `gate` is who may; `body`, `chunked` and `checks` are bytes on their way in;
//! `verbs` is the table of requests; `objects`, `write`, `parts`, `list` and `page` answer;
//! `refusal` is how errors look.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::Next;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use s3s::{HttpRequest, S3Error, S3Result, s3_error};

use crate::secret::Secret;

mod body;
mod checks;
mod chunked;
mod gate;
mod list;
mod objects;
mod page;
mod parts;
mod refusal;
mod verbs;
mod write;

use body::Incoming;
use chunked::Chunked;
use gate::{Gate, Keys};
use parts::Uploads;
use verbs::Verbs;

use super::App;
use super::activity::Did;
use super::problem::Reason;
use super::routes::Peer;

/// Bytes of a question in XML: ten thousand parts with their checksums, or a thousand long names.
const XML: usize = 8 << 20;

/// Headers that only S3 clients send.
const MARKS: [HeaderName; 3] = [
    HeaderName::from_static("x-amz-content-sha256"),
    HeaderName::from_static("x-amz-date"),
    HeaderName::from_static("amz-sdk-invocation-id"),
];
/// The same in queries; the last is of signatures that are too old.
const QUERY_MARKS: [&str; 3] = ["X-Amz-Algorithm", "X-Amz-Signature", "AWSAccessKeyId"];
/// Beginnings of headers that ask for what is not kept here, and that must not be passed over.
const UNKEPT: [(&str, &str); 5] = [
    ("x-amz-server-side-encryption", "encryption"),
    ("x-amz-copy-source-server-side-encryption", "encryption"),
    ("x-amz-object-lock-", "object locks"),
    ("x-amz-write-offset-bytes", "appending"),
    ("x-amz-if-match-", "conditions on size and time"),
];
/// The one kind of signature.
const SIGNATURE_4: &[u8] = b"AWS4-HMAC-SHA256";

static CONFIG: LazyLock<Arc<StaticConfigProvider>> = LazyLock::new(|| {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML;
    // Forms are refused before they are read.
    config.post_object_max_file_size = 0;
    config.form_max_fields_size = 0;
    Arc::new(StaticConfigProvider::new(Arc::new(config)))
});

/// What this protocol keeps for itself.
pub struct Own {
    keys: Keys,
    /// The only name that the directory has as a bucket; none: every name is it.
    bucket: Option<String>,
    uploads: Uploads,
}

impl Own {
    pub fn new(key: Option<&Secret>, read_key: Option<&Secret>, bucket: Option<String>) -> Own {
        Own {
            keys: Keys::new(key, read_key),
            bucket,
            uploads: Uploads::default(),
        }
    }
}

/// One request on its way.
struct Visit {
    app: Arc<App>,
    peer: IpAddr,
    /// A secret was asked for, so there was a signature to verify;
    shown: AtomicBool,
    /// and it was the right one, or none was needed.
    passed: AtomicBool,
    told: Mutex<Told>,
}

/// What those who watch are told.
#[derive(Default)]
struct Told {
    did: Vec<Did>,
    why: Option<String>,
}

impl Visit {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn did(&self, did: Did) {
        self.told().did.push(did);
    }
}

/// Answers S3 requests, and lets all others pass.
pub async fn taken(
    (State(app), Extension(peer)): (State<Arc<App>>, Extension<Peer>),
    request: Request,
    next: Next,
) -> Response<Body> {
    match is_s3(request.uri(), request.headers()) {
        true => answer(&app, peer.0, request).await,
        false => next.run(request).await,
    }
}

fn is_s3(uri: &Uri, headers: &HeaderMap) -> bool {
    MARKS.iter().any(|mark| headers.contains_key(mark))
        || is_signed_4(headers)
        || names(uri).any(|name| QUERY_MARKS.contains(&name.as_str()))
}

fn is_signed_4(headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION);
    value.is_some_and(|value| value.as_bytes().starts_with(SIGNATURE_4))
}

/// The names in a query, as whoever reads it later understands them.
fn names(uri: &Uri) -> impl Iterator<Item = String> + '_ {
    let query = uri.query().unwrap_or_default();
    query.split('&').map(name_of)
}

fn name_of(pair: &str) -> String {
    let name = pair.split('=').next().unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name);
    name.decode_utf8_lossy().into_owned()
}

async fn answer(app: &Arc<App>, peer: IpAddr, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    // Who waits for a word before sending need not send what is refused.
    let waits = parts.headers.contains_key(header::EXPECT);
    let body = Incoming::new(body);
    let visit = Arc::new(Visit {
        app: app.clone(),
        peer,
        shown: AtomicBool::new(false),
        passed: AtomicBool::new(false),
        told: Mutex::default(),
    });
    let mut response = match serve(&visit, parts, &body).await {
        Ok(response) => response,
        Err(error) => refused(&visit, error),
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        match waits && !body.is_begun() {
            // It is not to be taken for the beginning of the next request.
            true => {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            false => body.drain().await,
        }
    }
    let told = std::mem::take(&mut *visit.told());
    told.did
        .into_iter()
        .for_each(|did| did.put_on(&mut response));
    if let Some(why) = told.why {
        response.extensions_mut().insert(Reason(why));
    }
    response
}

fn refused(visit: &Visit, error: S3Error) -> Response<Body> {
    if let Some(why) = error.message() {
        visit.told().why = Some(why.to_owned());
    }
    let status = error.status_code();
    let written = error.to_http_response();
    written.map_or_else(
        |_| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response
        },
        |response| response.map(Body::new),
    )
}

async fn serve(visit: &Arc<Visit>, mut parts: Parts, body: &Incoming) -> S3Result<Response<Body>> {
    let keys = &visit.app.s3.keys;
    is_spoken(&parts)?;
    if keys.are_none() {
        forget_signature(&mut parts);
    }
    let is_signed = is_signed_4(&parts.headers)
        || names(&parts.uri).any(|name| name.eq_ignore_ascii_case("X-Amz-Signature"));
    let body = match is_signed {
        // Chunks are signed, too: that is for `s3s` to read.
        true => body.stream(),
        false => Chunked::unwrap(&mut parts, body)?,
    };
    let mut builder = S3ServiceBuilder::new(Verbs(visit.clone()));
    builder.set_auth(Gate(visit.clone()));
    builder.set_access(Gate(visit.clone()));
    builder.set_config(CONFIG.clone());
    let request = HttpRequest::from_parts(parts, s3s::Body::from(body));
    let answered = builder.build().call(request).await;
    // It holds nothing but what failed when an error was written.
    let response = answered.map_err(|_| s3_error!(InternalError))?;
    let is_wrong = visit.shown.load(Ordering::Relaxed)
        && !visit.passed.load(Ordering::Relaxed)
        && response.status() == StatusCode::FORBIDDEN;
    if is_wrong {
        return Err(wrong_secret(visit, &response));
    }
    Ok(response.map(Body::new))
}

/// What `s3s` would read that this server does not speak: older signatures, and forms, which
/// it would hold in memory. And what it would pass on, and nobody would keep.
fn is_spoken(parts: &Parts) -> S3Result<()> {
    let headers = &parts.headers;
    for name in headers.keys() {
        let unkept = UNKEPT
            .iter()
            .find(|(start, _)| name.as_str().starts_with(start));
        if let Some((_, what)) = unkept {
            return Err(s3_error!(
                NotImplemented,
                "this server does not know {what} ({name})"
            ));
        }
    }
    let is_old = names(&parts.uri).any(|name| name == "Signature")
        || (headers.contains_key(header::AUTHORIZATION) && !is_signed_4(headers));
    if is_old {
        let why = "only AWS4-HMAC-SHA256 signatures are understood";
        return Err(s3_error!(InvalidRequest, "{}", why));
    }
    let content = headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    let is_form = parts.method == Method::POST
        && content.is_some_and(|kind| {
            let form = b"multipart/form-data";
            let start = kind.trim_ascii_start().get(..form.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(form))
        });
    match is_form {
        true => Err(s3_error!(NotImplemented, "forms are not taken; send PUT")),
        false => Ok(()),
    }
}

/// Where there is no key, nobody can tell a right signature from a wrong one, and none counts.
fn forget_signature(parts: &mut Parts) {
    parts.headers.remove(header::AUTHORIZATION);
    let Some(query) = parts.uri.query() else {
        return;
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !name_of(pair).eq_ignore_ascii_case("X-Amz-Signature"))
        .collect();
    let address = format!("{}?{}", parts.uri.path(), kept.join("&"));
    // It is a part of what was an address before.
    if let Ok(uri) = address.parse() {
        parts.uri = uri;
    }
}

/// A signature that does not fit counts as a wrong key.
fn wrong_secret(visit: &Visit, response: &s3s::HttpResponse) -> S3Error {
    visit.app.access.note_failure(visit.peer);
    tracing::debug!(peer = %visit.peer, status = %response.status(), "a signature does not fit");
    s3_error!(
        SignatureDoesNotMatch,
        "the secret access key must be this server's key; for the access key id `{}`, its read key",
        gate::READER
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn requests_of_other_protocols_are_left_alone() {
        let is_s3 = |uri: &str, headers: &[(&'static str, &str)]| {
            let parts = parts(uri, headers);
            is_s3(&parts.uri, &parts.headers)
        };
        assert!(is_s3(
            "/",
            &[("authorization", "AWS4-HMAC-SHA256 Credential=a")]
        ));
        assert!(is_s3("/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256", &[]));
        assert!(is_s3("/b/k?a=1&X%2DAmz-Signature=0", &[]));
        assert!(is_s3("/b/k", &[("x-amz-date", "20260101T000000Z")]));
        for other in [
            "/",
            "/v1/files/X-Amz-Signature",
            "/download?path=X-Amz-Signature",
        ] {
            assert!(
                !is_s3(other, &[("authorization", "Bearer AWS4")]),
                "{other}"
            );
        }
    }

    #[test]
    fn p10_old_signatures_and_forms_are_refused_before_they_are_read() {
        let refused = |uri: &str, headers: &[(&'static str, &str)]| {
            let mut parts = parts(uri, headers);
            parts.method = Method::POST;
            is_spoken(&parts).is_err()
        };
        assert!(refused("/b/k", &[("authorization", "AWS id:signature")]));
        assert!(refused("/b/k?Signatur%65=x&Expires=9", &[]));
        assert!(refused(
            "/b",
            &[("content-type", " Multipart/Form-Data; boundary=x")]
        ));
        assert!(refused(
            "/b/k",
            &[("x-amz-server-side-encryption-customer-key", "x")]
        ));
        assert!(refused("/b/k", &[("x-amz-write-offset-bytes", "5")]));
        assert!(!refused(
            "/b/k?uploads",
            &[("content-type", "application/xml")]
        ));
    }

    #[test]
    fn without_a_key_signatures_are_taken_off() {
        let mut parts = parts(
            "/b/a%20b?uploads&X-Amz-Signature=0&x=1&x%2Damz-signature=1",
            &[("authorization", "AWS4-HMAC-SHA256 x"), ("x-amz-date", "d")],
        );
        forget_signature(&mut parts);
        assert_eq!(parts.uri, "/b/a%20b?uploads&x=1");
        assert!(!parts.headers.contains_key("authorization"));
        assert!(parts.headers.contains_key("x-amz-date"));
    }
}
