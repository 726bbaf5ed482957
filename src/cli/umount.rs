//! `larder umount`: back to a plain directory.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::place::OfProfile;
use super::{Context, Outcome, ask, show};
use crate::control::{self, Client, Request};
use crate::daemon;
use crate::error::{Error, Kind, Result};

/// How long a daemon may take to write down what it holds once it is unmounted.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Unmount: the folder is an ordinary directory again
#[derive(Debug, Args)]
pub struct Umount {
    /// The mount to end; not needed where a profile says it
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// First send what is waiting to go up; without it, that waits for the next mount
    #[arg(long, short)]
    wait: bool,
}

impl Umount {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let named = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let place = match named {
            Some(place) => Some(place),
            None => context.profile_folder()?,
        };
        let unsaid = || {
            let text = "which mount? write `larder umount MOUNTPOINT`; `larder status` lists them";
            Error::new(Kind::Invalid, text)
        };
        let mountpoint = control::mountpoint(&place.ok_or_else(unsaid)?)?;
        let mut client = match Client::connect(&mountpoint) {
            Ok(client) => client,
            Err(error) if error.kind() == Kind::NotFound => return dead(&mountpoint, error),
            Err(error) => return Err(error),
        };
        let report = ask::order(&mut client, &Request::Unmount { wait: self.wait })?;
        let pid = client.pid();
        if !client.wait_gone(LAST_WORDS) {
            let who = pid.map_or("the daemon".into(), |pid| format!("process {pid}"));
            let text =
                format!("is unmounted, but {who} is still at work; see .larder/larder.log in it");
            return Err(Error::new(Kind::TimedOut, text).about(mountpoint.display()));
        }
        ask::tell(&report, false)
    }
}

/// No daemon answers: perhaps it was killed and left its mount.
fn dead(mountpoint: &std::path::Path, nobody: Error) -> Result<Outcome> {
    if !daemon::detach_dead(mountpoint)? {
        let at = show::place(mountpoint);
        let other = daemon::mounts()?.iter().any(|m| m.mountpoint == mountpoint);
        let text = match other {
            true => format!(
                "{at} is mounted by a larder that does not listen to you; unmount it as the user who mounted it"
            ),
            false => format!("no larder is mounted at {at}"),
        };
        return Err(Error::new(nobody.kind(), text));
    }
    let at = show::place(mountpoint);
    show::say(&format!(
        "{at}: the daemon was gone; its dead mount is detached"
    ))?;
    Ok(Outcome::Done)
}
