//! `larder status`: how the mounts stand.

mod render;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::place::OfProfile;
use super::{Context, Outcome, ask, show};
use crate::control::{self, Answer, Client, Request};
use crate::daemon;
use crate::error::{Kind, Result};

/// Show remotes, files, the outbox and counts of one mount, or of all
#[derive(Debug, Args)]
pub struct Status {
    /// Which mount; all of them if it is left out
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Print JSON: one object for a named mount, else an array
    #[arg(long)]
    json: bool,
    /// Show it again every second (or every SECONDS) until interrupted
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

/// One mount: what it says of itself, or why it does not.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Seen {
    Alive(Box<control::Status>),
    Silent {
        mountpoint: String,
        error: String,
    },
    /// Only its owner may ask it.
    Foreign {
        mountpoint: String,
        user: u32,
    },
}

impl Status {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let Some(seconds) = self.watch else {
            return self.once(place.as_deref());
        };
        let clear = std::io::stdout().is_terminal() && !self.json;
        loop {
            if clear {
                // Home, and clear to the end: no flicker.
                let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
            }
            if let Err(error) = self.once(place.as_deref()) {
                show::complain(&error);
            }
            if !clear && !self.json {
                show::say(&"")?;
            }
            std::thread::sleep(Duration::from_secs(seconds));
        }
    }

    fn once(&self, place: Option<&Path>) -> Result<Outcome> {
        if let Some(path) = place {
            let status = status_of(&mut Client::connect(path)?)?;
            match self.json {
                true => show::say_json(&status)?,
                false => show::say(&render::status(&status))?,
            }
            return Ok(Outcome::Done);
        }
        let seen: Vec<Seen> = daemon::mounts()?.into_iter().map(look).collect();
        let all_well = !seen.iter().any(|s| matches!(s, Seen::Silent { .. }));
        if self.json {
            show::say_json(&seen)?;
        } else if seen.is_empty() {
            show::say(&"nothing is mounted; start with `larder mount MOUNTPOINT --remote URL`")?;
        } else {
            let texts: Vec<String> = seen.iter().map(text).collect();
            show::say(&texts.join("\n\n"))?;
        }
        Ok(match all_well {
            true => Outcome::Done,
            false => Outcome::NotAll,
        })
    }
}

fn look(entry: daemon::MountEntry) -> Seen {
    if let Some(user) = entry.user.filter(|user| control::is_foreign(*user)) {
        return Seen::Foreign {
            mountpoint: show::place(&entry.mountpoint),
            user,
        };
    }
    match Client::connect(&entry.mountpoint).and_then(|mut client| status_of(&mut client)) {
        Ok(status) => Seen::Alive(Box::new(status)),
        Err(error) => Seen::Silent {
            error: match error.kind() {
                Kind::NotFound => {
                    let at = show::place(&entry.mountpoint);
                    format!("its daemon is gone; `larder umount {at}` clears it")
                }
                _ => error.to_string(),
            },
            mountpoint: show::place(&entry.mountpoint),
        },
    }
}

fn text(seen: &Seen) -> String {
    match seen {
        Seen::Alive(status) => render::status(status),
        Seen::Silent { mountpoint, error } => format!("{mountpoint}\n  no answer   {error}"),
        Seen::Foreign { mountpoint, user } => {
            format!("{mountpoint}\n  of user {user}, who can ask it")
        }
    }
}

fn status_of(client: &mut Client) -> Result<control::Status> {
    match ask::ask(client, &Request::Status)? {
        Answer::Status(status) => Ok(*status),
        _ => Err(ask::unexpected()),
    }
}
