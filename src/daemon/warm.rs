//! `larder warm`, answered: what is missing at some paths is fetched.

use std::time::Duration;

use super::Daemon;
use super::answer::{OnProgress, parse};
use crate::backends::remote::Remote;
use crate::control::{Amount, Answer, NotWarmed, Progress, Stopped, Warmed};
use crate::error::{Error, Kind, Result};
use crate::overlay::warm::{Bounds, End, Full, Sum, Warmth};

/// How long the first listing of a remote may take.
const LISTING: Duration = Duration::from_secs(600);

fn amount(sum: Sum) -> Amount {
    Amount {
        files: sum.files,
        bytes: sum.bytes,
    }
}

fn stopped(end: End) -> Stopped {
    match end {
        End::Full(Full::MaxBytes) => Stopped::Full("max-size".into()),
        End::Full(Full::MaxFiles) => Stopped::Full("max-files".into()),
        End::Full(Full::Disk) => Stopped::Full("disk".into()),
        End::Away(remote) => Stopped::Away(remote),
        End::Refused(error) => Stopped::Refused(error.to_string()),
    }
}

fn told(warmth: Warmth) -> Warmed {
    let named = warmth.failures.into_iter().map(|(path, error)| NotWarmed {
        path: path.encode(),
        why: error.to_string(),
    });
    Warmed {
        files: warmth.came.files,
        bytes: warmth.came.bytes,
        missing: amount(warmth.missing),
        here: warmth.here,
        busy: warmth.busy,
        failed: warmth.failed,
        failures: named.collect(),
        stopped: warmth.end.map(stopped),
    }
}

fn step(warmth: &Warmth) -> Progress {
    let (came, missing) = (warmth.came, warmth.missing);
    Progress {
        what: "warming".into(),
        done: came.files,
        total: Some(missing.files.max(came.files)),
        bytes: Some((came.bytes, missing.bytes.max(came.bytes))),
    }
}

impl Daemon {
    pub(super) async fn warm(&self, paths: &[String], progress: OnProgress<'_>) -> Result<Answer> {
        if self.config.stream {
            let why = "this mount keeps nothing of what is read (--stream); mount it without that to have files before they are read";
            return Err(Error::new(Kind::Invalid, why));
        }
        let tops = paths.iter().map(|p| parse(p)).collect::<Result<_>>()?;
        self.await_listings(progress).await?;
        let bounds = Bounds {
            limits: super::limits(&self.config),
            width: match self.config.prefetch {
                0 => self.config.transfers,
                width => width,
            },
        };
        let tell = |warmth: &Warmth| progress(step(warmth));
        let warming = self.overlay.warm(tops, &bounds, &tell);
        let warmth = tokio::select! {
            warmth = warming => warmth?,
            () = self.ending.cancelled() => {
                return Err(Error::new(Kind::Cancelled, "the mount is ending; what came is kept"));
            }
        };
        Ok(Answer::Warmed(Box::new(told(warmth))))
    }

    /// What is missing is known only of remotes that were listed once.
    async fn await_listings(&self, progress: OnProgress<'_>) -> Result<()> {
        let is_unknown = |remote: &Remote| !remote.is_listed() && remote.can_list();
        if let Some(remote) = self.overlay.remotes.iter().find(|r| is_unknown(r)) {
            progress(Progress {
                what: format!("listing {}", remote.shown),
                ..Progress::default()
            });
        }
        for (remote, answer) in self.ring(LISTING, is_unknown).await {
            if is_unknown(remote)
                && let Err(error) = answer
            {
                let why = format!("was never listed, so what it has is not known: {error}");
                return Err(Error::new(error.kind(), why).about(&remote.shown));
            }
        }
        Ok(())
    }
}
