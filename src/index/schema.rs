//! The tables of a mount's index, and how a file becomes one: created, migrated,
//! refused because it is newer, or set aside because it is broken.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::vfs;
use crate::crash;
use crate::error::{About, Error, Kind, Result};

/// The layout this build reads and writes; `PRAGMA user_version` of the file.
pub const VERSION: i64 = 5;

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
/// - `arriving`: downloads whose name in the tree may be theirs already, and whose rows do not say so yet.
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
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('generation', 1);
INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, held)
  VALUES (1, 0, x'', 1, 0, 0, 0, 493, 1);
";

/// New in layout 3.
const MOVING: &str = "
CREATE TABLE moving(node INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL,
  other INTEGER, ino INTEGER NOT NULL);
";

/// New in layout 5.
const ARRIVING: &str = "
CREATE TABLE arriving(path BLOB PRIMARY KEY, node INTEGER NOT NULL, remote INTEGER NOT NULL,
  version TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ino INTEGER NOT NULL,
  sha256 BLOB NOT NULL) WITHOUT ROWID;
";

/// As of layout 4: a row whose id is given by us, as few indexes as serve, and sums in one row.
const OUTBOX: &str = "
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY, remote INTEGER NOT NULL, node INTEGER, key BLOB, base TEXT,
  generation INTEGER NOT NULL, queued_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL DEFAULT 0, last_error TEXT);
CREATE UNIQUE INDEX outbox_puts ON outbox(node, remote) WHERE node IS NOT NULL;
CREATE UNIQUE INDEX outbox_deletes ON outbox(remote, key) WHERE key IS NOT NULL;
";
const SUMS: &str = "
CREATE TABLE sums(id INTEGER PRIMARY KEY CHECK(id = 1), files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  held_files INTEGER NOT NULL, held_bytes INTEGER NOT NULL,
  dirty_files INTEGER NOT NULL, dirty_bytes INTEGER NOT NULL);
INSERT INTO sums VALUES (1, 0, 0, 0, 0, 0, 0);
";

/// Sums that `status` and eviction read: kept by triggers, so that nothing ever counts rows. Each
/// is one statement, and none where nothing changes that is summed up: writing a file takes
/// several edits, and they would be the most of it.
const TRIGGERS: &str = "
CREATE TRIGGER sums_node_made AFTER INSERT ON nodes WHEN new.kind = 0 BEGIN
  UPDATE sums SET files = files + 1, bytes = bytes + new.size,
    held_files = held_files + (new.held <> 0),
    held_bytes = held_bytes + (new.held <> 0) * coalesce(new.seen_size, 0),
    dirty_files = dirty_files + (new.dirty <> 0),
    dirty_bytes = dirty_bytes + (new.dirty <> 0) * new.size WHERE id = 1; END;
CREATE TRIGGER sums_node_gone AFTER DELETE ON nodes WHEN old.kind = 0 BEGIN
  UPDATE sums SET files = files - 1, bytes = bytes - old.size,
    held_files = held_files - (old.held <> 0),
    held_bytes = held_bytes - (old.held <> 0) * coalesce(old.seen_size, 0),
    dirty_files = dirty_files - (old.dirty <> 0),
    dirty_bytes = dirty_bytes - (old.dirty <> 0) * old.size WHERE id = 1; END;
CREATE TRIGGER sums_node_changed AFTER UPDATE OF size, held, dirty, seen_size ON nodes
  WHEN new.kind = 0 AND (new.size <> old.size OR (new.held <> 0) <> (old.held <> 0)
    OR (new.dirty <> 0) <> (old.dirty <> 0) OR new.seen_size IS NOT old.seen_size) BEGIN
  UPDATE sums SET bytes = bytes + new.size - old.size,
    held_files = held_files + (new.held <> 0) - (old.held <> 0),
    held_bytes = held_bytes + (new.held <> 0) * coalesce(new.seen_size, 0)
      - (old.held <> 0) * coalesce(old.seen_size, 0),
    dirty_files = dirty_files + (new.dirty <> 0) - (old.dirty <> 0),
    dirty_bytes = dirty_bytes + (new.dirty <> 0) * new.size - (old.dirty <> 0) * old.size WHERE id = 1; END;
CREATE TRIGGER sums_replica_made AFTER INSERT ON replicas BEGIN
  UPDATE remotes SET files = files + 1, bytes = bytes + new.size,
    hidden = hidden + (new.node IS NULL) WHERE id = new.remote; END;
CREATE TRIGGER sums_replica_gone AFTER DELETE ON replicas BEGIN
  UPDATE remotes SET files = files - 1, bytes = bytes - old.size,
    hidden = hidden - (old.node IS NULL) WHERE id = old.remote; END;
CREATE TRIGGER sums_replica_changed AFTER UPDATE OF node, size ON replicas
  WHEN new.size <> old.size OR (new.node IS NULL) <> (old.node IS NULL) BEGIN
  UPDATE remotes SET bytes = bytes + new.size - old.size,
    hidden = hidden + (new.node IS NULL) - (old.node IS NULL) WHERE id = new.remote; END;
";

/// Opens the writer's connection to the index at `path`, making or migrating it.
///
/// A broken file is renamed beside itself and its new name is returned, by each start until
/// [`reported`] is called: one that is killed before somebody was told does not hush it up.
/// Errors: `Unsupported` for a file of a newer layout, which is left alone.
pub fn open(path: &Path) -> Result<(Connection, Option<PathBuf>)> {
    let opened = match mark(path)? {
        Mark::None => try_open(path).map(|connection| (connection, None)),
        // It was moved away by hand.
        Mark::Damaged if !path.exists() => {
            reported(path)?;
            try_open(path).map(|connection| (connection, None))
        }
        Mark::Damaged => Err(Error::new(Kind::Corrupt, "found damaged before")),
        Mark::Aside(aside) => {
            clear_away(path)?;
            try_open(path).map(|connection| (connection, Some(aside)))
        }
    };
    match opened {
        Err(error) if error.kind() == Kind::Corrupt => {
            let aside = set_aside(path)?;
            Ok((try_open(path)?, Some(aside)))
        }
        opened => opened,
    }
}

/// What a start is told of the index by the file `.damaged` beside it.
enum Mark {
    None,
    /// The index is damaged in a part that no start looks at, or was about to be set aside.
    Damaged,
    /// A broken index was set aside; what has its name, if anything does, is a new one.
    Aside(PathBuf),
}

fn mark(path: &Path) -> Result<Mark> {
    let name = match std::fs::read_to_string(condemned(path)) {
        Ok(name) => name,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Mark::None),
        Err(error) => return Err(error).about(condemned(path).display()),
    };
    let aside = path.with_file_name(&name);
    Ok(match !name.is_empty() && aside.exists() {
        true => Mark::Aside(aside),
        false => Mark::Damaged,
    })
}

fn condemned(path: &Path) -> PathBuf {
    path.with_extension("db.damaged")
}

/// Has the file at `path` set aside at the next start.
pub fn condemn(path: &Path) {
    if let Err(error) = std::fs::write(condemned(path), "") {
        tracing::warn!(%error, "that the index is damaged could not be noted");
    }
}

/// Somebody was told that a broken index was set aside.
pub fn reported(path: &Path) -> Result<()> {
    remove(&condemned(path))
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
        VERSION => check(&connection, "sums")?,
        0 => create(&mut connection)?,
        1..VERSION => migrate(&mut connection, found)?,
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
             PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 8192; PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(128);
    prepare_once(connection)
}

/// Plans do not depend on the values that statements are given: else SQLite makes those with a
/// join anew each time, which takes longer than to run them.
fn prepare_once(connection: &Connection) -> Result<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
        .map_err(sql)
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
    for part in [MOVING, ARRIVING, OUTBOX, SUMS, TRIGGERS] {
        tx.execute_batch(part).map_err(sql)?;
    }
    tx.pragma_update(None, "user_version", VERSION)
        .map_err(sql)?;
    tx.commit().map_err(sql)?;
    crash::point("index.created");
    Ok(())
}

/// In one transaction: a kill leaves the older layout as it was, or this one.
///
/// From layout 1, which did not know the order of a remote's changes, nor what is hidden by whom,
/// nor when a version arrived; from layout 2, which did not know of renames under way; from
/// layout 3, which kept its sums in a row each and gave the ids of the outbox itself; and from layout
/// 4, which did not know of downloads that were being put in place.
fn migrate(connection: &mut Connection, from: i64) -> Result<()> {
    check(connection, if from < 4 { "totals" } else { "sums" })?;
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
        crash::point("migrate.columns");
    }
    if from < 3 {
        tx.execute_batch(MOVING).map_err(sql)?;
        crash::point("migrate.moving");
    }
    if from < 4 {
        renew_outbox_and_sums(&tx).map_err(sql)?;
    }
    tx.execute_batch(ARRIVING).map_err(sql)?;
    crash::point("migrate.arriving");
    tx.pragma_update(None, "user_version", VERSION)
        .map_err(sql)?;
    crash::point("migrate.version");
    tx.commit().map_err(sql)?;
    crash::point("migrate.committed");
    Ok(())
}

fn renew_outbox_and_sums(tx: &Connection) -> rusqlite::Result<()> {
    let mut names = tx.prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")?;
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in names {
        tx.execute_batch(&format!("DROP TRIGGER \"{name}\""))?;
    }
    tx.execute_batch(
        "ALTER TABLE outbox RENAME TO outbox_before; DROP INDEX outbox_puts;
         DROP INDEX outbox_deletes; DROP INDEX outbox_by_node;",
    )?;
    tx.execute_batch(OUTBOX)?;
    tx.execute_batch(
        "INSERT INTO outbox(id, remote, node, key, base, generation, queued_at, attempts, not_before, last_error)
         SELECT id, remote, node, key, base, generation, queued_at, attempts, not_before, last_error
         FROM outbox_before; DROP TABLE outbox_before;",
    )?;
    crash::point("migrate.outbox");
    tx.execute_batch(SUMS)?;
    tx.execute_batch(
        "UPDATE sums SET files = coalesce((SELECT n FROM totals WHERE what = 'files'), 0),
         bytes = coalesce((SELECT n FROM totals WHERE what = 'bytes'), 0),
         held_files = coalesce((SELECT n FROM totals WHERE what = 'held_files'), 0),
         held_bytes = coalesce((SELECT n FROM totals WHERE what = 'held_bytes'), 0),
         dirty_files = coalesce((SELECT n FROM totals WHERE what = 'dirty_files'), 0),
         dirty_bytes = coalesce((SELECT n FROM totals WHERE what = 'dirty_bytes'), 0);
         DROP TABLE totals;",
    )?;
    crash::point("migrate.sums");
    tx.execute_batch(TRIGGERS)
}

/// A look at the parts that every start needs; it must not grow with the file (no `quick_check`).
fn check(connection: &Connection, sums: &str) -> Result<()> {
    for table in [
        "nodes",
        "replicas",
        "outbox",
        "remotes",
        "staged",
        "doomed",
        "conflicts",
        "attempts",
        sums,
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

/// The note comes before the deed: whichever start gets as far as a new index knows of the old one.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let stamp = crate::clock::Clock::System.now_ms();
    let aside = path.with_extension(format!("db.corrupt-{stamp}"));
    let name = aside.file_name().unwrap_or_default().as_encoded_bytes();
    std::fs::write(condemned(path), name).about(path.display())?;
    crash::point("aside.marked");
    std::fs::rename(path, &aside).about(path.display())?;
    crash::point("aside.renamed");
    clear_away(path)?;
    forget_older(path)?;
    Ok(aside)
}

/// Takes away what belonged to an index that was set aside, unless there is a new one.
fn clear_away(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        remove(Path::new(&side))?;
    }
    crash::point("aside.cleared");
    Ok(())
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

/// Opens a connection that takes the log into the file, beside the writer's: see `checkpoint`.
pub fn open_beside(path: &Path) -> Result<Connection> {
    vfs::register()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs::NAME).map_err(sql)?;
    tune(&connection)?;
    Ok(connection)
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
    prepare_once(&connection)?;
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
        assert!(aside.as_ref().unwrap().exists());
        drop(connection);
        // Until somebody was told.
        assert_eq!(open(&path).unwrap().1, aside);
        reported(&path).unwrap();
        assert!(open(&path).unwrap().1.is_none());
        // The last few are kept.
        for _ in 0..2 * KEPT_ASIDE {
            std::fs::write(&path, vec![0x5a; 8192]).unwrap();
            let (_, aside) = open(&path).unwrap();
            assert!(aside.unwrap().exists());
            reported(&path).unwrap();
        }
        let kept = std::fs::read_dir(dir.path()).unwrap().flatten();
        let kept = kept.filter(|e| e.file_name().to_string_lossy().contains("corrupt"));
        assert!((1..=KEPT_ASIDE).contains(&kept.count()));
    }

    /// Each takes an index of the layout after it back to this one, rows and all.
    const BACK: [&str; 4] = [
        include_str!("tests/layout_1.sql"),
        include_str!("tests/layout_2.sql"),
        include_str!("tests/layout_3.sql"),
        include_str!("tests/layout_4.sql"),
    ];

    const ROWS: &str = "
    INSERT INTO remotes(id, url, position, upload) VALUES (1, 'http://r', 0, 1);
    INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, dirty)
      VALUES (7, 1, 'a', 0, 30, 4, 4, 420, 5), (8, 1, 'b', 0, 12, 4, 4, 420, 0);
    INSERT INTO replicas(remote, key, node, version, size, mtime_ns) VALUES (1, 'b', 8, 'v', 12, 4);
    INSERT INTO outbox(id, remote, node, base, generation, queued_at, attempts, not_before, last_error)
      VALUES (41, 1, 7, 'v0', 42, 43, 2, 44, 'refused');
    INSERT INTO outbox(id, remote, key, base, generation, queued_at) VALUES (51, 1, 'gone', 'v1', 52, 53);
    ";

    /// An index as an earlier Larder left it, with rows.
    fn of_layout(layout: i64, path: &Path) {
        let (connection, _) = open(path).unwrap();
        for back in BACK[layout as usize - 1..].iter().rev() {
            connection.execute_batch(back).unwrap();
        }
        connection.execute_batch(ROWS).unwrap();
    }

    /// What the index is made of, names and texts.
    fn made_of(connection: &Connection) -> Vec<(String, String)> {
        let query =
            "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'
                     AND name <> 'replicas' ORDER BY name";
        let mut statement = connection.prepare(query).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(|row| row.unwrap()).collect()
    }

    #[test]
    fn p7_an_index_of_every_older_layout_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = open(&dir.path().join("fresh.db")).unwrap().0;
        for layout in 1..VERSION {
            let path = dir.path().join(format!("{layout}.db"));
            of_layout(layout, &path);
            let (connection, aside) = open(&path).unwrap();
            assert!(aside.is_none());
            assert_eq!(
                made_of(&connection),
                made_of(&fresh),
                "from layout {layout}"
            );
            let one = |query: &str| -> String {
                connection.query_row(query, [], |row| row.get(0)).unwrap()
            };
            let outbox = "SELECT group_concat(concat_ws(' ', id, remote, node, key, base, generation, queued_at,
                          attempts, not_before, last_error), ', ') FROM (SELECT * FROM outbox ORDER BY id)";
            let rows = "41 1 7 v0 42 43 2 44 refused, 51 1 gone v1 52 53 0 0";
            assert_eq!(one(outbox), rows, "from layout {layout}");
            let replica = "SELECT concat_ws(' ', size, seq, behind, rough) FROM replicas";
            assert_eq!(one(replica), "12 0 0 0");
            let sums = "SELECT concat_ws(' ', files, bytes, held_files, held_bytes, dirty_files, dirty_bytes) FROM sums";
            assert_eq!(one(sums), "2 42 0 0 1 30");
            connection
                .execute_batch(
                    "UPDATE nodes SET size = 31, seen_size = 31, held = 1, dirty = 0 WHERE id = 7;
                                DELETE FROM nodes WHERE id = 8;",
                )
                .unwrap();
            assert_eq!(one(sums), "1 31 1 31 0 0");
            assert_eq!(
                crate::index::moving::moves(&connection, 10).unwrap(),
                Vec::new()
            );
        }
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
