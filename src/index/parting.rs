//! What becomes of the files of a remote that the mount has no more.
//!
//! A wrong address, or another one of the same server, is no reason for anything to go that is here:
//! names that were only there go, and what is held of them stays. Once all the remotes that there
//! are were listed, what none of them has counts as written here. What was to go up goes to those.
//! Another version of a cache is asked for on purpose: nothing of the one before is shown.

use rusqlite::params;

use super::node::{self, Held, Node, NodeId, RemoteId};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::Change;
use crate::path::RelPath;

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parting {
    /// Whether another step would find something.
    pub more: bool,
    /// Files that count as written here since.
    pub kept: u64,
}

/// Whether anything is left of remotes that the mount has no more.
pub fn is_parting(c: &rusqlite::Connection) -> Result<bool> {
    let query = "SELECT 1 FROM remotes WHERE position < 0 LIMIT 1";
    Ok(!node::rows(c, query, [], |_| Ok(()))?.is_empty())
}

impl Writer {
    /// Lets go of up to `limit` files of remotes that the mount has no more and that, by their URLs,
    /// are other versions (`is_version`) of one that it has: also of what is held, but not of what was
    /// written here since. Returns whether another step would find something.
    pub fn supersede_some(
        &mut self,
        limit: usize,
        is_version: &dyn Fn(&str) -> bool,
        now_ns: i64,
    ) -> Result<bool> {
        let query = "SELECT id, url FROM remotes WHERE position < 0";
        let parked = node::rows(&self.c, query, [], |row| {
            let url: String = row.get(1).map_err(sql)?;
            Ok((RemoteId(row.get(0).map_err(sql)?), url))
        })?;
        let mut rest = limit;
        for (id, _) in parked.iter().filter(|(_, url)| is_version(url)) {
            let query = "SELECT key FROM replicas WHERE remote = ?1 LIMIT ?2";
            let keys = node::rows(&self.c, query, params![id.0, rest as i64], |row| {
                RelPath::new(&row.get::<_, Vec<u8>>(0).map_err(sql)?)
            })?;
            for key in &keys {
                self.apply_deleted(*id, key, now_ns)?;
            }
            rest -= keys.len();
        }
        self.unlist_parked(rest < limit)?;
        Ok(rest == 0)
    }

    /// Lets go of up to `limit` files of remotes that the mount has no more; of what is held only if
    /// all the others `are_listed`. `local_only` says which paths never leave.
    pub fn part_with_some(
        &mut self,
        limit: usize,
        are_listed: bool,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ns: i64,
    ) -> Result<Parting> {
        let queued = self.queue_elsewhere(limit, local_only, now_ns / 1_000_000)?;
        let gone = node::rows(
            &self.c,
            "SELECT r.remote, r.key FROM replicas r JOIN remotes m ON m.id = r.remote
             LEFT JOIN nodes n ON n.id = r.node
             WHERE m.position < 0 AND (?2 OR n.held IS NOT ?3) LIMIT ?1",
            params![limit as i64, are_listed, Held::Whole.code()],
            |row| {
                let key: Vec<u8> = row.get(1).map_err(sql)?;
                Ok((RemoteId(row.get(0).map_err(sql)?), RelPath::new(&key)?))
            },
        )?;
        let mut kept = 0;
        for (remote, key) in &gone {
            kept += u64::from(self.part_with(*remote, key, local_only, now_ns)?);
        }
        self.unlist_parked(!gone.is_empty())?;
        let more = gone.len() == limit || queued == limit;
        if are_listed && !more {
            self.run_sql(
                "DELETE FROM outbox WHERE remote IN (SELECT id FROM remotes WHERE position < 0)",
                [],
            )?;
            self.run_sql("DELETE FROM remotes WHERE position < 0", [])?;
        }
        Ok(Parting { more, kept })
    }

    /// Of remotes that names were let go of nothing is known until they are listed again.
    fn unlist_parked(&mut self, any: bool) -> Result<()> {
        if any {
            let query = "UPDATE remotes SET listed_ms = NULL WHERE position < 0";
            self.run_sql(query, [])?;
        }
        Ok(())
    }

    /// Applies what the listing of another remote in the place of `remote` came to: what that names no
    /// more was deleted by nobody.
    pub fn apply_listing_of_another(
        &mut self,
        remote: RemoteId,
        changes: &[Change],
        begun: u64,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ns: i64,
    ) -> Result<()> {
        for change in self.not_sent_since(remote, changes, begun)? {
            match &change {
                Change::Deleted(key, _) => {
                    self.part_with(remote, key, local_only, now_ns)?;
                }
                other => {
                    self.apply(remote, std::slice::from_ref(other), None, now_ns)?;
                }
            }
        }
        Ok(())
    }

    /// What is held of it counts as written here, if no other remote has it; else its name goes.
    /// Returns which.
    fn part_with(
        &mut self,
        remote: RemoteId,
        key: &RelPath,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ns: i64,
    ) -> Result<bool> {
        match self.stays(remote, key)? {
            Some(node) => {
                self.stay(&node, remote, key, local_only, now_ns)?;
                Ok(true)
            }
            None => {
                self.apply_deleted(remote, key, now_ns)?;
                Ok(false)
            }
        }
    }

    /// The held file that the replica is of, if no other remote that there is has it.
    fn stays(&self, remote: RemoteId, key: &RelPath) -> Result<Option<Node>> {
        let owner = node::replica(&self.c, remote, key)?.and_then(|replica| replica.node);
        let Some(node) = owner.map(|id| self.need(id)).transpose()? else {
            return Ok(None);
        };
        let is_here = node.held == Held::Whole && self.is_settled(&node)?;
        if !is_here || node::path(&self.c, node.id)?.as_ref() != Some(key) {
            return Ok(None);
        }
        let others = node::replicas(&self.c, node.id)?;
        let is_elsewhere = others.iter().any(|other| {
            other.remote != remote && self.remotes.iter().any(|(id, _)| *id == other.remote)
        });
        Ok((!is_elsewhere).then_some(node))
    }

    /// The file counts as written here, upon nothing.
    fn stay(
        &mut self,
        node: &Node,
        remote: RemoteId,
        key: &RelPath,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ns: i64,
    ) -> Result<()> {
        self.run_sql(
            "DELETE FROM replicas WHERE remote = ?1 AND key = ?2",
            params![remote.0, key.as_bytes()],
        )?;
        let generation = match local_only(key) {
            true => self.fresh_generation(),
            false => self.queue_put_at(node.id, key, now_ns / 1_000_000)?,
        };
        self.run_sql(
            "UPDATE nodes SET dirty = ?2, origin = NULL, version = NULL WHERE id = ?1",
            params![node.id.0 as i64, generation as i64],
        )?;
        Ok(())
    }

    /// What was to go up to a remote that the mount has no more, or to one that takes no uploads
    /// while another does, goes to those that there are. Returns how many files it was.
    fn queue_elsewhere(
        &mut self,
        limit: usize,
        local_only: &dyn Fn(&RelPath) -> bool,
        now_ms: i64,
    ) -> Result<usize> {
        let query = "SELECT DISTINCT o.node FROM outbox o JOIN remotes m ON m.id = o.remote
             WHERE o.node IS NOT NULL AND (m.position < 0
             OR (m.upload = 0 AND EXISTS(SELECT 1 FROM remotes WHERE upload = 1)
                 AND NOT EXISTS(SELECT 1 FROM outbox p JOIN remotes q ON q.id = p.remote
                                WHERE p.node = o.node AND q.upload = 1))) LIMIT ?1";
        let waiting = node::rows(&self.c, query, [limit as i64], |row| {
            Ok(NodeId(row.get::<_, i64>(0).map_err(sql)? as u64))
        })?;
        for id in &waiting {
            let path = node::path(&self.c, *id)?.filter(|path| !local_only(path));
            let Some(path) = path else {
                self.run_sql("DELETE FROM outbox WHERE node = ?1", [id.0 as i64])?;
                continue;
            };
            let generation = self.queue_put_at(*id, &path, now_ms)?;
            self.run_sql(
                "UPDATE nodes SET dirty = ?2 WHERE id = ?1 AND dirty <> 0",
                params![id.0 as i64, generation as i64],
            )?;
            self.run_sql(
                "DELETE FROM outbox WHERE node = ?1
                 AND remote IN (SELECT id FROM remotes WHERE position < 0)",
                [id.0 as i64],
            )?;
        }
        Ok(waiting.len())
    }
}
