//! A whole listing: stretches of the key space side by side, told in order.
//!
//! The first page decides: what it does not end is cut at directories into stretches, a few of
//! which are read ahead. A stretch is told by where it begins and ends, so a cut in a bad place
//! costs time and nothing else. Memory is bounded by the stretches that are read ahead, of
//! which each may have two pages waiting. A page that fails is asked for again here, because
//! a listing as a whole is not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::door::Door;
use super::listing::{Page, Question, page};
use crate::error::{Error, Kind, Result};
use crate::object::Listed;

/// Most stretches of one listing.
const STRETCHES: usize = 64;
/// How deep directories are looked into for places to cut.
const DEPTH: usize = 3;
/// How often a page is asked for, and how long the first wait in between is.
const ATTEMPTS: u32 = 4;
const WAIT: Duration = Duration::from_millis(200);

type Batch = Vec<Listed>;

/// A part of the key space: what is not before `from` and is before `end`.
struct Stretch {
    door: Arc<Door>,
    /// Where to begin asking.
    question: Question,
    from: Option<String>,
    end: Option<String>,
}

/// Sends everything below the prefix, in order.
pub(super) async fn list(door: &Arc<Door>, batches: mpsc::Sender<Batch>) -> Result<()> {
    let question = Question {
        prefix: door.keys.base().to_owned(),
        ..Question::default()
    };
    let first = again(door, &question).await?;
    let (token, last) = (first.token.clone(), first.last.clone());
    pass(&batches, told(first, None, None)).await?;
    let Some(token) = token else {
        return Ok(());
    };
    let width = match door.lanes {
        0 | 1 => 1,
        lanes => 2 * lanes,
    };
    let cuts = match width {
        1 => Vec::new(),
        width => cuts(door, last.as_deref().unwrap_or_default(), width).await?,
    };
    let mut stretches = stretches(door, &question, token, cuts).into_iter();
    let mut ahead = VecDeque::new();
    loop {
        while ahead.len() < width {
            let Some(stretch) = stretches.next() else {
                break;
            };
            ahead.push_back(stretch.start());
        }
        let Some((mut came, _task)) = ahead.pop_front() else {
            return Ok(());
        };
        while let Some(batch) = came.recv().await {
            pass(&batches, batch?).await?;
        }
    }
}

async fn pass(batches: &mpsc::Sender<Batch>, batch: Batch) -> Result<()> {
    let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing");
    batches.send(batch).await.map_err(gone)
}

async fn again(door: &Door, question: &Question) -> Result<Page> {
    let mut wait = WAIT;
    for _ in 1..ATTEMPTS {
        match page(door, question, door.times.answer).await {
            Err(error) if error.kind().is_transient() => tokio::time::sleep(wait).await,
            asked => return asked,
        }
        wait *= 2;
    }
    page(door, question, door.times.answer).await
}

/// Of a page, what is not before `from` and is before `end`.
fn told(page: Page, from: Option<&str>, end: Option<&str>) -> Batch {
    let entries = page.entries.into_iter();
    let within = entries.filter(|(key, _)| {
        from.is_none_or(|from| key.as_str() >= from) && end.is_none_or(|end| key.as_str() < end)
    });
    within.map(|(_, listed)| listed).collect()
}

/// Directories after `last` at which to cut, in order: enough to keep `width` readers busy.
async fn cuts(door: &Door, last: &str, width: usize) -> Result<Vec<String>> {
    let mut level = vec![door.keys.base().to_owned()];
    let mut found = Vec::new();
    for _ in 0..DEPTH {
        let folders = level.iter().map(|prefix| folders(door, prefix, last));
        level = try_join_all(folders).await?.concat();
        found.extend(level.iter().cloned());
        if found.len() >= width || level.is_empty() {
            break;
        }
    }
    found.retain(|folder| folder.as_str() > last);
    found.sort_unstable();
    found.dedup();
    let step = found.len().div_ceil(STRETCHES).max(1);
    Ok(found.into_iter().step_by(step).collect())
}

async fn folders(door: &Door, prefix: &str, last: &str) -> Result<Vec<String>> {
    let question = Question {
        prefix: prefix.to_owned(),
        after: (last > prefix).then(|| last.to_owned()),
        folded: true,
        ..Question::default()
    };
    Ok(again(door, &question).await?.folders)
}

fn stretches(
    door: &Arc<Door>,
    question: &Question,
    token: String,
    cuts: Vec<String>,
) -> Vec<Stretch> {
    let mut ends: VecDeque<_> = cuts.iter().cloned().map(Some).collect();
    ends.push_back(None);
    let begins = std::iter::once(None).chain(cuts.into_iter().map(Some));
    let stretch = |(from, end): (Option<String>, _)| Stretch {
        door: door.clone(),
        question: Question {
            token: from.is_none().then(|| token.clone()),
            after: from.as_deref().map(before),
            ..question.clone()
        },
        from,
        end,
    };
    begins.zip(ends).map(stretch).collect()
}

/// A text shortly before `folder` in the order of keys.
fn before(folder: &str) -> String {
    format!("{}.~", folder.strip_suffix('/').unwrap_or(folder))
}

impl Stretch {
    fn start(self) -> (mpsc::Receiver<Result<Batch>>, AbortOnDropHandle<()>) {
        let (out, came) = mpsc::channel(2);
        let task = tokio::spawn(async move {
            if let Err(error) = self.read(&out).await {
                let _ = out.send(Err(error)).await;
            }
        });
        (came, AbortOnDropHandle::new(task))
    }

    async fn read(mut self, out: &mpsc::Sender<Result<Batch>>) -> Result<()> {
        loop {
            let page = again(&self.door, &self.question).await?;
            let token = page.token.clone();
            let is_over = match (&page.last, &self.end) {
                (Some(last), Some(end)) => last >= end,
                _ => false,
            };
            let batch = told(page, self.from.as_deref(), self.end.as_deref());
            if out.send(Ok(batch)).await.is_err() || is_over || token.is_none() {
                return Ok(());
            }
            self.question.token = token;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_shortly_before_a_directory_is_before_all_that_is_in_it() {
        for (folder, key) in [("a/", "a/"), ("a/b/", "a/b/\u{1}"), ("x~/", "x~/y")] {
            assert!(before(folder).as_str() < folder, "{folder}");
            assert!(before(folder).as_str() < key, "{folder}");
        }
        assert!(before("a/").as_str() > "a-b");
    }
}
