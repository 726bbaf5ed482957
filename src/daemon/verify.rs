//! `larder verify`, answered: the held files read, the rotten ones fetched anew, the remotes compared.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Daemon;
use super::answer::{OnProgress, SYNCING, parse};
use crate::backends::remote::Remote;
use crate::control::{Answer, Audited, Fault, PAGE, Progress, Verified};
use crate::error::{Error, Kind, Result};
use crate::index::{Node, holding};
use crate::overlay::Overlay;
use crate::overlay::audit::Difference;
use crate::overlay::verify::{Checked, Found, Look, Tally};
use crate::path::RelPath;

/// How often it is said how far it came.
const STEP: Duration = Duration::from_millis(200);

/// What is gathered while files are read.
#[derive(Default)]
struct Gathered {
    tally: Tally,
    faults: Vec<(Fault, Option<Node>)>,
}

/// Ends the reading when whoever asked has gone.
struct Until(Arc<AtomicBool>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn word(found: Found) -> Option<&'static str> {
    match found {
        Found::Good | Found::Noted | Found::Older | Found::Unknown | Found::Busy => None,
        Found::Changed => Some("changed"),
        Found::New => Some("new"),
        Found::Rotten => Some("rotten"),
        Found::Missing => Some("missing"),
        Found::Unreadable => Some("unreadable"),
    }
}

fn gather(gathered: &Mutex<Gathered>, checked: Checked) {
    let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
    gathered.tally.add(&checked);
    let Some(what) = word(checked.found).filter(|_| gathered.faults.len() < PAGE) else {
        return;
    };
    let fault = Fault {
        path: checked.path.encode(),
        what: what.to_owned(),
        more: checked.why,
        dirty: checked.node.as_ref().is_some_and(|node| node.dirty != 0),
        ..Fault::default()
    };
    gathered.faults.push((fault, checked.node));
}

/// How far it came; of a whole mount, how far it has to go.
fn step(gathered: &Mutex<Gathered>, total: Option<u64>) -> Progress {
    let gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
    let done = gathered.tally.files;
    Progress {
        what: "verifying".into(),
        done,
        total: total.map(|total| total.max(done)),
        bytes: None,
    }
}

fn all_of(overlay: &Overlay, top: &RelPath) -> Result<Option<u64>> {
    match top.is_root() {
        true => Ok(Some(overlay.index.read(holding::totals)?.held_files)),
        false => Ok(None),
    }
}

fn told(tally: &Tally) -> Verified {
    Verified {
        files: tally.files,
        bytes: tally.bytes,
        good: tally.of(Found::Good),
        noted: tally.of(Found::Noted),
        older: tally.of(Found::Older),
        unknown: tally.of(Found::Unknown),
        busy: tally.of(Found::Busy),
        changed: tally.of(Found::Changed),
        new: tally.of(Found::New),
        rotten: tally.of(Found::Rotten),
        missing: tally.of(Found::Missing),
        unreadable: tally.of(Found::Unreadable),
        ..Verified::default()
    }
}

/// Reads the files of a folder that is not mounted. Changes nothing but that hashes get noted.
pub fn here(overlay: &Overlay, path: &str, progress: &mut dyn FnMut(Progress)) -> Result<Answer> {
    let top = parse(path)?;
    let (gathered, total) = (Mutex::new(Gathered::default()), all_of(overlay, &top)?);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let look = Look {
                follow: false,
                stop: &|| false,
                tell: &|checked| gather(&gathered, checked),
            };
            overlay.verify(&top, &look)
        });
        while !reading.is_finished() {
            progress(step(&gathered, total));
            std::thread::sleep(Duration::from_millis(20));
        }
        reading.join().unwrap_or_else(|_| Err(broken()))
    })?;
    let gathered = gathered
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut verified = told(&gathered.tally);
    verified.faults = gathered
        .faults
        .into_iter()
        .map(|(fault, _)| fault)
        .collect();
    Ok(Answer::Verified(Box::new(verified)))
}

fn broken() -> Error {
    Error::new(Kind::Io, "verifying failed")
}

impl Daemon {
    pub(super) async fn verify(
        &self,
        path: &str,
        repair: bool,
        remote: bool,
        progress: OnProgress<'_>,
    ) -> Result<Answer> {
        let top = parse(path)?;
        let gathered = self.read_all(&top, progress).await?;
        let mut verified = told(&gathered.tally);
        for (mut fault, node) in gathered.faults {
            if let (true, Some(node)) = (repair && fault.what == "rotten", node) {
                fault.more = self
                    .repair(&node)
                    .await
                    .err()
                    .map(|error| error.to_string());
                fault.repaired = fault.more.is_none();
                verified.repaired += u64::from(fault.repaired);
            }
            verified.faults.push(fault);
        }
        // A bad copy that was dropped is gone when the answer comes.
        self.overlay.store.empty_graveyard()?;
        if remote {
            // So that news which are merely on their way are no difference.
            let answers = self.ring(SYNCING, |_| true).await;
            for (remote, answer) in answers {
                let (audited, faults) = self.audit(remote, answer, &top, progress).await;
                let room = (2 * PAGE).saturating_sub(verified.faults.len());
                verified.faults.extend(faults.into_iter().take(room));
                verified.remotes.push(audited);
            }
        }
        Ok(Answer::Verified(Box::new(verified)))
    }

    async fn read_all(&self, top: &RelPath, progress: OnProgress<'_>) -> Result<Gathered> {
        let gathered = Arc::new(Mutex::new(Gathered::default()));
        let until = Until(Arc::default());
        let total = all_of(&self.overlay, top)?;
        let (overlay, top) = (self.overlay.clone(), top.clone());
        let (into, stop) = (gathered.clone(), until.0.clone());
        let mut reading = tokio::task::spawn_blocking(move || {
            let look = Look {
                follow: true,
                stop: &|| stop.load(Ordering::Relaxed),
                tell: &|checked| gather(&into, checked),
            };
            overlay.verify(&top, &look)
        });
        loop {
            match tokio::time::timeout(STEP, &mut reading).await {
                Ok(ended) => break ended.map_err(|_| broken())??,
                Err(_) => progress(step(&gathered, total)),
            }
        }
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut gathered))
    }

    /// Has a rotten file come anew. Its bytes here go only once a remote has said that it has it.
    async fn repair(&self, node: &Node) -> Result<()> {
        let why = |kind, text: &str| Err(Error::new(kind, text));
        if node.dirty != 0 {
            return why(
                Kind::Denied,
                "was written here and is nowhere else as it was; restore it from a backup, or write it again",
            );
        }
        self.overlay.is_elsewhere(node).await?;
        let (overlay, found) = (self.overlay.clone(), node.clone());
        let dropped = tokio::task::spawn_blocking(move || overlay.drop_rotten(&found));
        if !dropped.await.map_err(|_| broken())?? {
            return why(Kind::Busy, "changed meanwhile; verify it again");
        }
        let Some(path) = self
            .overlay
            .index
            .path_of(node.id)?
            .or(self.path_now(node)?)
        else {
            return Ok(());
        };
        let now = self
            .overlay
            .index
            .read(|c| crate::index::node::resolve(c, &path))?;
        match now {
            Some(node) => self.overlay.downloads.hydrate(node.id).await,
            None => Ok(()),
        }
    }

    /// The path of a node that has another number by now.
    fn path_now(&self, node: &Node) -> Result<Option<RelPath>> {
        let (Some(dir), Some(name)) = (self.overlay.index.path_of(node.parent)?, &node.name) else {
            return Ok(None);
        };
        dir.join(name).map(Some)
    }

    async fn audit(
        &self,
        remote: &Arc<Remote>,
        synced: Result<()>,
        top: &RelPath,
        progress: OnProgress<'_>,
    ) -> (Audited, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut tell = |path: &RelPath, difference: Difference| {
            if faults.len() < PAGE {
                faults.push(Fault {
                    path: path.encode(),
                    what: difference.word().to_owned(),
                    remote: Some(remote.shown.clone()),
                    ..Fault::default()
                });
            }
        };
        let shown = |done| {
            progress(Progress {
                what: format!("comparing with {}", remote.shown),
                done,
                total: None,
                bytes: None,
            });
        };
        let compared = match synced {
            Ok(()) => self.overlay.audit(remote, top, &mut tell, &shown).await,
            Err(error) => Err(error),
        };
        let url = remote.shown.clone();
        let upload = remote.upload;
        let audited = match compared {
            Ok(counts) => Audited {
                url,
                upload,
                error: None,
                same: counts.same,
                not_held: counts.not_held,
                only_here: counts.of(Difference::OnlyHere),
                waiting: counts.waiting,
                elsewhere: counts.elsewhere,
                differs: counts.of(Difference::Differs),
                unknown_here: counts.of(Difference::UnknownHere),
                gone_there: counts.of(Difference::GoneThere),
                hidden: counts.hidden,
                refused: counts.refused,
            },
            Err(error) => Audited {
                url,
                upload,
                error: Some(error.to_string()),
                ..Audited::default()
            },
        };
        (audited, faults)
    }
}
