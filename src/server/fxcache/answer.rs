//! How answers look: JSON as Flask writes it, errors as `{"error": …}`, times as Python has them.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

use crate::error::Error;
use crate::server::problem::{Problem, Reason};

/// What a handler returns.
pub type Reply = Result<Response<Body>, Refusal>;

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Refusal {
    problem: Problem,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal {
            problem: Problem::new(status, error),
        }
    }

    /// 400.
    pub fn bad(error: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    pub fn status(&self) -> StatusCode {
        self.problem.status()
    }

    #[cfg(test)]
    pub fn said(&self) -> &str {
        self.problem.detail()
    }

    /// The same status, in these words.
    pub fn saying(self, error: impl Into<String>) -> Refusal {
        Refusal {
            problem: self.problem.saying(error),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal { problem }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Problem::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let error = self.problem.detail();
        let mut response = json(self.status(), &serde_json::json!({ "error": error }));
        let reason = Reason(error.to_owned());
        response.extensions_mut().insert(reason);
        self.problem.mark(response.headers_mut());
        response
    }
}

/// 200 with a body.
pub fn ok(value: &impl Serialize) -> Reply {
    Ok(json(StatusCode::OK, value))
}

/// A body as Flask writes it: keys sorted (callers see to that: maps are, structs are written
/// that way), nothing but ASCII, a newline at the end.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // What is written here are strings, numbers, and maps by strings: these have a form.
    written(status, serde_json::to_string(value).unwrap_or_default())
}

/// The same of what is JSON already.
pub fn written(status: StatusCode, mut text: String) -> Response<Body> {
    if !text.is_ascii() {
        text = escaped(&text);
    }
    text.push('\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Outside of ASCII there is nothing in JSON but the insides of strings.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Seconds since 1970, as Python computes them from a file's nanoseconds.
pub fn float_time(mtime_ns: i64) -> f64 {
    let (seconds, nanos) = (
        mtime_ns.div_euclid(1_000_000_000),
        mtime_ns.rem_euclid(1_000_000_000),
    );
    seconds as f64 + nanos as f64 * 1e-9
}

/// `2026-02-08T11:34:36`: local, without saying so.
pub fn local_time(ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    let local = moment.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// One digit behind the point.
pub fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_ascii() {
        assert_eq!(escaped("a\u{fc}\u{1f600}"), r"a\u00fc\ud83d\ude00");
    }

    #[test]
    fn times_are_those_of_python() {
        assert_eq!(
            float_time(1_795_186_679_551_627_588),
            1_795_186_679.551_627_6
        );
        assert_eq!(float_time(-500_000_000), -0.5);
        assert_eq!(serde_json::to_string(&float_time(0)).unwrap(), "0.0");
        assert_eq!(tenths(1.6499), 1.6);
    }
}
