//! The tables of a mount's index, and how a file becomes one: created, migrated,
//! refused because it is newer, or set aside because it is broken.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::vfs;
use crate::error::{About, Error, Kind, Result};

/// The layout this build reads and writes; `PRAGMA user_version` of the file.
pub const VERSION: i64 = 3;

/// Broken indexes that are kept.
const KEPT_ASIDE: usize = 3;

/// Rows describe files; the tree holds them. Losing this file costs a rescan, never data.
///
/// - `nodes`: the namespace. `held`: 0 no bytes here, 1 the bytes of this version, 2 bytes of an
///   older one. `seen_*`: the stored file when last looked at. `dirty`: 0, or the generation of the
///   last local write. `writing`: 0 no, 1 open for writing in place, 2 left torn by a killed writer.
///   `origin`, `version`: which remote's version the size and the time are from.
/// - `replicas`: what each remote has, by the remote's own key. `node` is null where the name was
///   deleted here: a whiteout; `base` is then the version that was here when it was deleted, empty
///   for none. `behind`: nobody deleted it, another kind of thing has the name or that of its
///   directory. With a node, `base` is the version if a local write replaced it here. `sent`: the generation of our
///   own upload that made this version, so that a listing begun before it does not undo it. `seq`:
///   the number of the remote's change that made this version, in the epoch of the remote's
///   cursor; 0 if it is not known. `arrived_ns`: when the remote got the version, where it tells
///   that as well as the writer's time; `rough`: the writer's time is not known yet.
/// - `outbox`: what must go up. A put names a node, a delete names a key. An id is never given
///   twice: an upload that ends after its row went must not find another in its place.
/// - `attempts`: hashes of what was sent and not answered, for it may be there all the same: then
///   it is no other's version. Of a copy whose bytes nobody here has read: `Sha256::stand_in`. `propagate`: it was deleted here since, and is to go there too.
/// - `staged`: files being written; `closed` once a `close()` returned.
/// - `moving`: renames whose tree may have changed and whose rows have not yet.
/// - `doomed`: stored files whose row is gone; removed from the tree if they are still the same.
const TABLES: &str = "
CREATE TABLE nodes(
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  mode INTEGER NOT NULL, uid INTEGER, gid INTEGER, sha256 BLOB, origin INTEGER, version TEXT,
  held INTEGER NOT NULL DEFAULT 0, seen_size INTEGER, seen_mtime_ns INTEGER, seen_ino INTEGER,
  seen_ctime_ns INTEGER, dirty INTEGER NOT NULL DEFAULT 0, writing INTEGER NOT NULL DEFAULT 0,
  touched INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0,
  accessed INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX nodes_by_name ON nodes(parent, name);
CREATE INDEX nodes_by_use ON nodes(accessed) WHERE kind = 0 AND held <> 0 AND dirty = 0;
CREATE INDEX nodes_held ON nodes(parent) WHERE held <> 0;
CREATE INDEX nodes_dirs ON nodes(id) WHERE kind = 1;
CREATE INDEX nodes_dirty ON nodes(id) WHERE dirty <> 0 OR writing <> 0;
CREATE TABLE replicas(
  remote INTEGER NOT NULL, key BLOB NOT NULL, node INTEGER, version TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 BLOB, sent INTEGER NOT NULL DEFAULT 0,
  base TEXT, seq INTEGER NOT NULL DEFAULT 0, behind INTEGER NOT NULL DEFAULT 0,
  arrived_ns INTEGER, rough INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(remote, key)) WITHOUT ROWID;
CREATE INDEX replicas_by_node ON replicas(node) WHERE node IS NOT NULL;
CREATE INDEX replicas_hidden ON replicas(key) WHERE node IS NULL;
CREATE INDEX replicas_rough ON replicas(remote, key) WHERE rough = 1;
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY AUTOINCREMENT, remote INTEGER NOT NULL, node INTEGER, key BLOB, base TEXT,
  generation INTEGER NOT NULL, queued_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL DEFAULT 0, last_error TEXT);
CREATE UNIQUE INDEX outbox_puts ON outbox(remote, node) WHERE node IS NOT NULL;
CREATE UNIQUE INDEX outbox_deletes ON outbox(remote, key) WHERE key IS NOT NULL;
CREATE INDEX outbox_by_node ON outbox(node) WHERE node IS NOT NULL;
CREATE TABLE attempts(
  remote INTEGER NOT NULL, key BLOB NOT NULL, sha256 BLOB NOT NULL, propagate INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(remote, key, sha256)) WITHOUT ROWID;
CREATE TABLE remotes(
  id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, position INTEGER NOT NULL, upload INTEGER NOT NULL,
  epoch TEXT, seq INTEGER, listed_ms INTEGER, refused INTEGER NOT NULL DEFAULT 0,
  files INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, hidden INTEGER NOT NULL DEFAULT 0);
CREATE TABLE staged(id INTEGER PRIMARY KEY, node INTEGER NOT NULL, closed INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL);
CREATE INDEX staged_by_node ON staged(node);
CREATE TABLE doomed(path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  ino INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE conflicts(id INTEGER PRIMARY KEY, path BLOB NOT NULL, file TEXT NOT NULL,
  remote TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, at_ms INTEGER NOT NULL);
CREATE TABLE totals(what TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES ('files',0),('bytes',0),('held_files',0),('held_bytes',0),
  ('dirty_files',0),('dirty_bytes',0);
INSERT INTO meta VALUES ('generation', 1);
INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, held)
  VALUES (1, 0, x'', 1, 0, 0, 0, 493, 1);
";

/// New in layout 3.
const MOVING: &str = "
CREATE TABLE moving(node INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL,
  other INTEGER, ino INTEGER NOT NULL);
";

/// Sums that `status` and eviction read: kept by triggers, so that nothing ever counts rows.
fn trigger(event: &str, when: &str, row: &str, sign: char) -> String {
    let add = |what: &str, amount: &str, only: &str| {
        format!("UPDATE totals SET n = n {sign} {amount} WHERE what = '{what}' AND {only};")
    };
    let size = format!("{row}.size");
    let held = format!("{row}.held <> 0");
    let stored = format!("coalesce({row}.seen_size, 0)");
    let dirty = format!("{row}.dirty <> 0");
    format!(
        "CREATE TRIGGER totals_{sign_name}_{event_name} AFTER {event} ON nodes {when} BEGIN {}{}{}{}{}{} END;",
        add("files", "1", "1"),
        add("bytes", &size, "1"),
        add("held_files", "1", &held),
        add("held_bytes", &stored, &held),
        add("dirty_files", "1", &dirty),
        add("dirty_bytes", &size, &dirty),
        sign_name = if sign == '+' { "add" } else { "sub" },
        event_name = event.split(' ').next().unwrap_or_default().to_lowercase(),
    )
}

/// What each remote has, kept the same way.
fn replica_trigger(event: &str, row: &str, sign: char) -> String {
    format!(
        "CREATE TRIGGER replicas_{name}_{event_name} AFTER {event} ON replicas BEGIN
         UPDATE remotes SET files = files {sign} 1, bytes = bytes {sign} {row}.size,
         hidden = hidden {sign} ({row}.node IS NULL) WHERE id = {row}.remote; END;",
        name = if sign == '+' { "add" } else { "sub" },
        event_name = event.split(' ').next().unwrap_or_default().to_lowercase(),
    )
}

fn triggers() -> String {
    let update = "UPDATE OF size, held, dirty, seen_size";
    let moved = "UPDATE OF node, size";
    [
        replica_trigger("INSERT", "new", '+'),
        replica_trigger("DELETE", "old", '-'),
        replica_trigger(moved, "new", '+'),
        replica_trigger(moved, "old", '-'),
        trigger("INSERT", "WHEN new.kind = 0", "new", '+'),
        trigger("DELETE", "WHEN old.kind = 0", "old", '-'),
        trigger(update, "WHEN new.kind = 0", "new", '+'),
        trigger(update, "WHEN old.kind = 0", "old", '-'),
    ]
    .concat()
}

/// Opens the writer's connection to the index at `path`, making or migrating it.
///
/// A broken file is renamed beside itself and its new name is returned.
/// Errors: `Unsupported` for a file of a newer layout, which is left alone.
pub fn open(path: &Path) -> Result<(Connection, Option<PathBuf>)> {
    let opened = match condemned(path).exists() && path.exists() {
        true => Err(Error::new(Kind::Corrupt, "found damaged before")),
        false => try_open(path),
    };
    match opened {
        Ok(connection) => {
            remove(&condemned(path))?;
            Ok((connection, None))
        }
        Err(error) if error.kind() == Kind::Corrupt => {
            let aside = set_aside(path)?;
            Ok((try_open(path)?, Some(aside)))
        }
        Err(error) => Err(error),
    }
}

/// Its being there says that the index beside it is damaged in a part that no start looks at.
fn condemned(path: &Path) -> PathBuf {
    path.with_extension("db.damaged")
}

/// Has the file at `path` set aside at the next start.
pub fn condemn(path: &Path) {
    if let Err(error) = std::fs::write(condemned(path), "") {
        tracing::warn!(%error, "that the index is damaged could not be noted");
    }
}

fn try_open(path: &Path) -> Result<Connection> {
    vfs::register()?;
    let mut connection =
        Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs::NAME).map_err(sql)?;
    tune(&connection)?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sql)?;
    match found {
        VERSION => check(&connection)?,
        0 => create(&mut connection)?,
        1 | 2 => migrate(&mut connection, found)?,
        newer if newer > VERSION => {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the index was made by a newer larder (layout {newer}, this one knows {VERSION}); \
                     use that version, or move the file away to have it rebuilt"
                ),
            )
            .about(path.display()));
        }
        _ => return Err(Error::new(Kind::Corrupt, "unknown layout").about(path.display())),
    }
    Ok(connection)
}

fn tune(connection: &Connection) -> Result<()> {
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(sql)?;
    // WAL with NORMAL: a commit survives the death of the process (promise P3);
    // fsync() asks for more through `Index::sync`.
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(())
}

fn create(connection: &mut Connection) -> Result<()> {
    let empty: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
        .map_err(sql)?;
    if empty != 0 {
        return Err(Error::new(Kind::Corrupt, "tables without a version"));
    }
    let tx = connection.transaction().map_err(sql)?;
    tx.execute_batch(TABLES).map_err(sql)?;
    tx.execute_batch(MOVING).map_err(sql)?;
    tx.execute_batch(&triggers()).map_err(sql)?;
    tx.pragma_update(None, "user_version", VERSION)
        .map_err(sql)?;
    tx.commit().map_err(sql)
}

/// From layout 1, which did not know the order of a remote's changes, nor what is hidden by whom,
/// nor when a version arrived; and from layout 2, which did not know of renames under way.
fn migrate(connection: &mut Connection, from: i64) -> Result<()> {
    check(connection)?;
    let tx = connection.transaction().map_err(sql)?;
    if from == 1 {
        tx.execute_batch(
            "ALTER TABLE replicas ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
             ALTER TABLE replicas ADD COLUMN behind INTEGER NOT NULL DEFAULT 0;
             ALTER TABLE replicas ADD COLUMN arrived_ns INTEGER;
             ALTER TABLE replicas ADD COLUMN rough INTEGER NOT NULL DEFAULT 0;
             CREATE INDEX replicas_rough ON replicas(remote, key) WHERE rough = 1;",
        )
        .map_err(sql)?;
    }
    tx.execute_batch(MOVING).map_err(sql)?;
    tx.pragma_update(None, "user_version", VERSION)
        .map_err(sql)?;
    tx.commit().map_err(sql)
}

/// A look at the parts that every start needs; it must not grow with the file (no `quick_check`).
fn check(connection: &Connection) -> Result<()> {
    for table in [
        "nodes",
        "replicas",
        "outbox",
        "remotes",
        "staged",
        "doomed",
        "conflicts",
        "attempts",
        "totals",
    ] {
        connection
            .query_row(&format!("SELECT 1 FROM {table} LIMIT 1"), [], |_| Ok(()))
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                // A table that is not there: not our file, or not whole.
                _ => Err(Error::new(Kind::Corrupt, error.to_string())),
            })?;
    }
    Ok(())
}

fn set_aside(path: &Path) -> Result<PathBuf> {
    let stamp = crate::clock::Clock::System.now_ms();
    let aside = path.with_extension(format!("db.corrupt-{stamp}"));
    std::fs::rename(path, &aside).about(path.display())?;
    for suffix in ["-wal", "-shm", ".damaged"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        remove(Path::new(&side))?;
    }
    forget_older(path)?;
    Ok(aside)
}

/// Of the indexes that were set aside, the last ones are kept: they are for finding out why.
fn forget_older(path: &Path) -> Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let prefix = format!("{}.corrupt-", name.to_string_lossy());
    let mut aside: Vec<_> = std::fs::read_dir(dir)
        .about(dir.display())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    // By the time in their names, which have one length.
    aside.sort();
    for old in aside.iter().rev().skip(KEPT_ASIDE) {
        remove(old)?;
    }
    Ok(())
}

/// Removes a file; one that is not there is no error.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).about(path.display())
        }
        _ => Ok(()),
    }
}

/// Opens a reader's connection.
pub fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    vfs::register()?;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs::NAME).map_err(sql)?;
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(sql)?;
    // Not mapped: whenever a commit came between two reads, all of a mapping is made anew.
    connection
        .execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -4096; PRAGMA mmap_size = 0;")
        .map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Turns SQLite's error into ours.
pub fn sql(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as C;
    let extended = error.sqlite_error().map(|e| e.extended_code);
    let kind = match error.sqlite_error_code() {
        // What readers share with the writer could not be made longer.
        _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => Kind::NoSpace,
        Some(C::DatabaseCorrupt | C::NotADatabase) => Kind::Corrupt,
        Some(C::DiskFull) => Kind::NoSpace,
        Some(C::ReadOnly) => Kind::ReadOnly,
        Some(C::DatabaseBusy | C::DatabaseLocked) => Kind::Busy,
        Some(C::ConstraintViolation) => Kind::Exists,
        _ => Kind::Io,
    };
    Error::new(kind, format!("index: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_a_broken_index_is_set_aside_and_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        let (connection, aside) = open(&path).unwrap();
        assert!(aside.unwrap().exists());
        drop(connection);
        assert!(open(&path).unwrap().1.is_none());
        // The last few are kept.
        for _ in 0..2 * KEPT_ASIDE {
            std::fs::write(&path, vec![0x5a; 8192]).unwrap();
            let (_, aside) = open(&path).unwrap();
            assert!(aside.unwrap().exists());
        }
        let kept = std::fs::read_dir(dir.path()).unwrap().flatten();
        let kept = kept.filter(|e| e.file_name().to_string_lossy().contains("corrupt"));
        assert!((1..=KEPT_ASIDE).contains(&kept.count()));
    }

    #[test]
    fn p7_an_older_index_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let (connection, _) = open(&path).unwrap();
        connection
            .execute_batch(
                "ALTER TABLE replicas DROP COLUMN seq;
                 ALTER TABLE replicas DROP COLUMN behind; DROP INDEX replicas_rough;
                 ALTER TABLE replicas DROP COLUMN arrived_ns; ALTER TABLE replicas DROP COLUMN rough;
                 DROP TABLE moving; PRAGMA user_version = 1;
                 INSERT INTO replicas(remote, key, version, size, mtime_ns) VALUES (1, 'a', 'v', 3, 4)",
            )
            .unwrap();
        drop(connection);
        let (connection, aside) = open(&path).unwrap();
        assert!(aside.is_none());
        let kept: i64 = connection
            .query_row(
                "SELECT size + seq + behind + rough FROM replicas",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(kept, 3);
    }

    #[test]
    fn p7_an_index_without_notes_of_renames_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let (connection, _) = open(&path).unwrap();
        connection
            .execute_batch("DROP TABLE moving; PRAGMA user_version = 2;")
            .unwrap();
        drop(connection);
        let (connection, aside) = open(&path).unwrap();
        assert!(aside.is_none());
        assert_eq!(
            crate::index::moving::moves(&connection, 10).unwrap(),
            Vec::new()
        );
    }

    #[test]
    fn p7_a_newer_index_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let (connection, _) = open(&path).unwrap();
        connection
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        drop(connection);
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("newer larder"));
        assert!(path.exists());
    }
}
