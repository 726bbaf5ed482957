//! `POST /v1/batch`: many small files in one answer.
//!
//! What is sent of a file is what a `GET` of that version would be. Whatever stands in the way of
//! that, be it a file that is longer, changed, gone or not to be had, is the ordinary request's to
//! tell: the client is sent there. Memory stays flat, however much is asked for.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use futures_util::{TryStreamExt, stream};

use crate::error::{Error, Kind, Result};
use crate::object::{Object, Version};
use crate::path::RelPath;
use crate::wire::{BATCH_MAX, BATCH_TYPE, LINE_MAX, Line, REVISION_HEADER, revision_header};

use super::App;
use super::activity::Did;
use super::get;
use super::problem::{Answer, Problem};
use super::question::whole;
use super::tree::CHUNK;

/// What is still to be answered, and to whom.
struct Asked {
    app: Arc<App>,
    peer: IpAddr,
    wanted: std::vec::IntoIter<(RelPath, Version)>,
}

/// Answers with the files that the lines of `body` name.
pub async fn batch(app: &Arc<App>, peer: IpAddr, body: Body) -> Answer {
    let wanted = wanted(&whole(body, BATCH_MAX * LINE_MAX).await?)?;
    app.tree.root.check()?;
    let asked = Asked {
        app: app.clone(),
        peer,
        wanted: wanted.into_iter(),
    };
    let pieces = stream::try_unfold(asked, |asked| async move {
        if asked.wanted.len() == 0 {
            return Ok::<_, Error>(None);
        }
        let app = asked.app.clone();
        app.disk.run(move || asked.next()).await.map(Some)
    });
    let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok::<_, Error>)));
    let mut response = Response::new(Body::from_stream(pieces.try_flatten()));
    let headers = response.headers_mut();
    let index = &app.tree.index;
    let revision = HeaderValue::try_from(revision_header(index.epoch(), index.cursor().seq))
        .map_err(|_| Error::new(Kind::Io, "a header cannot be written"))?;
    headers.insert(REVISION_HEADER, revision);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BATCH_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
}

fn wanted(body: &[u8]) -> Result<Vec<(RelPath, Version)>, Problem> {
    let lines = body.split(|byte| *byte == b'\n');
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    if lines.len() > BATCH_MAX {
        return Err(bad(format!("a batch has at most {BATCH_MAX} files")));
    }
    let one = |line: &[u8]| {
        let line: Line = serde_json::from_slice(line)
            .map_err(|_| bad("a batch is asked for with lines of path and etag"))?;
        line.into_wanted().map_err(|error| bad(error.to_string()))
    };
    lines.into_iter().map(one).collect()
}

impl Asked {
    /// The next files, a chunk's worth of them or one.
    fn next(mut self) -> Result<(Vec<Bytes>, Asked)> {
        let (mut pieces, mut length) = (Vec::new(), 0);
        while length < CHUNK
            && let Some((key, version)) = self.wanted.next()
        {
            let Some((bytes, row)) = get::small(&self.app.tree, &key, &version) else {
                pieces.push(text_of(&Line::alone(&key))?);
                continue;
            };
            let (seq, meta) = (row.seq, row.meta()?);
            let did = Did::download(&key, meta.size);
            pieces.push(text_of(&Line::object(Some(seq), &Object { key, meta }))?);
            length += bytes.len();
            pieces.push(bytes);
            self.app.activity.note(self.peer, &did);
        }
        Ok((pieces, self))
    }
}

fn text_of(line: &Line) -> Result<Bytes> {
    let mut text = serde_json::to_vec(line)
        .map_err(|error| Error::new(Kind::Io, format!("an answer cannot be written: {error}")))?;
    text.push(b'\n');
    Ok(text.into())
}
