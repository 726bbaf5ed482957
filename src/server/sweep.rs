//! Going through the directory and comparing it with the index.
//!
//! Both come in byte order, so that the comparison is a merge that holds one page of
//! rows and one directory's entries a level, however many files there are. A difference is only a
//! reason to look at the path again; nothing is concluded from an old answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use crate::beneath::FileKind;
use crate::error::{Kind, Result};
use crate::index::served::{Row, Seen};
use crate::path::{Name, RelPath};

use super::tree::{Tree, is_withheld};

/// Differences that are looked at, and written down, together.
const BATCH: usize = 2000;
/// Between two lines that say how far a sweep is.
const PROGRESS: Duration = Duration::from_secs(2);
/// Rows read at once.
const PAGE: usize = 4096;

/// What a sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub files: u64,
    pub differences: u64,
    /// Of the differences: names that the index had and the disk has not.
    pub gone: u64,
    /// Directories that could not be read; what the index knew of them stays.
    pub unreadable: u64,
}

/// Compares everything beneath `under` with the index and brings the index up to date, telling
/// how far it is. Ends early, without an error, when `stop` is set.
pub fn sweep(
    tree: &Tree,
    under: &RelPath,
    stop: &AtomicBool,
    mut tell: impl FnMut(&Tally),
) -> Result<Tally> {
    tree.root.check()?;
    let mut walk = Walk::new(tree, under);
    let mut rows = Rows::new(tree, under);
    let mut tally = Tally::default();
    let mut differing = Vec::new();
    let mut told = Instant::now();
    let mut file = walk.next()?;
    let mut row = rows.next()?;
    while !stop.load(Ordering::Relaxed) {
        let order = match (&file, &row) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((here, _)), Some((known, _))) => here.cmp(known),
        };
        let mut found = None;
        let mut known = None;
        if order.is_le() {
            found = std::mem::replace(&mut file, walk.next()?);
            tally.files += 1;
        }
        if order.is_ge() {
            known = std::mem::replace(&mut row, rows.next()?);
        }
        match (found, known) {
            (Some((_, seen)), Some((_, row))) if row.seen == seen => {}
            (Some((key, _)), _) => differing.push(key),
            (None, Some((key, _))) => {
                tally.gone += 1;
                differing.push(key);
            }
            (None, None) => {}
        }
        tell(&tally);
        if differing.len() >= BATCH {
            tally.differences += differing.len() as u64;
            settle(tree, &mut differing)?;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let (files, found) = (tally.files, tally.differences);
                tracing::info!(files, found, "scanning the served directory");
            }
        }
    }
    tally.differences += differing.len() as u64;
    settle(tree, &mut differing)?;
    tally.unreadable = walk.unreadable;
    Ok(tally)
}

/// Looks at the differing paths. One that cannot be looked at does not stop the others.
fn settle(tree: &Tree, keys: &mut Vec<RelPath>) -> Result<()> {
    match tree.look(keys, false) {
        Ok(_) => {}
        Err(error) if error.kind() == Kind::Offline => return Err(error),
        Err(_) => {
            for key in keys.iter() {
                if let Err(error) = tree.look_at(key) {
                    if error.kind() == Kind::Offline {
                        return Err(error);
                    }
                    tracing::warn!(%error, "a file cannot be looked at; the index keeps what it had");
                }
            }
        }
    }
    keys.clear();
    Ok(())
}

/// The files beneath a directory, in byte order of their paths.
struct Walk<'a> {
    tree: &'a Tree,
    levels: Vec<IntoIter<Step>>,
    unreadable: u64,
}

struct Step {
    key: RelPath,
    seen: Seen,
    is_dir: bool,
}

impl Step {
    /// A directory sorts as what is in it does.
    fn order(&self) -> impl Iterator<Item = u8> + '_ {
        let slash = self.is_dir.then_some(b'/');
        self.key.as_bytes().iter().copied().chain(slash)
    }
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree, under: &RelPath) -> Walk<'a> {
        let mut walk = Walk {
            tree,
            levels: Vec::new(),
            unreadable: 0,
        };
        walk.descend(under);
        walk
    }

    fn next(&mut self) -> Result<Option<(RelPath, Seen)>> {
        while let Some(level) = self.levels.last_mut() {
            match level.next() {
                None => {
                    self.levels.pop();
                }
                Some(step) if step.is_dir => self.descend(&step.key),
                Some(step) => return Ok(Some((step.key, step.seen))),
            }
        }
        Ok(None)
    }

    fn descend(&mut self, dir: &RelPath) {
        let entries = match self.tree.root.dir().read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                if !matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) {
                    self.unreadable += 1;
                    tracing::warn!(%error, "a directory cannot be read; the index keeps what it had");
                }
                return;
            }
        };
        let steps = entries.into_iter().filter_map(|entry| {
            let is_dir = match entry.facts.kind {
                FileKind::File => false,
                FileKind::Dir => true,
                FileKind::Symlink | FileKind::Other => return None,
            };
            // A name or path too long to be a file elsewhere is not served.
            let key = Name::new(&entry.name)
                .and_then(|name| dir.join(&name))
                .ok()?;
            if is_withheld(&key) {
                return None;
            }
            let seen = Seen::from(&entry.facts);
            Some(Step { key, seen, is_dir })
        });
        let mut steps: Vec<Step> = steps.collect();
        steps.sort_unstable_by(|a, b| a.order().cmp(b.order()));
        self.levels.push(steps.into_iter());
    }
}

/// The rows beneath a directory, in the same order, a page at a time.
struct Rows<'a> {
    tree: &'a Tree,
    under: RelPath,
    page: IntoIter<(RelPath, Row)>,
    last: Option<RelPath>,
    ended: bool,
}

impl<'a> Rows<'a> {
    fn new(tree: &'a Tree, under: &RelPath) -> Rows<'a> {
        Rows {
            tree,
            under: under.clone(),
            page: Vec::new().into_iter(),
            last: None,
            ended: false,
        }
    }

    fn next(&mut self) -> Result<Option<(RelPath, Row)>> {
        if self.page.as_slice().is_empty() && !self.ended {
            let page = self
                .tree
                .index
                .beneath(&self.under, self.last.as_ref(), PAGE)?;
            self.ended = page.len() < PAGE;
            self.last = page.last().map(|(key, _)| key.clone());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
