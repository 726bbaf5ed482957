//! The store's tree against its rows: what people did to the folder while it was not
//! mounted (promise P7).
//!
//! A directory is compared when it is first touched after the start, and all of them
//! in the background. New and changed files are local writes; files that are gone are
//! merely no longer held.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Overlay;
use crate::beneath::{Entry, Facts, FileKind, SET_ID};
use crate::error::{Error, Kind, Result};
use crate::index::{
    Attrs, Held, NewNode, Node, NodeId, NodeKind, Operation, ROOT, Writer, Writing, holding,
    node as rows, outbox,
};
use crate::path::{Name, RelPath};
use crate::transfer::commit::seen;

/// Edits made in one transaction.
const CHUNK: usize = 1000;

/// What a stored entry means for its row; pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As the row says.
    Same,
    /// Only what the row remembers of it is out of date.
    See,
    /// The bytes of the version the row shows.
    Adopt,
    /// A local write.
    Written,
    /// A new name.
    New,
    /// A directory where the row has a file, or the other way about.
    OtherKind,
}

pub(super) fn verdict(row: Option<&Node>, facts: &Facts) -> Verdict {
    let Some(row) = row else { return Verdict::New };
    let same_kind = matches!(
        (row.kind, facts.kind),
        (NodeKind::File, FileKind::File)
            | (NodeKind::Dir, FileKind::Dir)
            | (NodeKind::Symlink, FileKind::Symlink)
    );
    if !same_kind {
        return Verdict::OtherKind;
    }
    if row.kind != NodeKind::File {
        return Verdict::Same;
    }
    let now = seen(facts);
    match (row.held, row.seen) {
        (Held::None, _) | (_, None) => {
            // A commit that was killed before its row, or a copy that people made with its time.
            let same = facts.size == row.size && facts.mtime_ns == row.mtime_ns && row.dirty == 0;
            if same {
                Verdict::Adopt
            } else {
                Verdict::Written
            }
        }
        (_, Some(before)) if before == now => Verdict::Same,
        (_, Some(before))
            if (before.size, before.mtime_ns, before.ino) == (now.size, now.mtime_ns, now.ino) =>
        {
            Verdict::See
        }
        _ => Verdict::Written,
    }
}

/// The permissions that people gave a stored file, if they are not those of the row, to which we
/// may have added what we need ourselves.
fn mode_by_hand(row: &Node, facts: &Facts) -> Option<Attrs> {
    let mode = facts.mode & 0o7777;
    // Nor does the folder have all bits that were set (`SET_ID`).
    let ours = row.mode & !SET_ID;
    let is_ours = mode == row.mode || mode == ours || mode == ours | 0o600;
    (row.kind == NodeKind::File && !is_ours).then_some(Attrs {
        mode: Some(mode),
        ..Attrs::default()
    })
}

/// How often a directory is compared whose rows change meanwhile.
const TRIES: u32 = 20;

type Edit = Box<dyn FnOnce(&mut Writer) -> Result<()> + Send>;

impl Overlay {
    /// Compares a directory of the store with its rows, once a start. What is made in the tree before it
    /// has its row is made after this: else the comparison could find it, and make the row first.
    pub(super) fn reconcile_once(&self, dir: NodeId) -> Result<()> {
        if self.is_compared(dir) {
            return Ok(());
        }
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(dir);
        if self.is_compared(dir) {
            return Ok(());
        }
        self.reconcile(dir)?;
        self.mark_reconciled(dir);
        Ok(())
    }

    /// Whether the directory was compared since the start.
    pub(super) fn is_compared(&self, dir: NodeId) -> bool {
        if self.all_reconciled.load(Ordering::Acquire) {
            return true;
        }
        let reconciled = self.reconciled.lock();
        reconciled
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&dir)
    }

    pub(super) fn mark_reconciled(&self, dir: NodeId) {
        if !self.all_reconciled.load(Ordering::Acquire) {
            self.reconciled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(dir);
        }
    }

    /// Compares the whole tree, directory by directory. Blocks; for a thread of its own.
    pub fn reconcile_all(self: &Arc<Self>, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut work = VecDeque::from([ROOT]);
        let mut failed = None;
        while let Some(dir) = work.pop_front() {
            if stop() {
                return Ok(());
            }
            // One that cannot be compared does not keep the others from it.
            if let Err(error) = self.reconcile_once(dir) {
                failed.get_or_insert(error);
                continue;
            }
            let mut after = Vec::new();
            loop {
                let page = self
                    .index
                    .read(|c| rows::child_dirs(c, dir, &after, 1000))?;
                let Some((_, last)) = page.last() else { break };
                after = last.clone();
                work.extend(page.into_iter().map(|(id, _)| id));
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.all_reconciled.store(true, Ordering::Release);
        self.index.edit(|w| w.folder_compared())?;
        self.outage_is_over()?;
        match self.found.swap(0, Ordering::Relaxed) {
            0 => {}
            1 => self.note("1 file was added or changed in the folder while it was not mounted; it counts as written here".into()),
            n => self.note(format!("{n} files were added or changed in the folder while it was not mounted; they count as written here")),
        }
        self.reconciled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(())
    }

    /// The folder says nothing of the order in which people made what is in it: what is published
    /// last goes up after all that was found, and after what the last life left.
    pub fn put_in_order(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self
                .index
                .read(|c| outbox::ready(c, i64::MAX, after, CHUNK))?;
            let Some(end) = page.last() else { break };
            after = end.id;
            let mut last = Vec::new();
            for row in page {
                if let Operation::Put(id) = row.operation
                    && let Some(path) = self.index.path_of(id)?
                    && self.settings.publish_last.matches(&path)
                {
                    last.push(id);
                }
            }
            if stop() {
                return Ok(());
            }
            if !last.is_empty() {
                self.index.edit(move |w| w.queue_behind(&last))?;
            }
        }
        self.in_order.store(true, Ordering::SeqCst);
        self.uploads.kick();
        Ok(())
    }

    /// Rows come and go meanwhile, with what a remote lists: then they are compared anew.
    fn reconcile(&self, dir: NodeId) -> Result<()> {
        for _ in 1..TRIES {
            match self.compare_dir(dir) {
                Err(error)
                    if matches!(error.kind(), Kind::Exists | Kind::Stale | Kind::NotFound) => {}
                done => return done,
            }
        }
        self.compare_dir(dir)
    }

    fn compare_dir(&self, dir: NodeId) -> Result<()> {
        let path = match self.index.path_of(dir)? {
            Some(path) => path,
            None => return Ok(()),
        };
        // The rows first: a file that is published meanwhile is then found and not missed.
        let held = self.index.read(|c| rows::held_children(c, dir))?;
        let entries = match self.store.root().read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) => {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut missing: HashMap<Vec<u8>, Node> = held
            .into_iter()
            .filter_map(|node| Some((node.name.as_ref()?.as_bytes().to_vec(), node)))
            .collect();
        let (mut edits, mut found) = (Vec::new(), 0);
        for entry in entries {
            let row = missing.remove(&entry.name);
            // Nearly all; and what was changed since that row was read was changed through us.
            if row.is_some_and(|row| verdict(Some(&row), &entry.facts) == Verdict::Same) {
                continue;
            }
            found += u64::from(self.compare(dir, &path, entry, &mut edits)?);
            if edits.len() >= CHUNK {
                self.apply_edits(&mut edits)?;
            }
        }
        for (_, node) in missing {
            self.lost(&path, node, &mut edits);
        }
        self.apply_edits(&mut edits)?;
        if found > 0 {
            self.uploads.kick();
            tracing::info!(%path, found, "files of the folder that the index did not know");
            self.found.fetch_add(found, Ordering::Relaxed);
        }
        Ok(())
    }

    fn apply_edits(&self, edits: &mut Vec<Edit>) -> Result<()> {
        if edits.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(edits);
        self.index
            .edit(move |w| batch.into_iter().try_for_each(|edit| edit(w)))
    }

    /// Compares one entry. Returns whether it is a local write.
    fn compare(
        &self,
        dir: NodeId,
        at: &RelPath,
        entry: Entry,
        edits: &mut Vec<Edit>,
    ) -> Result<bool> {
        let Ok(name) = Name::new(&entry.name) else {
            return Ok(false);
        };
        let Ok(path) = at.join(&name) else {
            return Ok(false);
        };
        let row = self.index.read(|c| rows::child(c, dir, name.as_bytes()))?;
        if row
            .as_ref()
            .is_some_and(|r| self.opens.is_being_written(r.id))
        {
            return Ok(false);
        }
        let facts = entry.facts;
        if row.as_ref().is_none_or(|r| r.held == Held::None) && self.is_doomed(&path, &facts)? {
            return Ok(false);
        }
        let now = seen(&facts);
        let now_ms = self.clock.now_ms();
        let queue = !self.is_local_only(&path);
        let unsure = queue && facts.kind == FileKind::File && self.is_unsure(&facts);
        match (verdict(row.as_ref(), &facts), row) {
            (Verdict::New, _) if self.is_left_over(&path, &facts)? => Ok(false),
            (Verdict::New, _) => self.adopt_new(dir, name, &path, facts, edits),
            (Verdict::See, Some(row)) => {
                let mode = mode_by_hand(&row, &facts);
                let now_ns = self.clock.now_ns();
                edits.push(Box::new(move |w| {
                    w.saw(row.id, now)?;
                    match mode {
                        Some(mode) => w.set_attrs(row.id, mode, false, now_ns).map(|_| ()),
                        None => Ok(()),
                    }
                }));
                Ok(false)
            }
            (Verdict::Adopt, Some(row)) => {
                edits.push(Box::new(move |w| w.adopt_clean(row.id, now)));
                Ok(false)
            }
            // It was written through us a moment ago: whoever wrote it says what it is.
            (Verdict::Written, Some(row)) if self.is_changing(&row, &path, &facts)? => Ok(false),
            (Verdict::Written, Some(row)) if unsure && facts.size < row.size => {
                self.keep_what_is_left(&row, &path)?;
                Ok(false)
            }
            (Verdict::Written, Some(row)) => {
                let (now_ns, mode) = (self.clock.now_ns(), mode_by_hand(&row, &facts));
                let unseen = row.dirty == 0 && !self.was_seen(&row);
                edits.push(Box::new(move |w| {
                    let now_is = w.need_node(row.id)?;
                    if (now_is.seen, now_is.writing) != (row.seen, row.writing) {
                        return Ok(());
                    }
                    if let Some(mode) = mode {
                        w.set_attrs(row.id, mode, false, now_ns)?;
                    }
                    if unseen {
                        w.made_unseen(row.id)?;
                    }
                    w.written(row.id, None, now, queue, now_ms)?;
                    let doubt = if unsure { Writing::Torn } else { Writing::No };
                    w.set_writing(row.id, doubt, now_ns)
                }));
                if unsure {
                    self.note_unsure(&path);
                }
                Ok(true)
            }
            (Verdict::OtherKind, Some(row)) => self.another_kind(&row, name, &path, edits),
            (_, _) => Ok(false),
        }
    }

    /// Whether a directory was only the path of what its remote deleted: then it goes with that.
    fn is_left_over(&self, path: &RelPath, facts: &Facts) -> Result<bool> {
        if facts.kind != FileKind::Dir {
            return Ok(false);
        }
        self.bury_doomed_under(path)?;
        match self.store.root().stat(path) {
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            found => found.map(|_| false),
        }
    }

    /// Whether whoever put other bytes under the node's name could see what it shows: not where the
    /// folder has an older version, nor where it was heard of since the folder was left to itself.
    fn was_seen(&self, row: &Node) -> bool {
        match row.held {
            Held::Whole => true,
            Held::Stale => false,
            Held::None => self.shown_until.get().is_none_or(|last| row.id <= *last),
        }
    }

    /// Whether a file that differs from its row is not as somebody left it while nobody looked: its
    /// writers have come to an end since it was looked at, or their end is still to be noted.
    fn is_changing(&self, row: &Node, path: &RelPath, facts: &Facts) -> Result<bool> {
        let now = self.store.root().stat(path);
        Ok(row.writing == Writing::Open || !now.is_ok_and(|now| seen(&now) == seen(facts)))
    }

    /// The folder has another kind of thing than the row. What is left of a version that its
    /// remote has replaced goes. Anything else people made: it is shown, and the remote's yields.
    fn another_kind(
        &self,
        row: &Node,
        name: Name,
        path: &RelPath,
        edits: &mut Vec<Edit>,
    ) -> Result<bool> {
        self.bury_doomed_under(path)?;
        let facts = match self.store.root().stat(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if verdict(Some(row), &facts) != Verdict::OtherKind || facts.kind == FileKind::Other {
            return Ok(false);
        }
        let (id, now_ns) = (row.id, self.clock.now_ns());
        edits.push(Box::new(move |w| w.give_way(id, now_ns)));
        if row.origin.is_some() || row.kind == NodeKind::Dir {
            self.note(format!(
                "{path}: is something else in the folder than at the remote; the folder's is shown and cannot go up, the remote's is hidden"
            ));
        }
        self.detach(id);
        self.adopt_new(row.parent, name, path, facts, edits)
    }

    /// Whether the stored file was deleted at its remote while it was held: it goes as soon as
    /// somebody gets to it.
    pub(super) fn is_doomed(&self, path: &RelPath, facts: &Facts) -> Result<bool> {
        let doomed = self.index.read(|c| holding::doomed_at(c, path))?;
        Ok(doomed.is_some_and(|d| {
            (d.size, d.mtime_ns, d.ino) == (facts.size, facts.mtime_ns, facts.ino)
        }))
    }

    fn adopt_new(
        &self,
        dir: NodeId,
        name: Name,
        path: &RelPath,
        facts: Facts,
        edits: &mut Vec<Edit>,
    ) -> Result<bool> {
        let kind = match facts.kind {
            FileKind::File => NodeKind::File,
            FileKind::Dir => NodeKind::Dir,
            FileKind::Symlink => NodeKind::Symlink,
            FileKind::Other => return Ok(false),
        };
        let queue = !self.is_local_only(path);
        let unsure = queue && kind == NodeKind::File && self.is_unsure(&facts);
        if unsure {
            self.note_unsure(path);
        }
        let (now_ns, now_ms) = (self.clock.now_ns(), self.clock.now_ms());
        let new = NewNode {
            parent: dir,
            name,
            kind,
            mode: facts.mode,
            uid: Some(facts.uid),
            gid: Some(facts.gid),
            size: facts.size,
            mtime_ns: facts.mtime_ns,
        };
        edits.push(Box::new(move |w| {
            let node = w.create(&new, now_ns)?;
            if kind == NodeKind::File {
                w.written(node.id, None, seen(&facts), queue, now_ms)?;
            }
            if unsure {
                w.set_writing(node.id, Writing::Torn, now_ns)?;
            }
            Ok(())
        }));
        Ok(kind == NodeKind::File)
    }

    /// The row says held, the tree has nothing.
    fn lost(&self, at: &RelPath, node: Node, edits: &mut Vec<Edit>) {
        // Or it is being removed at this moment, row and all.
        let is_leaving = self.store.is_removing(node.id.0).unwrap_or(true);
        if is_leaving || self.opens.is_being_written(node.id) {
            return;
        }
        let (id, now) = (node.id, self.clock.now_ns());
        match node.kind {
            NodeKind::File => {
                if node.dirty != 0
                    && let Some(name) = &node.name
                {
                    self.note(format!(
                        "{at}/{name}: written here, and removed from the folder before it went up"
                    ));
                }
                edits.push(Box::new(move |w| w.not_held(id, now)));
            }
            NodeKind::Symlink => edits.push(Box::new(move |w| w.unlink(id, false, now))),
            // With children it is still a path; without, it was removed.
            NodeKind::Dir => edits.push(Box::new(move |w| w.dir_lost(id, now))),
        }
    }

    /// A held file is not what its row says, found at an open: its row follows. Returns whether it
    /// has other bytes. The caller holds the node.
    pub(super) fn follow_hand(&self, node: &Node, path: &RelPath, facts: &Facts) -> Result<bool> {
        let (id, now) = (node.id, seen(facts));
        match verdict(Some(node), facts) {
            Verdict::Same => Ok(false),
            Verdict::See => self.index.edit(move |w| w.saw(id, now)).map(|()| false),
            Verdict::Adopt => self
                .index
                .edit(move |w| w.adopt_clean(id, now))
                .map(|()| false),
            Verdict::Written if node.writing == Writing::Open => {
                // Left so by writers whose end is still to be noted.
                self.record_torn(id, facts).map(|()| true)
            }
            Verdict::Written => {
                self.note(format!(
                    "{path}: changed in the store by hand; it counts as written here"
                ));
                self.commit
                    .record_written(id, None, facts, !self.is_local_only(path))?;
                self.uploads.kick();
                Ok(true)
            }
            Verdict::New | Verdict::OtherKind => {
                Err(Error::new(Kind::Stale, "the stored file became something else").about(path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Seen;

    fn facts(size: u64, mtime_ns: i64, ino: u64, ctime_ns: i64) -> Facts {
        Facts {
            kind: FileKind::File,
            size,
            mtime_ns,
            ctime_ns,
            atime_ns: 0,
            ino,
            dev: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            blocks: 0,
        }
    }

    fn row(held: Held, seen: Option<Seen>) -> Node {
        Node {
            size: 5,
            mtime_ns: 7,
            held,
            seen,
            ..Node::sample(NodeId(2))
        }
    }

    #[test]
    fn p7_what_people_did_to_the_folder() {
        let before = Seen {
            size: 5,
            mtime_ns: 7,
            ino: 1,
            ctime_ns: 9,
        };
        let held = row(Held::Whole, Some(before));
        assert_eq!(verdict(None, &facts(5, 7, 1, 9)), Verdict::New);
        assert_eq!(verdict(Some(&held), &facts(5, 7, 1, 9)), Verdict::Same);
        assert_eq!(verdict(Some(&held), &facts(5, 7, 1, 10)), Verdict::See);
        assert_eq!(verdict(Some(&held), &facts(5, 8, 1, 10)), Verdict::Written);
        assert_eq!(verdict(Some(&held), &facts(5, 7, 2, 10)), Verdict::Written);
        let remote = row(Held::None, None);
        assert_eq!(verdict(Some(&remote), &facts(5, 7, 3, 3)), Verdict::Adopt);
        assert_eq!(verdict(Some(&remote), &facts(6, 7, 3, 3)), Verdict::Written);
    }
}
