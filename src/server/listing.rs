//! What the server knows, told to clients: `/v1/info`, `/v1/index`, `/v1/changes`, `/v1/stats`.
//!
//! Listings are written while they are read from one moment of the index, so that memory
//! stays flat for any number of files. Until the directory was seen whole once, there is no
//! listing: a partial one would say of files that they do not exist.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::{Error, Kind, Result};
use crate::index::served::{Changed, Row};
use crate::object::{Cursor, Object};
use crate::path::RelPath;
use crate::wire::{Info, Line, PROTOCOL};

use super::App;
use super::problem::{Answer, Problem};

/// Bytes of a listing sent at once, and how many such pieces may wait for the client.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;
/// Longest wait for a change.
const WAIT_MAX: u64 = 60;
/// How long a listing waits for the first scan to end.
const SCAN_PATIENCE: Duration = Duration::from_secs(3);

/// `GET /v1/info`.
pub fn info(app: &App, peer: IpAddr, headers: &HeaderMap) -> Answer {
    app.tree.root.check()?;
    let Cursor { epoch, seq } = app.tree.index.cursor();
    let (files, bytes) = app.tree.index.totals();
    let writes = app.uploads.is_some() && app.access.may_write(peer, headers);
    let mut capabilities = vec!["batch".to_owned(), "changes".to_owned()];
    if writes {
        capabilities.push("put".to_owned());
    }
    if writes && app.allow_delete {
        capabilities.push("delete".to_owned());
    }
    json(&Info {
        server: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
        version: PROTOCOL,
        epoch,
        seq,
        files,
        bytes,
        capabilities,
    })
}

/// A small JSON body.
pub fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|error| unwritable(&error))?;
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::new(Kind::Io, format!("an answer cannot be written: {error}"))
}

/// `GET /v1/index`.
pub async fn index(app: &Arc<App>) -> Answer {
    app.tree.root.check()?;
    scanned(app).await?;
    let owner = app.clone();
    lines(app, move |sheet| {
        let told = owner
            .tree
            .index
            .list(|key, row| sheet.object(None, key, &row));
        sheet.end(told)
    })
    .await
}

/// Waits a little for the first scan.
pub async fn scanned(app: &App) -> Result<(), Problem> {
    let mut scanned = app.scanned.clone();
    let wait = async { scanned.wait_for(|done| *done).await.is_ok() };
    if app.tree.index.is_scanned()
        || matches!(tokio::time::timeout(SCAN_PATIENCE, wait).await, Ok(true))
    {
        return Ok(());
    }
    let (files, _) = app.tree.index.totals();
    let why = format!("the directory is being scanned for the first time, {files} files so far");
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(2))
}

/// The query of `/v1/changes`.
#[derive(Debug, Deserialize)]
pub struct Since {
    epoch: String,
    since: u64,
    #[serde(default)]
    wait: u64,
}

/// `GET /v1/changes`.
pub async fn changes(app: &Arc<App>, since: Since) -> Answer {
    app.tree.root.check()?;
    let wait = Duration::from_secs(since.wait.min(WAIT_MAX));
    let cursor = Cursor {
        epoch: since.epoch,
        seq: since.since,
    };
    if cursor == app.tree.index.cursor() {
        let mut seq = app.tree.index.follow();
        let news = seq.wait_for(|now| *now != cursor.seq);
        tokio::select! {
            _ = tokio::time::timeout(wait, news) => {}
            () = app.closing.cancelled() => {}
        }
        app.tree.root.check()?;
    }
    let owner = app.clone();
    lines(app, move |sheet| {
        let told = owner
            .tree
            .index
            .changes(&cursor, |seq, key, what| match what {
                Changed::Put(row) => sheet.object(Some(seq), key, &row),
                Changed::Deleted => sheet.line(&Line::deleted(seq, &key)),
            });
        sheet.end(told)
    })
    .await
}

/// Answers with the lines that `write` puts on the sheet, from a thread of its own. An error
/// before the first line is the answer; a later one cuts the connection.
async fn lines(
    app: &Arc<App>,
    write: impl FnOnce(&mut Sheet) -> Result<()> + Send + 'static,
) -> Answer {
    // Each holds a thread and a moment of the index; a bounded number of them does.
    let turn = app.listings.clone().acquire_owned().await;
    let turn = turn.map_err(|_| Error::new(Kind::Unavailable, "the server is stopping"))?;
    let (pieces, mut written) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut sheet = Sheet {
            pieces,
            text: Vec::with_capacity(PIECE + 1024),
            failed: None,
        };
        if let Err(error) = write(&mut sheet) {
            sheet.send(Err(error));
        }
    });
    let first = match written.recv().await {
        Some(first) => first?,
        None => return Err(Error::new(Kind::Io, "a listing ended early").into()),
    };
    let rest = stream::poll_fn(move |context| written.poll_recv(context));
    let body = stream::iter([Ok(first)]).chain(rest);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    headers.insert(header::CONTENT_TYPE, ndjson);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Lines on their way to one client.
struct Sheet {
    pieces: mpsc::Sender<Result<Bytes>>,
    text: Vec<u8>,
    failed: Option<Error>,
}

impl Sheet {
    /// One object. Like all of these: false when there is no point in going on.
    fn object(&mut self, seq: Option<u64>, key: RelPath, row: &Row) -> bool {
        match row.meta() {
            Ok(meta) => self.line(&Line::object(seq, &Object { key, meta })),
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }

    fn line(&mut self, line: &Line) -> bool {
        if let Err(error) = serde_json::to_writer(&mut self.text, line) {
            self.failed = Some(unwritable(&error));
            return false;
        }
        self.text.push(b'\n');
        self.text.len() < PIECE || self.flush()
    }

    fn flush(&mut self) -> bool {
        let text = std::mem::replace(&mut self.text, Vec::with_capacity(PIECE + 1024));
        self.send(Ok(text.into()))
    }

    fn send(&mut self, piece: Result<Bytes>) -> bool {
        self.pieces.blocking_send(piece).is_ok()
    }

    /// The last line, unless the listing broke off: then there must be none.
    fn end(&mut self, told: Result<Option<Cursor>>) -> Result<()> {
        if let Some(Cursor { epoch, seq }) = told? {
            self.line(&Line::end(&epoch, seq));
            self.flush();
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
