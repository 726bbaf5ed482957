//! Reading the index: a pool of read-only connections, and the questions asked of them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{Row, Seen, said, set_common, signed};
use crate::error::{Error, Kind, Result};
use crate::object::{Cursor, Sha256};
use crate::path::RelPath;

/// Connections kept for the next question.
const IDLE: usize = 16;

/// Idle connections; a question takes one or opens one, so that no reader waits for another.
pub struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub fn new(path: &Path) -> Pool {
        Pool {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Asks one question. A connection that failed is not used again.
    pub fn with<T>(&self, ask: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.locked().pop();
        let db = match idle {
            Some(db) => db,
            None => self.connect().map_err(said)?,
        };
        let answer = ask(&db);
        if answer.is_ok() {
            let mut idle = self.locked();
            if idle.len() < IDLE {
                idle.push(db);
            }
        }
        answer
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = Connection::open_with_flags(&self.path, flags)?;
        set_common(&db)?;
        Ok(db)
    }
}

/// What happened to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    Put(Row),
    Deleted,
}

const COLUMNS: &str = "size, mtime_ns, ctime_ns, ino, bump, sha256, seq";

/// Reads [`COLUMNS`], which begin at column `at`.
pub fn row_at(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Row> {
    let number = |i: usize| row.get::<_, i64>(at + i);
    let hash: Option<[u8; 32]> = row.get(at + 5)?;
    Ok(Row {
        seen: Seen {
            size: number(0)?.cast_unsigned(),
            mtime_ns: number(1)?,
            ctime_ns: number(2)?,
            ino: number(3)?.cast_unsigned(),
        },
        bump: number(4)?.cast_unsigned(),
        sha256: hash.map(Sha256),
        seq: number(6)?.cast_unsigned(),
    })
}

fn path_at(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<RelPath> {
    let bytes = row.get_ref(at)?.as_blob()?;
    RelPath::new(bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Blob, Box::new(error))
    })
}

pub fn get(db: &Connection, key: &RelPath) -> Result<Option<Row>> {
    const ASK: &str =
        "SELECT size, mtime_ns, ctime_ns, ino, bump, sha256, seq FROM files WHERE path = ?1";
    let mut ask = db.prepare_cached(ASK).map_err(said)?;
    ask.query_row(params![key.as_bytes()], |row| row_at(row, 0))
        .optional()
        .map_err(said)
}

pub fn beneath(
    db: &Connection,
    under: &RelPath,
    after: Option<&RelPath>,
    limit: usize,
) -> Result<Vec<(RelPath, Row)>> {
    // Everything beneath `d` sorts after `d/` and before `d0`, the byte after the slash.
    let edge = |last: u8| [under.as_bytes(), &[last]].concat();
    let (low, high) = match under.is_root() {
        true => (Vec::new(), None),
        false => (edge(b'/'), Some(edge(b'/' + 1))),
    };
    let low = after.map_or(&low[..], |after| after.as_bytes());
    between(db, Bound::Excluded(low), high.as_deref(), limit)
}

pub fn between(
    db: &Connection,
    from: Bound<&[u8]>,
    before: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(RelPath, Row)>> {
    let (low, begin) = match from {
        Bound::Included(low) => (low, "path >= ?1"),
        Bound::Excluded(low) => (low, "path > ?1"),
        Bound::Unbounded => (&[][..], "path >= ?1"),
    };
    let end = match before {
        Some(_) => "path < ?2",
        None => "?2 IS NULL",
    };
    let ask =
        format!("SELECT path, {COLUMNS} FROM files WHERE {begin} AND {end} ORDER BY path LIMIT ?3");
    let mut ask = db.prepare_cached(&ask).map_err(said)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    ask.query_map(params![low, before, limit], |row| {
        Ok((path_at(row, 0)?, row_at(row, 1)?))
    })
    .and_then(Iterator::collect)
    .map_err(said)
}

/// The head of the index, inside the reader's own transaction.
fn head(db: &Connection) -> rusqlite::Result<(Cursor, u64)> {
    let mut ask = db.prepare_cached("SELECT epoch, seq, floor FROM meta")?;
    ask.query_row([], |row| {
        let seq = row.get::<_, i64>(1)?.cast_unsigned();
        let cursor = Cursor {
            epoch: row.get(0)?,
            seq,
        };
        Ok((cursor, row.get::<_, i64>(2)?.cast_unsigned()))
    })
}

/// Whether a number was never given out by the index as it is: it is from a life that was lost.
fn was_jumped(db: &Connection, seq: u64) -> rusqlite::Result<bool> {
    let mut ask =
        db.prepare_cached("SELECT above FROM jumps WHERE below < ?1 ORDER BY below DESC LIMIT 1")?;
    let above: Option<i64> = ask
        .query_row(params![signed(seq)], |row| row.get(0))
        .optional()?;
    Ok(above.is_some_and(|above| seq < above.cast_unsigned()))
}

pub fn list(db: &Connection, mut each: impl FnMut(RelPath, Row) -> bool) -> Result<Option<Cursor>> {
    let moment = db.unchecked_transaction().map_err(said)?;
    let (cursor, _) = head(&moment).map_err(said)?;
    let ask = format!("SELECT path, {COLUMNS} FROM files ORDER BY path");
    let mut ask = moment.prepare_cached(&ask).map_err(said)?;
    let mut rows = ask.query([]).map_err(said)?;
    while let Some(row) = rows.next().map_err(said)? {
        let key = path_at(row, 0).map_err(said)?;
        if !each(key, row_at(row, 1).map_err(said)?) {
            return Ok(None);
        }
    }
    Ok(Some(cursor))
}

pub fn changes(
    db: &Connection,
    since: &Cursor,
    mut each: impl FnMut(u64, RelPath, Changed) -> bool,
) -> Result<Option<Cursor>> {
    let moment = db.unchecked_transaction().map_err(said)?;
    let (cursor, floor) = head(&moment).map_err(said)?;
    let is_known = since.epoch == cursor.epoch
        && (floor..=cursor.seq).contains(&since.seq)
        && !was_jumped(&moment, since.seq).map_err(said)?;
    if !is_known {
        let why = "changes since then are not known; take the whole index";
        return Err(Error::new(Kind::Stale, why));
    }
    let ask = format!(
        "SELECT 0, path, {COLUMNS} FROM files WHERE seq > ?1
         UNION ALL SELECT 1, path, {COLUMNS} FROM tombstones WHERE seq > ?1 ORDER BY seq"
    );
    let mut ask = moment.prepare_cached(&ask).map_err(said)?;
    let mut rows = ask.query(params![signed(since.seq)]).map_err(said)?;
    while let Some(row) = rows.next().map_err(said)? {
        let key = path_at(row, 1).map_err(said)?;
        let found = row_at(row, 2).map_err(said)?;
        let gone: bool = row.get(0).map_err(said)?;
        let seq = found.seq;
        let what = if gone {
            Changed::Deleted
        } else {
            Changed::Put(found)
        };
        if !each(seq, key, what) {
            return Ok(None);
        }
    }
    Ok(Some(cursor))
}
