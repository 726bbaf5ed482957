//! The index file that an FXCACHE server left in the directory, read only.
//!
//! It says what that server knew when it was last refreshed, so it is hearsay: good enough to say
//! at once that a file probably exists, never good enough for a version. A file that is
//! damaged, or something else, is refused when it is opened.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::error::{Error, Kind, Result};

/// Its name in the served directory.
pub const NAME: &str = ".fxcache_index.db";

/// What stays literal in a `file:` address.
const LITERAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// What it says of one file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hearsay {
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: f64,
}

/// The file, open.
pub struct Legacy {
    db: Mutex<Connection>,
    files: u64,
}

impl Legacy {
    /// Opens and checks it. None: there is none. [`Kind::Corrupt`]: it is no such index.
    pub fn open(root: &Path) -> Result<Option<Legacy>> {
        let path = root.join(NAME);
        match std::fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() => {}
            Ok(_) => return Err(refused("it is not a regular file")),
            Err(_) => return Ok(None),
        }
        let db = connect(&path).map_err(|error| refused(&error.to_string()))?;
        let files = check(&db).map_err(|error| refused(&error.to_string()))?;
        let files = files.ok_or_else(|| refused("it has other tables"))?;
        let db = Mutex::new(db);
        Ok(Some(Legacy { db, files }))
    }

    /// What it says of `path`. Bytes that are no text are not in it, nor is a size below zero.
    pub fn get(&self, path: &[u8]) -> Result<Option<Hearsay>> {
        let Ok(path) = std::str::from_utf8(path) else {
            return Ok(None);
        };
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Option<(i64, f64)> = db
            .prepare_cached("SELECT size, mtime FROM files WHERE path = ?1")
            .and_then(|mut ask| {
                ask.query_row(params![path], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(|error| refused(&error.to_string()))?;
        Ok(found.and_then(|(size, mtime)| {
            let size = u64::try_from(size).ok()?;
            Some(Hearsay { size, mtime })
        }))
    }

    /// How many files it names.
    pub fn files(&self) -> u64 {
        self.files
    }
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Corrupt, why).about(NAME)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let has_log = std::fs::symlink_metadata(&log).is_ok_and(|facts| facts.len() > 0);
    // Without a log everything is in the file, and nothing need be written beside it.
    let tail = if has_log { "" } else { "?immutable=1" };
    let name = percent_encode(path.as_os_str().as_encoded_bytes(), LITERAL);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("file:{name}{tail}"), flags)?;
    db.busy_timeout(std::time::Duration::from_secs(2))?;
    // Whoever made the file does not get to run anything in here.
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    Ok(db)
}

/// How many rows it has; none when it is another database.
fn check(db: &Connection) -> rusqlite::Result<Option<u64>> {
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(rusqlite::Error::InvalidParameterName(verdict));
    }
    let fits: bool = db.query_row(
        "SELECT count(*) = 3 AND max(part.name = 'path' AND part.pk = 1)
         FROM pragma_table_info('files') AS part JOIN sqlite_schema AS made ON made.name = 'files'
         WHERE made.type = 'table' AND part.name IN ('path', 'size', 'mtime')",
        [],
        |row| Ok(row.get::<_, Option<bool>>(0)?.unwrap_or(false)),
    )?;
    if !fits {
        return Ok(None);
    }
    let files: i64 = db.query_row("SELECT count(*) FROM files", [], |row| row.get(0))?;
    Ok(u64::try_from(files).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "
        CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime REAL NOT NULL);
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
        INSERT INTO files VALUES ('TB/a.pkl', 5, 1795186679.5516276), ('odd', -1, 0);";

    fn place(sql: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join(NAME)).unwrap();
        db.execute_batch(sql).unwrap();
        dir
    }

    #[test]
    fn what_an_fxcache_server_left_is_read_and_nothing_is_written() {
        let dir = place(TABLES);
        let legacy = Legacy::open(dir.path()).unwrap().unwrap();
        assert_eq!(legacy.files(), 2);
        let said = Hearsay {
            size: 5,
            mtime: 1_795_186_679.551_627_6,
        };
        assert_eq!(legacy.get(b"TB/a.pkl").unwrap(), Some(said));
        for absent in [&b"TB/b.pkl"[..], b"odd", b"\xff"] {
            assert_eq!(legacy.get(absent).unwrap(), None);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn rows_that_are_still_in_its_log_count() {
        let dir = place("PRAGMA journal_mode = WAL;");
        let writer = Connection::open(dir.path().join(NAME)).unwrap();
        writer.execute_batch(TABLES).unwrap();
        let legacy = Legacy::open(dir.path()).unwrap().unwrap();
        assert_eq!(legacy.files(), 2);
        drop(writer);
    }

    #[test]
    fn p10_what_is_no_such_index_is_refused() {
        let none = tempfile::tempdir().unwrap();
        assert!(Legacy::open(none.path()).unwrap().is_none());
        let others = [
            "CREATE TABLE other (x);",
            "CREATE TABLE files (path TEXT, size INTEGER, mtime REAL);",
            "CREATE VIEW files AS SELECT 'a' AS path, 1 AS size, 1.0 AS mtime;",
        ];
        for sql in others {
            assert!(Legacy::open(place(sql).path()).is_err(), "{sql}");
        }
        let damaged = place(TABLES);
        std::fs::write(damaged.path().join(NAME), vec![0x55; 9000]).unwrap();
        let error = Legacy::open(damaged.path()).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt);
        let linked = tempfile::tempdir().unwrap();
        let real = place(TABLES).keep();
        std::os::unix::fs::symlink(real.join(NAME), linked.path().join(NAME)).unwrap();
        assert!(Legacy::open(linked.path()).is_err());
        std::fs::remove_dir_all(real).unwrap();
    }
}
