//! The first thing after a start: what an unclean end left is put where it belongs,
//! each in one line that `status` repeats.

use super::Overlay;
use crate::beneath::FileKind;
use crate::clock::Boot;
use crate::crash;
use crate::error::{Kind, Result};
use crate::index::{Attrs, Node, NodeId, ROOT, StagedRow, Writing, holding, outbox, runs};
use crate::path::RelPath;
use crate::store::StagedId;
use crate::transfer::commit::seen;

/// Rows looked at in one go.
const PAGE: usize = 1000;

/// Something that is not a file has the name by now, or the name of its directory.
fn is_in_the_way(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::IsADirectory | Kind::NotADirectory | Kind::Denied
    )
}

impl Overlay {
    /// Puts right what a killed daemon left. Nothing else runs yet.
    pub fn recover(&self) -> Result<()> {
        let how = self.how_it_ended()?;
        let shown = self.index.edit(|w| w.shown_until())?;
        // Said once, before anything else is done.
        let _ = self.shown_until.set(shown);
        // Before anything gets a number: removed files are known by that of their node.
        self.recover_removals()?;
        self.recover_moves()?;
        self.commit.recover_arriving()?;
        self.begin_runs()?;
        self.follow_root()?;
        self.recover_staged()?;
        self.recover_in_place()?;
        self.recover_conflicts()?;
        self.report_orphans()?;
        match how {
            Some(how) => self.sum_up(how),
            None => Ok(()),
        }
    }

    /// What became of the last mount, if it was not unmounted.
    fn how_it_ended(&self) -> Result<Option<&'static str>> {
        let (last, boot) = (self.index.read(runs::last)?, Boot::current(&self.clock));
        let (Some(last), Some(boot)) = (last, boot) else {
            return Ok(None);
        };
        Ok(match (last.ended_ms, last.boot == boot.id) {
            (Some(_), _) => None,
            (None, true) => Some("its daemon was killed"),
            (None, false) => Some("the machine went down"),
        })
    }

    /// After an end that was none: in a line each, what it was and what goes on from there. What
    /// became of single files was said before.
    fn sum_up(&self, how: &str) -> Result<()> {
        let (downloads, bytes) = self.store.partials()?;
        let uploads = self.index.read(outbox::totals)?.pending;
        let conflicts = self.index.read(holding::conflict_count)?;
        let went_on = [
            (
                uploads,
                format!("uploads that waited, and go on: {uploads}"),
            ),
            (
                downloads,
                format!(
                    "downloads of which pieces are here, and that go on from there when they are read: {downloads} ({} MiB)",
                    bytes.div_ceil(1 << 20)
                ),
            ),
            (
                conflicts,
                format!("conflicts that wait for a decision (`larder conflicts`): {conflicts}"),
            ),
        ];
        for (_, line) in went_on.into_iter().filter(|(n, _)| *n > 0) {
            self.note(line);
        }
        self.note(format!(
            "the last mount was not unmounted: {how}; all that was closed is here, and what had to be put right was"
        ));
        Ok(())
    }

    /// The top of the mount looks as the folder beneath it does, to those who may enter as well.
    fn follow_root(&self) -> Result<()> {
        let facts = self.store.root().facts()?;
        let attrs = Attrs {
            mode: Some(facts.mode),
            uid: Some(facts.uid),
            gid: Some(facts.gid),
            mtime_ns: Some(facts.mtime_ns),
        };
        self.index
            .edit(move |w| w.set_attrs(ROOT, attrs, false, facts.ctime_ns))?;
        Ok(())
    }

    fn recover_staged(&self) -> Result<()> {
        let known = self.index.read(holding::staged)?;
        for row in &known {
            self.recover_one_staged(row)?;
        }
        for (id, facts) in self.store.staged()? {
            if known.iter().any(|row| row.id == id.0) {
                continue;
            }
            // Made just before its row: nothing was written to it that anybody was promised.
            match facts.size {
                0 => self.store.drop_staged(id)?,
                _ => self.keep(id, &RelPath::root())?,
            }
        }
        Ok(())
    }

    pub(super) fn recover_one_staged(&self, row: &StagedRow) -> Result<()> {
        let id = StagedId(row.id);
        let now = self.clock.now_ns();
        let staged_id = row.id;
        let facts = match self.store.open_staged(id) {
            Ok(file) => crate::beneath::facts_of(&file)?,
            Err(error) if error.kind() == Kind::NotFound => return self.recover_published(row),
            Err(error) => return Err(error),
        };
        let path = self.index.path_of(row.node)?;
        match (&path, row.closed) {
            (Some(path), Some(closed)) if closed == (facts.size, facts.mtime_ns) => {
                self.recover_closed(row, path, closed)?;
            }
            (Some(path), _) => {
                self.keep(id, path)?;
                self.index.edit(move |w| w.abandon_staged(staged_id, now))?;
            }
            (None, closed) => {
                // Its name was removed while it was written. What a close() was promised for is
                // kept all the same: a file too many is better than one too few.
                match closed {
                    Some(_) => self.keep(id, &RelPath::root())?,
                    None => self.store.drop_staged(id)?,
                }
                self.index.edit(move |w| w.abandon_staged(staged_id, now))?;
            }
        }
        Ok(())
    }

    /// Renamed into the tree, and killed before the row: what was closed is there under its name.
    fn recover_published(&self, row: &StagedRow) -> Result<()> {
        let (id, now) = (StagedId(row.id), self.clock.now_ns());
        let found = self.index.path_of(row.node)?;
        if let (Some(path), Some(closed)) = (found, row.closed)
            && let Some(facts) = self.store.stored(&path)?
            && facts.kind == FileKind::File
            && (facts.size, facts.mtime_ns) == closed
        {
            let queue = !self.is_local_only(&path);
            self.commit
                .record_written(row.node, Some(id), &facts, queue)?;
            crash::point("recover.published");
            self.note_whole(&path);
            return Ok(());
        }
        self.index.edit(move |w| w.abandon_staged(id.0, now))
    }

    /// Closed, and killed before it had its name: it gets it now, unless the folder has something
    /// newer there, which somebody put there since.
    fn recover_closed(&self, row: &StagedRow, path: &RelPath, closed: (u64, i64)) -> Result<()> {
        let (id, now) = (StagedId(row.id), self.clock.now_ns());
        let local = |path: &RelPath| self.is_local_only(path);
        let published = match self.is_newer_by_hand(row.node, path, closed.1)? {
            true => false,
            false => match self.commit.written(row.node, id, &local) {
                Ok(_) => true,
                Err(error) if is_in_the_way(error.kind()) => false,
                Err(error) => return Err(error),
            },
        };
        if published {
            self.note_whole(path);
            return Ok(());
        }
        let kept = self.store.orphan(id, path)?;
        self.index.edit(move |w| w.abandon_staged(id.0, now))?;
        self.note(format!(
            "{path}: was written just before the last end, and replaced in the folder since; what was written is kept as .larder/orphans/{kept}"
        ));
        Ok(())
    }

    fn note_whole(&self, path: &RelPath) {
        self.note(format!(
            "{path}: was closed just before the last end; it is whole and in place"
        ));
    }

    /// Whether the folder has a file at `path` that is not the one of the row, and newer than `mtime_ns`.
    fn is_newer_by_hand(&self, id: NodeId, path: &RelPath, mtime_ns: i64) -> Result<bool> {
        let (Some(facts), Some(node)) = (self.store.stored(path)?, self.index.node(id)?) else {
            return Ok(false);
        };
        let now = (facts.size, facts.mtime_ns);
        let known = now == (node.size, node.mtime_ns)
            || node.seen.is_some_and(|s| now == (s.size, s.mtime_ns));
        Ok(!known && facts.mtime_ns > mtime_ns)
    }

    fn keep(&self, id: StagedId, path: &RelPath) -> Result<()> {
        let kept = self.store.orphan(id, path)?;
        self.note(format!(
            "{path}: was not closed by its writer; the unfinished file is kept as .larder/orphans/{kept}"
        ));
        Ok(())
    }

    fn recover_in_place(&self) -> Result<()> {
        for node in self.index.read(|c| holding::unfinished(c, PAGE))? {
            if node.writing == Writing::Open {
                self.recover_one_in_place(&node)?;
            }
        }
        Ok(())
    }

    pub(super) fn recover_one_in_place(&self, node: &Node) -> Result<()> {
        let (id, now) = (node.id, self.clock.now_ns());
        let Some(path) = self.index.path_of(id)? else {
            return Ok(());
        };
        let Some(facts) = self
            .store
            .stored(&path)?
            .filter(|f| f.kind == FileKind::File)
        else {
            // Removed or replaced by hand since: the comparison of its directory will tell.
            return Ok(());
        };
        let local = self.is_local_only(&path);
        // Another file, which a rename put there just before the end, or somebody since: the comparison
        // of its directory will tell, too.
        let is_another = node.seen.is_some_and(|noted| noted.ino != facts.ino);
        if Some(seen(&facts)) == node.seen || local || is_another {
            return self
                .index
                .edit(move |w| w.set_writing(id, Writing::No, now));
        }
        self.record_torn(id, &facts)?;
        self.note(format!(
            "{path}: was left unfinished while it was changed in place; it is not published until it is written again"
        ));
        Ok(())
    }

    fn report_orphans(&self) -> Result<()> {
        let orphans = self.store.orphans()?.len();
        if orphans > 0 {
            self.note(format!(
                "unfinished files are kept in .larder/orphans: {orphans}"
            ));
        }
        Ok(())
    }
}
