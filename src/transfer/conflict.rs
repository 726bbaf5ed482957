//! Uploads that a remote refused because it has another version by now (promise P5): equal bytes
//! are no conflict, nor is what was sent from here before; otherwise the remote keeps the path and
//! ours is set aside, or ours replaces it where the mount says so.

use std::sync::Arc;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256 as Hasher};

use super::upload::Uploads;
use crate::backends::Upload;
use crate::backends::remote::Remote;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Node, NodeId, OutboxRow, Sent, outbox};
use crate::object::{Meta, Sha256};
use crate::path::RelPath;

impl Uploads {
    /// The remote has another version than ours is based on.
    pub(super) async fn conflict(
        &self,
        row: &OutboxRow,
        node: &Node,
        path: &RelPath,
        remote: &Arc<Remote>,
        upload: Upload,
    ) -> Result<()> {
        let Some(theirs) = remote.backend.head(path).await? else {
            // Theirs is gone: ours replaces nothing.
            return self.rebase(row, None).await;
        };
        let hash = self.hash_there(remote, path, &theirs, &upload).await?;
        if hash == Some(upload.sha256) {
            return self
                .finish(row, path.clone(), Sent::Published(theirs))
                .await;
        }
        let ours_before = self.was_sent(remote, path, &theirs, hash)?;
        if ours_before || self.rules.local_wins() {
            return self.rebase(row, Some(theirs)).await;
        }
        self.keep_both(row, node.id, path, remote, theirs).await
    }

    /// The hash of the remote's version, for equal bytes are no conflict: as it gives it, else by
    /// reading them; none if it need not be known.
    async fn hash_there(
        &self,
        remote: &Remote,
        path: &RelPath,
        theirs: &Meta,
        ours: &Upload,
    ) -> Result<Option<Sha256>> {
        if theirs.sha256.is_some() {
            return Ok(theirs.sha256);
        }
        let attempts = self.sent_before(remote, path)?;
        if theirs.size != ours.size && attempts < 2 {
            return Ok(None);
        }
        hash_by_reading(remote, path, theirs).await.map(Some)
    }

    /// How many versions were sent from here and not answered.
    fn sent_before(&self, remote: &Remote, path: &RelPath) -> Result<usize> {
        let index = &self.commit.index;
        index.read(|c| outbox::attempts(c, remote.id, path))
    }

    /// Whether `theirs` was sent from here and not answered: by its bytes, or as a copy that was
    /// made without anybody here reading them.
    fn was_sent(
        &self,
        remote: &Remote,
        path: &RelPath,
        theirs: &Meta,
        hash: Option<Sha256>,
    ) -> Result<bool> {
        let looks = Sha256::stand_in(&theirs.version, theirs.size);
        for known in hash.into_iter().chain([looks]) {
            let index = &self.commit.index;
            if index.read(|c| outbox::was_attempted(c, remote.id, path, known))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was deleted here is another version at the remote by now. If we sent that and heard no
    /// answer, it is what was deleted; if somebody else made it, it stays, and is shown.
    pub(super) async fn deleted_another(
        &self,
        row: &OutboxRow,
        key: &RelPath,
        remote: &Remote,
    ) -> Result<()> {
        let index = &self.commit.index;
        if self.sent_before(remote, key)? > 0 {
            let Some(theirs) = remote.backend.head(key).await? else {
                return self.finish(row, key.clone(), Sent::Deleted).await;
            };
            let mut ours = self.was_sent(remote, key, &theirs, theirs.sha256)?;
            if !ours && theirs.sha256.is_none() {
                let hash = hash_by_reading(remote, key, &theirs).await?;
                ours = self.was_sent(remote, key, &theirs, Some(hash))?;
            }
            if ours {
                return self.rebase(row, Some(theirs)).await;
            }
        }
        let (row, path, now) = (row.clone(), key.clone(), self.commit.clock.now_ns());
        if index
            .edit_later(move |w| w.deletion_lost(&row, &path, now))
            .await?
        {
            tracing::info!(path = %key, "deleted here, but changed at the remote: the remote's version is kept");
        }
        Ok(())
    }

    async fn rebase(&self, row: &OutboxRow, theirs: Option<Meta>) -> Result<()> {
        let row = row.clone();
        self.commit
            .index
            .edit_later(move |w| w.rebase(&row, theirs.as_ref().map(|m| &m.version)))
            .await
    }

    /// The remote keeps the path; ours is set aside.
    async fn keep_both(
        &self,
        row: &OutboxRow,
        id: NodeId,
        path: &RelPath,
        remote: &Arc<Remote>,
        theirs: Meta,
    ) -> Result<()> {
        let (commit, rules, path) = (self.commit.clone(), self.rules.clone(), path.clone());
        let (remote_id, url, generation) = (remote.id, remote.shown.clone(), row.generation);
        tokio::task::spawn_blocking(move || {
            let _paths = commit.paths_stay();
            let _node = commit.hold(id);
            let current = commit.index.node(id)?;
            let moved = commit.index.path_of(id)?.as_ref() != Some(&path);
            if moved || rules.is_being_written(id) || current.is_none_or(|n| n.dirty != 0 && n.dirty != generation) {
                return Err(Error::new(Kind::Busy, "the file was changed again").about(&path));
            }
            let now_ms = commit.clock.now_ms();
            let conflict = commit.index.edit(move |w| w.conflict_begins(id, &url, now_ms))?;
            crash::point("conflict.row");
            let file = match commit.store.set_aside(&path, conflict as u64) {
                Ok(file) => file,
                // It stays where it is, and the next attempt begins a conflict of its own.
                Err(error) => {
                    commit.index.edit(move |w| w.conflict_settled(conflict))?;
                    return Err(error);
                }
            };
            crash::point("conflict.aside");
            tracing::warn!(%path, kept = %file, "changed here and at the remote: the remote's version has the path, ours is kept in conflicts");
            commit.index.edit(move |w| {
                w.conflict_named(conflict, &file)?;
                w.conflicted(id, remote_id, &theirs, now_ms * 1_000_000)
            })?;
            crash::point("conflict.named");
            Ok(())
        })
        .await
        .map_err(|_| Error::new(Kind::Io, "setting a conflict aside failed"))?
    }
}

async fn hash_by_reading(remote: &Remote, path: &RelPath, theirs: &Meta) -> Result<Sha256> {
    let version = Some(&theirs.version);
    let got = remote.backend.get(path, None, version).await?;
    let (mut hasher, mut body) = (Hasher::new(), got.body);
    while let Some(chunk) = body.next().await {
        hasher.update(&chunk?);
    }
    Ok(Sha256(hasher.finalize().into()))
}
