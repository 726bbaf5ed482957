//! What must still go up: the rows, and how they come to be there.

use rusqlite::{Row, params};

use super::node::{self, NodeId, RemoteId, Replica};
use super::schema::sql;
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::object::{Sha256, Version};
use crate::path::RelPath;

/// How long a written file rests before it goes up: a file that is rewritten or renamed at once
/// goes up once.
pub const SETTLE_MS: i64 = 100;

/// `not_before` of a row that the remote will never take as it is: it waits for a change of the file
/// or of the remote, and for no time.
pub const HELD: i64 = i64::MAX;

/// What a row asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Publish the node's bytes under its path.
    Put(NodeId),
    /// Delete the key.
    Delete(RelPath),
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in the queue (see `place`): a file that is rewritten or renamed before it went up keeps it.
    pub id: i64,
    pub remote: RemoteId,
    pub operation: Operation,
    /// The version that the local change replaces; none if there was nothing.
    pub base: Option<Version>,
    pub generation: u64,
    pub queued_at_ms: i64,
    pub attempts: u32,
    pub not_before_ms: i64,
    pub last_error: Option<String>,
}

pub(super) fn operation(node: Option<i64>, key: Option<Vec<u8>>) -> Result<Operation> {
    match (node, key) {
        (Some(id), None) => Ok(Operation::Put(NodeId(id as u64))),
        (None, Some(key)) => Ok(Operation::Delete(RelPath::new(&key)?)),
        _ => Err(Error::new(Kind::Corrupt, "index: bad outbox row")),
    }
}

fn row_of(row: &Row<'_>) -> Result<OutboxRow> {
    let node: Option<i64> = row.get(2).map_err(sql)?;
    let key: Option<Vec<u8>> = row.get(3).map_err(sql)?;
    let base: Option<String> = row.get(4).map_err(sql)?;
    Ok(OutboxRow {
        id: row.get(0).map_err(sql)?,
        remote: RemoteId(row.get(1).map_err(sql)?),
        operation: operation(node, key)?,
        base: base.as_deref().map(Version::new).transpose()?,
        generation: row.get::<_, i64>(5).map_err(sql)? as u64,
        queued_at_ms: row.get(6).map_err(sql)?,
        attempts: row.get(7).map_err(sql)?,
        not_before_ms: row.get(8).map_err(sql)?,
        last_error: row.get(9).map_err(sql)?,
    })
}

macro_rules! select_outbox {
    ($rest:literal) => {
        concat!(
            "SELECT o.id, o.remote, o.node, o.key, o.base, o.generation, o.queued_at, o.attempts, o.not_before, ",
            "o.last_error FROM outbox o JOIN remotes m ON m.id = o.remote WHERE m.upload = 1 ",
            $rest
        )
    };
}

/// Rows of remotes that take uploads and may be tried at `now_ms`, oldest first, after row `after`.
/// A delete waits while a file here lives on what it would delete: one that was renamed, and whose
/// new name is not up yet.
pub fn ready(
    c: &rusqlite::Connection,
    now_ms: i64,
    after: i64,
    limit: usize,
) -> Result<Vec<OutboxRow>> {
    let query = select_outbox!(
        "AND o.not_before <= ?1 AND o.id > ?2 AND (o.key IS NULL OR NOT EXISTS(SELECT 1 FROM replicas r
         WHERE r.remote = o.remote AND r.key = o.key AND r.node IS NOT NULL)) ORDER BY o.id LIMIT ?3"
    );
    node::rows(c, query, params![now_ms, after, limit as i64], row_of)
}

/// The oldest row of all that may go.
pub fn oldest(c: &rusqlite::Connection) -> Result<Option<OutboxRow>> {
    let query = select_outbox!("AND o.not_before <> ?1 ORDER BY o.queued_at, o.id LIMIT 1");
    Ok(node::rows(c, query, [HELD], row_of)?.pop())
}

/// The oldest row that its remote refuses.
pub fn oldest_held(c: &rusqlite::Connection) -> Result<Option<OutboxRow>> {
    let query = select_outbox!("AND o.not_before = ?1 ORDER BY o.queued_at, o.id LIMIT 1");
    Ok(node::rows(c, query, [HELD], row_of)?.pop())
}

/// When the next row that must wait may be tried, in milliseconds since 1970.
pub fn next_due(c: &rusqlite::Connection, now_ms: i64) -> Result<Option<i64>> {
    let query = "SELECT min(o.not_before) FROM outbox o JOIN remotes m ON m.id = o.remote
                 WHERE m.upload = 1 AND o.not_before > ?1 AND o.not_before < ?2";
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    let due = statement.query_row([now_ms, HELD], |row| row.get(0));
    due.map_err(sql)
}

/// One row, if it is still there.
pub fn row(c: &rusqlite::Connection, id: i64) -> Result<Option<OutboxRow>> {
    let query = select_outbox!("AND o.id = ?1");
    Ok(node::rows(c, query, [id], row_of)?.pop())
}

/// Whether something of this node waits to go up.
pub fn is_queued(c: &rusqlite::Connection, id: NodeId) -> Result<bool> {
    let query = "SELECT EXISTS(SELECT 1 FROM outbox o JOIN remotes m ON m.id = o.remote
                 WHERE o.node = ?1 AND m.upload = 1)";
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    statement
        .query_row([id.0 as i64], |row| row.get(0))
        .map_err(sql)
}

/// Whether `key` is to be deleted at the remote.
pub(super) fn is_deletion_queued(
    c: &rusqlite::Connection,
    remote: RemoteId,
    key: &RelPath,
) -> Result<bool> {
    let query = "SELECT 1 FROM outbox WHERE remote = ?1 AND key = ?2";
    let params = params![remote.0, key.as_bytes()];
    Ok(!node::rows(c, query, params, |_| Ok(()))?.is_empty())
}

/// How many versions were sent under `key` and not answered.
pub fn attempts(c: &rusqlite::Connection, remote: RemoteId, key: &RelPath) -> Result<usize> {
    let query = "SELECT 1 FROM attempts WHERE remote = ?1 AND key = ?2";
    Ok(node::rows(c, query, params![remote.0, key.as_bytes()], |_| Ok(()))?.len())
}

/// Whether anything was sent under `key`, to any remote, and not answered.
pub fn is_unanswered(c: &rusqlite::Connection, key: &RelPath) -> Result<bool> {
    let query =
        "SELECT 1 FROM remotes m JOIN attempts a ON a.remote = m.id WHERE a.key = ?1 LIMIT 1";
    Ok(!node::rows(c, query, [key.as_bytes()], |_| Ok(()))?.is_empty())
}

/// Whether these bytes, or what looks so, were sent under `key` from here and not answered.
pub fn was_attempted(
    c: &rusqlite::Connection,
    remote: RemoteId,
    key: &RelPath,
    sha256: Sha256,
) -> Result<bool> {
    let query = "SELECT 1 FROM attempts WHERE remote = ?1 AND key = ?2 AND sha256 = ?3";
    let params = params![remote.0, key.as_bytes(), sha256.0.as_slice()];
    Ok(!node::rows(c, query, params, |_| Ok(()))?.is_empty())
}

/// The outbox in figures.
#[derive(Debug, Clone, Default)]
pub struct OutboxTotals {
    pub pending: u64,
    /// Rows for remotes that take no uploads: kept, so that nothing is forgotten if they do later.
    pub parked: u64,
    pub failing: u64,
    /// Rows that their remote refuses; not counted among the others.
    pub held: u64,
}

/// Files and bytes that wait to go up.
pub fn waiting(c: &rusqlite::Connection) -> Result<(u64, u64)> {
    let query = "SELECT count(*), coalesce(sum(size), 0) FROM nodes WHERE id IN
                 (SELECT o.node FROM outbox o JOIN remotes m ON m.id = o.remote
                  WHERE m.upload = 1 AND o.not_before <> ?1)";
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    statement
        .query_row([HELD], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })
        .map_err(sql)
}

/// Counts the rows.
pub fn totals(c: &rusqlite::Connection) -> Result<OutboxTotals> {
    let query =
        "SELECT coalesce(sum(m.upload AND o.not_before <> ?1), 0), coalesce(sum(1 - m.upload), 0),
                 coalesce(sum(m.upload AND o.attempts > 0 AND o.not_before <> ?1), 0),
                 coalesce(sum(m.upload AND o.not_before = ?1), 0)
                 FROM outbox o JOIN remotes m ON m.id = o.remote";
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    statement
        .query_row([HELD], |row| {
            Ok(OutboxTotals {
                pending: row.get::<_, i64>(0)? as u64,
                parked: row.get::<_, i64>(1)? as u64,
                failing: row.get::<_, i64>(2)? as u64,
                held: row.get::<_, i64>(3)? as u64,
            })
        })
        .map_err(sql)
}

impl Writer {
    /// Queues the node for every remote that takes uploads. Where none does, rows are kept all the
    /// same, for they remember which version a local write replaced. `queue` false: never leaves.
    pub(super) fn queue_put(&mut self, id: NodeId, queue: bool, now_ms: i64) -> Result<u64> {
        if !queue {
            self.run_sql("DELETE FROM outbox WHERE node = ?1", [id.0 as i64])?;
            return Ok(self.fresh_generation());
        }
        match node::path(&self.c, id)? {
            Some(path) => self.queue_put_at(id, &path, now_ms),
            None => Err(Error::new(Kind::Stale, "the file was removed")),
        }
    }

    /// The same of a node whose path is known, and that may leave.
    pub(super) fn queue_put_at(&mut self, id: NodeId, path: &RelPath, now_ms: i64) -> Result<u64> {
        let generation = self.fresh_generation();
        let any = self.remotes.iter().any(|(_, upload)| *upload);
        let targets: Vec<_> = self
            .remotes
            .iter()
            .filter(|(_, upload)| *upload || !any)
            .copied()
            .collect();
        for (remote, _) in targets {
            self.queue_put_to(remote, id, path, generation, now_ms)?;
        }
        Ok(generation)
    }

    fn queue_put_to(
        &mut self,
        remote: RemoteId,
        id: NodeId,
        path: &RelPath,
        generation: u64,
        now_ms: i64,
    ) -> Result<()> {
        // A put takes the place of a delete of the same key that has not gone yet.
        self.run_sql(
            "DELETE FROM outbox WHERE remote = ?1 AND key = ?2",
            params![remote.0, path.as_bytes()],
        )?;
        let (base, place) = (self.base_for(remote, id, path)?, self.fresh_generation());
        self.run_sql(
            "INSERT INTO outbox(remote, node, base, generation, queued_at, not_before, id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT(remote, node) WHERE node IS NOT NULL DO UPDATE SET generation = excluded.generation,
             not_before = excluded.not_before, attempts = 0",
            params![
                remote.0, id.0 as i64, base.as_ref().map(Version::as_str), generation as i64, now_ms,
                now_ms + SETTLE_MS, place as i64
            ],
        )?;
        Ok(())
    }

    /// What a local write replaces: the version that was here when it began, which may be older
    /// than the one the remote has by now.
    fn base_for(&self, remote: RemoteId, id: NodeId, path: &RelPath) -> Result<Option<Version>> {
        let Some(replica) = node::replica(&self.c, remote, path)? else {
            return Ok(None);
        };
        if replica.node.is_none()
            && let Some(base) = self.base_of_whiteout(remote, path)?
        {
            return (!base.is_empty()).then(|| Version::new(&base)).transpose();
        }
        // What was seen of it is what its node shows, which may have been renamed away from here.
        let owner = replica.node.unwrap_or(id);
        let origin = node::node(&self.c, owner)?.and_then(|n| n.origin);
        Ok(match origin {
            Some((from, version)) if from == remote && replica.node.is_some() => Some(version),
            // Made here, and the remote's came while it was being written: nobody saw that.
            None if replica.node.is_some() => None,
            _ => Some(replica.meta.version),
        })
    }

    /// The version that was here when a name was deleted here; empty for none.
    pub(super) fn base_of_whiteout(
        &self,
        remote: RemoteId,
        key: &RelPath,
    ) -> Result<Option<String>> {
        let query = "SELECT base FROM replicas WHERE remote = ?1 AND key = ?2";
        let found = node::rows(&self.c, query, params![remote.0, key.as_bytes()], |row| {
            row.get(0).map_err(sql)
        })?;
        Ok(found.into_iter().next().flatten())
    }

    /// These bytes, or a copy that looks so, are about to be sent under `key`: whatever becomes of the answer, they are no
    /// other's version when they turn up there. Returns false, and they must not be sent, if the
    /// row is not as it was read: the end of an earlier upload may have come in between.
    pub fn attempt(&mut self, row: &OutboxRow, key: &RelPath, sha256: Sha256) -> Result<bool> {
        let noted = self.run_sql(
            "INSERT INTO attempts(remote, key, sha256) SELECT ?1, ?2, ?3 FROM outbox
             WHERE id = ?4 AND generation = ?5 AND base IS ?6
             ON CONFLICT(remote, key, sha256) DO UPDATE SET propagate = 0",
            params![
                row.remote.0,
                key.as_bytes(),
                sha256.0.as_slice(),
                row.id,
                row.generation as i64,
                row.base.as_ref().map(Version::as_str)
            ],
        )?;
        Ok(noted > 0)
    }

    /// What was sent under `key`, or beneath it, and not answered is to be deleted there if it arrived.
    pub fn recall(&mut self, key: &RelPath) -> Result<()> {
        let (low, high) = node::beneath(key);
        self.run_sql(
            "UPDATE attempts SET propagate = 1 WHERE key = ?1 OR (key >= ?2 AND key < ?3)",
            params![key.as_bytes(), low, high],
        )?;
        Ok(())
    }

    /// What is at the remote under `key` is known again.
    pub(super) fn attempts_settled(&self, remote: RemoteId, key: &RelPath) -> Result<()> {
        self.run_sql(
            "DELETE FROM attempts WHERE remote = ?1 AND key = ?2",
            params![remote.0, key.as_bytes()],
        )?;
        Ok(())
    }

    pub(super) fn queue_delete(&mut self, replica: &Replica, now_ms: i64) -> Result<()> {
        let takes = self
            .remotes
            .iter()
            .any(|(id, upload)| *id == replica.remote && *upload);
        if !takes {
            return Ok(());
        }
        let generation = self.fresh_generation();
        self.run_sql(
            "INSERT INTO outbox(remote, key, base, generation, queued_at, id) VALUES (?1, ?2, ?3, ?4, ?5, ?4)
             ON CONFLICT(remote, key) WHERE key IS NOT NULL DO UPDATE SET base = excluded.base,
             generation = excluded.generation, not_before = 0",
            params![
                replica.remote.0, replica.key.as_bytes(), replica.meta.version.as_str(),
                generation as i64, now_ms
            ],
        )?;
        Ok(())
    }

    /// An attempt failed: when the next one may come, and why. Says nothing of a file that was
    /// written or renamed since.
    pub fn upload_failed(
        &mut self,
        row: &OutboxRow,
        not_before_ms: i64,
        error: &str,
    ) -> Result<()> {
        self.run_sql(
            "UPDATE outbox SET attempts = attempts + 1, not_before = ?3, last_error = ?4
             WHERE id = ?1 AND generation = ?2",
            params![row.id, row.generation as i64, not_before_ms, error],
        )?;
        Ok(())
    }

    /// Lets every waiting row be tried at once.
    pub fn retry_now(&mut self) -> Result<()> {
        self.run_sql("UPDATE outbox SET not_before = 0 WHERE not_before > 0", [])?;
        Ok(())
    }

    /// The local change is to be based on another version of the remote's, unless the file was
    /// written or renamed since.
    pub fn rebase(&mut self, row: &OutboxRow, base: Option<&Version>) -> Result<()> {
        self.run_sql(
            "UPDATE outbox SET base = ?3, not_before = 0 WHERE id = ?1 AND generation = ?2",
            params![row.id, row.generation as i64, base.map(Version::as_str)],
        )?;
        Ok(())
    }
}
