//! `larder mount`: over a folder.

use std::path::{Path, PathBuf};

use clap::Args;

use super::flags::MountFlags;
use super::{Context, Outcome, background, log, show};
use crate::config::{MountConfig, resolve_mount};
use crate::control::{self, Answer, Client, Request};
use crate::daemon;
use crate::error::{About, Error, Kind, Result};

/// Notes that the command repeats.
const NOTES: usize = 3;

/// Mount over a folder: it shows what the remotes have, and fetches what is read
#[derive(Debug, Args)]
pub struct Mount {
    /// The folder, which may already hold files
    mountpoint: PathBuf,
    #[command(flatten)]
    settings: MountFlags,
    /// Stay attached to the terminal and log to it
    #[arg(long, short)]
    foreground: bool,
}

impl Mount {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let config = self.resolve(context)?;
        if context.is_child {
            return Ok(background::serve(config));
        }
        clear_the_way(&config.mountpoint)?;
        if self.foreground {
            return attached(config);
        }
        let at = config.mountpoint.display().to_string();
        background::start(&config)?;
        tell_notes(&config.mountpoint);
        show::say(&format!(
            "mounted at {at}; `larder status {at}` shows how it is, `larder umount {at}` ends it"
        ))?;
        Ok(Outcome::Done)
    }

    fn resolve(&self, context: &Context) -> Result<MountConfig> {
        let mountpoint = match control::mountpoint(&self.mountpoint) {
            Err(error) if error.kind() == Kind::NotFound => return Err(missing(&self.mountpoint)),
            other => other?,
        };
        let flags = self.settings.flags();
        let resolved = resolve_mount(&mountpoint, &context.file()?, &context.env, &flags)?;
        if !context.is_child {
            resolved.notes.iter().for_each(|note| show::complain(note));
        }
        let mut config = resolved.config;
        log::checked(&config.log)?;
        if config.remotes.is_empty() {
            let text =
                "no remote is given; add `--remote http://HOST:5002` (or set REMOTE_FXCACHE_URL)";
            return Err(Error::new(Kind::Invalid, text));
        }
        daemon::tiers(&config)?;
        // The daemon has another working directory.
        if let Some(store) = &mut config.store {
            *store = std::path::absolute(&store).about(store.display())?;
        }
        Ok(config)
    }
}

fn missing(mountpoint: &Path) -> Error {
    let at = mountpoint.display();
    let text = format!("does not exist; make it with `mkdir -p {at}`");
    Error::new(Kind::NotFound, text).about(at)
}

/// Makes sure that the mountpoint is a directory that no larder is mounted at; what a
/// dead one left there is detached.
fn clear_the_way(mountpoint: &Path) -> Result<()> {
    let at = mountpoint.display();
    let ours = daemon::mounts()?.iter().any(|m| m.mountpoint == mountpoint);
    if ours && Client::connect(mountpoint).is_ok() {
        let text = format!("is mounted already; `larder umount {at}` ends that mount");
        return Err(Error::new(Kind::Busy, text).about(at));
    }
    if ours && daemon::detach_dead(mountpoint)? {
        show::complain(&format!("{at}: a mount whose daemon was gone is detached"));
    }
    let facts = match std::fs::metadata(mountpoint) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing(mountpoint));
        }
        other => other.about(at)?,
    };
    if !facts.is_dir() {
        let text = "is not a directory; a mountpoint has to be one";
        return Err(Error::new(Kind::NotADirectory, text).about(mountpoint.display()));
    }
    Ok(())
}

/// What the start had to put right.
fn tell_notes(mountpoint: &Path) {
    let at = mountpoint.display();
    let told = Client::connect(mountpoint)
        .and_then(|mut client| client.ask(&Request::Status, &mut |_| {}));
    // It is mounted all the same; `status` repeats them.
    let Ok(Answer::Status(status)) = told else {
        return;
    };
    for note in status.notes.iter().take(NOTES) {
        show::complain(&format!("{at}: {note}"));
    }
    if status.notes.len() > NOTES {
        show::complain(&format!("{at}: there is more; `larder status {at}` has it"));
    }
}

fn attached(config: MountConfig) -> Result<Outcome> {
    log::to_stderr(&config.log)?;
    // A working directory inside the mount would keep it busy.
    std::env::set_current_dir("/")?;
    let at = config.mountpoint.display().to_string();
    let ready = move || {
        show::tell(&format!(
            "mounted at {at}; Ctrl-C or `larder umount {at}` ends it"
        ));
    };
    daemon::mount(config, Box::new(ready))?;
    Ok(Outcome::Done)
}
