//! A daemon of its own: started by the command, ready before the command returns.
//!
//! The command starts itself again with the same words, so that keys travel in the
//! environment and in files, never in the list of arguments. The child's standard
//! output is a pipe: one line on it says that the mount answers, or why it does not.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::{Outcome, log, show};
use crate::config::MountConfig;
use crate::daemon;
use crate::error::{About, Error, Kind, Result};

const READY: &str = "ready";
/// A mount waits for no remote and reads no tree, so this is long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Starts the daemon and waits until its mount answers.
pub fn start(config: &MountConfig) -> Result<()> {
    let program = std::env::current_exe().about("the larder program")?;
    let mut child = Command::new(program)
        .arg("--background-child")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .about("starting the daemon")?;
    let line = first_line(&mut child);
    if line.as_deref() == Some(READY) {
        return Ok(());
    }
    // Whatever it was doing, it is not mounted for anyone.
    let _ = child.kill();
    let ended = child.wait().about("the daemon")?;
    let log = config.store.as_ref().unwrap_or(&config.mountpoint);
    let log = log.join(".larder/larder.log");
    let text = match line {
        Some(error) if !error.is_empty() => error,
        Some(_) => format!(
            "the daemon ended before it was mounted ({ended}); see {}",
            log.display()
        ),
        None => format!(
            "the mount did not answer within 60 seconds and was given up; see {}",
            log.display()
        ),
    };
    Err(Error::new(Kind::Io, text))
}

/// The first line that the child writes; empty if it ends without one, none if it takes too long.
fn first_line(child: &mut Child) -> Option<String> {
    let output = child.stdout.take()?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // What cannot be read is as good as nothing said.
        let _ = BufReader::new(output).read_line(&mut line);
        let _ = tell.send(line.trim_end().to_owned());
    });
    told.recv_timeout(DEADLINE).ok()
}

/// The child: is the daemon until it is unmounted.
pub fn serve(config: MountConfig) -> Outcome {
    match run(config) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            tracing::error!("{error}");
            // After the mount answered this goes nowhere; the log has it.
            let _ = writeln!(std::io::stdout(), "{}", show::plain(&error.to_string()));
            Outcome::NotAll
        }
    }
}

fn run(config: MountConfig) -> Result<()> {
    // The terminal's end is not ours; already a leader is as good.
    let _ = rustix::process::setsid();
    daemon::detach_dead(&config.mountpoint)?;
    let store = config.store.as_ref().unwrap_or(&config.mountpoint);
    // A store that cannot take a log cannot be mounted either, and the daemon knows
    // how to say why.
    let _ = log::to_store(&config.log, store);
    // A working directory inside the mount would keep it busy.
    std::env::set_current_dir("/")?;
    daemon::mount(config, Box::new(ready))
}

/// Tells the command, and lets go of what it lent.
fn ready() {
    // A command that was interrupted meanwhile leaves a mount that works.
    let _ = writeln!(std::io::stdout(), "{READY}");
    let _ = std::io::stdout().flush();
    if let Ok(nothing) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&nothing);
        let _ = rustix::stdio::dup2_stderr(&nothing);
    }
}
