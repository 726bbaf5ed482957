//! A remote's listing against the rows we have of it: what changed. Pure but for the
//! pages of rows, which are handed in.
//!
//! Both sides come in byte order of the keys and are merged in one pass; memory does
//! not grow with either.

use std::collections::VecDeque;

use crate::error::Result;
use crate::index::Replica;
use crate::object::{Change, Listed, Meta, Object};
use crate::path::RelPath;

/// A merge in progress. `next_page` gives known rows after a key, in order; an empty page ends them.
pub struct Merge<F> {
    next_page: F,
    page: VecDeque<Replica>,
    after: Vec<u8>,
    ended: bool,
    last: Option<RelPath>,
}

impl<F: FnMut(&[u8]) -> Result<Vec<Replica>>> Merge<F> {
    pub fn new(next_page: F) -> Self {
        Merge {
            next_page,
            page: VecDeque::new(),
            after: Vec::new(),
            ended: false,
            last: None,
        }
    }

    /// Takes one line of the listing; what follows from it is given to `emit`.
    pub fn take(
        &mut self,
        listed: Listed,
        emit: &mut impl FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let object = match listed {
            Listed::Object(object) => object,
            Listed::Refused { shown, why } => return emit(Change::Refused { shown, why }),
        };
        if self.last.as_ref().is_some_and(|last| *last >= object.key) {
            // Out of order or twice: from here on nobody could tell what is missing.
            let (shown, why) = (
                object.key.to_string(),
                "the listing names it twice or out of order",
            );
            return emit(Change::Refused {
                shown,
                why: why.into(),
            });
        }
        self.drop_before(Some(&object.key), emit)?;
        self.last = Some(object.key.clone());
        let known = match self.page.front() {
            Some(row) if row.key == object.key => self.page.pop_front(),
            _ => None,
        };
        if is_news(known.as_ref(), &object) {
            emit(Change::Put(object))?;
        }
        Ok(())
    }

    /// The listing is at its end: rows that it did not name are gone there.
    pub fn finish(mut self, emit: &mut impl FnMut(Change) -> Result<()>) -> Result<()> {
        self.drop_before(None, emit)
    }

    /// Known rows before `key` were not listed.
    fn drop_before(
        &mut self,
        key: Option<&RelPath>,
        emit: &mut impl FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        loop {
            self.refill()?;
            match self.page.front() {
                Some(row) if key.is_none_or(|key| row.key < *key) => {
                    if let Some(row) = self.page.pop_front() {
                        emit(Change::Deleted(row.key, None))?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn refill(&mut self) -> Result<()> {
        if self.ended || !self.page.is_empty() {
            return Ok(());
        }
        self.page = (self.next_page)(&self.after)?.into();
        match self.page.back() {
            Some(row) => self.after = row.key.as_bytes().to_vec(),
            None => self.ended = true,
        }
        Ok(())
    }
}

fn is_news(known: Option<&Replica>, object: &Object) -> bool {
    known.is_none_or(|row| {
        row.meta.version != object.meta.version
            || (row.meta.sha256.is_none() && object.meta.sha256.is_some())
            || arrived_anew(&row.meta, &object.meta)
    })
}

/// The same bytes may have been sent again, for another time of theirs.
fn arrived_anew(known: &Meta, listed: &Meta) -> bool {
    match (known.arrival, listed.arrival) {
        (Some(known), Some(listed)) => !known.is_same(&listed),
        (None, listed) => listed.is_some(),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::object::{Meta, RemoteId, Version};
    use proptest::prelude::*;

    fn meta(version: u8) -> Meta {
        Meta {
            size: 1,
            mtime_ns: 0,
            version: Version::new(&format!("v{version}")).unwrap(),
            sha256: None,
            revision: None,
            arrival: None,
        }
    }

    proptest! {
        #[test]
        fn p8_applying_the_changes_gives_the_listing(
            known in proptest::collection::btree_map("[a-c]{1,3}", 0u8..3, 0..20),
            listed in proptest::collection::btree_map("[a-c]{1,3}", 0u8..3, 0..20),
            page in 1usize..5,
        ) {
            let rows: Vec<Replica> = known.iter().map(|(k, v)| Replica {
                remote: RemoteId(1), key: RelPath::new(k.as_bytes()).unwrap(), node: None, meta: meta(*v) }).collect();
            let pages = |after: &[u8]| Ok(rows.iter().filter(|r| r.key.as_bytes() > after).take(page).cloned().collect());
            let mut state: BTreeMap<RelPath, Version> = rows.iter().map(|r| (r.key.clone(), r.meta.version.clone())).collect();
            let mut emitted = 0;
            let mut emit = |change: Change| {
                emitted += 1;
                match change {
                    Change::Put(o) => { state.insert(o.key, o.meta.version); }
                    Change::Deleted(k, _) => { state.remove(&k); }
                    Change::Refused { .. } => {}
                }
                Ok(())
            };
            let mut merge = Merge::new(pages);
            for (k, v) in &listed {
                let object = Object { key: RelPath::new(k.as_bytes()).unwrap(), meta: meta(*v) };
                merge.take(Listed::Object(object), &mut emit).unwrap();
            }
            merge.finish(&mut emit).unwrap();
            let wanted: BTreeMap<RelPath, Version> = listed.iter()
                .map(|(k, v)| (RelPath::new(k.as_bytes()).unwrap(), meta(*v).version)).collect();
            prop_assert_eq!(state, wanted);
            let differing = known.iter().filter(|(k, v)| listed.get(*k) != Some(v)).count()
                + listed.keys().filter(|k| !known.contains_key(*k)).count();
            prop_assert_eq!(emitted, differing);
        }
    }

    #[test]
    fn p10_a_listing_out_of_order_removes_nothing_twice() {
        let mut merge = Merge::new(|_: &[u8]| Ok(Vec::new()));
        let mut out = Vec::new();
        for key in ["b", "a", "b"] {
            let object = Object {
                key: RelPath::new(key.as_bytes()).unwrap(),
                meta: meta(1),
            };
            merge
                .take(Listed::Object(object), &mut |c| {
                    out.push(c);
                    Ok(())
                })
                .unwrap();
        }
        assert!(matches!(out[0], Change::Put(_)));
        assert!(matches!(
            (&out[1], &out[2]),
            (Change::Refused { .. }, Change::Refused { .. })
        ));
    }
}
