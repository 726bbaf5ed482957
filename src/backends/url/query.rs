//! What stands behind the `?` of a remote's URL: each name at most once, every name known.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;

use super::invalid;
use crate::config::{nearest, parse_size, parse_switch};
use crate::error::Result;

/// How a remote is to be used, whatever it is. What its URL does not say, the mount decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UrlOptions {
    /// `upload`: whether files go up to it.
    pub upload: Option<bool>,
    /// `requests`: most requests in flight at a time.
    pub requests: Option<usize>,
    /// `rate`: most bytes a second, both ways together.
    pub rate: Option<u64>,
}

/// Names and values that nobody asked for yet, and the names that somebody could.
pub(super) struct Query {
    given: BTreeMap<String, Option<String>>,
    known: BTreeSet<&'static str>,
}

impl Query {
    pub(super) fn read(text: &str) -> Result<Query> {
        let mut given = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(decode(value)?)),
                None => (part, None),
            };
            let name = decode(name)?.to_ascii_lowercase();
            if given.contains_key(&name) {
                return Err(invalid(&format!("the option {} stands twice", show(&name))));
            }
            given.insert(name, value);
        }
        Ok(Query {
            given,
            known: BTreeSet::new(),
        })
    }

    /// The text of `name`, which may not be empty.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        self.known.insert(name);
        match self.given.remove(name) {
            None => Ok(None),
            Some(Some(text)) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(invalid(&format!("the option {name} needs a value"))),
        }
    }

    /// Whether `name` is on; the bare name says yes.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<Option<bool>> {
        self.known.insert(name);
        match self.given.remove(name) {
            None => Ok(None),
            Some(None) => Ok(Some(true)),
            Some(Some(text)) => parse_switch(&text)
                .map(Some)
                .map_err(|allowed| invalid(&format!("the option {name} is {allowed}"))),
        }
    }

    /// The options of every kind of remote.
    pub(super) fn common(&mut self) -> Result<UrlOptions> {
        let upload = self.switch("upload")?;
        let requests = self.text("requests")?.map(|text| match text.parse() {
            Ok(number @ 1..=10_000) => Ok(number),
            _ => Err(invalid("the option requests is a number from 1 to 10000")),
        });
        let rate = self.text("rate")?.map(|text| match parse_size(&text) {
            Ok(rate) if rate > 0 => Ok(rate),
            _ => Err(invalid(
                "the option rate is bytes a second, such as 500KiB or 10MiB",
            )),
        });
        Ok(UrlOptions {
            upload,
            requests: requests.transpose()?,
            rate: rate.transpose()?,
        })
    }

    /// Refuses what is left.
    pub(super) fn done(self) -> Result<()> {
        let Some(name) = self.given.keys().next() else {
            return Ok(());
        };
        let hint = match nearest(name, self.known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => {
                let known: Vec<_> = self.known.into_iter().collect();
                format!("it may have {}", known.join(", "))
            }
        };
        let shown = show(name);
        Err(invalid(&format!(
            "a remote of this kind has no option {shown}; {hint}"
        )))
    }
}

pub(super) fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let text = decoded.map_err(|_| invalid("the URL is not UTF-8"))?;
    match text.contains(char::is_control) {
        true => Err(invalid("the URL holds a control character")),
        false => Ok(text.into_owned()),
    }
}

/// A name that somebody gave; it may be a key that got there by mistake.
fn show(name: &str) -> String {
    match name.len() <= 16
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_')
    {
        true => name.to_owned(),
        false => "that stands there".to_owned(),
    }
}
