//! What is asked at the socket, done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Daemon, conflicts};
use crate::backends::remote::Remote;
use crate::control::{Answer, EntryKind, Handler, Listed, PAGE, Progress, Report, Request};
use crate::error::{Error, Kind, Result};
use crate::fs::mounts::{How, unmount};
use crate::index::{Node, NodeKind, node as rows, outbox};
use crate::path::RelPath;

pub(super) type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// How long a drain goes on while nothing gets anywhere.
const STUCK: Duration = Duration::from_secs(30);
/// How long a remote that was away is looked for: to connect, and to answer.
const LOOKING: Duration = Duration::from_secs(8);

/// How long a remote may take for `larder sync`.
pub(super) const SYNCING: Duration = Duration::from_secs(60);
/// How long it goes on with remotes that take no uploads: perhaps they do by now.
const REFUSED: Duration = Duration::from_secs(3);

#[async_trait]
impl Handler for Daemon {
    async fn handle(&self, request: Request, progress: OnProgress<'_>) -> Result<Answer> {
        match request {
            Request::Status => Ok(Answer::Status(Box::new(self.status()?))),
            Request::List {
                path,
                recursive,
                after,
            } => self.list(&path, recursive, after.as_deref()).await,
            Request::Sync => self.sync().await,
            Request::Flush { wait } => self.flush(wait, progress).await,
            Request::Evict { paths, all } => self.evict(&paths, all),
            Request::Unmount { wait } => self.unmount(wait, progress).await,
            Request::Conflicts => conflicts::list(&self.overlay),
            Request::Conflict { which } => conflicts::show(&self.overlay, which).await,
            Request::Settle { which, keep } => conflicts::settle(&self.overlay, &which, keep),
            Request::DropUnfinished => conflicts::drop_unfinished(&self.overlay),
            Request::Warm { paths } => self.warm(&paths, progress).await,
            Request::Restore { path } => self.restore(&path).await,
            Request::Verify {
                path,
                repair,
                remote,
            } => self.verify(&path, repair, remote, progress).await,
        }
    }
}

pub(super) fn report(text: String, files: u64) -> Answer {
    Answer::Done(Report {
        text,
        files,
        ..Report::default()
    })
}

fn uploads(n: u64) -> String {
    match n {
        1 => "1 upload".to_owned(),
        _ => format!("{n} uploads"),
    }
}

pub(super) fn parse(path: &str) -> Result<RelPath> {
    RelPath::decode(path.trim_matches('/')).map_err(|error| error.about(path))
}

impl Daemon {
    /// One page of a listing, in byte order of the paths. As in the mount, absence is not told before
    /// it is known.
    async fn list(&self, path: &str, recursive: bool, after: Option<&str>) -> Result<Answer> {
        let top = parse(path)?;
        let after = after.map(parse).transpose()?;
        // One that takes its time is named like one that is away.
        let _ = self.overlay.wait_for_listing().await;
        let never = |remote: &&Arc<Remote>| !remote.is_listed() && !remote.is_cut_short();
        let unknown = self.overlay.remotes.iter().filter(never);
        let unknown: Vec<_> = unknown.map(|remote| remote.shown.clone()).collect();
        let node = self
            .overlay
            .index
            .read(|c| rows::resolve(c, &top))?
            .ok_or_else(|| Error::new(Kind::NotFound, "no such file in the mount").about(&top))?;
        let mut entries = Vec::new();
        if node.kind != NodeKind::Dir {
            if after.is_none() {
                entries.push(self.listed(&top, &node)?);
            }
            return Ok(Answer::Listing {
                entries,
                more: false,
                unknown: Vec::new(),
            });
        }
        let more = !self.list_dir(&node, &top, recursive, after.as_ref(), &mut entries)?;
        Ok(Answer::Listing {
            entries,
            more,
            unknown,
        })
    }

    /// Adds what is in a directory after `after`. False once the page is full.
    fn list_dir(
        &self,
        dir: &Node,
        path: &RelPath,
        recursive: bool,
        after: Option<&RelPath>,
        entries: &mut Vec<Listed>,
    ) -> Result<bool> {
        // Where the page before ended: in this directory at, or beneath, this name.
        let within = after.filter(|a| a.is_under(path) && *a != path);
        let first = within.and_then(|a| a.components().nth(path.components().count()));
        let mut last = Vec::new();
        if let Some(first) = first
            && let Some(child) = self.overlay.index.read(|c| rows::child(c, dir.id, first))?
        {
            last = first.to_vec();
            if recursive && child.kind == NodeKind::Dir {
                let at = path.join(&crate::path::Name::new(first)?)?;
                if !self.list_dir(&child, &at, true, after, entries)? {
                    return Ok(false);
                }
            }
        } else if let Some(first) = first {
            last = first.to_vec();
        }
        loop {
            let page = self
                .overlay
                .index
                .read(|c| rows::children(c, dir.id, &last, PAGE))?;
            let Some(end) = page.last().and_then(|n| n.name.clone()) else {
                return Ok(true);
            };
            last = end.as_bytes().to_vec();
            for node in page {
                let Some(name) = &node.name else { continue };
                if entries.len() == PAGE {
                    return Ok(false);
                }
                let at = path.join(name)?;
                entries.push(self.listed(&at, &node)?);
                if recursive
                    && node.kind == NodeKind::Dir
                    && !self.list_dir(&node, &at, true, None, entries)?
                {
                    return Ok(false);
                }
            }
        }
    }

    fn listed(&self, path: &RelPath, node: &Node) -> Result<Listed> {
        Ok(Listed {
            path: path.encode(),
            kind: match node.kind {
                NodeKind::File => EntryKind::File,
                NodeKind::Dir => EntryKind::Directory,
                NodeKind::Symlink => EntryKind::Symlink,
            },
            size: node.size,
            mtime_ns: node.mtime_ns,
            mode: node.mode,
            state: self.overlay.state_of(node)?,
            pinned: node.pinned,
            remote: self.overlay.remote_of(node)?,
        })
    }

    async fn sync(&self) -> Result<Answer> {
        let answers = self.ring(SYNCING, |_| true).await;
        let asked = answers.len();
        let mut failures = Vec::new();
        for (remote, answer) in answers {
            if let Err(error) = answer {
                failures.push(error.about(&remote.shown).to_string());
            }
        }
        let failed = failures.len() as u64;
        let text = format!(
            "{} of {asked} remotes are up to date",
            asked as u64 - failed
        );
        Ok(Answer::Done(Report {
            text,
            failures,
            failed,
            ..Report::default()
        }))
    }

    /// Has the facts of some remotes brought up to date, all at once and each within `limit`.
    pub(super) async fn ring(
        &self,
        limit: Duration,
        which: impl Fn(&Remote) -> bool,
    ) -> Vec<(&Arc<Remote>, Result<()>)> {
        let chosen = self.overlay.remotes.iter().zip(&self.bells);
        let rung = chosen
            .filter(|(remote, _)| which(remote))
            .map(|(remote, bell)| async move {
                let answer = tokio::time::timeout(limit, bell.ring()).await;
                let why = || format!("no answer within {} seconds", limit.as_secs());
                let answer = answer.unwrap_or_else(|_| Err(Error::new(Kind::TimedOut, why())));
                (remote, answer)
            });
        futures_util::future::join_all(rung).await
    }

    async fn flush(&self, wait: bool, progress: OnProgress<'_>) -> Result<Answer> {
        if wait {
            // One that is away may just have come back; whoever does not answer stays away.
            self.ring(LOOKING, Remote::is_away).await;
        }
        self.overlay
            .index
            .edit_later(crate::index::Writer::retry_now)
            .await?;
        self.overlay.uploads.kick();
        if !wait {
            let pending = self.pending()?;
            return Ok(report(format!("{} pending", uploads(pending)), pending));
        }
        self.drain(progress).await
    }

    fn pending(&self) -> Result<u64> {
        Ok(self.overlay.index.read(outbox::totals)?.pending)
    }

    /// Nothing is pending any more of `total`: it went up, or its remote refuses it.
    fn drained(&self, total: u64) -> Result<Answer> {
        let held = self.overlay.index.read(outbox::totals)?.held;
        let done = total.saturating_sub(held);
        let mut text = match done {
            0 => "nothing is pending".to_owned(),
            _ => format!("{} done, nothing is pending", uploads(done)),
        };
        if held > 0 {
            text.push_str(&format!(
                "; {held} that the remote cannot take stay here, see `larder status`"
            ));
        }
        Ok(report(text, done))
    }

    /// Waits until nothing is pending, or until nothing has got anywhere for a while.
    async fn drain(&self, progress: OnProgress<'_>) -> Result<Answer> {
        let total = self.pending()?;
        let (mut least, mut since) = (total, tokio::time::Instant::now());
        let mut bytes = self.overlay.metrics.bytes_up.get();
        loop {
            let left = self.pending()?;
            if left == 0 {
                return self.drained(total);
            }
            progress(Progress {
                what: "uploading".into(),
                done: total.saturating_sub(left),
                total: Some(total.max(left)),
                bytes: None,
            });
            let sent = self.overlay.metrics.bytes_up.get();
            if left < least
                || sent > bytes
                || self.overlay.uploads.active() > 0 && since.elapsed() < STUCK
            {
                if left < least || sent > bytes {
                    since = tokio::time::Instant::now();
                }
                (least, bytes) = (left.min(least), sent);
            }
            let refused =
                |r: &Remote| since.elapsed() >= REFUSED && r.capabilities().is_some_and(|c| !c.put);
            let hopeless = self
                .overlay
                .remotes
                .iter()
                .filter(|r| r.upload)
                .all(|r| r.is_away() || refused(r));
            if hopeless || since.elapsed() >= STUCK {
                return self.not_drained(left);
            }
            let _ =
                tokio::time::timeout(Duration::from_millis(100), self.overlay.uploads.changed())
                    .await;
        }
    }

    fn not_drained(&self, left: u64) -> Result<Answer> {
        let oldest = self.overlay.index.read(outbox::oldest)?;
        let away = self
            .overlay
            .remotes
            .iter()
            .filter(|r| r.upload && r.is_away());
        let why = match oldest.and_then(|row| row.last_error) {
            Some(error) => error,
            None => away
                .map(|r| format!("{} is away", r.shown))
                .next()
                .unwrap_or_else(|| "files are open".into()),
        };
        Ok(Answer::Done(Report {
            text: format!("{} still pending and kept in the queue", uploads(left)),
            files: left,
            failures: vec![why],
            failed: left,
            ..Report::default()
        }))
    }

    fn evict(&self, paths: &[String], all: bool) -> Result<Answer> {
        let mut done = Report::default();
        let tops = match all {
            true => vec![RelPath::root()],
            false => paths.iter().map(|p| parse(p)).collect::<Result<_>>()?,
        };
        let mut stayed = 0;
        for path in tops {
            match self.overlay.evict_under(&path) {
                Ok((gone, left)) => {
                    done.files += gone.files;
                    done.bytes += gone.bytes;
                    stayed += left;
                }
                Err(error) => {
                    done.failed += 1;
                    done.failures.push(error.to_string());
                }
            }
        }
        done.stayed = stayed;
        Ok(Answer::Done(done))
    }

    async fn unmount(&self, wait: bool, progress: OnProgress<'_>) -> Result<Answer> {
        if wait
            && let Answer::Done(report) = self.flush(true, progress).await?
            && report.failed > 0
        {
            let why = report.failures.first().cloned().unwrap_or_default();
            let text = format!(
                "{} ({why}); still mounted: unmount without --wait to leave them queued",
                report.text
            );
            return Err(Error::new(Kind::Busy, text));
        }
        let mountpoint = self.mountpoint.clone();
        self.leaving
            .spawn_blocking(move || unmount(&mountpoint, How::Now))
            .await
            .map_err(|_| Error::new(Kind::Io, "unmounting failed"))??;
        let pending = self.pending()?;
        self.ending.cancel();
        let text = match pending {
            0 => "unmounted".to_owned(),
            _ => format!("unmounted; {} kept for the next mount", uploads(pending)),
        };
        Ok(report(text, pending))
    }

    async fn restore(&self, path: &str) -> Result<Answer> {
        let path = parse(path)?;
        let (at, now) = (path.clone(), self.clock.now_ns());
        let restored = self
            .overlay
            .index
            .edit_later(move |w| w.restore(&at, now))
            .await?;
        if restored == 0 {
            let why = "nothing that was deleted here is still at a remote";
            return Err(Error::new(Kind::NotFound, why).about(path));
        }
        let text = match restored {
            1 => "1 file is shown again".to_owned(),
            n => format!("{n} files are shown again"),
        };
        Ok(report(text, restored))
    }
}
