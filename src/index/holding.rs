//! What the store holds, as rows: hydrated, evicted, used, pinned, doomed, kept aside.

use rusqlite::params;

use super::node::{self, Held, Node, NodeId, RemoteId, Replica, Seen, select_node};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::{Meta, Sha256, Version};
use crate::path::RelPath;

/// Sums over the mount's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub held_files: u64,
    pub held_bytes: u64,
    pub dirty_files: u64,
    pub dirty_bytes: u64,
}

/// A stored file that is to go, if it still looks like this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    pub path: RelPath,
    pub size: u64,
    pub mtime_ns: i64,
    pub ino: u64,
}

/// A file that was being written when the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedRow {
    pub id: u64,
    pub node: NodeId,
    /// A `close()` returned for it, when it had this size and time.
    pub closed: Option<(u64, i64)>,
}

/// Our version of a file whose path the remote's version kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRow {
    pub id: i64,
    pub path: RelPath,
    /// Name in the store's `conflicts` directory.
    pub file: String,
    pub remote: String,
    pub size: u64,
    pub mtime_ns: i64,
    pub at_ms: i64,
}

/// Reads the sums.
pub fn totals(c: &rusqlite::Connection) -> Result<Totals> {
    let query = "SELECT files, bytes, held_files, held_bytes, dirty_files, dirty_bytes FROM sums";
    let sums = node::rows(c, query, [], |row| {
        let n =
            |at: usize| -> Result<u64> { Ok(row.get::<_, i64>(at).map_err(sql)?.max(0) as u64) };
        Ok(Totals {
            files: n(0)?,
            bytes: n(1)?,
            held_files: n(2)?,
            held_bytes: n(3)?,
            dirty_files: n(4)?,
            dirty_bytes: n(5)?,
        })
    })?;
    Ok(sums.into_iter().next().unwrap_or_default())
}

/// Up to `limit` files that may be evicted, least recently used first: held, clean, not pinned,
/// not waiting to go up, and still at a remote.
pub fn evictable(c: &rusqlite::Connection, limit: usize, skip: usize) -> Result<Vec<Node>> {
    let query = select_node!(
        "FROM nodes WHERE kind = 0 AND held <> 0 AND dirty = 0 AND pinned = 0 AND writing = 0
         AND EXISTS(SELECT 1 FROM replicas r JOIN remotes m ON m.id = r.remote
                    WHERE r.node = nodes.id AND m.position >= 0)
         AND NOT EXISTS(SELECT 1 FROM outbox o JOIN remotes m ON m.id = o.remote
                        WHERE o.node = nodes.id AND m.upload = 1)
         ORDER BY accessed LIMIT ?1 OFFSET ?2"
    );
    node::rows(c, query, params![limit as i64, skip as i64], node::node_of)
}

/// Files left torn, or open for writing in place when the daemon ended; up to `limit`.
pub fn unfinished(c: &rusqlite::Connection, limit: usize) -> Result<Vec<Node>> {
    let query =
        select_node!("FROM nodes WHERE (dirty <> 0 OR writing <> 0) AND writing <> 0 LIMIT ?1");
    node::rows(c, query, [limit as i64], node::node_of)
}

/// Files that were being written when the daemon ended.
pub fn staged(c: &rusqlite::Connection) -> Result<Vec<StagedRow>> {
    let query = "SELECT id, node, closed, size, mtime_ns FROM staged ORDER BY id";
    node::rows(c, query, [], |row| {
        let closed = row.get::<_, i64>(2).map_err(sql)? != 0;
        let state = (
            row.get::<_, i64>(3).map_err(sql)? as u64,
            row.get(4).map_err(sql)?,
        );
        Ok(StagedRow {
            id: row.get::<_, i64>(0).map_err(sql)? as u64,
            node: NodeId(row.get::<_, i64>(1).map_err(sql)? as u64),
            closed: closed.then_some(state),
        })
    })
}

/// Up to `limit` stored files that are to go.
pub fn doomed(c: &rusqlite::Connection, limit: usize) -> Result<Vec<Doomed>> {
    let query = "SELECT path, size, mtime_ns, ino FROM doomed ORDER BY path LIMIT ?1";
    node::rows(c, query, [limit as i64], doomed_of)
}

/// Up to `limit` stored files at `path` or beneath it that are to go.
pub fn doomed_under(c: &rusqlite::Connection, path: &RelPath, limit: usize) -> Result<Vec<Doomed>> {
    let (low, high) = node::beneath(path);
    let query = "SELECT path, size, mtime_ns, ino FROM doomed
                 WHERE path = ?1 OR (path >= ?2 AND path < ?3) LIMIT ?4";
    let params = params![path.as_bytes(), low, high, limit as i64];
    node::rows(c, query, params, doomed_of)
}

/// Whether the stored file at `path` is to go.
pub fn doomed_at(c: &rusqlite::Connection, path: &RelPath) -> Result<Option<Doomed>> {
    let query = "SELECT path, size, mtime_ns, ino FROM doomed WHERE path = ?1";
    Ok(node::rows(c, query, [path.as_bytes()], doomed_of)?.pop())
}

fn doomed_of(row: &rusqlite::Row<'_>) -> Result<Doomed> {
    let path: Vec<u8> = row.get(0).map_err(sql)?;
    Ok(Doomed {
        path: RelPath::new(&path)?,
        size: row.get::<_, i64>(1).map_err(sql)? as u64,
        mtime_ns: row.get(2).map_err(sql)?,
        ino: row.get::<_, i64>(3).map_err(sql)? as u64,
    })
}

macro_rules! select_conflict {
    ($rest:literal) => {
        concat!(
            "SELECT id, path, file, remote, size, mtime_ns, at_ms FROM conflicts ",
            $rest
        )
    };
}

/// The conflict number `id`.
pub fn conflict(c: &rusqlite::Connection, id: i64) -> Result<Option<ConflictRow>> {
    Ok(node::rows(c, select_conflict!("WHERE id = ?1"), [id], conflict_of)?.pop())
}

/// Up to `limit` conflicts of one path, newest first.
pub fn conflicts_at(
    c: &rusqlite::Connection,
    path: &RelPath,
    limit: usize,
) -> Result<Vec<ConflictRow>> {
    let query = select_conflict!("WHERE path = ?1 ORDER BY id DESC LIMIT ?2");
    node::rows(
        c,
        query,
        params![path.as_bytes(), limit as i64],
        conflict_of,
    )
}

/// Versions of ours that were kept aside, newest first.
pub fn conflicts(c: &rusqlite::Connection, limit: usize) -> Result<Vec<ConflictRow>> {
    let query = select_conflict!("ORDER BY id DESC LIMIT ?1");
    node::rows(c, query, [limit as i64], conflict_of)
}

/// How many there are.
pub fn conflict_count(c: &rusqlite::Connection) -> Result<u64> {
    let query = "SELECT count(*) FROM conflicts";
    let count = node::rows(c, query, [], |row| row.get::<_, i64>(0).map_err(sql))?;
    Ok(count.first().copied().unwrap_or_default() as u64)
}

fn conflict_of(row: &rusqlite::Row<'_>) -> Result<ConflictRow> {
    let path: Vec<u8> = row.get(1).map_err(sql)?;
    Ok(ConflictRow {
        id: row.get(0).map_err(sql)?,
        path: RelPath::new(&path)?,
        file: row.get(2).map_err(sql)?,
        remote: row.get(3).map_err(sql)?,
        size: row.get::<_, i64>(4).map_err(sql)? as u64,
        mtime_ns: row.get(5).map_err(sql)?,
        at_ms: row.get(6).map_err(sql)?,
    })
}

impl Writer {
    /// The store has the node's bytes now. False if the node became something else meanwhile.
    pub fn hydrated(
        &mut self,
        id: NodeId,
        version: &(RemoteId, Version),
        seen: Seen,
        sha256: Option<Sha256>,
        now_ms: i64,
    ) -> Result<bool> {
        let Some(node) = node::node(&self.c, id)? else {
            return Ok(false);
        };
        if node.dirty != 0 || node.origin.as_ref() != Some(version) {
            return Ok(false);
        }
        self.run_sql(
            "UPDATE nodes SET held = 1, size = ?2, seen_size = ?2, seen_mtime_ns = ?3, seen_ino = ?4,
             seen_ctime_ns = ?5, sha256 = coalesce(?6, sha256), accessed = ?7 / 1000 WHERE id = ?1",
            params![
                id.0 as i64, seen.size as i64, seen.mtime_ns, seen.ino as i64, seen.ctime_ns,
                sha256.map(|h| h.0.to_vec()), now_ms
            ],
        )?;
        // The remote's version has the hash of its bytes, whether it told it or not: writing the
        // same again uploads nothing.
        self.run_sql(
            "UPDATE replicas SET sha256 = coalesce(sha256, ?4) WHERE node = ?1 AND remote = ?2 AND version = ?3",
            params![
                id.0 as i64, version.0.0, version.1.as_str(), sha256.map(|h| h.0.to_vec())
            ],
        )?;
        Ok(true)
    }

    /// A clean stored file was read, and nothing was known of its hash. It is the hash of these
    /// bytes, not of the remote's version: it goes with them.
    pub fn note_hash(&mut self, id: NodeId, seen: Seen, sha256: Sha256) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET sha256 = ?6 WHERE id = ?1 AND sha256 IS NULL AND held = 1 AND dirty = 0
             AND writing = 0 AND seen_size = ?2 AND seen_mtime_ns = ?3 AND seen_ino = ?4 AND seen_ctime_ns = ?5",
            params![
                id.0 as i64, seen.size as i64, seen.mtime_ns, seen.ino as i64, seen.ctime_ns,
                sha256.0.to_vec()
            ],
        )?;
        Ok(())
    }

    /// The store no longer has a node's bytes. Those of a clean one are fetched again.
    pub fn not_held(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        let Some(node) = node::node(&self.c, id)? else {
            return Ok(());
        };
        if node.dirty != 0 || !node::has_replicas(&self.c, id)? {
            return self.lost_write(&node, now_ns);
        }
        self.run_sql(
            "UPDATE nodes SET held = 0, writing = 0, seen_size = NULL, seen_mtime_ns = NULL, seen_ino = NULL,
             seen_ctime_ns = NULL, sha256 = (SELECT CASE WHEN count(*) THEN max(r.sha256) ELSE nodes.sha256 END
             FROM replicas r WHERE r.node = nodes.id AND r.remote = nodes.origin AND r.version = nodes.version)
             WHERE id = ?1",
            [id.0 as i64],
        )?;
        Ok(())
    }

    /// Bytes that were written here are gone: under each name there is what remotes have under it,
    /// whatever was renamed or replaced with those bytes.
    fn lost_write(&mut self, node: &Node, now_ns: i64) -> Result<()> {
        let path = node::path(&self.c, node.id)?.unwrap_or_default();
        let all = node::replicas(&self.c, node.id)?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.key == path);
        self.run_sql(
            "UPDATE replicas SET node = NULL WHERE node = ?1 AND key <> ?2",
            params![node.id.0 as i64, path.as_bytes()],
        )?;
        match here.first() {
            Some(first) => {
                self.revert_to_first(node, first)?;
                // Nothing replaces any more what other remotes have there.
                self.restore(&path, now_ns)?;
            }
            None => self.nobody_has(node, &path, now_ns)?,
        }
        for replica in elsewhere {
            self.restore(&replica.key, now_ns)?;
        }
        Ok(())
    }

    /// A node whose bytes are gone, and that no remote has under its name, is gone with them.
    fn nobody_has(&mut self, node: &Node, path: &RelPath, now_ns: i64) -> Result<()> {
        // Nobody deleted it by name: if it did arrive at a remote, it is to be seen again. So is
        // what it was to replace there.
        let replaced = self.to_be_replaced(node.id, path)?;
        self.run_sql("DELETE FROM attempts WHERE key = ?1", [path.as_bytes()])?;
        self.drop_node(node)?;
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        if !replaced.is_empty() {
            self.restore(path, now_ns)?;
        }
        self.prune_up(node.parent, now_ns)
    }

    /// A dirty node whose local bytes are gone shows what its first remote has, edited or not.
    pub(super) fn revert_to_first(&mut self, node: &Node, first: &Replica) -> Result<()> {
        self.run_sql(
            "UPDATE replicas SET base = NULL WHERE node = ?1",
            [node.id.0 as i64],
        )?;
        self.revert_to(node, first.remote, &first.meta).map(drop)
    }

    /// A dirty node whose local bytes are gone or went elsewhere shows this version of a remote's,
    /// under the new number that is returned.
    fn revert_to(&mut self, node: &Node, remote: RemoteId, meta: &Meta) -> Result<NodeId> {
        let (old, new) = (node.id.0 as i64, self.fresh_id());
        self.run_sql("DELETE FROM outbox WHERE node = ?1", [old])?;
        self.run_sql(
            "UPDATE nodes SET id = ?2, held = 0, dirty = 0, touched = 0, writing = 0, size = ?3, mtime_ns = ?4,
             sha256 = ?5, origin = ?6, version = ?7, seen_size = NULL, seen_mtime_ns = NULL, seen_ino = NULL,
             seen_ctime_ns = NULL WHERE id = ?1",
            params![
                old, new.0 as i64, meta.size as i64, meta.mtime_ns, meta.sha256.map(|h| h.0.to_vec()),
                remote.0, meta.version.as_str()
            ],
        )?;
        for statement in [
            "UPDATE replicas SET node = ?2 WHERE node = ?1",
            "UPDATE staged SET node = ?2 WHERE node = ?1",
        ] {
            self.run_sql(statement, [old, new.0 as i64])?;
        }
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        Ok(new)
    }

    /// Our version of a file is about to be set aside; the row comes before the rename, so that a
    /// crash between them leaves no file without a name. Returns the conflict's number.
    pub fn conflict_begins(&mut self, id: NodeId, url: &str, now_ms: i64) -> Result<i64> {
        let node = self.need(id)?;
        let path = node::path(&self.c, id)?.unwrap_or_default();
        self.run_sql(
            "INSERT INTO conflicts(path, file, remote, size, mtime_ns, at_ms) VALUES (?1, '', ?2, ?3, ?4, ?5)",
            params![path.as_bytes(), url, node.size as i64, node.mtime_ns, now_ms],
        )?;
        Ok(self.c.last_insert_rowid())
    }

    /// The version set aside has this name in the store.
    pub fn conflict_named(&mut self, conflict: i64, file: &str) -> Result<()> {
        self.run_sql(
            "UPDATE conflicts SET file = ?2 WHERE id = ?1",
            params![conflict, file],
        )?;
        Ok(())
    }

    /// Our version was set aside, and the remote's (`meta`) has the path; or that of a remote which
    /// comes before it, but not one that takes no uploads and has what was edited here.
    pub fn conflicted(
        &mut self,
        id: NodeId,
        remote: RemoteId,
        meta: &Meta,
        now_ns: i64,
    ) -> Result<()> {
        let node = self.need(id)?;
        let path = node::path(&self.c, id)?.unwrap_or_default();
        let before = node::replica(&self.c, remote, &path)?.and_then(|r| r.node);
        self.store_replica(remote, &path, Some(id), meta)?;
        for replica in node::replicas(&self.c, id)? {
            self.leave_old_names(&node, replica.remote, &path, now_ns)?;
        }
        // Nobody deleted it by name: where it did arrive, or does yet, it is to be seen.
        self.run_sql("DELETE FROM attempts WHERE key = ?1", [path.as_bytes()])?;
        if let Some(before) = before.filter(|before| *before != id) {
            self.lost_replica(before, &path, now_ns)?;
        }
        // Where it was to go up, it does not replace anything any more.
        self.run_sql(
            "UPDATE replicas SET base = NULL WHERE node = ?1 AND EXISTS(SELECT 1 FROM remotes m
             WHERE m.id = replicas.remote AND m.upload)",
            [id.0 as i64],
        )?;
        let theirs = self.revert_to(&node, remote, meta)?;
        self.follow(theirs, now_ns)?;
        self.replaces_nothing(&path, now_ns)
    }

    /// A version kept aside was taken back or dropped.
    pub fn conflict_settled(&mut self, id: i64) -> Result<()> {
        self.run_sql("DELETE FROM conflicts WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Gives a node a new inode number, for its bytes are about to be replaced while readers
    /// have the old ones open.
    pub fn replace_id(&mut self, id: NodeId) -> Result<NodeId> {
        let node = self.need(id)?;
        let (old, new) = (id.0 as i64, self.fresh_id());
        for statement in [
            "UPDATE nodes SET id = ?2 WHERE id = ?1",
            "UPDATE replicas SET node = ?2 WHERE node = ?1",
            "UPDATE outbox SET node = ?2 WHERE node = ?1",
            "UPDATE staged SET node = ?2 WHERE node = ?1",
        ] {
            self.run_sql(statement, [old, new.0 as i64])?;
        }
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        Ok(new)
    }

    /// A local write is about to be noted of bytes that were made without a look at the version that
    /// the node shows: it is a file made here, which may meet the remote's as a conflict only.
    pub fn made_unseen(&mut self, id: NodeId) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET origin = NULL, version = NULL WHERE id = ?1",
            [id.0 as i64],
        )?;
        self.run_sql(
            "UPDATE outbox SET base = NULL WHERE node = ?1",
            [id.0 as i64],
        )?;
        Ok(())
    }

    /// Notes when files were last used, in seconds since 1970.
    pub fn used(&mut self, uses: &[(NodeId, i64)]) -> Result<()> {
        for (id, at) in uses {
            self.run_sql(
                "UPDATE nodes SET accessed = ?2 WHERE id = ?1 AND accessed < ?2",
                params![id.0 as i64, at],
            )?;
        }
        Ok(())
    }

    /// Pins or unpins a file: pinned files are not evicted.
    pub fn pin(&mut self, id: NodeId, pinned: bool) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET pinned = ?2 WHERE id = ?1",
            params![id.0 as i64, pinned],
        )?;
        Ok(())
    }

    /// A doomed file is gone, or was something else.
    pub fn doom_done(&mut self, path: &RelPath) -> Result<()> {
        self.run_sql("DELETE FROM doomed WHERE path = ?1", [path.as_bytes()])?;
        Ok(())
    }

    /// A stored file that has no row, or whose row says it is not held, belongs to this node as
    /// the bytes of the version the node shows.
    pub fn adopt_clean(&mut self, id: NodeId, seen: Seen) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET held = ?6, seen_size = ?2, seen_mtime_ns = ?3, seen_ino = ?4, seen_ctime_ns = ?5 WHERE id = ?1",
            params![
                id.0 as i64, seen.size as i64, seen.mtime_ns, seen.ino as i64, seen.ctime_ns,
                Held::Whole.code()
            ],
        )?;
        Ok(())
    }

    /// Marks a directory as made here, so that it stays when it is empty.
    pub fn keep_dir(&mut self, id: NodeId) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET held = 1 WHERE id = ?1 AND kind = 1",
            [id.0 as i64],
        )?;
        Ok(())
    }
}
