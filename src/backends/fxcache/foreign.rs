//! The index file of an original FXCACHE server: fetched like any other file, checked, read.
//!
//! It is somebody else's file, and perhaps one that was being written: it is opened for
//! reading only, checked whole before it is believed, and every row is checked on its own.
//! It lies in the system's directory for temporary files while it is used.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Response;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::answer;
use crate::backends::body;
use crate::backends::http::lost;
use crate::error::{Error, Kind, Result};
use crate::object::{Listed, Meta, Object, Version};
use crate::path::RelPath;

/// A longer index is refused: some millions of files fit.
const SIZE_MAX: u64 = 2 << 30;
/// Objects a batch of a listing.
const BATCH: usize = 2000;

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, why)
}

fn unreadable(error: rusqlite::Error) -> Error {
    corrupt(format!("the server's index cannot be read: {error}"))
}

/// One version of the index.
pub(super) struct Foreign {
    file: NamedTempFile,
    tag: String,
}

impl Foreign {
    /// Takes the body of an answer to the end, and checks it.
    pub(super) async fn receive(
        response: Response,
        tag: String,
        stall: Duration,
    ) -> Result<Foreign> {
        let size = answer::meta(response.headers())?.size;
        if size > SIZE_MAX {
            let why = format!("the server's index is too long: {size} bytes");
            return Err(Error::new(Kind::Unsupported, why));
        }
        let mut file = NamedTempFile::with_prefix("larder-fxcache-")?;
        let chunks = response.bytes_stream().map(|chunk| chunk.map_err(lost));
        let mut whole = body::exactly(chunks, size, stall);
        while let Some(chunk) = whole.next().await {
            std::io::Write::write_all(file.as_file_mut(), &chunk?)?;
        }
        body::off_thread(move || {
            let foreign = Foreign { file, tag };
            foreign.check()?;
            Ok(foreign)
        })
        .await
    }

    /// The server's name for this version of it.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    fn open(&self) -> Result<Connection> {
        let mut uri = String::from("file:");
        for byte in std::os::unix::ffi::OsStrExt::as_bytes(self.file.path().as_os_str()) {
            let _ = write!(uri, "%{byte:02x}");
        }
        // As it is: without a look at a log or a lock beside it.
        uri.push_str("?immutable=1&mode=ro");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(uri, flags).map_err(unreadable)?;
        db.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA cache_size = -4096;",
        )
        .map_err(unreadable)?;
        Ok(db)
    }

    fn check(&self) -> Result<()> {
        let db = self.open()?;
        let verdict: String = db
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(unreadable)?;
        if verdict != "ok" {
            return Err(corrupt(format!("the server's index is damaged: {verdict}")));
        }
        let table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'files'";
        let found = db.query_row(table, [], |_| Ok(())).optional();
        if found.map_err(unreadable)?.is_none() {
            return Err(corrupt(
                "the server's index is not one of an FXCACHE server",
            ));
        }
        db.prepare("SELECT path, size, mtime FROM files")
            .map_err(unreadable)?;
        Ok(())
    }

    /// Sends every row, as `correct` has it, in byte order of the paths.
    pub(super) fn list(
        &self,
        batches: &mpsc::Sender<Vec<Listed>>,
        correct: impl Fn(Listed) -> Option<Listed>,
    ) -> Result<()> {
        let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing any more");
        let db = self.open()?;
        // The order that `memcmp` has, whatever the column says.
        let query = "SELECT path, size, mtime FROM files ORDER BY CAST(path AS BLOB)";
        let mut statement = db.prepare(query).map_err(unreadable)?;
        let mut rows = statement.query([]).map_err(unreadable)?;
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(row) = rows.next().map_err(unreadable)? {
            batch.extend(correct(listed(row)));
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                batches.blocking_send(full).map_err(gone)?;
            }
        }
        batches.blocking_send(batch).map_err(gone)
    }

    /// Which version the index has of a file.
    pub(super) fn version(&self, key: &RelPath) -> Result<Option<Version>> {
        let Ok(name) = std::str::from_utf8(key.as_bytes()) else {
            return Ok(None);
        };
        let db = self.open()?;
        let query = "SELECT path, size, mtime FROM files WHERE path = ?1";
        let found = db.query_row(query, [name], |row| Ok(listed(row)));
        Ok(match found.optional().map_err(unreadable)? {
            Some(Listed::Object(object)) => Some(object.meta.version),
            _ => None,
        })
    }
}

/// One row, or why it cannot be a file here.
fn listed(row: &Row<'_>) -> Listed {
    let path = match row.get_ref(0) {
        Ok(ValueRef::Text(path) | ValueRef::Blob(path)) => path,
        _ => b"",
    };
    object(path, row).unwrap_or_else(|error| Listed::Refused {
        shown: String::from_utf8_lossy(path)
            .escape_debug()
            .take(300)
            .collect(),
        why: error.message().to_owned(),
    })
}

fn object(path: &[u8], row: &Row<'_>) -> Result<Listed> {
    let key = RelPath::new(path)?;
    if key.is_root() {
        return Err(corrupt("the path is empty"));
    }
    super::asked(&key)?;
    let size = row
        .get::<_, i64>(1)
        .ok()
        .and_then(|n| u64::try_from(n).ok());
    let mtime = row.get::<_, f64>(2).ok().and_then(answer::nanoseconds);
    let (Some(size), Some(mtime_ns)) = (size, mtime) else {
        return Err(corrupt("its length or time is none"));
    };
    Ok(Listed::Object(Object {
        key,
        meta: Meta {
            size,
            mtime_ns,
            version: answer::version(size, mtime_ns)?,
            sha256: None,
            revision: None,
            arrival: None,
        },
    }))
}
