//! Whose a remote's version is when files change names: a replica stays with the node whose bytes
//! it is, whatever that is called by now, until another node's are under its key.
//!
//! A file that was renamed depends on what a remote has under its old name, for that may be all that
//! a remote has of it. It is a local write again before that goes, or is no more its own.

use rusqlite::params;

use super::node::{self, Held, Node, NodeId, RemoteId};
use super::outbox;
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::Version;
use crate::path::RelPath;

impl Writer {
    /// A node's replica under `key` is gone, or belongs to another node.
    pub(super) fn lost_replica(&mut self, id: NodeId, key: &RelPath, now_ns: i64) -> Result<()> {
        let Some(node) = node::node(&self.c, id)? else {
            return Ok(());
        };
        self.keep_moved(&node, key)?;
        self.follow(id, now_ns)
    }

    /// A file that was renamed here does not change or go with its old name: what the store has
    /// of it is a local file now. Not so while a remote has it under its new name: then that says
    /// what it is. Returns whether it is so.
    pub(super) fn keep_moved(&mut self, node: &Node, old: &RelPath) -> Result<bool> {
        let path = node::path(&self.c, node.id)?;
        if path.as_ref() == Some(old) || node.dirty != 0 || node.held != Held::Whole {
            return Ok(false);
        }
        let others = node::replicas(&self.c, node.id)?;
        if !self.waits(node.id)? && others.iter().any(|replica| replica.key != *old) {
            return Ok(false);
        }
        self.is_local_write(node.id)?;
        self.run_sql(
            "UPDATE nodes SET origin = NULL, version = NULL WHERE id = ?1",
            [node.id.0 as i64],
        )?;
        Ok(true)
    }

    /// A file has a name again under which a remote has it, as far as is known; but another was sent
    /// there meanwhile, and not answered. Whatever turns up there, this one is to replace it.
    pub(super) fn comes_back(&mut self, node: &Node, path: &RelPath) -> Result<()> {
        if node.dirty != 0 || node.held != Held::Whole {
            return Ok(());
        }
        for replica in node::replicas(&self.c, node.id)? {
            if replica.key == *path && outbox::attempts(&self.c, replica.remote, path)? > 0 {
                return self.is_local_write(node.id);
            }
        }
        Ok(())
    }

    /// What the store has of a clean file counts as written here from now on.
    fn is_local_write(&mut self, id: NodeId) -> Result<()> {
        let generation = self.fresh_generation();
        self.run_sql(
            "UPDATE nodes SET dirty = coalesce((SELECT max(generation) FROM outbox WHERE node = ?1), ?2)
             WHERE id = ?1",
            params![id.0 as i64, generation as i64],
        )?;
        Ok(())
    }

    /// What was to go up is at the remote already: the version `base` of `key`, which is the
    /// node's from now on. False if something else is there by now.
    pub(super) fn is_there(
        &mut self,
        node: &Node,
        remote: RemoteId,
        key: &RelPath,
        base: Option<&Version>,
        now_ns: i64,
    ) -> Result<bool> {
        let known = node::replica(&self.c, remote, key)?;
        let Some(known) = known.filter(|known| Some(&known.meta.version) == base) else {
            return Ok(false);
        };
        self.run_sql(
            "UPDATE replicas SET node = ?3, base = NULL, behind = 0 WHERE remote = ?1 AND key = ?2",
            params![remote.0, key.as_bytes(), node.id.0 as i64],
        )?;
        if let Some(before) = known.node.filter(|before| *before != node.id) {
            self.lost_replica(before, key, now_ns)?;
        }
        self.leave_old_names(node, remote, key, now_ns)?;
        Ok(true)
    }

    /// A file that was renamed is at the remote under `key` now: its old names are whiteouts from
    /// here on, of the version that was seen. Not where the name is another remote's file by now,
    /// and nothing waits to delete or replace it: it belongs to that.
    pub(super) fn leave_old_names(
        &mut self,
        node: &Node,
        remote: RemoteId,
        key: &RelPath,
        now_ns: i64,
    ) -> Result<()> {
        let seen = node.origin.as_ref().filter(|(from, _)| *from == remote);
        let left = node::rows(
            &self.c,
            "UPDATE replicas SET node = NULL, base = coalesce(?4, version)
             WHERE node = ?1 AND remote = ?2 AND key <> ?3 RETURNING key",
            params![
                node.id.0 as i64,
                remote.0,
                key.as_bytes(),
                seen.map(|(_, version)| version.as_str())
            ],
            |row| RelPath::new(&row.get::<_, Vec<u8>>(0).map_err(sql)?),
        )?;
        for old in left {
            if let Some(other) = node::resolve(&self.c, &old)?
                && !outbox::is_deletion_queued(&self.c, remote, &old)?
                && let Some(replica) = node::replica(&self.c, remote, &old)?
            {
                self.join_restored(&other, &replica, now_ns)?;
            }
        }
        Ok(())
    }

    /// A moved file does not take with it what a remote put under its old name while ours waited
    /// to go up there: nobody here has seen that.
    pub(super) fn let_go_of_unseen(&self, node: &Node, path: &RelPath) -> Result<()> {
        if node.dirty == 0 {
            return Ok(());
        }
        self.run_sql(
            "UPDATE replicas SET node = NULL, base = (SELECT coalesce(o.base, '') FROM outbox o
             WHERE o.node = ?1 AND o.remote = replicas.remote)
             WHERE node = ?1 AND key <> ?2 AND EXISTS(SELECT 1 FROM outbox o
             WHERE o.node = ?1 AND o.remote = replicas.remote AND o.base IS NOT replicas.version)
             AND NOT EXISTS(SELECT 1 FROM nodes n WHERE n.id = ?1 AND n.origin = replicas.remote
             AND n.version = replicas.version)",
            params![node.id.0 as i64, path.as_bytes()],
        )?;
        Ok(())
    }
}
