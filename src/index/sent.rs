//! What an upload's end does to its row, and to what is known of the remote.

use rusqlite::{OptionalExtension as _, params};

use super::copied::shows_other;
use super::node::{self, Node, NodeId, RemoteId, Replica};
use super::outbox::{self, Operation, OutboxRow, is_queued};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::{Meta, Object, Version};
use crate::path::RelPath;

/// What an upload's end means for its row.
#[derive(Debug, Clone)]
pub enum Sent {
    /// The remote has these bytes under this key now.
    Published(Meta),
    /// The remote has them there now, for it copied what it has in this version; nobody here need
    /// have read them.
    Copied(Meta, Version),
    /// It had them already.
    Known,
    /// The key is gone at the remote.
    Deleted,
    /// There is nothing to send any more.
    Moot,
}

impl Sent {
    /// What the remote has under the key now, if that was sent or copied there.
    fn published(&self) -> Option<&Meta> {
        match self {
            Sent::Published(meta) | Sent::Copied(meta, _) => Some(meta),
            Sent::Known | Sent::Deleted | Sent::Moot => None,
        }
    }
}
impl Writer {
    /// An upload ended well. `row` is as it was when the upload began: if the file was written again
    /// since, the row stays, based on what is at the remote now.
    pub fn sent(
        &mut self,
        row: &OutboxRow,
        key: &RelPath,
        outcome: &Sent,
        now_ns: i64,
    ) -> Result<()> {
        if let Sent::Deleted = outcome {
            self.run_sql(
                "DELETE FROM replicas WHERE remote = ?1 AND key = ?2 AND node IS NULL",
                params![row.remote.0, key.as_bytes()],
            )?;
        }
        // Its node may have another id by now: readers kept the old one.
        let still: Option<(i64, Option<i64>)> = self
            .c
            .prepare_cached("SELECT generation, node FROM outbox WHERE id = ?1")
            .and_then(|mut s| {
                s.query_row([row.id], |r| Ok((r.get(0)?, r.get(1)?)))
                    .optional()
            })
            .map_err(sql)?;
        let node = match (&row.operation, still) {
            (Operation::Put(_), Some((_, Some(id)))) => node::node(&self.c, NodeId(id as u64))?,
            (Operation::Put(id), _) => node::node(&self.c, *id)?,
            (Operation::Delete(_), _) => None,
        };
        if self.is_orphaned(row, key, outcome, node.as_ref(), now_ns)? {
            return Ok(());
        }
        if let Sent::Copied(meta, of) = outcome {
            self.name_attempt(row.remote, key, of, meta)?;
        }
        let shows_other = shows_other(row, outcome, node.as_ref());
        if let Some(meta) = outcome.published() {
            self.note_published(row, key, meta, node.as_ref(), shows_other, now_ns)?;
        }
        if let (Sent::Copied(meta, of), Some(node)) = (outcome, &node) {
            self.relabel(node, row.remote, key, of, &meta.version)?;
        }
        match (still, outcome.published()) {
            (Some((generation, _)), _) if generation as u64 == row.generation && !shows_other => {
                if let (Sent::Known, Some(node)) = (outcome, &node)
                    && !self.is_there(node, row.remote, key, row.base.as_ref(), now_ns)?
                {
                    // It is looked at again.
                    return Ok(());
                }
                self.finish(row, node.as_ref(), outcome, now_ns)
            }
            (_, Some(meta)) => self.now_based_on(row.remote, key, meta),
            _ => Ok(()),
        }
    }

    /// The file that was sent or copied went, and nobody here deleted it: ours was set aside, or its
    /// remote has it no more under its old name. What arrived is shown like any other version there.
    /// Returns whether it is so.
    fn is_orphaned(
        &mut self,
        row: &OutboxRow,
        key: &RelPath,
        outcome: &Sent,
        node: Option<&Node>,
        now_ns: i64,
    ) -> Result<bool> {
        let (Some(meta), None) = (outcome.published(), node) else {
            return Ok(false);
        };
        // Whoever deletes a file leaves what was sent of it on record.
        let deleted = outbox::attempts(&self.c, row.remote, key)? > 0;
        let is_taken = match node::resolve(&self.c, key)? {
            Some(other) => !self.is_settled(&other)?,
            None => false,
        };
        if deleted || is_taken || self.is_older(row.remote, key, meta.revision.as_ref())? {
            return Ok(false);
        }
        let object = Object {
            key: key.clone(),
            meta: meta.clone(),
        };
        self.enter_put(row.remote, &object, now_ns)?;
        let sent = self.fresh_generation();
        self.run_sql(
            "UPDATE replicas SET sent = ?3 WHERE remote = ?1 AND key = ?2",
            params![row.remote.0, key.as_bytes(), sent as i64],
        )?;
        Ok(true)
    }

    /// The file was changed again while it went up, or another took its name: what went up is what
    /// the one that has the name now replaces.
    fn now_based_on(&mut self, remote: RemoteId, key: &RelPath, meta: &Meta) -> Result<()> {
        let Some(node) = node::resolve(&self.c, key)? else {
            return Ok(());
        };
        self.run_sql(
            "UPDATE outbox SET base = ?3, not_before = 0 WHERE remote = ?1 AND node = ?2",
            params![remote.0, node.id.0 as i64, meta.version.as_str()],
        )?;
        self.run_sql(
            "UPDATE nodes SET origin = ?2, version = ?3 WHERE id = ?1 AND dirty <> 0",
            params![node.id.0 as i64, remote.0, meta.version.as_str()],
        )?;
        Ok(())
    }

    /// The key's replica is what we sent, and belongs to our node if that is still under this path.
    fn note_published(
        &mut self,
        row: &OutboxRow,
        key: &RelPath,
        meta: &Meta,
        node: Option<&Node>,
        shows_other: bool,
        now_ns: i64,
    ) -> Result<()> {
        let here = match node {
            Some(node) => node::path(&self.c, node.id)?.as_ref() == Some(key),
            None => false,
        };
        let owner = node.filter(|_| here);
        let object = Object {
            key: key.clone(),
            meta: meta.clone(),
        };
        if owner.is_none() && self.is_recalled(row.remote, &object, now_ns)? {
            return Ok(());
        }
        let sent = self.fresh_generation();
        let seq = self.seq_of(row.remote, meta.revision.as_ref())?;
        let known = node::replica(&self.c, row.remote, key)?;
        let before = known.as_ref().and_then(|r| r.node);
        // Or to the file that has the name again. What was renamed away is no part of this version.
        let owner_id = match (owner, before) {
            (Some(node), _) => Some(node.id),
            (None, Some(other)) => {
                let at = node::path(&self.c, other)?;
                at.filter(|at| at == key).map(|_| other)
            }
            (None, None) => None,
        };
        // Somebody's newer version may have been heard of first: ours is what it replaced.
        let newest = match known {
            Some(known) if self.is_older(row.remote, key, meta.revision.as_ref())? => known.meta,
            _ => meta.clone(),
        };
        // That one nobody here has seen: whoever takes the name replaces ours.
        let base = owner_id.is_none() && newest.version != meta.version;
        let base = base.then(|| meta.version.as_str());
        self.run_sql(
            "INSERT INTO replicas(remote, key, node, version, size, mtime_ns, sha256, sent, seq, arrived_ns, rough, base)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT(remote, key) DO UPDATE SET node = excluded.node, version = excluded.version,
             size = excluded.size, mtime_ns = excluded.mtime_ns, sha256 = excluded.sha256, sent = excluded.sent,
             seq = max(seq, excluded.seq), base = excluded.base, behind = 0, arrived_ns = excluded.arrived_ns,
             rough = excluded.rough",
            params![
                row.remote.0, key.as_bytes(), owner_id.map(|id| id.0 as i64), newest.version.as_str(),
                newest.size as i64, newest.mtime_ns, newest.sha256.map(|h| h.0.to_vec()), sent as i64, seq,
                newest.arrival.map(|a| a.at_ns), newest.is_rough(), base
            ],
        )?;
        self.attempts_settled(row.remote, key)?;
        let Some(node) = owner else {
            // Ours was taken away while it went up: the name shows what is there now.
            return match before {
                Some(other) => self.lost_replica(other, key, now_ns),
                None => Ok(()),
            };
        };
        // Written again since or not: what is here now was made from what was sent. Whoever deletes
        // or replaces the file has seen that version, not the one before.
        if self.earlier_version(node, row.remote)?.is_none() {
            self.run_sql(
                "UPDATE nodes SET origin = ?2, version = ?3 WHERE id = ?1 AND dirty <> 0",
                params![node.id.0 as i64, row.remote.0, meta.version.as_str()],
            )?;
        }
        if let Some(before) = before.filter(|before| *before != node.id) {
            self.lost_replica(before, key, now_ns)?;
        }
        if shows_other {
            // Its bytes are under the old name only.
            return Ok(());
        }
        self.leave_old_names(node, row.remote, key, now_ns)
    }

    /// The version under which a remote that comes before `remote` took what this one takes now.
    fn earlier_version(
        &self,
        node: &Node,
        remote: RemoteId,
    ) -> Result<Option<(RemoteId, Version)>> {
        let Some((from, version)) = &node.origin else {
            return Ok(None);
        };
        let mut before = self.remotes.iter().take_while(|(id, _)| *id != remote);
        if !before.any(|(id, uploads)| id == from && *uploads) {
            return Ok(None);
        }
        let query = "SELECT 1 FROM outbox WHERE remote = ?1 AND node = ?2";
        let params = params![from.0, node.id.0 as i64];
        let waits = !node::rows(&self.c, query, params, |_| Ok(()))?.is_empty();
        Ok((!waits).then(|| (*from, version.clone())))
    }

    /// The row is done. The file is clean once no remote that takes uploads waits for it, if this
    /// one has its bytes: a file that is not to leave any more stays a local one.
    fn finish(
        &mut self,
        row: &OutboxRow,
        node: Option<&Node>,
        outcome: &Sent,
        now_ns: i64,
    ) -> Result<()> {
        self.run_sql("DELETE FROM outbox WHERE id = ?1", [row.id])?;
        let Some(node) = node else { return Ok(()) };
        let is_there = outcome.published().is_some() || matches!(outcome, Sent::Known);
        if !is_there || is_queued(&self.c, node.id)? {
            return Ok(());
        }
        self.run_sql("DELETE FROM outbox WHERE node = ?1", [node.id.0 as i64])?;
        let path = node::path(&self.c, node.id)?;
        let replicas = node::replicas(&self.c, node.id)?;
        let is_ours = |r: &&Replica| r.remote == row.remote && Some(&r.key) == path.as_ref();
        let Some(replica) = replicas.iter().find(is_ours) else {
            return Ok(());
        };
        let meta = outcome.published().unwrap_or(&replica.meta);
        let earlier = self.earlier_version(node, row.remote)?;
        let (from, version) = earlier.unwrap_or_else(|| (row.remote, meta.version.clone()));
        self.run_sql(
            "UPDATE nodes SET dirty = 0, touched = 0, origin = ?2, version = ?3, sha256 = coalesce(?4, sha256)
             WHERE id = ?1",
            params![
                node.id.0 as i64, from.0, version.as_str(), meta.sha256.map(|h| h.0.to_vec())
            ],
        )?;
        if replicas.len() > 1 || meta.version != replica.meta.version {
            // Replaced since, there or at a remote that comes before it.
            self.follow(node.id, now_ns)?;
        }
        Ok(())
    }
}
