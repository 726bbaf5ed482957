//! Opening the index: schema, migration, and what is done with a damaged one.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{said, set_common, signed};
use crate::clock::{Chance, Clock};
use crate::error::{About, Error, Kind, Result};

/// `user_version` of the schema below.
const SCHEMA: i64 = 1;

/// How far every start jumps ahead at least. Commits are not synced one by one, so a power cut may
/// take the last of them back; the numbers that they had given out must not come again.
const JUMP: u64 = 1 << 20;
/// And at random by so much more, at most: an index that was put back from a backup does not jump to
/// where its later self had been.
const FURTHER: u64 = 1 << 40;
/// Starts whose jumps are remembered.
const JUMPS: u64 = 1000;

/// Numbers between the ends of a jump were never given out, as far as this index knows. Who has one
/// has it from a life of the index that was lost.
const JUMPED: &str = "
CREATE TABLE IF NOT EXISTS jumps(below INTEGER PRIMARY KEY, above INTEGER NOT NULL) WITHOUT ROWID;
";

const TABLES: &str = "
CREATE TABLE files(
  path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  ino INTEGER NOT NULL, bump INTEGER NOT NULL, sha256 BLOB, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX files_by_seq ON files(seq);
CREATE TABLE tombstones(
  path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  ino INTEGER NOT NULL, bump INTEGER NOT NULL, sha256 BLOB, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX tombstones_by_seq ON tombstones(seq);
CREATE TABLE meta(
  one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL, seq INTEGER NOT NULL,
  floor INTEGER NOT NULL, scanned INTEGER NOT NULL);
";

/// An index that is ready.
pub struct Opened {
    pub connection: Connection,
    pub epoch: String,
    pub seq: u64,
    pub files: u64,
    pub bytes: u64,
    pub scanned: bool,
    pub report: Option<String>,
}

/// See [`super::Index::open`].
pub fn open(path: &Path) -> Result<Opened> {
    match attempt(path) {
        Err(Trouble::Damaged(why)) => {
            let aside = set_aside(path)?;
            let mut opened = attempt(path).map_err(|trouble| trouble.into_error(path))?;
            opened.report = Some(format!(
                "the index was damaged ({why}); it is kept as {} and the directory is scanned again",
                aside.display()
            ));
            Ok(opened)
        }
        other => other.map_err(|trouble| trouble.into_error(path)),
    }
}

enum Trouble {
    Damaged(String),
    Failed(Error),
}

impl Trouble {
    fn into_error(self, path: &Path) -> Error {
        match self {
            Trouble::Damaged(why) => Error::new(Kind::Io, why).about(path.display()),
            Trouble::Failed(error) => error.about(path.display()),
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Trouble::Damaged(error.to_string()),
            _ => Trouble::Failed(said(error)),
        }
    }
}

fn attempt(path: &Path) -> Result<Opened, Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags(path, flags)?;
    set_common(&db)?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > SCHEMA {
        return Err(Trouble::Failed(Error::new(
            Kind::Unsupported,
            "this index was made by a newer larder; use that one, or delete the file to scan again",
        )));
    }
    let verdict: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Trouble::Damaged(verdict));
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    if found == 0 {
        create(&mut db)?;
    }
    load(db)
}

fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let chance = Chance::from_system();
    let epoch = format!("{:016x}{:016x}", chance.next_u64(), chance.next_u64());
    let change = db.transaction()?;
    change.execute_batch(TABLES)?;
    change.execute("INSERT INTO meta VALUES (1, ?1, 0, 0, 0)", params![epoch])?;
    change.pragma_update(None, "user_version", SCHEMA)?;
    change.commit()
}

fn load(db: Connection) -> Result<Opened, Trouble> {
    let meta = db
        .query_row("SELECT epoch, seq, scanned FROM meta", [], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((epoch, seq, scanned)) = meta else {
        return Err(Trouble::Damaged("it has no head".into()));
    };
    let seq = jump(&db, seq.cast_unsigned())?;
    let (files, bytes): (i64, i64) = db.query_row(
        "SELECT count(*), coalesce(sum(size), 0) FROM files",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(Opened {
        connection: db,
        epoch,
        seq,
        files: files.cast_unsigned(),
        bytes: bytes.cast_unsigned(),
        scanned,
        report: None,
    })
}

/// Begins to count far above `from`, and notes what was left out.
fn jump(db: &Connection, from: u64) -> rusqlite::Result<u64> {
    let further = Chance::from_system().next_u64() % FURTHER;
    let to = from + JUMP + further;
    let change = db.unchecked_transaction()?;
    change.execute_batch(JUMPED)?;
    change.execute(
        "INSERT OR REPLACE INTO jumps VALUES (?1, ?2)",
        params![signed(from), signed(to)],
    )?;
    // Whoever is older than what is remembered lists anew.
    let oldest: Option<i64> = change
        .query_row(
            "SELECT above FROM jumps ORDER BY below DESC LIMIT 1 OFFSET ?1",
            params![signed(JUMPS)],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(oldest) = oldest {
        change.execute("DELETE FROM jumps WHERE above <= ?1", params![oldest])?;
        change.execute("UPDATE meta SET floor = max(floor, ?1)", params![oldest])?;
    }
    change.execute("UPDATE meta SET seq = ?1", params![signed(to)])?;
    change.commit()?;
    Ok(to)
}

/// Renames the damaged database and removes its companions, which belong to nothing now.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = beside(&format!(".corrupt-{}", Clock::System.now_ms()));
    fs::rename(path, &aside).about(path.display())?;
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::from(error).about(path.display()));
            }
            _ => {}
        }
    }
    Ok(aside)
}
