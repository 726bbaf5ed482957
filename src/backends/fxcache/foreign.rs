//! The index file of an original FXCACHE server: fetched like any other file, checked, read.
//!
//! It is perhaps one that was being written: [`legacy`](crate::legacy) checks it before it is
//! believed, and every row is checked on its own. It lies in the system's directory for temporary
//! files while it is used.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Response;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::mpsc;

use super::answer;
use crate::backends::body;
use crate::backends::http::lost;
use crate::error::{Error, Kind, Result};
use crate::legacy::{LegacyIndex, Said};
use crate::object::{Listed, Meta, Object, Version};
use crate::path::RelPath;

/// A longer index is refused: some millions of files fit.
const SIZE_MAX: u64 = 2 << 30;
/// Objects a batch of a listing.
const BATCH: usize = 2000;

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, why)
}

fn unusable(error: Error) -> Error {
    match error.kind() {
        Kind::Corrupt => corrupt(format!(
            "the server's index cannot be used: {}",
            error.message()
        )),
        _ => error,
    }
}

/// One version of the index.
pub(super) struct Foreign {
    index: LegacyIndex,
    tag: String,
    /// Where it lies; it goes with this.
    _file: TempPath,
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
            let file = file.into_temp_path();
            let index = LegacyIndex::open(&file).map_err(unusable)?;
            Ok(Foreign {
                index,
                tag,
                _file: file,
            })
        })
        .await
    }

    /// The server's name for this version of it.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// Sends every row, as `correct` has it, in byte order of the paths.
    pub(super) fn list(
        &self,
        batches: &mpsc::Sender<Vec<Listed>>,
        correct: impl Fn(Listed) -> Option<Listed>,
    ) -> Result<()> {
        let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing any more");
        let mut batch = Vec::with_capacity(BATCH);
        let all = self.index.rows(|path, said| {
            batch.extend(correct(listed(path, said)));
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                batches.blocking_send(full).map_err(gone)?;
            }
            Ok(())
        });
        all.map_err(unusable)?;
        batches.blocking_send(batch).map_err(gone)
    }

    /// Which version the index has of a file.
    pub(super) fn version(&self, key: &RelPath) -> Result<Option<Version>> {
        let Ok(name) = std::str::from_utf8(key.as_bytes()) else {
            return Ok(None);
        };
        let said = self.index.get(name).map_err(unusable)?;
        Ok(match said.map(|said| listed(key.as_bytes(), said)) {
            Some(Listed::Object(object)) => Some(object.meta.version),
            _ => None,
        })
    }
}

/// One row, or why it cannot be a file here.
pub fn listed(path: &[u8], said: Said) -> Listed {
    object(path, said).unwrap_or_else(|error| Listed::Refused {
        shown: String::from_utf8_lossy(path)
            .escape_debug()
            .take(300)
            .collect(),
        why: error.message().to_owned(),
    })
}

fn object(path: &[u8], said: Said) -> Result<Listed> {
    let key = RelPath::new(path)?;
    if key.is_root() {
        return Err(corrupt("the path is empty"));
    }
    super::asked(&key)?;
    let mtime = said.mtime.and_then(answer::nanoseconds);
    let (Some(size), Some(mtime_ns)) = (said.size, mtime) else {
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
