//! What a request asks for beside the path: preconditions and ranges (RFC 9110). Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, header};

use crate::error::{Error, Kind, Result};
use crate::index::served::Seen;
use crate::object::{ByteRange, Precondition, Version};

/// What to answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Part(ByteRange),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    OutOfRange,
}

/// The read's headers, kept until the file's version is known.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    if_match: Option<String>,
    if_none_match: Option<String>,
    if_range: Option<String>,
    range: Option<String>,
    /// `If-Modified-Since` and `If-Unmodified-Since`, where they count.
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl Wanted {
    /// Takes what a read needs out of the headers. `is_head`: ranges mean nothing then.
    pub fn new(headers: &HeaderMap, is_head: bool) -> Wanted {
        Wanted {
            if_match: joined(headers, &header::IF_MATCH),
            if_none_match: joined(headers, &header::IF_NONE_MATCH),
            if_range: joined(headers, &header::IF_RANGE),
            range: joined(headers, &header::RANGE).filter(|_| !is_head),
            since: None,
            until: None,
        }
    }

    /// Lets `If-Modified-Since` count as well. Two versions of one second look the same to it,
    /// so it is for those who have nothing better.
    pub fn with_dates(self, headers: &HeaderMap) -> Wanted {
        let since = date(headers, &header::IF_MODIFIED_SINCE);
        Wanted { since, ..self }
    }

    /// Lets `If-Unmodified-Since` count as well.
    pub fn with_limits(self, headers: &HeaderMap) -> Wanted {
        let until = date(headers, &header::IF_UNMODIFIED_SINCE);
        Wanted { until, ..self }
    }

    /// Whether one version is asked for, and no other will do.
    pub fn is_versioned(&self) -> bool {
        self.if_match.is_some()
    }

    /// Decides, in the order of RFC 9110, section 13.2.2.
    pub fn judge(&self, version: &Version, seen: &Seen) -> Verdict {
        let etag = version.to_etag();
        let is_wanted = match (&self.if_match, self.until) {
            (Some(tags), _) => matches(tags, &etag, false),
            (None, Some(until)) => is_not_after(seen.mtime_ns, until),
            (None, None) => true,
        };
        if !is_wanted {
            return Verdict::Failed;
        }
        let unchanged = match (&self.if_none_match, self.since) {
            (Some(tags), _) => matches(tags, &etag, true),
            (None, Some(since)) => is_not_after(seen.mtime_ns, since),
            (None, None) => false,
        };
        if unchanged {
            return Verdict::NotModified;
        }
        match (&self.range, &self.if_range) {
            (None, _) => Verdict::Whole,
            // A date is no strong validator here, so the whole file answers it.
            (Some(_), Some(tag)) if tag.trim() != etag => Verdict::Whole,
            (Some(range), _) => part(range, seen.size),
        }
    }
}

/// In whole seconds, as dates in headers are.
fn is_not_after(mtime_ns: i64, since: SystemTime) -> bool {
    let since = since.duration_since(UNIX_EPOCH);
    since.is_ok_and(|since| mtime_ns.div_euclid(1_000_000_000) <= since.as_secs().cast_signed())
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let date = joined(headers, name)?;
    httpdate::parse_http_date(&date).ok()
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let lossy = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Some(lossy.collect::<Vec<_>>().join(","))
}

/// Our tags hold no commas, so that a list can be split at them.
fn matches(tags: &str, etag: &str, weakly: bool) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = match weakly {
            true => tag.strip_prefix("W/").unwrap_or(tag),
            false => tag,
        };
        tag == "*" || tag == etag
    })
}

/// One range is served; several, or what is no range, get the whole file, as RFC 9110 allows.
fn part(range: &str, size: u64) -> Verdict {
    let Some(spec) = range.trim().strip_prefix("bytes=") else {
        return Verdict::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Verdict::Whole;
    };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Verdict::Whole,
        (true, false) => match number(last) {
            Some(tail) => (size.saturating_sub(tail), size),
            None => return Verdict::Whole,
        },
        (false, true) => match number(first) {
            Some(start) => (start, size),
            None => return Verdict::Whole,
        },
        (false, false) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
            _ => return Verdict::Whole,
        },
    };
    match start < end {
        true => Verdict::Part(start..end),
        false => Verdict::OutOfRange,
    }
}

/// The precondition of a write. Only what can be honoured exactly is accepted.
pub fn precondition(headers: &HeaderMap) -> Result<Precondition> {
    let if_match = joined(headers, &header::IF_MATCH);
    let if_none_match = joined(headers, &header::IF_NONE_MATCH);
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(tags)) if tags.trim() == "*" => Ok(Precondition::Absent),
        (Some(tag), None) => match Version::from_etag(&tag) {
            Ok(version) => Ok(Precondition::Matches(version)),
            Err(_) => Err(Error::new(
                Kind::Invalid,
                "If-Match of a write must be one strong ETag",
            )),
        },
        _ => Err(Error::new(
            Kind::Invalid,
            "a write takes either If-Match with one ETag or If-None-Match: *",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    /// Of a file that was changed half a second after 2026-10-21 07:28:00.
    fn judge(pairs: &[(HeaderName, &str)], size: u64) -> Verdict {
        let version = Version::new("v1").unwrap();
        let headers = headers(pairs);
        let wanted = Wanted::new(&headers, false)
            .with_dates(&headers)
            .with_limits(&headers);
        let seen = Seen {
            size,
            mtime_ns: 1_792_567_680_500_000_000,
            ctime_ns: 0,
            ino: 0,
        };
        wanted.judge(&version, &seen)
    }

    #[test]
    fn dates_count_to_the_second_and_less_than_tags() {
        let since = |date| (header::IF_MODIFIED_SINCE, date);
        let same = since("Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(judge(std::slice::from_ref(&same), 3), Verdict::NotModified);
        let before = since("Wed, 21 Oct 2026 07:27:59 GMT");
        assert_eq!(judge(&[before], 3), Verdict::Whole);
        assert_eq!(judge(&[since("yesterday")], 3), Verdict::Whole);
        let other = (header::IF_NONE_MATCH, "\"v2\"");
        assert_eq!(judge(&[same, other], 3), Verdict::Whole);
    }

    #[test]
    fn a_file_that_changed_after_a_limit_is_not_the_one_that_was_meant() {
        let until = |date| (header::IF_UNMODIFIED_SINCE, date);
        let before = until("Wed, 21 Oct 2026 07:27:59 GMT");
        assert_eq!(judge(std::slice::from_ref(&before), 3), Verdict::Failed);
        let same = until("Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(judge(&[same], 3), Verdict::Whole);
        let tag = (header::IF_MATCH, "\"v1\"");
        assert_eq!(judge(&[before, tag], 3), Verdict::Whole);
    }

    #[test]
    fn ranges() {
        let of = |range: &str, size| judge(&[(header::RANGE, range)], size);
        assert_eq!(of("bytes=1-2", 5), Verdict::Part(1..3));
        assert_eq!(of("bytes=-2", 5), Verdict::Part(3..5));
        assert_eq!(of("bytes=-9", 5), Verdict::Part(0..5));
        assert_eq!(of("bytes=3-", 5), Verdict::Part(3..5));
        assert_eq!(of("bytes=3-99", 5), Verdict::Part(3..5));
        assert_eq!(of("bytes=0-18446744073709551615", 5), Verdict::Part(0..5));
        assert_eq!(of("bytes=5-", 5), Verdict::OutOfRange);
        assert_eq!(of("bytes=-0", 5), Verdict::OutOfRange);
        assert_eq!(of("bytes=0-", 0), Verdict::OutOfRange);
        for odd in [
            "bytes=2-1",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=-",
            "lines=1-2",
            "bytes=+1-2",
        ] {
            assert_eq!(of(odd, 5), Verdict::Whole, "{odd}");
        }
    }

    #[test]
    fn preconditions_of_reads() {
        assert_eq!(
            judge(&[(header::IF_MATCH, "\"v2\", \"v1\"")], 1),
            Verdict::Whole
        );
        assert_eq!(judge(&[(header::IF_MATCH, "W/\"v1\"")], 1), Verdict::Failed);
        assert_eq!(judge(&[(header::IF_MATCH, "*")], 1), Verdict::Whole);
        assert_eq!(
            judge(&[(header::IF_NONE_MATCH, "W/\"v1\"")], 1),
            Verdict::NotModified
        );
        let both = |tag| judge(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, tag)], 3);
        assert_eq!(both("\"v1\""), Verdict::Part(0..1));
        assert_eq!(both("\"v2\""), Verdict::Whole);
        assert_eq!(both("Wed, 21 Oct 2026 07:28:00 GMT"), Verdict::Whole);
    }

    #[test]
    fn p5_preconditions_of_writes() {
        let of = |pairs: &[(HeaderName, &str)]| precondition(&headers(pairs));
        assert_eq!(of(&[]).unwrap(), Precondition::None);
        assert_eq!(
            of(&[(header::IF_NONE_MATCH, "*")]).unwrap(),
            Precondition::Absent
        );
        let v1 = Version::new("v1").unwrap();
        assert_eq!(
            of(&[(header::IF_MATCH, "\"v1\"")]).unwrap(),
            Precondition::Matches(v1)
        );
        for (name, value) in [
            (header::IF_MATCH, "W/\"v1\""),
            (header::IF_MATCH, "*"),
            (header::IF_NONE_MATCH, "\"v1\""),
        ] {
            assert!(of(&[(name, value)]).is_err());
        }
    }
}
