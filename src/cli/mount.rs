//! `larder mount`: over a folder.

use std::path::{Path, PathBuf};

use clap::Args;

use super::flags::MountFlags;
use super::{Context, Outcome, background, log, place, show};
use crate::config::{MountConfig, profile_folder, resolve_mount};
use crate::control::{self, Answer, Client, Request};
use crate::daemon;
use crate::error::{About, Error, Kind, Result};

/// Notes that the command repeats.
const NOTES: usize = 3;

/// Mount over a folder: it shows what the remotes have, and fetches what is read
#[derive(Debug, Args)]
pub struct Mount {
    /// The folder, which may already hold files; not needed with a profile, which has its own
    mountpoint: Option<PathBuf>,
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
        let at = show::place(&config.mountpoint);
        background::start(&config)?;
        tell_notes(&config.mountpoint);
        show::say(&format!(
            "mounted at {at}; `larder status {at}` shows how it is, `larder umount {at}` ends it"
        ))?;
        Ok(Outcome::Done)
    }

    fn resolve(&self, context: &Context) -> Result<MountConfig> {
        let (file, flags) = (context.file()?, self.settings.flags());
        let (mountpoint, ours_to_make) = match &self.mountpoint {
            Some(named) => (mountpoint(named)?, None),
            None => {
                let folder = profile_folder(&file, &context.env, &flags)?.ok_or_else(unsaid)?;
                (place::future(&folder)?, Some(folder))
            }
        };
        let resolved = resolve_mount(&mountpoint, &file, &context.env, &flags)?;
        if !context.is_child {
            resolved.notes.iter().for_each(|note| show::complain(note));
        }
        let mut config = resolved.config;
        log::checked(&config.log)?;
        match resolved.off {
            Some(off) if config.remotes.is_empty() => return Err(Error::new(Kind::Invalid, off)),
            Some(off) if !context.is_child => show::complain(&off),
            None if config.remotes.is_empty() => {
                let text = "no remote is given; add `--remote http://HOST:5002` or `--remote s3://BUCKET/PREFIX` (or set REMOTE_FXCACHE_URL)";
                return Err(Error::new(Kind::Invalid, text));
            }
            _ => {}
        }
        daemon::tiers(&config)?;
        if let Some(folder) = ours_to_make {
            place::make(&folder)?;
            config.mountpoint = control::mountpoint(&folder)?;
        }
        // The daemon has another working directory.
        if let Some(store) = &mut config.store {
            *store = std::path::absolute(&store).about(store.display())?;
        }
        Ok(config)
    }
}

fn unsaid() -> Error {
    let text = "which folder? write `larder mount MOUNTPOINT --remote URL`, or `larder mount --profile lumibot`";
    Error::new(Kind::Invalid, text)
}

fn mountpoint(named: &Path) -> Result<PathBuf> {
    match control::mountpoint(named) {
        Err(error) if error.kind() == Kind::NotFound => Err(missing(named)),
        other => other,
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
    not_everything(mountpoint)?;
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

/// A variable that is not set makes `/` of a path, and all of the machine would be the cache folder.
fn not_everything(mountpoint: &Path) -> Result<()> {
    match mountpoint.parent() {
        Some(_) => Ok(()),
        None => {
            let text = "is all of this machine; name the folder that the cache is in";
            Err(Error::new(Kind::Invalid, text).about(mountpoint.display()))
        }
    }
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
    let at = show::place(&config.mountpoint);
    let ready = move || {
        show::tell(&format!(
            "mounted at {at}; Ctrl-C or `larder umount {at}` ends it"
        ));
    };
    daemon::mount(config, Box::new(ready))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_machine_is_no_cache_folder() {
        assert!(not_everything(Path::new("/")).is_err());
        assert!(not_everything(Path::new("/srv")).is_ok());
    }
}
