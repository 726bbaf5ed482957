//! `larder guard`: outlives a daemon to take its mount away. For larder itself.

use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

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
    /// The daemon's process
    daemon: u32,
}

/// How often the daemon is looked at. A killed one whose threads the kernel holds in the mount
/// itself never closes its end of the line: only cutting it off lets them, and it, end.
const LOOK: Duration = Duration::from_secs(1);

impl Guard {
    pub fn run(&self) -> Result<Outcome> {
        // Out of reach of the terminal's signals; already a leader is as good.
        let _ = rustix::process::setsid();
        // A working directory inside the mount would keep it busy.
        std::env::set_current_dir("/")?;
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut ignored = [0; 256];
            let mut input = std::io::stdin().lock();
            while input.read(&mut ignored).is_ok_and(|n| n > 0) {}
            let _ = tell.send(());
        });
        while told.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout)
            && !is_dead(self.daemon)
        {}
        let still = |entry: &daemon::MountEntry| {
            entry.mountpoint == self.mountpoint && entry.source == self.source
        };
        if let Some(mount) = daemon::mounts()?.iter().find(|m| still(m)) {
            daemon::detach(mount)?;
        }
        Ok(Outcome::Done)
    }
}

/// Whether a process has ended as far as it can: its first thread is gone, or idle, as nothing
/// but a dump of its memory makes it: that waits for all the others.
fn is_dead(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_none_or(|state| matches!(state.trim().chars().next(), Some('Z' | 'X' | 'I')))
}
