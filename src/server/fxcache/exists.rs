//! `/exists` and `/exists_batch`: answered from the index.
//!
//! Until everything was seen once the index does not know what is absent; then the disk is asked
//! as long as that is quick, and after that what another server's index file says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::index::served::Legacy;
use crate::path::RelPath;
use crate::server::App;
use crate::server::access::Need;
use crate::server::disk::blocking;
use crate::server::put::drain;
use crate::server::question::whole;
use crate::server::tree::{Look, Tree};

use super::Asked;
use super::answer::{Refusal, Reply, float_time, ok};
use super::path::{Named, asked};

/// Paths in one batch.
const MOST: usize = 500;
/// Bytes of a batch: that many of the longest paths, escaped.
const BODY: usize = 16 << 20;
/// How long the disk is asked for names while the first scan goes on.
const LOOKING: Duration = Duration::from_secs(1);

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    size: u64,
    mtime: f64,
}

#[derive(Serialize)]
struct One {
    exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl One {
    fn new(known: Option<Known>) -> One {
        One {
            exists: known.is_some(),
            mtime: known.map(|known| known.mtime),
            size: known.map(|known| known.size),
        }
    }
}

#[derive(Deserialize)]
struct Batch {
    paths: Vec<String>,
}

#[derive(Serialize)]
struct Results<'a> {
    results: BTreeMap<&'a str, One>,
}

/// `GET /exists?path=`.
pub async fn exists((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let named = asked(request.uri())?;
    app.activity.exists.add(1);
    let names = vec![named];
    let known = look(&app, names).await?.pop();
    ok(&One::new(known.and_then(|(_, known)| known)))
}

/// `POST /exists_batch`.
pub async fn exists_batch((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    let (parts, body) = request.into_parts();
    if let Err(problem) = app.access.check(Need::Read, peer.0, &parts.headers) {
        drain(&mut body.into_data_stream()).await;
        return Err(problem.into());
    }
    let body = whole(body, BODY).await?;
    let names = names(&parts.headers, &body)?;
    app.activity.exists.add(names.len() as u64);
    let known = look(&app, names).await?;
    let results = known.iter().map(|(named, known)| {
        let known = One {
            mtime: None,
            ..One::new(*known)
        };
        (named.text.as_str(), known)
    });
    ok(&Results {
        results: results.collect(),
    })
}

/// The paths of a batch, or why it is none; the reasons are the original's.
fn names(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Named>, Refusal> {
    if !is_json(headers) {
        return Err(missing());
    }
    let paths = match serde_json::from_slice::<Batch>(body) {
        Ok(batch) => batch.paths,
        Err(_) => odd(body)?,
    };
    if paths.len() > MOST {
        return Err(Refusal::bad(format!(
            "paths must be a list of max {MOST} items"
        )));
    }
    let name = |path: String| {
        Named::new(&path).ok_or_else(|| Refusal::bad(format!("Invalid path: {path}")))
    };
    paths.into_iter().map(name).collect()
}

fn missing() -> Refusal {
    Refusal::bad("Missing paths field")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// What is not simply an object with a list of strings.
fn odd(body: &[u8]) -> Result<Vec<String>, Refusal> {
    let failed = |why: &str| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    let mut object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(Value::Array(items)) if !items.is_empty() => {
            return Err(failed("the body must be an object with a field paths"));
        }
        _ => return Err(missing()),
    };
    let Some(paths) = object.remove("paths") else {
        return Err(missing());
    };
    let Value::Array(items) = paths else {
        return Err(Refusal::bad(format!(
            "paths must be a list of max {MOST} items"
        )));
    };
    let text = |item| match item {
        Value::String(path) => Ok(path),
        _ => Err(failed("every item of paths must be a string")),
    };
    items.into_iter().map(text).collect()
}

type Answers = Vec<(Named, Option<Known>)>;

/// Looks the names up, in their order.
async fn look(app: &Arc<App>, names: Vec<Named>) -> Result<Answers> {
    let tree = app.tree.clone();
    if tree.index.is_scanned() {
        return app.disk.run(move || from_index(&tree, names)).await;
    }
    let legacy = app.fxcache.legacy();
    blocking(move || from_all(&tree, legacy.as_deref(), names, LOOKING)).await
}

fn from_index(tree: &Tree, names: Vec<Named>) -> Result<Answers> {
    tree.root.check()?;
    let one = |named: Named| {
        let known = match named.key() {
            Ok(key) => indexed(tree, key)?,
            Err(_) => None,
        };
        Ok((named, known))
    };
    names.into_iter().map(one).collect()
}

fn indexed(tree: &Tree, key: &RelPath) -> Result<Option<Known>> {
    let row = tree.index.get(key)?;
    Ok(row.map(|row| Known {
        size: row.seen.size,
        mtime: float_time(row.seen.mtime_ns),
    }))
}

/// The same before everything was seen: the disk for as long as it may take, then hearsay.
fn from_all(
    tree: &Tree,
    legacy: Option<&Legacy>,
    names: Vec<Named>,
    looking: Duration,
) -> Result<Answers> {
    tree.root.check()?;
    let until = Instant::now() + looking;
    let one = |named: Named| {
        let known = match named.key() {
            Err(_) => None,
            Ok(key) => match indexed(tree, key)? {
                Some(known) => Some(known),
                None if Instant::now() < until => seen(tree, key)?,
                None => heard(legacy, key),
            },
        };
        Ok((named, known))
    };
    names.into_iter().map(one).collect()
}

/// What the disk says. A file that is being written is not there yet.
fn seen(tree: &Tree, key: &RelPath) -> Result<Option<Known>> {
    Ok(match tree.look_at(key)? {
        Look::File(row) => Some(Known {
            size: row.seen.size,
            mtime: float_time(row.seen.mtime_ns),
        }),
        Look::InMotion | Look::Dir | Look::Gone => None,
    })
}

/// What another server knew. If its file fails now, it knew nothing.
fn heard(legacy: Option<&Legacy>, key: &RelPath) -> Option<Known> {
    let said = legacy?.get(key.as_bytes()).ok().flatten()?;
    Some(Known {
        size: said.size,
        mtime: said.mtime,
    })
}

#[cfg(test)]
mod tests;
