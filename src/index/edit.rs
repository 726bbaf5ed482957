//! What local programs do to the namespace: create, write, remove; names that change: `rename`.

use rusqlite::{OptionalExtension as _, params};

use super::node::{self, Held, Node, NodeId, NodeKind, RemoteId, Replica, Seen, Writing};
use super::schema::sql;
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::object::Version;
use crate::path::{Name, RelPath};

/// A node about to exist.
#[derive(Debug, Clone)]
pub struct NewNode {
    pub parent: NodeId,
    pub name: Name,
    pub kind: NodeKind,
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: u64,
    pub mtime_ns: i64,
}

/// Attributes to set; none leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attrs {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime_ns: Option<i64>,
}

impl Writer {
    pub(super) fn need(&self, id: NodeId) -> Result<Node> {
        node::node(&self.c, id)?.ok_or_else(|| Error::new(Kind::Stale, "the file was replaced"))
    }

    /// The node `id`. Errors: `Stale` if there is none.
    pub fn need_node(&self, id: NodeId) -> Result<Node> {
        self.need(id)
    }

    /// Whether there is a node `id`.
    pub fn node_exists(&self, id: NodeId) -> Result<bool> {
        Ok(node::node(&self.c, id)?.is_some())
    }

    pub(super) fn run_sql(&self, statement: &str, params: impl rusqlite::Params) -> Result<usize> {
        let mut statement = self.c.prepare_cached(statement).map_err(sql)?;
        statement.execute(params).map_err(sql)
    }

    /// Makes a node. Errors: `Exists`; `NotFound` if the parent is gone.
    pub fn create(&mut self, new: &NewNode, now_ns: i64) -> Result<Node> {
        let held = match new.kind {
            NodeKind::File => Held::None,
            NodeKind::Dir | NodeKind::Symlink => Held::Whole,
        };
        let node = self.node_of(new, held, now_ns);
        self.insert(&node, now_ns, 0)?;
        Ok(node)
    }

    /// Makes the node of a file that is in the tree already, written here and not to be queued.
    /// Errors: as of [`create`](Writer::create).
    pub fn create_stored(&mut self, new: &NewNode, seen: Seen, now_ns: i64) -> Result<Node> {
        let node = Node {
            size: seen.size,
            mtime_ns: seen.mtime_ns,
            ctime_ns: seen.mtime_ns.max(seen.ctime_ns),
            seen: Some(seen),
            dirty: self.fresh_generation(),
            ..self.node_of(new, Held::Whole, now_ns)
        };
        self.insert(&node, now_ns, now_ns / 1_000_000_000)?;
        Ok(node)
    }

    fn node_of(&mut self, new: &NewNode, held: Held, now_ns: i64) -> Node {
        Node {
            id: self.fresh_id(),
            parent: new.parent,
            name: Some(new.name.clone()),
            kind: new.kind,
            size: new.size,
            mtime_ns: new.mtime_ns,
            ctime_ns: now_ns,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            sha256: None,
            origin: None,
            held,
            seen: None,
            dirty: 0,
            writing: Writing::No,
            touched: false,
            pinned: false,
        }
    }

    /// The row of a node that no remote has; last used at `used_s`, in seconds since 1970.
    fn insert(&mut self, node: &Node, now_ns: i64, used_s: i64) -> Result<()> {
        if !self.touch_dir(node.parent, now_ns)? {
            return Err(Error::new(Kind::NotFound, "the directory is gone"));
        }
        self.run_sql(
            "INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, uid, gid, held,
             seen_size, seen_mtime_ns, seen_ino, seen_ctime_ns, dirty, accessed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
            params![
                node.id.0 as i64, node.parent.0 as i64, node.name.as_ref().map_or(&b""[..], |n| n.as_bytes()),
                node.kind.code(), node.size as i64, node.mtime_ns, node.ctime_ns, node.mode, node.uid,
                node.gid, node.held.code(), node.seen.map(|s| s.size as i64), node.seen.map(|s| s.mtime_ns),
                node.seen.map(|s| s.ino as i64), node.seen.map(|s| s.ctime_ns), node.dirty as i64, used_s
            ],
        )?;
        Ok(())
    }

    /// What is in a directory changed. False if there is none.
    pub(super) fn touch_dir(&self, id: NodeId, now_ns: i64) -> Result<bool> {
        let touched = self.run_sql(
            "UPDATE nodes SET mtime_ns = ?2, ctime_ns = ?2 WHERE id = ?1",
            params![id.0 as i64, now_ns],
        )?;
        Ok(touched > 0)
    }

    /// A file is being written into `staged`: remembered, so that a crash leaves an orphan and not a riddle.
    /// Errors: `Stale` if the node became another one just now.
    pub fn stage(&mut self, staged: u64, id: NodeId) -> Result<()> {
        self.need(id)?;
        self.run_sql(
            "INSERT OR REPLACE INTO staged(id, node, closed, size, mtime_ns) VALUES (?1, ?2, 0, 0, 0)",
            params![staged as i64, id.0 as i64],
        )?;
        Ok(())
    }

    /// `close()` is about to return for a staged file: from here on it is a local write (promise P3).
    pub fn close_staged(
        &mut self,
        staged: u64,
        id: NodeId,
        seen: Seen,
        queue: bool,
        now_ms: i64,
    ) -> Result<()> {
        self.run_sql(
            "UPDATE staged SET closed = 1, size = ?2, mtime_ns = ?3 WHERE id = ?1",
            params![staged as i64, seen.size as i64, seen.mtime_ns],
        )?;
        self.run_sql(
            "UPDATE nodes SET ctime_ns = max(ctime_ns, ?2) WHERE id = ?1",
            params![id.0 as i64, seen.ctime_ns],
        )?;
        self.queue_put(id, queue, now_ms)?;
        Ok(())
    }

    /// A staged file is not to be published after all.
    pub fn abandon_staged(&mut self, staged: u64, now_ns: i64) -> Result<()> {
        let id: Option<i64> = self
            .c
            .prepare_cached("DELETE FROM staged WHERE id = ?1 RETURNING node")
            .and_then(|mut s| s.query_row([staged as i64], |row| row.get(0)).optional())
            .map_err(sql)?;
        let Some(id) = id.map(|n| NodeId(n as u64)) else {
            return Ok(());
        };
        let Some(node) = node::node(&self.c, id)? else {
            return Ok(());
        };
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        if node.held == Held::None && node.origin.is_none() {
            // It never was anything but the file that was not finished. A remote may have made
            // one of that name meanwhile.
            return match node::replicas(&self.c, id)?.first() {
                Some(first) => self.revert_to_first(&node, first),
                None => self.drop_node(&node),
            };
        }
        if node.dirty == 0 {
            // A `close()` may have queued it; a name or a time that waits to go up still does.
            let path = node::path(&self.c, id)?.unwrap_or_default();
            self.run_sql(
                "DELETE FROM outbox WHERE node = ?1 AND EXISTS(SELECT 1 FROM replicas r
                 JOIN nodes n ON n.id = r.node WHERE r.node = ?1 AND r.key = ?2
                 AND r.remote = outbox.remote AND n.touched = 0)",
                params![id.0 as i64, path.as_bytes()],
            )?;
            self.follow(id, now_ns)?;
        }
        Ok(())
    }

    /// Whether a file may leave this machine, by its path. Errors: `Stale` if it was removed.
    pub fn leaves(&self, id: NodeId, local_only: impl Fn(&RelPath) -> bool) -> Result<bool> {
        match node::path(&self.c, id)? {
            Some(path) => Ok(!local_only(&path)),
            None => Err(Error::new(Kind::Stale, "the file was replaced or removed")),
        }
    }

    /// A file's bytes as written here are in the tree: the node is now what `seen` says, and dirty.
    pub fn written(
        &mut self,
        id: NodeId,
        staged: Option<u64>,
        seen: Seen,
        queue: bool,
        now_ms: i64,
    ) -> Result<u64> {
        if let Some(staged) = staged {
            self.run_sql("DELETE FROM staged WHERE id = ?1", [staged as i64])?;
        }
        let generation = self.queue_put(id, queue, now_ms)?;
        self.edits_versions(id)?;
        // Written anew from its start (staged): what a killed writer had torn is gone, and the time of
        // change stays that of the `close()`: the rename into the tree is none of its users' doing.
        self.run_sql(
            "UPDATE nodes SET size = ?2, mtime_ns = ?3, seen_size = ?2, seen_mtime_ns = ?3, seen_ino = ?4,
             seen_ctime_ns = ?5, ctime_ns = CASE WHEN ?8 THEN max(ctime_ns, ?3) ELSE max(?3, ?5) END, held = 1, dirty = ?6, sha256 = NULL,
             accessed = ?7 / 1000, writing = CASE WHEN ?8 THEN 0 ELSE writing END WHERE id = ?1",
            params![
                id.0 as i64, seen.size as i64, seen.mtime_ns, seen.ino as i64, seen.ctime_ns,
                generation as i64, now_ms, staged.is_some()
            ],
        )?;
        Ok(generation)
    }

    /// Notes whether a stored file is open for writing in place, or was left torn. A file that
    /// was not changed after all catches up with its remotes. Errors: `Stale` if the node that is
    /// to be opened became another one just now.
    pub fn set_writing(&mut self, id: NodeId, writing: Writing, now_ns: i64) -> Result<()> {
        let code = match writing {
            Writing::No => 0,
            Writing::Open => 1,
            Writing::Torn => 2,
        };
        if writing == Writing::Open {
            self.need(id)?;
        }
        self.run_sql(
            "UPDATE nodes SET writing = ?2 WHERE id = ?1",
            params![id.0 as i64, code],
        )?;
        match writing {
            Writing::No if self.node_exists(id)? => self.follow(id, now_ns),
            _ => Ok(()),
        }
    }

    /// Notes what a stored file looks like now, without calling it written.
    pub fn saw(&mut self, id: NodeId, seen: Seen) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET seen_size = ?2, seen_mtime_ns = ?3, seen_ino = ?4, seen_ctime_ns = ?5 WHERE id = ?1",
            params![id.0 as i64, seen.size as i64, seen.mtime_ns, seen.ino as i64, seen.ctime_ns],
        )?;
        Ok(())
    }

    /// A writer set the file's time on purpose: it travels even if the bytes turn out the same.
    pub fn touched(&mut self, id: NodeId) -> Result<()> {
        self.run_sql("UPDATE nodes SET touched = 1 WHERE id = ?1", [id.0 as i64])?;
        Ok(())
    }

    /// Sets attributes. A time set on purpose travels: the file is queued for it.
    pub fn set_attrs(
        &mut self,
        id: NodeId,
        attrs: Attrs,
        queue: bool,
        now_ns: i64,
    ) -> Result<Node> {
        let node = self.need(id)?;
        self.run_sql(
            "UPDATE nodes SET mode = coalesce(?2, mode), uid = coalesce(?3, uid), gid = coalesce(?4, gid),
             mtime_ns = coalesce(?5, mtime_ns), ctime_ns = ?6 WHERE id = ?1",
            params![id.0 as i64, attrs.mode, attrs.uid, attrs.gid, attrs.mtime_ns, now_ns],
        )?;
        let moved = attrs.mtime_ns.is_some_and(|t| t != node.mtime_ns);
        if moved && node.kind == NodeKind::File {
            let generation = self.queue_put(id, queue, now_ns / 1_000_000)?;
            self.run_sql(
                "UPDATE nodes SET touched = 1, dirty = CASE dirty WHEN 0 THEN 0 ELSE ?2 END WHERE id = ?1",
                params![id.0 as i64, generation as i64],
            )?;
        }
        self.need(id)
    }

    /// Removes a node's row and what hangs on it; its replicas become whiteouts that remember
    /// which version was here: what a remote has since is not what a later file replaces.
    pub(super) fn drop_node(&mut self, node: &Node) -> Result<()> {
        let id = node.id.0 as i64;
        if node.kind == NodeKind::File
            && let Some(path) = node::path(&self.c, node.id)?
        {
            self.run_sql(
                "UPDATE replicas SET node = NULL, base = coalesce((SELECT coalesce(o.base, '') FROM outbox o
                 WHERE o.node = ?1 AND o.remote = replicas.remote AND replicas.key = ?2),
                 CASE WHEN key <> ?2 THEN version WHEN ?3 = remote THEN ?4 WHEN ?3 < 0 THEN ''
                 ELSE version END) WHERE node = ?1",
                params![
                    id,
                    path.as_bytes(),
                    node.origin.as_ref().map_or(-1, |(remote, _)| i64::from(remote.0)),
                    node.origin.as_ref().map_or("", |(_, version)| version.as_str()),
                ],
            )?;
        }
        self.run_sql("DELETE FROM nodes WHERE id = ?1", [id])?;
        self.run_sql("DELETE FROM outbox WHERE node = ?1", [id])?;
        if node.kind == NodeKind::Dir {
            self.dir_moved();
        }
        Ok(())
    }

    pub(super) fn dir_moved(&mut self) {
        self.last_parent = None;
        self.moved_dirs = true;
    }

    /// Deletes a file or symlink here. With `propagate`, queues its deletion at the remotes.
    pub fn unlink(&mut self, id: NodeId, propagate: bool, now_ns: i64) -> Result<()> {
        let node = self.need(id)?;
        if node.kind == NodeKind::Dir {
            return Err(Error::new(Kind::IsADirectory, "is a directory"));
        }
        let known = self.versions_here(&node)?;
        if propagate && let Some(path) = node::path(&self.c, id)? {
            self.recall(&path)?;
        }
        self.drop_node(&node)?;
        if propagate {
            for replica in known {
                self.queue_delete(&replica, now_ns / 1_000_000)?;
            }
        }
        self.touch_dir(node.parent, now_ns).map(drop)
    }

    /// Deletes an empty directory. Errors: `NotEmpty`, `NotADirectory`.
    pub fn remove_dir(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        let node = self.need(id)?;
        if node.kind != NodeKind::Dir {
            return Err(Error::new(Kind::NotADirectory, "is not a directory"));
        }
        if !node::children(&self.c, id, b"", 1)?.is_empty() {
            return Err(Error::new(Kind::NotEmpty, "the directory is not empty"));
        }
        self.drop_node(&node)?;
        self.touch_dir(node.parent, now_ns).map(drop)
    }

    pub(super) fn child_ids(&self, dir: NodeId) -> Result<Vec<NodeId>> {
        let query = "SELECT id FROM nodes WHERE parent = ?1";
        node::rows(&self.c, query, [dir.0 as i64], |row| {
            Ok(NodeId(row.get::<_, i64>(0).map_err(sql)? as u64))
        })
    }

    /// A directory that was made here is no more in the store's tree, and nothing in it. What
    /// remotes have in it keeps it; without that it was removed.
    pub fn dir_lost(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        self.run_sql("UPDATE nodes SET held = 0 WHERE id = ?1", [id.0 as i64])?;
        let query = "SELECT id FROM nodes WHERE parent = ?1 AND (held <> 0 OR kind = 1)";
        let inside = node::rows(&self.c, query, [id.0 as i64], |row| {
            Ok(NodeId(row.get::<_, i64>(0).map_err(sql)? as u64))
        })?;
        for id in inside {
            match self.need(id)?.kind {
                NodeKind::File => self.not_held(id, now_ns)?,
                NodeKind::Dir => self.dir_lost(id, now_ns)?,
                NodeKind::Symlink => self.unlink(id, false, now_ns)?,
            }
        }
        self.prune_up(id, now_ns)
    }

    /// Something else has the node's name, and it goes with everything in it: what remotes have of
    /// it stays there, hidden.
    pub fn give_way(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        let (mut work, mut found) = (vec![id], Vec::new());
        while let Some(id) = work.pop() {
            work.extend(self.child_ids(id)?);
            found.push(id);
        }
        let top = self.need(id)?;
        // What is in a directory goes first, for its path leads through it.
        for id in found.iter().rev() {
            let node = self.need(*id)?;
            self.drop_node(&node)?;
        }
        if let Some(name) = &top.name {
            self.tell(top.parent, name);
        }
        self.touch_dir(top.parent, now_ns).map(drop)
    }

    /// What remotes have of the node, or under its name for it to replace, in the versions that were
    /// seen here. One that a remote made while ours waits to go up was not: it is left out.
    fn versions_here(&self, node: &Node) -> Result<Vec<Replica>> {
        let Some(path) = node::path(&self.c, node.id)? else {
            return Ok(Vec::new());
        };
        let bases = self.bases(node.id)?;
        let mut known = node::replicas(&self.c, node.id)?;
        known.retain_mut(|replica| {
            if replica.key != path {
                return true;
            }
            if bases.iter().any(|(remote, _)| *remote == replica.remote) {
                return false;
            }
            // What is being written is not in the outbox yet.
            match &node.origin {
                Some((remote, version)) if *remote == replica.remote => {
                    replica.meta.version = version.clone();
                    true
                }
                Some(_) => true,
                None => !bases.is_empty(),
            }
        });
        known.extend(self.to_be_replaced(node.id, &path)?);
        Ok(known)
    }

    /// What remotes have under `key`, in the versions that the node, queued under this name, is to
    /// replace.
    pub(super) fn to_be_replaced(&self, id: NodeId, key: &RelPath) -> Result<Vec<Replica>> {
        let mut found = Vec::new();
        for (remote, base) in self.bases(id)? {
            if let (Some(base), Some(mut replica)) = (base, node::replica(&self.c, remote, key)?) {
                replica.meta.version = base;
                found.push(replica);
            }
        }
        Ok(found)
    }

    fn bases(&self, id: NodeId) -> Result<Vec<(RemoteId, Option<Version>)>> {
        let query = "SELECT remote, base FROM outbox WHERE node = ?1";
        node::rows(&self.c, query, [id.0 as i64], |row| {
            let base: Option<String> = row.get(1).map_err(sql)?;
            let base = base.as_deref().map(Version::new).transpose()?;
            Ok((RemoteId(row.get(0).map_err(sql)?), base))
        })
    }
}
