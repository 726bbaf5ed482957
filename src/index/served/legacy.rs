//! The index file that an FXCACHE server left in the directory, read only.
//!
//! It says what that server knew when it was last refreshed, so it is hearsay: good enough to say
//! at once that a file probably exists, never good enough for a version. A file that is
//! damaged, or something else, is refused when it is opened.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::legacy::{LegacyIndex, NAME};

/// What it says of one file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hearsay {
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: f64,
}

/// The file, open.
pub struct Legacy {
    index: LegacyIndex,
    files: u64,
}

impl Legacy {
    /// Opens and checks it. None: there is none. [`Kind::Corrupt`]: it is no such index.
    pub fn open(root: &Path) -> Result<Option<Legacy>> {
        let path = root.join(NAME);
        match std::fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() => {}
            Ok(_) => {
                let why = "it is not a regular file";
                return Err(Error::new(Kind::Corrupt, why).about(NAME));
            }
            Err(_) => return Ok(None),
        }
        let opened = LegacyIndex::open(&path).and_then(|index| Ok((index.files()?, index)));
        let (files, index) = opened.map_err(|error| error.about(NAME))?;
        Ok(Some(Legacy { index, files }))
    }

    /// What it says of `path`. Bytes that are no text are not in it, nor is a size below zero.
    pub fn get(&self, path: &[u8]) -> Result<Option<Hearsay>> {
        let Ok(path) = std::str::from_utf8(path) else {
            return Ok(None);
        };
        let said = self.index.get(path).map_err(|error| error.about(NAME))?;
        Ok(said.and_then(|said| {
            let (size, mtime) = (said.size?, said.mtime?);
            Some(Hearsay { size, mtime })
        }))
    }

    /// How many files it names.
    pub fn files(&self) -> u64 {
        self.files
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

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
