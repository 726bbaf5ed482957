//! How a mount stands, put together for `larder status`.

use std::sync::atomic::Ordering;

use super::{Daemon, conflicts};
use crate::backends::Capabilities;
use crate::backends::remote::{Presence, Remote};
use crate::control::{
    Amount, LimitsStatus, ListingStatus, OutboxStatus, RemoteState, RemoteStatus, Status,
};
use crate::error::Result;
use crate::index::{Operation, RemoteRow, Totals, holding, outbox, remote as facts};
use crate::sync::pace;

/// Lines of each list at most.
const MOST: usize = 100;

impl Daemon {
    /// Errors: what is wrong with the disk, if that is why the index cannot be read.
    pub(super) fn status(&self) -> Result<Status> {
        let unwritable = self.overlay.store.why_unwritable();
        let store_error = unwritable.as_ref().map(|error| error.message().to_owned());
        self.status_with(store_error)
            .map_err(|error| unwritable.map_or(error, |why| why.about(&self.store_shown)))
    }

    fn status_with(&self, store_error: Option<String>) -> Result<Status> {
        let overlay = &self.overlay;
        let totals = overlay.index.read(holding::totals)?;
        let rows = overlay.index.read(facts::remotes)?;
        let waiting = overlay.index.read(outbox::waiting)?;
        let limits = super::limits(&self.config);
        Ok(Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: self.mountpoint.display().to_string(),
            store: self.store_shown.clone(),
            since_ms: self.since_ms,
            now_ms: self.clock.now_ms(),
            read_path: self.read_path().to_owned(),
            offline: self.config.offline.to_string(),
            read_only: self.config.read_only,
            upload: rows.iter().any(|row| row.upload),
            stream: self.config.stream,
            remotes: rows.iter().map(|row| self.remote(row)).collect(),
            known: amount(totals.files, totals.bytes),
            held: amount(totals.held_files, totals.held_bytes),
            dirty: amount(waiting.0, waiting.1),
            local_only: local_only(&totals, waiting),
            hidden: rows.iter().map(|row| row.hidden).sum(),
            outbox: self.outbox(waiting.1)?,
            counts: overlay.metrics.snapshot(),
            conflicts: conflicts::kept(overlay)?,
            orphans: conflicts::orphans(overlay)?,
            limits: LimitsStatus {
                max_bytes: limits.max_bytes,
                max_files: limits.max_files,
                min_free: limits.min_free,
            },
            free_bytes: overlay.store.space()?.free,
            store_error,
            notes: overlay.notes(),
        })
    }

    fn read_path(&self) -> &'static str {
        match self
            .is_passthrough
            .get()
            .is_some_and(|p| p.load(Ordering::SeqCst))
        {
            true => "passthrough",
            false => "page cache",
        }
    }

    fn remote(&self, row: &RemoteRow) -> RemoteStatus {
        let remote = self.overlay.remotes.get(row.id);
        let presence = remote.map(|r| r.presence().borrow().clone());
        let (state, since_ms, last_error) = match presence {
            Some(Presence::Online) => (RemoteState::Online, self.since_ms, None),
            Some(Presence::Away { since_ms, why }) => (RemoteState::Away, since_ms, Some(why)),
            Some(Presence::Connecting) | None => (RemoteState::Connecting, self.since_ms, None),
        };
        let synced = remote.map_or(0, |r| r.synced_ms());
        RemoteStatus {
            url: row.url.clone(),
            state,
            since_ms,
            last_sync_ms: if synced > 0 {
                Some(synced)
            } else {
                row.listed_ms
            },
            last_error,
            listed: row.listed_ms.is_some(),
            files: row.files,
            bytes: row.bytes,
            upload: row.upload,
            cut_short: remote
                .and_then(|r| r.cut_short())
                .map(|why| why.to_string()),
            refused_names: row.refused,
            capabilities: remote.map(|r| names(r)).unwrap_or_default(),
            listing: remote.and_then(|r| listing(r, row)),
        }
    }

    fn outbox(&self, bytes: u64) -> Result<OutboxStatus> {
        let index = &self.overlay.index;
        let totals = index.read(outbox::totals)?;
        let oldest = index.read(outbox::oldest)?;
        let oldest_path = match oldest.as_ref().map(|row| &row.operation) {
            Some(Operation::Put(id)) => index.path_of(*id)?,
            Some(Operation::Delete(key)) => Some(key.clone()),
            None => None,
        };
        let held_back = index.read(|c| holding::unfinished(c, MOST))?;
        let torn = held_back
            .iter()
            .filter(|n| n.writing == crate::index::Writing::Torn)
            .count();
        let (behind, held_up) = self.overlay.uploads.held_up()?;
        Ok(OutboxStatus {
            behind,
            behind_path: held_up.as_ref().map(|h| h.path.encode()),
            behind_for: held_up.and_then(|h| h.by).map(|path| path.encode()),
            pending: totals.pending,
            uploading: self.overlay.uploads.active() as u64,
            bytes,
            oldest_ms: oldest.as_ref().map(|row| row.queued_at_ms),
            oldest_path: oldest_path.map(|p| p.encode()),
            oldest_error: oldest.as_ref().and_then(|row| row.last_error.clone()),
            oldest_attempts: oldest.map_or(0, |row| u64::from(row.attempts)),
            held_back: torn as u64,
            refused: totals.held,
            refused_why: match totals.held {
                0 => None,
                _ => index
                    .read(outbox::oldest_held)?
                    .and_then(|row| row.last_error),
            },
        })
    }
}

fn amount(files: u64, bytes: u64) -> Amount {
    Amount { files, bytes }
}

fn local_only(totals: &Totals, waiting: (u64, u64)) -> Amount {
    amount(
        totals.dirty_files.saturating_sub(waiting.0),
        totals.dirty_bytes.saturating_sub(waiting.1),
    )
}

fn listing(remote: &Remote, row: &RemoteRow) -> Option<ListingStatus> {
    let (page, every) = (remote.pages()?, remote.listed_every()?);
    let requests = pace::requests(row.files + row.refused, page);
    Some(ListingStatus {
        every_s: every.as_secs(),
        requests,
        requests_a_day: pace::requests_a_day(requests, every),
    })
}

fn names(remote: &Remote) -> Vec<String> {
    let Some(found) = remote.capabilities() else {
        return Vec::new();
    };
    let Capabilities {
        put,
        conditional_put,
        delete,
        changes,
        listing,
        probe,
        copy,
        page: _,
    } = found;
    let bucket = found.is_bucket();
    [
        ("put", put),
        ("conditional-put", conditional_put),
        ("delete", delete),
        ("changes", changes),
        ("listing", listing),
        ("probe", probe),
        ("copy", copy),
        ("bucket", bucket),
    ]
    .into_iter()
    .filter(|(_, has)| *has)
    .map(|(name, _)| name.to_owned())
    .collect()
}
