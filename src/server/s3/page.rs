//! One page of a bucket's listing: prefixes, delimiters, and where the next page begins. Pure.
//!
//! Rows come in byte order from whoever has them. What lies beneath a common prefix is jumped
//! over, so that a page costs as much as what is on it, and not what is beneath it. Names that
//! are no UTF-8, and paths longer than a key may be, do not exist here.

use std::ops::Bound;

use crate::error::Result;
use crate::index::served::Row;
use crate::path::RelPath;

/// Rows asked for at once: after a common prefix, and at most.
const FEW: usize = 8;
const MANY: usize = 1024;
/// Longest key, in bytes.
const KEY_MAX: usize = 1024;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    First,
    /// After this key.
    After(Vec<u8>),
    /// After all keys that begin like this.
    Beyond(Vec<u8>),
}

/// What is asked for.
#[derive(Debug)]
pub struct Wish {
    pub prefix: String,
    /// Not empty.
    pub delimiter: Option<String>,
    pub start: Start,
    /// Keys and common prefixes together.
    pub most: usize,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Page {
    pub keys: Vec<(String, Row)>,
    pub groups: Vec<String>,
    /// None: this is the last page.
    pub next: Option<Start>,
}

/// The first byte string after all that begin with `prefix`; none: there is no such.
fn beyond(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

impl Wish {
    /// The row to begin with; none: there cannot be one.
    fn begin(&self) -> Option<Bound<Vec<u8>>> {
        let prefix = self.prefix.as_bytes();
        let begin = match &self.start {
            Start::First => Bound::Included(Vec::new()),
            Start::After(key) => Bound::Excluded(key.clone()),
            Start::Beyond(group) => Bound::Included(beyond(group)?),
        };
        Some(match begin {
            Bound::Included(at) | Bound::Excluded(at) if &*at < prefix => {
                Bound::Included(prefix.to_vec())
            }
            begin => begin,
        })
    }

    /// The common prefix that stands for `key`, if one does.
    fn group_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let delimiter = self.delimiter.as_deref()?;
        let at = key.get(self.prefix.len()..)?.find(delimiter)?;
        key.get(..self.prefix.len() + at + delimiter.len())
    }

    /// Fills the page. `rows` tells rows from a place on, before another, so many at most.
    pub fn page(
        &self,
        mut rows: impl FnMut(Bound<&[u8]>, Option<&[u8]>, usize) -> Result<Vec<(RelPath, Row)>>,
    ) -> Result<Page> {
        let mut page = Page::default();
        let end = beyond(self.prefix.as_bytes());
        let mut limit = MANY.min(self.most + 1);
        let mut from = self.begin().filter(|_| self.most > 0);
        let mut last = Start::First;
        while let Some(at) = from.take() {
            let found = rows(at.as_ref().map(|at| &at[..]), end.as_deref(), limit)?;
            let is_all = found.len() < limit;
            let (mut resume, mut jump) = (None, None);
            for (path, row) in found {
                resume = Some(path.as_bytes().to_vec());
                let Ok(key) = std::str::from_utf8(path.as_bytes()) else {
                    continue;
                };
                if key.len() > KEY_MAX {
                    continue;
                }
                if page.keys.len() + page.groups.len() == self.most {
                    page.next = Some(last);
                    return Ok(page);
                }
                if let Some(group) = self.group_of(key) {
                    page.groups.push(group.to_owned());
                    last = Start::Beyond(group.as_bytes().to_vec());
                    jump = Some(beyond(group.as_bytes()));
                    break;
                }
                last = Start::After(key.as_bytes().to_vec());
                page.keys.push((key.to_owned(), row));
            }
            (from, limit) = match (jump, is_all) {
                (Some(place), _) => (place.map(Bound::Included), FEW),
                (None, true) => (None, limit),
                (None, false) => (resume.map(Bound::Excluded), MANY.min(limit * 4)),
            };
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::served::Seen;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn row(size: u64) -> Row {
        let seen = Seen {
            size,
            mtime_ns: 0,
            ctime_ns: 0,
            ino: 0,
        };
        Row {
            seen,
            bump: 0,
            sha256: None,
            seq: 0,
        }
    }

    /// The page of a bucket with these names, and how many rows were read for it.
    fn page(names: &[&[u8]], wish: &Wish) -> (Page, usize) {
        let all: BTreeMap<Vec<u8>, u64> = names.iter().map(|n| (n.to_vec(), 1)).collect();
        let mut read = 0;
        let page = wish.page(|from, before, limit| {
            let from = from.map(<[u8]>::to_vec);
            let end = before.map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_vec()));
            let found: Vec<_> = all
                .range((from, end))
                .take(limit)
                .map(|(path, size)| (RelPath::new(path).unwrap(), row(*size)))
                .collect();
            read += found.len();
            Ok(found)
        });
        (page.unwrap(), read)
    }

    fn wish(prefix: &str, delimiter: &str, start: Start, most: usize) -> Wish {
        Wish {
            prefix: prefix.to_owned(),
            delimiter: (!delimiter.is_empty()).then(|| delimiter.to_owned()),
            start,
            most,
        }
    }

    #[test]
    fn a_common_prefix_costs_no_more_than_a_key() {
        let names: Vec<String> = (0..5000).map(|i| format!("d/{i}")).collect();
        let mut names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        names.extend([&b"a"[..], b"z"]);
        let (page, read) = page(&names, &wish("", "/", Start::First, 1000));
        assert_eq!(page.groups, ["d/"]);
        assert_eq!(page.keys.len(), 2);
        assert!(page.next.is_none() && read < 1100, "{read}");
    }

    #[test]
    fn names_that_are_no_keys_are_left_out() {
        let long = vec![b"x".repeat(250); 5].join(&b'/');
        let (page, _) = page(&[b"a\xff", &long, b"b"], &wish("", "", Start::First, 1));
        assert_eq!(page.keys[0].0, "b");
        assert!(page.next.is_none());
    }

    #[test]
    fn after_the_last_byte_there_is_nothing() {
        assert_eq!(beyond(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(beyond(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(beyond(b"\xff"), None);
        assert_eq!(beyond(b""), None);
    }

    proptest! {
        /// Whatever the size of the pages, together they are what the whole listing is.
        #[test]
        fn pages_together_are_the_listing(
            names in proptest::collection::btree_set("[ab/é]{1,6}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/"), Just("b"), Just("é")],
            most in 1usize..5,
        ) {
            let names: BTreeSet<String> = names
                .into_iter()
                .filter(|name| RelPath::new(name.as_bytes()).is_ok())
                .collect();
            let bytes: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            let (mut keys, mut groups) = (Vec::new(), BTreeSet::new());
            for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                let cut = name[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
                match cut {
                    Some(at) => {
                        groups.insert(name[..prefix.len() + at + delimiter.len()].to_owned());
                    }
                    None => keys.push(name.clone()),
                }
            }
            let (mut seen_keys, mut seen_groups) = (Vec::new(), Vec::new());
            let mut start = Start::First;
            loop {
                let (page, _) = page(&bytes, &wish(&prefix, delimiter, start, most));
                prop_assert!(page.keys.len() + page.groups.len() <= most);
                seen_keys.extend(page.keys.into_iter().map(|(key, _)| key));
                seen_groups.extend(page.groups);
                match page.next {
                    Some(next) => start = next,
                    None => break,
                }
            }
            prop_assert_eq!(seen_keys, keys);
            prop_assert_eq!(seen_groups, groups.into_iter().collect::<Vec<_>>());
        }
    }
}
