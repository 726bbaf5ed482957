//! Names that change: the rows of what was renamed, and what must go up for it.

use rusqlite::params;

use super::node::{self, Held, Node, NodeId, NodeKind, Seen};
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::path::{Name, RelPath};

impl Writer {
    /// Gives a node another name. What had the name before is deleted here, its replicas
    /// becoming what the moved file will replace. `seen`: what a stored file looks like since, for
    /// a rename changes the ctime that the row remembers.
    pub fn rename(
        &mut self,
        id: NodeId,
        parent: NodeId,
        name: &Name,
        seen: Option<Seen>,
        now_ns: i64,
    ) -> Result<()> {
        let node = self.need(id)?;
        let is_stored = node.kind == NodeKind::File && node.held != Held::None;
        let seen = seen.filter(|now| is_stored && node.has_noted_bytes(now));
        if let Some(target) = node::child(&self.c, parent, name.as_bytes())? {
            if target.id == id {
                return Ok(());
            }
            self.check_replaceable(&node, &target)?;
            self.drop_node(&target)?;
        }
        self.run_sql(
            "UPDATE nodes SET parent = ?2, name = ?3, ctime_ns = ?4, seen_size = coalesce(?5, seen_size),
             seen_mtime_ns = coalesce(?6, seen_mtime_ns), seen_ino = coalesce(?7, seen_ino),
             seen_ctime_ns = coalesce(?8, seen_ctime_ns) WHERE id = ?1",
            params![
                id.0 as i64, parent.0 as i64, name.as_bytes(), now_ns, seen.map(|s| s.size as i64),
                seen.map(|s| s.mtime_ns), seen.map(|s| s.ino as i64), seen.map(|s| s.ctime_ns)
            ],
        )?;
        if node.kind == NodeKind::Dir {
            self.dir_moved();
        }
        self.touch_dir(node.parent, now_ns)?;
        if node.parent != parent {
            self.touch_dir(parent, now_ns)?;
        }
        let never_was_theirs = node.held == Held::None && node.origin.is_none();
        match node.kind == NodeKind::File && never_was_theirs {
            true => self.leave_behind(id, now_ns),
            false => Ok(()),
        }
    }

    fn check_replaceable(&self, node: &Node, target: &Node) -> Result<()> {
        match (node.kind, target.kind) {
            (NodeKind::Dir, NodeKind::Dir) => {
                if !node::children(&self.c, target.id, b"", 1)?.is_empty() {
                    return Err(Error::new(Kind::NotEmpty, "the directory is not empty"));
                }
                Ok(())
            }
            (NodeKind::Dir, _) => Err(Error::new(Kind::NotADirectory, "is not a directory")),
            (_, NodeKind::Dir) => Err(Error::new(Kind::IsADirectory, "is a directory")),
            _ => Ok(()),
        }
    }

    /// Swaps two names (`RENAME_EXCHANGE`).
    pub fn exchange(&mut self, a: NodeId, b: NodeId, now_ns: i64) -> Result<()> {
        let (a, b) = (self.need(a)?, self.need(b)?);
        let (Some(a_name), Some(b_name)) = (&a.name, &b.name) else {
            return Err(Error::new(Kind::Busy, "the root cannot move"));
        };
        let set = "UPDATE nodes SET parent = ?2, name = ?3, ctime_ns = ?4 WHERE id = ?1";
        // Through a name that no file can have, for the pair is unique.
        self.run_sql(
            set,
            params![a.id.0 as i64, a.parent.0 as i64, b"/".as_slice(), now_ns],
        )?;
        self.run_sql(
            set,
            params![b.id.0 as i64, a.parent.0 as i64, a_name.as_bytes(), now_ns],
        )?;
        self.run_sql(
            set,
            params![a.id.0 as i64, b.parent.0 as i64, b_name.as_bytes(), now_ns],
        )?;
        self.dir_moved();
        self.touch_dir(a.parent, now_ns)?;
        self.touch_dir(b.parent, now_ns).map(drop)
    }

    /// After a rename from `old`: every file at or beneath `id` whose key differs from its path goes up
    /// under the new path. With `propagate`, the old keys are deleted at the remotes, and what was to
    /// be replaced there; without, they stay there and stay hidden here. `local_only` says which
    /// paths never leave.
    pub fn requeue_moved(
        &mut self,
        id: NodeId,
        old: &RelPath,
        propagate: bool,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ms: i64,
    ) -> Result<()> {
        let top = id;
        let (mut work, mut files) = (vec![(id, old.clone())], Vec::new());
        while let Some((id, at)) = work.pop() {
            let Some(node) = node::node(&self.c, id)? else {
                continue;
            };
            let old = match &node.name {
                Some(name) if id != top => at.join(name)?,
                _ => at,
            };
            match node.kind {
                NodeKind::Dir => {
                    let inside = self.child_ids(id)?;
                    work.extend(inside.into_iter().map(|id| (id, old.clone())));
                }
                NodeKind::File => {
                    self.requeue_file(&node, &old, propagate, local_only, now_ms)?;
                    files.push(id);
                }
                NodeKind::Symlink => {}
            }
        }
        // Of what moved together, nothing was there before the other.
        match files.len() {
            0 | 1 => Ok(()),
            _ => self.queue_behind(&files),
        }
    }

    fn requeue_file(
        &mut self,
        node: &Node,
        old: &RelPath,
        propagate: bool,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ms: i64,
    ) -> Result<()> {
        let Some(path) = node::path(&self.c, node.id)? else {
            return Ok(());
        };
        let stays = local_only(&path);
        self.let_go_of_unseen(node, &path)?;
        let replaced = match propagate && !stays {
            true => self.to_be_replaced(node.id, old)?,
            false => Vec::new(),
        };
        // What was queued was meant for the old name, with that name's base. Its place it keeps.
        let places = self.give_up_places(node.id)?;
        if propagate && !stays {
            // Sent once the new name is up: until then the old one may be all that has the bytes.
            let its_own = node::replicas(&self.c, node.id)?.into_iter();
            for replica in its_own.chain(replaced) {
                // Not if another file has that name by now, and goes up under it.
                let taken = node::resolve(&self.c, &replica.key)?;
                let free = taken.is_none_or(|by| by.kind != NodeKind::File);
                if replica.key != path && (free || local_only(&replica.key)) {
                    self.queue_delete(&replica, now_ms)?;
                }
            }
        }
        let generation = match stays {
            true => self.fresh_generation(),
            false => self.queue_put_at(node.id, &path, now_ms)?,
        };
        self.take_places(node.id, &places)?;
        self.comes_back(node, &path)?;
        // Bytes that the remote has under the old name stay clean.
        self.run_sql(
            "UPDATE nodes SET dirty = ?2 WHERE id = ?1 AND dirty <> 0",
            params![node.id.0 as i64, generation as i64],
        )?;
        Ok(())
    }
}
