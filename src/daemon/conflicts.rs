//! What was set aside, told and settled; of a mount, and of a folder that is not mounted.

use std::sync::Arc;

use super::answer::{parse, report};
use crate::control::{
    Answer, ConflictDetail, ConflictStatus, Keep, OrphanStatus, Report, VersionStatus,
    WhichConflict,
};
use crate::error::{Error, Kind, Result};
use crate::index::{ConflictRow, Held, holding};
use crate::overlay::Overlay;
use crate::overlay::conflicts::{Shown, Which};

/// Lines of each list at most.
const MOST: usize = 100;
/// Up to this size the other version is fetched, so that both can be compared.
const FETCHED: u64 = 8 << 20;

pub fn list(overlay: &Overlay) -> Result<Answer> {
    Ok(Answer::Conflicts {
        conflicts: kept(overlay)?,
        orphans: orphans(overlay)?,
    })
}

pub fn kept(overlay: &Overlay) -> Result<Vec<ConflictStatus>> {
    let rows = overlay.index.read(|c| holding::conflicts(c, MOST))?;
    Ok(rows.iter().map(status).collect())
}

pub fn orphans(overlay: &Overlay) -> Result<Vec<OrphanStatus>> {
    let kept = overlay.store.orphans()?;
    let orphans = kept
        .into_iter()
        .take(MOST)
        .map(|(name, facts)| OrphanStatus {
            name,
            size: facts.size,
            at_ms: facts.ctime_ns / 1_000_000,
        });
    Ok(orphans.collect())
}

fn status(row: &ConflictRow) -> ConflictStatus {
    ConflictStatus {
        id: row.id as u64,
        path: row.path.encode(),
        kept_at: format!(".larder/conflicts/{}", row.file),
        remote: row.remote.clone(),
        at_ms: row.at_ms,
        size: row.size,
    }
}

fn meant(which: &WhichConflict) -> Result<Which> {
    Ok(match which {
        WhichConflict::Id(id) => Which::Number(i64::try_from(*id).unwrap_or(i64::MAX)),
        WhichConflict::Path(path) => Which::Path(parse(path)?),
    })
}

/// Both versions; the remote's is fetched as for a reader, if it is not here and not large.
pub async fn show(overlay: &Arc<Overlay>, which: WhichConflict) -> Result<Answer> {
    let row = overlay.conflict(&meant(&which)?)?;
    let unread = match overlay.at_conflict(&row)? {
        Some(node) if node.held != Held::Whole && node.size > FETCHED => {
            Some("it is large and not here; read it once, then ask again".to_owned())
        }
        Some(node) if node.held != Held::Whole => {
            let fetched = overlay.downloads.hydrate(node.id).await;
            fetched.err().map(|error| error.to_string())
        }
        _ => None,
    };
    let this = overlay.clone();
    let shown = tokio::task::spawn_blocking(move || this.look_at(row))
        .await
        .map_err(|_| Error::new(Kind::Io, "comparing failed"))??;
    Ok(Answer::Conflict(Box::new(detail(overlay, shown, unread)?)))
}

/// The same where no remote can be asked. Blocks.
pub fn show_here(overlay: &Overlay, which: &WhichConflict) -> Result<Answer> {
    let shown = overlay.look_at(overlay.conflict(&meant(which)?)?)?;
    let unread = matches!(&shown.theirs, Some(node) if node.held != Held::Whole)
        .then(|| "it is not here; mount the folder, then ask again".to_owned());
    Ok(Answer::Conflict(Box::new(detail(overlay, shown, unread)?)))
}

fn detail(overlay: &Overlay, shown: Shown, unread: Option<String>) -> Result<ConflictDetail> {
    let theirs = match &shown.theirs {
        Some(node) => Some(VersionStatus {
            by: match node.dirty {
                0 => overlay
                    .remote_of(node)?
                    .unwrap_or_else(|| shown.row.remote.clone()),
                _ => "this machine, written since".to_owned(),
            },
            size: node.size,
            mtime_ns: node.mtime_ns,
            sha256: shown.theirs_sha256.map(|hash| hash.to_hex()),
            version: node
                .origin
                .as_ref()
                .map(|(_, version)| version.as_str().to_owned()),
            held: node.held == Held::Whole,
        }),
        None => None,
    };
    Ok(ConflictDetail {
        conflict: status(&shown.row),
        mine: VersionStatus {
            by: "this machine".to_owned(),
            size: shown.mine.size,
            mtime_ns: shown.mine.mtime_ns,
            sha256: Some(shown.mine_sha256.to_hex()),
            version: None,
            held: true,
        },
        theirs,
        equal: shown.is_equal,
        first_difference: shown.first_difference,
        diff: shown.diff,
        unread,
    })
}

pub fn settle(overlay: &Overlay, which: &WhichConflict, keep: Keep) -> Result<Answer> {
    let row = overlay.conflict(&meant(which)?)?;
    let path = &row.path;
    let text = match keep {
        Keep::Theirs => {
            overlay.keep_theirs(&row)?;
            format!("{path}: the remote's version stays; ours is removed")
        }
        Keep::Ours => {
            overlay.keep_mine(&row)?;
            format!("{path}: our version is back; it goes up in the place of the remote's")
        }
    };
    Ok(report(text, 1))
}

pub fn drop_unfinished(overlay: &Overlay) -> Result<Answer> {
    let (mut files, mut bytes) = (0, 0);
    for (name, facts) in overlay.store.orphans()? {
        overlay.store.drop_orphan(&name)?;
        files += 1;
        bytes += facts.size;
    }
    Ok(Answer::Done(Report {
        text: format!("removed {files} unfinished files"),
        files,
        bytes,
        ..Report::default()
    }))
}
