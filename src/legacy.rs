//! The index file of an original FXCACHE server: a database with a table of paths, sizes and times.
//!
//! It is somebody else's file, damaged perhaps, or something else altogether: it is opened for
//! reading only and checked whole before anything of it is believed; every value is checked by
//! whoever takes it. A table that would have us compute anything (checks, generated columns, views,
//! modules) is none of theirs. Nothing is written, neither to it nor beside it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use crate::error::{Error, Kind, Result};

/// Its name in the directory that the server serves.
pub const NAME: &str = ".fxcache_index.db";

/// What stays literal in a `file:` address.
const LITERAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// Longest value, row or statement that is read: many times the longest path.
const VALUE_MAX: i32 = 1 << 20;

/// What it says of one file, as far as that makes sense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    pub size: Option<u64>,
    /// Seconds since 1970.
    pub mtime: Option<f64>,
}

/// The file, open.
pub struct LegacyIndex {
    path: PathBuf,
    db: Mutex<Connection>,
}

impl LegacyIndex {
    /// Opens and checks it. Errors: [`Kind::Corrupt`] if it is damaged or something else.
    pub fn open(path: &Path) -> Result<LegacyIndex> {
        // A link on the way to the file is the user's; the file itself must be none.
        let dir = std::fs::canonicalize(path.parent().unwrap_or(path))?;
        let path = dir.join(path.file_name().unwrap_or_default());
        let db = connect(&path).map_err(unreadable)?;
        check(&db)?;
        Ok(LegacyIndex {
            path,
            db: Mutex::new(db),
        })
    }

    /// What it says of `path`.
    pub fn get(&self, path: &str) -> Result<Option<Said>> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        db.prepare_cached("SELECT size, mtime FROM files WHERE path = ?1")
            .and_then(|mut ask| ask.query_row([path], |row| Ok(said(row, 0))).optional())
            .map_err(unreadable)
    }

    /// How many files it names.
    pub fn files(&self) -> Result<u64> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let files = db.query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0));
        Ok(u64::try_from(files.map_err(unreadable)?).unwrap_or_default())
    }

    /// Gives every row to `take`, in byte order of the paths, whatever these are; ends at its first
    /// error. Whoever asks for a name meanwhile does not wait for it.
    pub fn rows(&self, mut take: impl FnMut(&[u8], Said) -> Result<()>) -> Result<()> {
        let db = connect(&self.path).map_err(unreadable)?;
        // The order that `memcmp` has, whatever the column says.
        let query = "SELECT size, mtime, path FROM files ORDER BY CAST(path AS BLOB)";
        let mut statement = db.prepare(query).map_err(unreadable)?;
        let mut rows = statement.query([]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            let path = match row.get_ref(2) {
                Ok(ValueRef::Text(path) | ValueRef::Blob(path)) => path,
                _ => b"",
            };
            take(path, said(row, 0))?;
        }
        Ok(())
    }
}

fn said(row: &Row<'_>, at: usize) -> Said {
    let size = row.get::<_, i64>(at).ok();
    Said {
        size: size.and_then(|n| u64::try_from(n).ok()),
        mtime: row.get(at + 1).ok(),
    }
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::new(Kind::Corrupt, error.to_string())
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
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "cache_size", -4096)?;
    Ok(db)
}

fn check(db: &Connection) -> Result<()> {
    // By what it is declared as, before any of it is run: a table of a module has no page of its own.
    let plain = "SELECT count(*) = 1 FROM sqlite_schema
         WHERE name = 'files' AND type = 'table' AND rootpage > 0
             AND replace(lower(sql), 'checksum', '') NOT LIKE '%check%'";
    let fits = "SELECT count(*) = 3 AND max(name = 'path' AND pk = 1)
             AND NOT (SELECT max(hidden) FROM pragma_table_xinfo('files'))
         FROM pragma_table_info('files') WHERE name IN ('path', 'size', 'mtime')";
    for shape in [plain, fits] {
        let holds = db.query_row(shape, [], |row| row.get::<_, Option<bool>>(0));
        if holds.map_err(unreadable)? != Some(true) {
            return Err(Error::new(Kind::Corrupt, "it has other tables"));
        }
    }
    let verdict: String = db
        .query_row("PRAGMA quick_check('files')", [], |row| row.get(0))
        .map_err(unreadable)?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => {
            let why = format!("it is damaged: {}", verdict.replace('\n', " "));
            Err(Error::new(Kind::Corrupt, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> PathBuf {
        let path = dir.join(NAME);
        let tables = "
            CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime REAL NOT NULL);
            INSERT INTO files VALUES ('b', 5, 7.5), ('B', -1, 'soon'), (x'ff', 1, 1);";
        Connection::open(&path)
            .unwrap()
            .execute_batch(tables)
            .unwrap();
        path
    }

    #[test]
    fn rows_come_in_order_and_names_are_found_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let index = LegacyIndex::open(&place(dir.path())).unwrap();
        let mut seen = Vec::new();
        let all = index.rows(|path, said| {
            assert!(index.get("b").unwrap().is_some());
            seen.push((path.to_vec(), said.size, said.mtime));
            Ok(())
        });
        all.unwrap();
        let wanted = [
            (b"B".to_vec(), None, None),
            (b"b".to_vec(), Some(5), Some(7.5)),
            (b"\xff".to_vec(), Some(1), Some(1.0)),
        ];
        assert_eq!((seen.as_slice(), index.files().unwrap()), (&wanted[..], 3));
        let stop = || Err(Error::new(Kind::Cancelled, "enough"));
        assert_eq!(
            index.rows(|_, _| stop()).unwrap_err().kind(),
            Kind::Cancelled
        );
    }

    #[test]
    fn p10_a_table_that_would_be_computed_is_not_touched() {
        const ROWS: &str = "INSERT INTO files(path, mtime) VALUES ('a', 1.0), ('b', 1.0);";
        for made in [
            "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, mtime REAL,
                CHECK (length(hex(randomblob(9000))) > 0));",
            "CREATE TABLE files (path TEXT PRIMARY KEY, mtime REAL,
                size INTEGER AS (length(hex(zeroblob(9000)))));",
            "CREATE VIRTUAL TABLE files USING fts5(path, size, mtime);",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(NAME);
            let db = Connection::open(&path).unwrap();
            db.execute_batch(&format!("{made} {ROWS}")).unwrap();
            let error = LegacyIndex::open(&path).err().unwrap();
            assert_eq!(error.message(), "it has other tables", "{made}");
        }
    }

    #[test]
    fn p9_a_value_without_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = place(dir.path());
        let long = "INSERT INTO files VALUES (hex(zeroblob(4000000)), 1, 1.0)";
        Connection::open(&path)
            .unwrap()
            .execute_batch(long)
            .unwrap();
        let read = LegacyIndex::open(&path).and_then(|index| index.rows(|_, _| Ok(())));
        assert_eq!(read.unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn p10_a_link_on_the_way_is_followed_and_one_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (real, linked) = (dir.path().join("real"), dir.path().join("linked"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &linked).unwrap();
        let path = place(&real);
        assert!(LegacyIndex::open(&linked.join(NAME)).is_ok());
        std::os::unix::fs::symlink(&path, real.join("other.db")).unwrap();
        assert!(LegacyIndex::open(&real.join("other.db")).is_err());
    }
}
