//! Who was queued before whom.
//!
//! A row's id and its generation are numbers from one sequence: the id says when the change was
//! first queued, the generation when the file was last written. "Queued before that was written"
//! is one comparison, and is true after a restart as well.

use rusqlite::{Row, params};

use super::node::{self, NodeId, RemoteId};
use super::outbox::{HELD, Operation, operation};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;

/// A queued change, as far as others wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    pub id: i64,
    pub remote: RemoteId,
    pub operation: Operation,
    pub generation: u64,
    /// It is refused for good, or is a delete that waits for an upload: nothing waits for it.
    pub idle: bool,
}

fn earlier_of(row: &Row<'_>) -> Result<Earlier> {
    let node: Option<i64> = row.get(2).map_err(sql)?;
    let key: Option<Vec<u8>> = row.get(3).map_err(sql)?;
    Ok(Earlier {
        id: row.get(0).map_err(sql)?,
        remote: RemoteId(row.get(1).map_err(sql)?),
        operation: operation(node, key)?,
        generation: row.get::<_, i64>(4).map_err(sql)? as u64,
        idle: row.get(5).map_err(sql)?,
    })
}

/// The `limit` rows first queued before `before`, the latest first.
pub fn earlier(c: &rusqlite::Connection, before: i64, limit: usize) -> Result<Vec<Earlier>> {
    let query = "SELECT o.id, o.remote, o.node, o.key, o.generation, o.not_before = ?3 OR EXISTS(
                 SELECT 1 FROM replicas r WHERE r.remote = o.remote AND r.key = o.key AND r.node IS NOT NULL)
                 FROM outbox o WHERE o.id < ?1 ORDER BY o.id DESC LIMIT ?2";
    node::rows(c, query, params![before, limit as i64, HELD], earlier_of)
}

/// The row of this node's upload to `remote`, unless it is refused.
pub fn put_of(c: &rusqlite::Connection, remote: RemoteId, id: NodeId) -> Result<Option<i64>> {
    let query = "SELECT id FROM outbox WHERE remote = ?1 AND node = ?2 AND not_before <> ?3";
    let found = node::rows(c, query, params![remote.0, id.0 as i64, HELD], |row| {
        row.get(0).map_err(sql)
    })?;
    Ok(found.into_iter().next())
}

impl Writer {
    /// The node's uploads are no more. Returns the places that they had in the queue.
    pub(super) fn give_up_places(&self, id: NodeId) -> Result<Vec<(RemoteId, i64)>> {
        let query = "DELETE FROM outbox WHERE node = ?1 RETURNING remote, id";
        node::rows(&self.c, query, [id.0 as i64], |row| {
            Ok((RemoteId(row.get(0).map_err(sql)?), row.get(1).map_err(sql)?))
        })
    }

    /// The node's uploads, queued anew, have the places that they had.
    pub(super) fn take_places(&self, id: NodeId, places: &[(RemoteId, i64)]) -> Result<()> {
        for (remote, place) in places {
            self.run_sql(
                "UPDATE outbox SET id = ?3 WHERE remote = ?1 AND node = ?2",
                params![remote.0, id.0 as i64, place],
            )?;
        }
        Ok(())
    }

    /// What is queued of these nodes counts as written now: what was queued before holds those of
    /// them up that are published last.
    pub fn queue_behind(&mut self, ids: &[NodeId]) -> Result<()> {
        let generation = self.fresh_generation() as i64;
        for id in ids {
            self.run_sql(
                "UPDATE nodes SET dirty = ?2 WHERE id = ?1 AND dirty <> 0
                 AND dirty = (SELECT max(generation) FROM outbox WHERE node = ?1)",
                params![id.0 as i64, generation],
            )?;
            self.run_sql(
                "UPDATE outbox SET generation = ?2 WHERE node = ?1",
                params![id.0 as i64, generation],
            )?;
        }
        Ok(())
    }
}
