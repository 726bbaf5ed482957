//! `larder guard`: outlives a daemon to take its mount away. For larder itself.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::daemon;
use crate::error::Result;

/// Wait for the end of standard input, then detach a mount that is still there
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Guard {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// What the system lists as mounted there: another mount is left alone
    source: String,
}

impl Guard {
    pub fn run(&self) -> Result<Outcome> {
        // Out of reach of the terminal's signals; already a leader is as good.
        let _ = rustix::process::setsid();
        // A working directory inside the mount would keep it busy.
        std::env::set_current_dir("/")?;
        let mut ignored = [0; 256];
        let mut input = std::io::stdin().lock();
        while input.read(&mut ignored).is_ok_and(|n| n > 0) {}
        let still = |entry: &daemon::MountEntry| {
            entry.mountpoint == self.mountpoint && entry.source == self.source
        };
        if daemon::mounts()?.iter().any(still) {
            daemon::detach(&self.mountpoint)?;
        }
        Ok(Outcome::Done)
    }
}
