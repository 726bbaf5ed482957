//! Keeps the store within its limits, and carries out what the index has decided to
//! drop (promise P11).

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Overlay;
use crate::error::{Kind, Result};
use crate::index::{Doomed, Node, NodeId, holding, node as rows};
use crate::path::RelPath;
use crate::store::evict::{Candidate, Limits, Need, Usage, need, pick};

/// How often the limits are looked at when nothing happens.
const LOOK: Duration = Duration::from_secs(15);
/// Time between two looks at least.
const PAUSE: Duration = Duration::from_millis(100);
/// How often an end that could not be noted is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Candidates read in one go.
const PAGE: usize = 512;
/// Uses noted in memory before they are written.
const USES: usize = 16_384;
/// Files that may be on their way ahead of readers when one more is to come.
const FILES_AHEAD: u64 = 256;
/// What a writer that meets a full disk asks for.
const AT_ONCE: Need = Need {
    bytes: 64 << 20,
    files: 16,
};

/// What an eviction came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    pub files: u64,
    pub bytes: u64,
}

impl Overlay {
    /// Notes that a file was used; least recently used ones go first.
    pub(super) fn used(&self, id: NodeId) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() < USES {
            uses.insert(id, self.clock.now_ms() / 1000);
        }
        if uses.len() == USES {
            self.room.notify_one();
        }
    }

    /// Runs until `stop`: limits, doomed files, the graveyard, notes of use.
    pub async fn keep_room(self: Arc<Self>, limits: Limits, stop: CancellationToken) {
        loop {
            let this = self.clone();
            let done = tokio::task::spawn_blocking(move || this.tidy_now(&limits)).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(%error, "the store could not be tidied");
            }
            // Who writes many files is not to pay for a look after each.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.room.notified() => {}
                () = self.outgrown(&limits) => {}
                () = tokio::time::sleep(if self.has_undone() { RETRY } else { LOOK }) => {}
            }
        }
    }

    /// Ends when downloads have taken the store over a limit.
    async fn outgrown(&self, limits: &Limits) {
        loop {
            self.downloads.kept().await;
            // What cannot be told now will be at the next look.
            if self.usage().is_ok_and(|now| need(limits, &now).is_some()) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Fetches what readers are about to open, as long as nothing has to go for it; until `stop`.
    pub async fn fetch_ahead(self: Arc<Self>, limits: Limits, stop: CancellationToken) {
        let this = self.clone();
        let has_room = move |bytes| this.has_room_for(bytes, &limits).unwrap_or_default();
        let (downloads, metrics) = (self.downloads.clone(), self.metrics.clone());
        self.ahead
            .clone()
            .run(downloads, metrics, Box::new(has_room), stop)
            .await;
    }

    fn has_room_for(&self, bytes: u64, limits: &Limits) -> Result<bool> {
        let now = self.usage()?;
        if now.free_bytes <= bytes {
            return Ok(false);
        }
        let then = Usage {
            held_bytes: now.held_bytes.saturating_add(bytes),
            held_files: now.held_files.saturating_add(FILES_AHEAD),
            free_bytes: now.free_bytes.saturating_sub(bytes),
        };
        Ok(need(limits, &then).is_none())
    }

    /// Asks for a look at the limits and at what is doomed.
    pub fn tidy_soon(&self) {
        self.room.notify_one();
    }

    /// Remotes' facts have changed: what they deleted goes, and what they were asked is asked anew.
    pub fn heard_news(&self) {
        self.asked.forget();
        self.tidy_soon();
    }

    /// Does once what [`keep_room`](Overlay::keep_room) does again and again. Blocks.
    pub fn tidy_now(&self, limits: &Limits) -> Result<()> {
        self.forget_late();
        // On a full disk one may fail where the next one helps.
        let noted = self.write_uses();
        let buried = self.bury_doomed();
        let kept = self.keep_limits(limits);
        self.store.empty_graveyard()?;
        noted.and(buried).and(kept).and(self.finish_undone())
    }

    /// What is left to do before the folder is a plain one: what remotes deleted goes, what was
    /// used is noted, and what landed at the very end keeps to the limits, too. Blocks.
    pub fn tidy_last(&self, limits: &Limits) -> Result<()> {
        if let Err(error) = self.bury_doomed() {
            tracing::warn!(%error, "what a remote deleted stays in the folder until the next mount");
        }
        let noted = self.write_uses();
        if let Err(error) = self.keep_limits(limits) {
            tracing::warn!(%error, "the folder stays larger than its limits until the next mount");
        }
        self.store.empty_graveyard()?;
        noted
    }

    fn keep_limits(&self, limits: &Limits) -> Result<()> {
        let Some(need) = need(limits, &self.usage()?) else {
            return Ok(());
        };
        let gone = self.evict_some(need)?;
        if gone.files > 0 {
            tracing::info!(
                files = gone.files,
                bytes = gone.bytes,
                "evicted to stay within the limits"
            );
        }
        // Partial downloads are the next best thing to give up on a full disk.
        if gone.bytes < need.bytes {
            self.downloads.prune_idle()?;
        }
        Ok(())
    }

    /// Writes down when files were used.
    pub fn write_uses(&self) -> Result<()> {
        let uses = std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner));
        if uses.is_empty() {
            return Ok(());
        }
        let uses: Vec<_> = uses.into_iter().collect();
        self.index.edit(move |w| w.used(&uses))
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let totals = self.index.read(holding::totals)?;
        Ok(Usage {
            held_bytes: totals.held_bytes,
            held_files: totals.held_files,
            free_bytes: self.store.space()?.free,
        })
    }

    /// Files that their remote has no more, and whose rows are gone.
    fn bury_doomed(&self) -> Result<()> {
        loop {
            let doomed = self.index.read(|c| holding::doomed(c, PAGE))?;
            if doomed.is_empty() {
                return Ok(());
            }
            for file in doomed {
                let _paths = self.commit.paths_stay();
                self.bury_one(file)?;
            }
        }
    }

    /// The same for what is at a path or beneath it. The caller holds the paths.
    pub(super) fn bury_doomed_under(&self, path: &RelPath) -> Result<()> {
        loop {
            let doomed = self.index.read(|c| holding::doomed_under(c, path, PAGE))?;
            if doomed.is_empty() {
                return Ok(());
            }
            doomed
                .into_iter()
                .try_for_each(|file| self.bury_one(file))?;
        }
    }

    /// What remotes deleted goes from the way to `path`, and from beneath it.
    pub(super) fn clear_way(&self, path: &RelPath) -> Result<()> {
        let mut top = path.clone();
        while let Some(above) = top.parent().filter(|above| !above.is_root()) {
            top = above;
        }
        self.bury_doomed_under(&top)
    }

    fn bury_one(&self, file: Doomed) -> Result<()> {
        match self.store.root().stat(&file.path) {
            Ok(facts)
                if (facts.size, facts.mtime_ns, facts.ino)
                    == (file.size, file.mtime_ns, file.ino) =>
            {
                self.store.bury(&file.path)?;
                self.prune_dirs(&file.path);
            }
            // Something else has the name by now.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
        let path = file.path;
        self.index.edit(move |w| w.doom_done(&path))
    }

    /// Directories that the namespace has no more go once they are empty.
    fn prune_dirs(&self, file: &RelPath) {
        let mut at = file.parent();
        while let Some(dir) = at.filter(|d| !d.is_root()) {
            let known = self.index.read(|c| rows::resolve(c, &dir));
            let is_gone = match known {
                Ok(Some(node)) => node.kind != crate::index::NodeKind::Dir,
                Ok(None) => true,
                Err(_) => false,
            };
            if !is_gone || self.store.root().remove_dir(&dir).is_err() {
                return;
            }
            at = dir.parent();
        }
    }

    fn evict_some(&self, mut need: Need) -> Result<Evicted> {
        let mut gone = Evicted::default();
        let mut skip = 0;
        loop {
            let page = self.index.read(|c| holding::evictable(c, PAGE, skip))?;
            if page.is_empty() {
                return Ok(gone);
            }
            let sizes = page.iter().map(|n| Candidate {
                id: n.id.0,
                size: stored_size(n),
            });
            let picked = pick(need, sizes);
            let mut went = 0;
            for candidate in &picked {
                if self.evict(NodeId(candidate.id))? {
                    went += 1;
                    gone.files += 1;
                    gone.bytes += candidate.size;
                    need.bytes = need.bytes.saturating_sub(candidate.size);
                    need.files = need.files.saturating_sub(1);
                }
            }
            if need == Need::default() {
                return Ok(gone);
            }
            // What could not go now is passed over.
            skip += page.len() - went;
        }
    }

    fn evict(&self, id: NodeId) -> Result<bool> {
        let closed = || !self.opens.is_open(id) && self.downloads.under_way(id).is_none();
        let gone = self.commit.evict(id, &closed)?;
        if gone {
            self.metrics.evicted.add(1);
        }
        Ok(gone)
    }

    /// Makes room for somebody who met a full disk. Returns whether there may be some.
    pub(super) fn make_room_now(&self) -> Result<bool> {
        let gone = match self.evict_some(AT_ONCE) {
            Err(error) if error.kind() == Kind::NoSpace => {
                // The index needs some itself, to note what went: that is unlinked first.
                self.store.empty_graveyard()?;
                self.evict_some(AT_ONCE)?
            }
            done => done?,
        };
        self.store.empty_graveyard()?;
        Ok(gone.bytes > 0 || self.uploads.wait_for_given_up() || self.downloads.prune_idle()? > 0)
    }

    /// Evicts what is clean and closed at `path` and beneath it. Returns what went, and how many
    /// held files stayed because they are dirty, pinned or open.
    pub fn evict_under(&self, path: &RelPath) -> Result<(Evicted, u64)> {
        let (mut gone, mut stayed) = (Evicted::default(), 0);
        let Some(top) = self.index.read(|c| rows::resolve(c, path))? else {
            return Err(
                crate::error::Error::new(Kind::NotFound, "no such file in the mount").about(path),
            );
        };
        let mut work = vec![top];
        while let Some(node) = work.pop() {
            if node.kind == crate::index::NodeKind::File {
                self.evict_one(&node, &mut gone, &mut stayed)?;
                continue;
            }
            let mut after = Vec::new();
            loop {
                let page = self
                    .index
                    .read(|c| rows::children(c, node.id, &after, PAGE))?;
                let Some(name) = page.last().and_then(|n| n.name.clone()) else {
                    break;
                };
                after = name.as_bytes().to_vec();
                for child in page {
                    match child.kind {
                        crate::index::NodeKind::Dir => work.push(child),
                        _ => self.evict_one(&child, &mut gone, &mut stayed)?,
                    }
                }
            }
        }
        // Who asked for room has it when the answer comes.
        self.store.empty_graveyard()?;
        Ok((gone, stayed))
    }

    fn evict_one(&self, node: &Node, gone: &mut Evicted, stayed: &mut u64) -> Result<()> {
        if node.kind != crate::index::NodeKind::File || node.held == crate::index::Held::None {
            return Ok(());
        }
        if self.evict(node.id)? {
            gone.files += 1;
            gone.bytes += stored_size(node);
        } else {
            *stayed += 1;
        }
        Ok(())
    }
}

fn stored_size(node: &Node) -> u64 {
    node.seen.map_or(node.size, |seen| seen.size)
}
