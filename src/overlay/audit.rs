//! A remote against the index, and both against the store: what is here and not there, there and
//! unknown here, or different on the two sides.
//!
//! The remote is listed anew, in key order, and merged with the rows in the same order: in memory is
//! one batch and one page. What seems different is asked for once more by name, for both sides go on
//! meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Overlay;
use crate::backends::remote::Remote;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, NodeKind, Replica, node as rows, outbox};
use crate::object::{Listed, Object};
use crate::path::RelPath;

/// Rows read in one go.
const PAGE: usize = 1000;
/// Differences that are looked at again; one more is told as it was found.
const DOUBTED: usize = 1000;

/// How the two sides differ in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Difference {
    /// Held here, and not there; it does not wait to go up.
    OnlyHere,
    /// There with another size or hash than the clean file here.
    Differs,
    /// There under a name, or in a version, that is not known here.
    UnknownHere,
    /// Known here, and there no more.
    GoneThere,
}

impl Difference {
    /// Its name for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Difference::OnlyHere => "only-here",
            Difference::Differs => "differs",
            Difference::UnknownHere => "unknown-here",
            Difference::GoneThere => "gone-there",
        }
    }
}

/// What a comparison came to, in files.
#[derive(Debug, Default)]
pub struct Counts {
    pub same: u64,
    pub not_held: u64,
    pub waiting: u64,
    /// Held here, not there, and at another remote.
    pub elsewhere: u64,
    pub hidden: u64,
    pub refused: u64,
    differences: HashMap<Difference, u64>,
}

impl Counts {
    /// How many files differ like this.
    pub fn of(&self, difference: Difference) -> u64 {
        self.differences
            .get(&difference)
            .copied()
            .unwrap_or_default()
    }
}

/// Told of every file in which the two sides differ.
pub type Tell<'a> = &'a mut (dyn FnMut(&RelPath, Difference) + Send);

/// A comparison under way.
struct Audit<'a> {
    overlay: &'a Overlay,
    remote: &'a Remote,
    top: &'a RelPath,
    counts: Counts,
    /// Keys on which the listing and the rows did not agree.
    doubted: Vec<RelPath>,
    /// Rows that follow, and the last key that was read.
    rows: VecDeque<Replica>,
    last: Vec<u8>,
}

impl Overlay {
    /// Compares a remote with what is known and held at `top` and beneath it; `shown` is told how
    /// many objects were compared. Errors: `Unsupported` for a remote that cannot list.
    pub async fn audit(
        &self,
        remote: &Arc<Remote>,
        top: &RelPath,
        mut tell: Tell<'_>,
        shown: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Counts> {
        if !remote.can_list() {
            let why = "it cannot list what it has, so it cannot be compared";
            return Err(Error::new(Kind::Unsupported, why));
        }
        let mut audit = Audit {
            overlay: self,
            remote,
            top,
            counts: Counts::default(),
            doubted: Vec::new(),
            rows: VecDeque::new(),
            last: Vec::new(),
        };
        let (send, mut batches) = mpsc::channel(4);
        let listing = remote.backend.list(send);
        let merging = async {
            let mut done = 0;
            while let Some(batch) = batches.recv().await {
                done += batch.len() as u64;
                for listed in batch {
                    match listed {
                        Listed::Object(object) => audit.object(&object, &mut tell)?,
                        Listed::Refused { .. } => audit.counts.refused += 1,
                    }
                }
                shown(done);
            }
            Ok::<(), Error>(())
        };
        let (listed, merged) = tokio::join!(listing, merging);
        // A listing that broke off says nothing about what it did not name.
        merged.and(listed.map(drop))?;
        audit.rows_before(None, &mut tell)?;
        audit.ask_again(&mut tell).await?;
        audit.only_here(&mut tell)?;
        Ok(audit.counts)
    }

    /// Whether a remote has the version of a clean file still. Errors say why it does not.
    pub async fn is_elsewhere(&self, node: &Node) -> Result<()> {
        let mut why = Error::new(Kind::NotFound, "no remote has it; restore it from a backup");
        for replica in self.index.read(|c| rows::replicas(c, node.id))? {
            let Some(remote) = self.remotes.get(replica.remote) else {
                continue;
            };
            if !replica.matches(node) {
                continue;
            }
            match remote.backend.head(&replica.key).await {
                Ok(Some(meta)) if meta.version == replica.meta.version => return Ok(()),
                Ok(_) => {
                    why = Error::new(
                        Kind::Stale,
                        "its remote has another version by now; `larder sync`, then verify again",
                    )
                }
                Err(error) => why = error.about(&remote.shown),
            }
        }
        Err(why)
    }
}

impl Audit<'_> {
    fn differs(&mut self, path: &RelPath, difference: Difference, tell: &mut Tell<'_>) {
        *self.counts.differences.entry(difference).or_default() += 1;
        tell(path, difference);
    }

    /// The next row, if its key is below `key`, or whatever it is.
    fn next_row(&mut self, key: Option<&RelPath>) -> Result<Option<Replica>> {
        if self.rows.is_empty() {
            let (remote, last) = (self.remote.id, std::mem::take(&mut self.last));
            let page = self
                .overlay
                .index
                .read(|c| rows::replicas_after(c, remote, &last, PAGE))?;
            self.last = page
                .last()
                .map_or(last, |replica| replica.key.as_bytes().to_vec());
            self.rows = page.into();
        }
        let is_below =
            |replica: &Replica| key.is_none_or(|key| replica.key.as_bytes() <= key.as_bytes());
        match self.rows.front().is_some_and(is_below) {
            true => Ok(self.rows.pop_front()),
            false => Ok(None),
        }
    }

    /// Takes the rows up to `key`; those below it the remote does not have. Returns the row of `key`.
    fn rows_before(
        &mut self,
        key: Option<&RelPath>,
        tell: &mut Tell<'_>,
    ) -> Result<Option<Replica>> {
        while let Some(replica) = self.next_row(key)? {
            if key == Some(&replica.key) {
                return Ok(Some(replica));
            }
            if replica.key.is_under(self.top) {
                self.doubt(replica.key, false, tell);
            }
        }
        Ok(None)
    }

    /// `is_there`: what the listing said. More than can be asked for is told as it was found.
    fn doubt(&mut self, key: RelPath, is_there: bool, tell: &mut Tell<'_>) {
        match (self.doubted.len() < DOUBTED, is_there) {
            (true, _) => self.doubted.push(key),
            (false, true) => self.differs(&key, Difference::UnknownHere, tell),
            (false, false) => self.differs(&key, Difference::GoneThere, tell),
        }
    }

    fn object(&mut self, object: &Object, tell: &mut Tell<'_>) -> Result<()> {
        let row = self.rows_before(Some(&object.key), tell)?;
        if !object.key.is_under(self.top) {
            return Ok(());
        }
        match row {
            Some(row) if row.meta.version == object.meta.version => self.known(&row, tell),
            _ => {
                self.doubt(object.key.clone(), true, tell);
                Ok(())
            }
        }
    }

    /// The remote has what the row says: whether the file here has it, too.
    fn known(&mut self, row: &Replica, tell: &mut Tell<'_>) -> Result<()> {
        let Some(id) = row.node else {
            self.counts.hidden += 1;
            return Ok(());
        };
        let Some(node) = self.overlay.index.node(id)? else {
            return Ok(());
        };
        if self.waits(&node)? {
            self.counts.waiting += 1;
            return Ok(());
        }
        let known = node.sha256.zip(row.meta.sha256);
        let is_other = node.size != row.meta.size || known.is_some_and(|(a, b)| a != b);
        if node.held == Held::Whole && is_other {
            self.differs(&row.key, Difference::Differs, tell);
            return Ok(());
        }
        self.counts.same += 1;
        self.counts.not_held += u64::from(node.held == Held::None);
        Ok(())
    }

    fn waits(&self, node: &Node) -> Result<bool> {
        let queued = |id: NodeId| self.overlay.index.read(|c| outbox::is_queued(c, id));
        Ok(node.dirty != 0 || queued(node.id)?)
    }

    /// What did not agree is asked for by name, and compared with the row as it is by then.
    async fn ask_again(&mut self, tell: &mut Tell<'_>) -> Result<()> {
        for key in std::mem::take(&mut self.doubted) {
            let there = self.remote.backend.head(&key).await?;
            let (remote, overlay) = (self.remote.id, self.overlay);
            let row = overlay.index.read(|c| rows::replica(c, remote, &key))?;
            match (there, row) {
                (None, None) => {}
                (Some(there), Some(row)) if there.version == row.meta.version => {
                    self.known(&row, tell)?;
                }
                (Some(_), _) => self.differs(&key, Difference::UnknownHere, tell),
                (None, Some(_)) => self.differs(&key, Difference::GoneThere, tell),
            }
        }
        Ok(())
    }

    /// Held files that the remote does not have.
    fn only_here(&mut self, tell: &mut Tell<'_>) -> Result<()> {
        let index = &self.overlay.index;
        let Some(top) = index.read(|c| rows::resolve(c, self.top))? else {
            return Ok(());
        };
        if top.kind == NodeKind::File {
            return self.has_it(&top, tell);
        }
        let mut work = vec![top.id];
        while let Some(dir) = work.pop() {
            let mut after = Vec::new();
            loop {
                let page = self
                    .overlay
                    .index
                    .read(|c| rows::children(c, dir, &after, PAGE))?;
                let Some(name) = page.last().and_then(|n| n.name.clone()) else {
                    break;
                };
                after = name.as_bytes().to_vec();
                for child in page {
                    match child.kind {
                        NodeKind::Dir => work.push(child.id),
                        NodeKind::File if child.held != Held::None => self.has_it(&child, tell)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn has_it(&mut self, node: &Node, tell: &mut Tell<'_>) -> Result<()> {
        let replicas = self.overlay.index.read(|c| rows::replicas(c, node.id))?;
        if replicas.iter().any(|r| r.remote == self.remote.id) {
            return Ok(());
        }
        let Some(path) = self.overlay.index.path_of(node.id)? else {
            return Ok(());
        };
        if self.overlay.is_local_only(&path) {
            return Ok(());
        }
        let ours = &self.overlay.remotes;
        if self.remote.upload && self.waits(node)? {
            self.counts.waiting += 1;
        } else if replicas
            .iter()
            .any(|r| ours.iter().any(|one| one.id == r.remote))
        {
            self.counts.elsewhere += 1;
        } else {
            self.differs(&path, Difference::OnlyHere, tell);
        }
        Ok(())
    }
}
