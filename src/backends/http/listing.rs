//! What a stream of lines amounts to: a listing, in batches, or what changed.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::lines::{Entry, Lines};
use crate::backends::Changes;
use crate::error::{Error, Kind, Result};
use crate::object::{Change, Cursor, Listed};
use crate::path::RelPath;

/// Objects a batch of a listing.
const BATCH: usize = 2000;
/// Most changes that are taken one by one; a whole listing is cheaper beyond that.
const CHANGES_MAX: usize = 100_000;
/// And most bytes of names among them, for they are held all at once.
const NAMES_MAX: usize = 16 << 20;

/// A whole listing, passed on in batches. Names out of order are refused, for who merges
/// two sorted listings would take them for deletions.
pub async fn collect(mut lines: Lines, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
    let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing any more");
    let mut batch = Vec::new();
    let mut last: Option<RelPath> = None;
    loop {
        let line = match lines.next().await? {
            Entry::Line(line) => line,
            Entry::End(cursor) => {
                batches.send(batch).await.map_err(gone)?;
                return Ok(cursor);
            }
        };
        batch.push(match line.into_listed()? {
            Listed::Object(o) if last.as_ref().is_some_and(|last| *last >= o.key) => {
                let (shown, why) = (o.key.to_string(), "the listing is out of order here");
                Listed::Refused {
                    shown,
                    why: why.into(),
                }
            }
            Listed::Object(object) => {
                last = Some(object.key.clone());
                Listed::Object(object)
            }
            refused => refused,
        });
        if batch.len() == BATCH {
            batches
                .send(std::mem::take(&mut batch))
                .await
                .map_err(gone)?;
        }
    }
}

pub async fn delta(mut lines: Lines, since: &Cursor) -> Result<Changes> {
    let (mut changes, mut names) = (Vec::new(), 0);
    let epoch = Arc::from(since.epoch.as_str());
    loop {
        match lines.next().await? {
            Entry::Line(_) if changes.len() == CHANGES_MAX || names > NAMES_MAX => {
                return Ok(Changes::Relist);
            }
            Entry::Line(line) => {
                let change = line.into_change(Some(&epoch))?;
                names += name_of(&change).len();
                changes.push(change);
            }
            Entry::End(cursor) if cursor.epoch != since.epoch => return Ok(Changes::Relist),
            Entry::End(cursor) if cursor.seq < since.seq => {
                return Err(Error::new(Kind::Corrupt, "the changes go backwards"));
            }
            Entry::End(cursor) => return Ok(Changes::Delta { changes, cursor }),
        }
    }
}

fn name_of(change: &Change) -> &[u8] {
    match change {
        Change::Put(object) => object.key.as_bytes(),
        Change::Deleted(key, _) => key.as_bytes(),
        Change::Refused { shown, .. } => shown.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn p9_changes_with_endless_names_are_not_held() {
        let name = vec!["n".repeat(250); 16].join("/");
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let chunks = stream::iter((1..100_000).map(move |n| {
            count.store(n, Ordering::Relaxed);
            let line = format!("{{\"seq\":{n},\"path\":\"{n}/{name}\",\"deleted\":true}}\n");
            Ok(Bytes::from(line))
        }));
        let since = Cursor {
            epoch: "e".into(),
            seq: 0,
        };
        let changes = delta(Lines::new(chunks, Duration::from_secs(10)), &since).await;
        assert!(matches!(changes.unwrap(), Changes::Relist));
        assert!(told.load(Ordering::Relaxed) < 5_000);
    }

    #[tokio::test]
    async fn p9_a_listing_is_read_no_faster_than_it_is_taken() {
        const LINES: usize = 200_000;
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let chunks = stream::iter((0..=LINES).map(move |n| {
            count.store(n, Ordering::Relaxed);
            Ok(Bytes::from(match n {
                LINES => "{\"epoch\":\"e\",\"seq\":1}\n".to_owned(),
                _ => format!("{{\"path\":\"f{n:07}\",\"size\":1,\"mtime_ns\":2,\"etag\":\"v\"}}\n"),
            }))
        }));
        let (batches, mut taken) = mpsc::channel(1);
        let lines = Lines::new(chunks, Duration::from_secs(10));
        let listing = tokio::spawn(collect(lines, batches));
        let mut objects = 0;
        while let Some(batch) = taken.recv().await {
            objects += batch.len();
            let ahead = made.load(Ordering::Relaxed) - objects;
            assert!(ahead <= 3 * BATCH, "{ahead} lines are held");
        }
        assert_eq!(objects, LINES);
        assert_eq!(listing.await.unwrap().unwrap().seq, 1);
    }
}
