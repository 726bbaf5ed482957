//! `/download` and `/upload`: the same bytes by the same ways as `/v1/files`, in this
//! protocol's words.

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::error::{Error, Kind};
use crate::server::access::Need;
use crate::server::activity::Did;
use crate::server::conditions::Wanted;
use crate::server::get as read;
use crate::server::put::{Promise, accept, drain};

use super::Asked;
use super::answer::{Refusal, Reply, ok};
use super::path::{Named, asked};

/// What stays literal in `filename*=`.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// `GET` and `HEAD /download?path=`.
pub async fn download((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    let is_head = request.method() == Method::HEAD;
    app.counters.read_of(is_head);
    let headers = request.headers();
    app.access.check(Need::Read, peer.0, headers)?;
    let named = asked(request.uri())?;
    let Ok(key) = named.key() else {
        return Err(not_found());
    };
    let wanted = Wanted::new(headers, is_head).with_dates(headers);
    let mut response = read::answer(&app, key.clone(), wanted, is_head)
        .await
        .map_err(|problem| in_our_words(problem.into()))?;
    if response.status() != StatusCode::NOT_MODIFIED {
        name(response.headers_mut(), &named);
    }
    Ok(response)
}

fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "File not found")
}

fn in_our_words(refusal: Refusal) -> Refusal {
    match refusal.status() {
        StatusCode::NOT_FOUND => not_found(),
        StatusCode::RANGE_NOT_SATISFIABLE => refusal.saying(
            "416 Requested Range Not Satisfiable: The server cannot provide the requested range.",
        ),
        _ => refusal,
    }
}

/// The file's own name, for those who save it.
fn name(headers: &mut HeaderMap, named: &Named) {
    let base = named.text.rsplit('/').next().unwrap_or_default();
    // Nothing but printable ASCII and escapes is left, which is always a header.
    if let Ok(value) = HeaderValue::try_from(disposition(base)) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
}

fn disposition(base: &str) -> String {
    let plain: String = base
        .chars()
        .filter(|c| c.is_ascii() && !c.is_ascii_control())
        .collect();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let quoted = match plain.is_empty() || !plain.chars().all(is_token) {
        true => format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\"")),
        false => plain.clone(),
    };
    match plain == base {
        true => format!("inline; filename={quoted}"),
        false => format!(
            "inline; filename={quoted}; filename*=UTF-8''{}",
            utf8_percent_encode(base, ATTRIBUTE)
        ),
    }
}

#[derive(Serialize)]
struct Taken<'a> {
    path: &'a str,
    size: u64,
    status: &'static str,
}

/// `POST /upload?path=`.
pub async fn upload((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.write();
    let (parts, body) = request.into_parts();
    let mut frames = body.into_data_stream();
    let taken = async {
        app.access.check(Need::Write, peer.0, &parts.headers)?;
        let named = asked(&parts.uri)?;
        let key = named.key().map_err(|error| failed(&error, &named))?;
        let taken = accept(&app, key, Promise::plain(), &mut frames).await;
        let (row, _) = taken.map_err(|problem| {
            let kind = problem.kind();
            match kind {
                Some(kind) => failed(&Error::new(kind, problem.detail()), &named),
                None => problem.into(),
            }
        })?;
        let size = row.seen.size;
        let mut response = ok(&Taken {
            path: &named.text,
            size,
            status: "ok",
        })?;
        Did::upload(key, size).put_on(&mut response);
        Ok(response)
    };
    let reply = taken.await;
    if reply.is_err() {
        drain(&mut frames).await;
    }
    reply
}

/// The errors that the original passes on from Python, with paths of the directory only.
fn failed(error: &Error, named: &Named) -> Refusal {
    let text = match error.kind() {
        Kind::IsADirectory => "[Errno 21] Is a directory",
        Kind::Exists | Kind::NotADirectory => "[Errno 17] File exists",
        Kind::NameTooLong => "[Errno 36] File name too long",
        _ => return error.clone().into(),
    };
    let text = format!("{text}: '{}'", named.text);
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_a_name_cannot_break_its_header() {
        for (base, text) in [
            ("a.pkl", "inline; filename=a.pkl"),
            ("a b.pkl", "inline; filename=\"a b.pkl\""),
            (
                "\u{fc}.bin",
                "inline; filename=.bin; filename*=UTF-8''%C3%BC.bin",
            ),
            (
                "a\"\r\nX: y",
                "inline; filename=\"a\\\"X: y\"; filename*=UTF-8''a%22%0D%0AX%3A%20y",
            ),
        ] {
            assert_eq!(disposition(base), text);
        }
    }
}
