//! Whiteouts: what a remote has and was deleted here, or stands behind another kind of thing;
//! how they come, and how they are lifted.

use rusqlite::params;

use super::node::{self, Node, NodeId, NodeKind, RemoteId, Replica};
use super::outbox::{self, OutboxRow};
use super::schema::sql;
use super::sent::Sent;
use super::writer::Writer;
use crate::error::{Kind, Result};
use crate::object::{Object, Sha256};
use crate::path::RelPath;

impl Writer {
    /// Whether the object is what was sent from here and has been removed or renamed here since,
    /// before the answer came: then it is a whiteout from the start, whatever other remotes have put
    /// under the name since.
    pub(super) fn is_recalled(
        &mut self,
        remote: RemoteId,
        object: &Object,
        now_ns: i64,
    ) -> Result<bool> {
        let looks = Sha256::stand_in(&object.meta.version, object.meta.size);
        let hash = object.meta.sha256.unwrap_or(looks);
        let query =
            "SELECT propagate FROM attempts WHERE remote = ?1 AND key = ?2 AND sha256 IN (?3, ?4)";
        let found = node::rows(
            &self.c,
            query,
            params![
                remote.0,
                object.key.as_bytes(),
                hash.0.as_slice(),
                looks.0.as_slice()
            ],
            |row| row.get::<_, bool>(0).map_err(sql),
        )?;
        let Some(propagate) = found.first() else {
            return Ok(false);
        };
        if let Some(other) = node::resolve(&self.c, &object.key)? {
            let known = node::replica(&self.c, remote, &object.key)?.and_then(|known| known.node);
            let of_others = self.is_settled(&other)? && !self.waits(other.id)?;
            if known.is_some() || !of_others {
                return Ok(false);
            }
        }
        self.store_replica(remote, &object.key, None, &object.meta)?;
        let sent = self.fresh_generation();
        // What was deleted here was made from it: a file made anew replaces this very version.
        self.run_sql(
            "UPDATE replicas SET base = NULL, behind = 0, sent = ?3 WHERE remote = ?1 AND key = ?2",
            params![remote.0, object.key.as_bytes(), sent as i64],
        )?;
        // Others may turn up after it.
        self.run_sql(
            "DELETE FROM attempts WHERE remote = ?1 AND key = ?2 AND sha256 IN (?3, ?4)",
            params![
                remote.0,
                object.key.as_bytes(),
                hash.0.as_slice(),
                looks.0.as_slice()
            ],
        )?;
        if let (true, Some(replica)) = (*propagate, node::replica(&self.c, remote, &object.key)?) {
            self.queue_delete(&replica, now_ns / 1_000_000)?;
        }
        Ok(true)
    }

    /// The remote has another version of `key` than the one that `row` was to delete: it is shown
    /// again. Not if it was found out meanwhile which version is to be deleted. Returns whether it is.
    pub fn deletion_lost(&mut self, row: &OutboxRow, key: &RelPath, now_ns: i64) -> Result<bool> {
        let now = outbox::row(&self.c, row.id)?;
        if now.is_none_or(|now| (now.generation, &now.base) != (row.generation, &row.base)) {
            return Ok(false);
        }
        self.sent(row, key, &Sent::Moot, now_ns)?;
        self.restore(key, now_ns)?;
        Ok(true)
    }

    /// Lifts the whiteouts at `path` and beneath it. Returns how many files came back.
    pub fn restore(&mut self, path: &RelPath, now_ns: i64) -> Result<u64> {
        let mut restored = 0;
        loop {
            let hidden = node::whiteouts(&self.c, path, 1000)?;
            let mut moved = 0;
            for replica in hidden {
                let parent = match self.make_parents(&replica.key, now_ns) {
                    // A file of ours has the name of its directory.
                    Err(error) if error.kind() == Kind::Invalid => continue,
                    done => done?,
                };
                let Some(name) = replica.key.file_name() else {
                    continue;
                };
                if let Some(node) = node::child(&self.c, parent, name.as_bytes())? {
                    moved += u64::from(self.join_restored(&node, &replica, now_ns)?);
                    continue;
                }
                self.not_deleted(&replica)?;
                let object = Object {
                    key: replica.key,
                    meta: replica.meta,
                };
                self.insert_remote_file(replica.remote, &object, parent, &name, now_ns)?;
                moved += 1;
            }
            restored += moved;
            if moved == 0 {
                return Ok(restored);
            }
        }
    }

    /// A file that is being made here has got another name: what remotes made under the old one
    /// meanwhile, which nobody here has seen, stays there.
    pub(super) fn leave_behind(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        let theirs = node::replicas(&self.c, id)?;
        self.run_sql(
            "UPDATE replicas SET node = NULL WHERE node = ?1",
            [id.0 as i64],
        )?;
        for replica in theirs {
            self.restore(&replica.key, now_ns)?;
        }
        Ok(())
    }

    /// Another remote's whiteout of a name that is back: it belongs to the same file again.
    pub(super) fn join_restored(
        &mut self,
        node: &Node,
        replica: &Replica,
        now_ns: i64,
    ) -> Result<bool> {
        if node.kind != NodeKind::File || node.origin.is_none() || node.dirty != 0 {
            return Ok(false);
        }
        self.not_deleted(replica)?;
        self.store_replica(replica.remote, &replica.key, Some(node.id), &replica.meta)?;
        self.follow(node.id, now_ns)?;
        Ok(true)
    }

    /// Nothing that was done here replaces or deletes this version.
    fn not_deleted(&self, replica: &Replica) -> Result<()> {
        for statement in [
            "DELETE FROM outbox WHERE remote = ?1 AND key = ?2",
            "UPDATE replicas SET base = NULL WHERE remote = ?1 AND key = ?2",
        ] {
            self.run_sql(statement, params![replica.remote.0, replica.key.as_bytes()])?;
        }
        Ok(())
    }

    /// Ours was set aside, and was to replace what remotes have at `path`: that belongs to the file
    /// there again. Not what was deleted here and that remote was not to be told of.
    pub(super) fn replaces_nothing(&mut self, path: &RelPath, now_ns: i64) -> Result<()> {
        for replica in node::whiteouts(&self.c, path, 1000)? {
            let takes = self.remotes.contains(&(replica.remote, true));
            let base = self.base_of_whiteout(replica.remote, path)?;
            let unseen = base.as_deref() != Some(replica.meta.version.as_str());
            if replica.key == *path
                && (takes || unseen)
                && let Some(node) = node::resolve(&self.c, path)?
            {
                self.join_restored(&node, &replica, now_ns)?;
            }
        }
        Ok(())
    }

    /// Another kind of thing has the name of a remote's file, or of its directory: the file is
    /// hidden behind it, until that is gone at the remote, or lifted by hand if it is ours.
    pub(super) fn store_behind(&mut self, remote: RemoteId, object: &Object) -> Result<()> {
        self.store_replica(remote, &object.key, None, &object.meta)?;
        self.run_sql(
            "UPDATE replicas SET base = '', behind = 1 WHERE remote = ?1 AND key = ?2",
            params![remote.0, object.key.as_bytes()],
        )?;
        Ok(())
    }

    /// What a remote had at `path` is gone there, and files of another kind that it told of
    /// before, at that path or beneath it, are to be seen.
    pub(super) fn show_what_was_behind(&mut self, path: &RelPath, now_ns: i64) -> Result<()> {
        let (low, high) = node::beneath(path);
        let mut after = Vec::new();
        loop {
            let hidden = node::rows(
                &self.c,
                "SELECT r.remote, r.key FROM replicas r JOIN remotes m ON m.id = r.remote
                 WHERE r.node IS NULL AND r.behind AND (r.key = ?1 OR (r.key >= ?2 AND r.key < ?3))
                 AND r.key > ?4 ORDER BY r.key, m.position LIMIT 1000",
                params![path.as_bytes(), low, high, after],
                |row| {
                    let key: Vec<u8> = row.get(1).map_err(sql)?;
                    Ok((RemoteId(row.get(0).map_err(sql)?), RelPath::new(&key)?))
                },
            )?;
            let Some((_, last)) = hidden.last() else {
                return Ok(());
            };
            after = last.as_bytes().to_vec();
            for (remote, key) in hidden {
                let Some(replica) = node::replica(&self.c, remote, &key)? else {
                    continue;
                };
                let (key, meta) = (replica.key, replica.meta);
                self.enter_put(remote, &Object { key, meta }, now_ns)?;
            }
        }
    }
}
