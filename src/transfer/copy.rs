//! Files that go up without their bytes: the remote has them already, under another name or with
//! another time, and makes the object itself.
//!
//! A copy is an upload in everything but its bytes: it replaces what a put would replace, is noted
//! before it is asked for, and ends in the same rows. Whatever it cannot do is left to a put,
//! which has or fetches the bytes; so is every conflict, for what is set aside has to be here.

use std::sync::Arc;

use super::commit::seen;
use super::upload::{Uploads, precondition};
use crate::backends::remote::Remote;
use crate::backends::{Copying, Upload};
use crate::crash;
use crate::error::{Kind, Result};
use crate::index::{Held, Node, OutboxRow, Replica, Sent, Writing, node as rows, outbox};
use crate::object::{Meta, RemoteId, Sha256};
use crate::path::RelPath;

/// A remote whose copies failed so often gets the bytes.
const PATIENCE: u32 = 4;

impl Uploads {
    /// Publishes a file that was not changed here since it came, or was never read at all. Returns
    /// false if its bytes have to go up.
    pub(super) async fn copy_clean(
        &self,
        row: &OutboxRow,
        node: &Node,
        path: &RelPath,
        remote: &Arc<Remote>,
    ) -> Result<bool> {
        // Who reads it gets all of it here, from where it is.
        let is_coming = self.downloads.under_way(node.id).is_some();
        let is_clean = node.dirty == 0 && node.writing == Writing::No;
        if !is_clean || is_coming || !makes_copies(row, remote) {
            return Ok(false);
        }
        let Some(mut source) = self.twin(node, path, remote.id)? else {
            return Ok(false);
        };
        if node.held == Held::Whole && !self.is_as_seen(node, path)? {
            return Ok(false);
        }
        let mut node = node.clone();
        if source.meta.is_rough() {
            // The copy gets a time, so the one that it has must be known.
            let told = remote.backend.head(&source.key).await;
            let told = told.map_err(|e| e.about(path))?;
            self.downloads.learn(remote, &source, told).await?;
            let Some(now) = self.commit.index.node(node.id)? else {
                // It became another one, and its row is looked at again.
                return Ok(true);
            };
            node = now;
            match self.twin(&node, path, remote.id)? {
                Some(now) if !now.meta.is_rough() => source = now,
                _ => return Ok(false),
            }
        }
        if source.key == *path && (!node.touched || source.meta.mtime_ns == node.mtime_ns) {
            // Something else may be, while the answer to an upload is missing.
            let index = &self.commit.index;
            let is_there = row.base.as_ref() == Some(&source.meta.version)
                && index.read(|c| outbox::attempts(c, remote.id, path))? == 0;
            if is_there {
                self.metrics.upload_skipped.add(1);
                self.finish(row, path.clone(), Sent::Known).await?;
            }
            return Ok(is_there);
        }
        let of = source.meta.version.clone();
        let copying = copying(source, node.mtime_ns);
        let made = |meta| Sent::Copied(meta, of);
        self.copy(row, &node, path, remote, copying, made).await
    }

    /// Publishes a file whose bytes were looked at, and are what the remote has. Returns false if
    /// they have to go up.
    pub(super) async fn copy_equal(
        &self,
        row: &OutboxRow,
        node: &Node,
        path: &RelPath,
        remote: &Arc<Remote>,
        upload: &Upload,
    ) -> Result<bool> {
        if !makes_copies(row, remote) {
            return Ok(false);
        }
        let twins = self.commit.index.read(|c| rows::replicas(c, node.id))?;
        let is_equal = |r: &Replica| {
            r.remote == remote.id
                && r.meta.sha256 == Some(upload.sha256)
                && r.meta.size == upload.size
        };
        let Some(source) = best(twins, path, is_equal) else {
            return Ok(false);
        };
        if source.key == *path && row.base.as_ref() != Some(&source.meta.version) {
            return Ok(false);
        }
        let copying = copying(source, upload.mtime_ns);
        self.copy(row, node, path, remote, copying, Sent::Published)
            .await
    }

    /// What the remote has of the bytes that the node shows.
    fn twin(&self, node: &Node, path: &RelPath, remote: RemoteId) -> Result<Option<Replica>> {
        let replicas = self.commit.index.read(|c| rows::replicas(c, node.id))?;
        let is_it = |r: &Replica| {
            let label = (r.remote, r.meta.version.clone());
            let same = r.meta.sha256.is_some() && r.meta.sha256 == node.sha256;
            r.remote == remote && (same || node.origin.as_ref() == Some(&label))
        };
        Ok(best(replicas, path, is_it).filter(|r| r.meta.size == node.size))
    }

    /// Whether the stored file is what the row says: what was changed by hand is not what came.
    fn is_as_seen(&self, node: &Node, path: &RelPath) -> Result<bool> {
        match self.commit.store.root().stat(path) {
            Ok(facts) => Ok(Some(seen(&facts)) == node.seen),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn copy(
        &self,
        row: &OutboxRow,
        node: &Node,
        path: &RelPath,
        remote: &Arc<Remote>,
        copying: Copying,
        made: impl FnOnce(Meta) -> Sent,
    ) -> Result<bool> {
        self.rescue_target(node.id, path, remote.id).await?;
        let looks = Sha256::stand_in(&copying.version, copying.size);
        let looks = copying.sha256.unwrap_or(looks);
        let was_sent = self
            .commit
            .index
            .read(|c| outbox::was_attempted(c, remote.id, path, looks))?;
        if !self.attempt(row, path, looks).await? {
            return Ok(true);
        }
        crash::point("upload.begin");
        let backend = &remote.backend;
        let meta = match backend.copy(path, copying.clone(), precondition(row)).await {
            Ok(meta) => meta,
            Err(error) if error.kind().is_away() => return Err(error.about(path)),
            Err(error) => {
                // What it is made of may be gone by now, and was there when it was asked for before.
                let theirs = match error.kind() == Kind::Conflict || was_sent {
                    true => backend.head(path).await.map_err(|e| e.about(path))?,
                    false => None,
                };
                match theirs.filter(|theirs| copying.is_made(theirs)) {
                    // Made before, and the answer was lost.
                    Some(ours) => ours,
                    None => {
                        tracing::debug!(%path, %error, "the remote makes no copy of what it has; the bytes go up");
                        return Ok(false);
                    }
                }
            }
        };
        crash::point("upload.answered");
        self.metrics.uploaded.add(1);
        if self.downloads.under_way(node.id).is_some() {
            // Somebody began to read it by its old name, which may be deleted from here on.
            if let Err(error) = self.downloads.hydrate(node.id).await {
                tracing::debug!(%path, %error, "a file that was read while it was copied did not come");
            }
        }
        self.finish(row, path.clone(), made(meta)).await?;
        crash::point("upload.row");
        Ok(true)
    }
}

fn makes_copies(row: &OutboxRow, remote: &Remote) -> bool {
    let can = remote.capabilities().is_none_or(|can| can.copy);
    can && row.attempts < PATIENCE
}

/// The one under `path` itself, else the first.
fn best(
    replicas: Vec<Replica>,
    path: &RelPath,
    is_it: impl Fn(&Replica) -> bool,
) -> Option<Replica> {
    let mut fitting: Vec<_> = replicas.into_iter().filter(|r| is_it(r)).collect();
    fitting.sort_by_key(|r| r.key != *path);
    fitting.into_iter().next()
}

fn copying(source: Replica, mtime_ns: i64) -> Copying {
    Copying {
        from: source.key,
        version: source.meta.version,
        size: source.meta.size,
        mtime_ns,
        sha256: source.meta.sha256,
    }
}
