//! `larder demo`: the whole idea in a minute, in a directory of its own.
//!
//! It makes a small cache, serves it from inside this process, mounts over a folder
//! with a real `larder mount`, and checks every step it tells. Whatever happens, it
//! unmounts and removes what it made.

mod story;
mod tree;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;

use super::{Outcome, show};
use crate::control;
use crate::daemon;
use crate::error::{About, Error, Kind, Result};

/// Show what larder does: serve, mount, read through, write back, go offline, unmount
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave the folders there to look at
    #[arg(long)]
    keep: bool,
}

/// Far more than the slowest machine needs.
const DEADLINE: Duration = Duration::from_secs(240);
/// For one command of ours.
const COMMAND: Duration = Duration::from_secs(90);

impl Demo {
    pub fn run(&self) -> Result<Outcome> {
        let stage = Stage::new(self.keep)?;
        let (tell, told) = mpsc::channel();
        let scene = stage.scene();
        // In a thread: a mount that hangs must not keep us from taking it away.
        std::thread::spawn(move || {
            let _ = tell.send(story::tell(&scene));
        });
        let ended = match told.recv_timeout(DEADLINE) {
            Ok(ended) => ended,
            Err(_) => Err(Error::new(
                Kind::TimedOut,
                "the demo took too long and was given up",
            )),
        };
        if ended.is_err() {
            stage.show_log();
        }
        let cleared = stage.clear();
        if let Err(error) = ended {
            show::tell(&"\nThe demo FAILED.");
            return Err(error);
        }
        cleared?;
        show::tell(&"\nAll of it was checked, and all of it is right.");
        Ok(Outcome::Done)
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
struct Scene {
    /// What the server has.
    far: PathBuf,
    /// The folder that is mounted over.
    near: PathBuf,
    /// The mount's log; it can be read without touching the mount only when unmounted.
    program: PathBuf,
}

impl Scene {
    /// Runs one of our own commands and gives back what it printed.
    fn larder(&self, words: &[&str], path: &Path) -> Result<String> {
        let shown = format!("larder {} {}", words.join(" "), path.display());
        let mut command = Command::new(&self.program);
        // Neither this user's settings nor a larder.toml of this machine belong here.
        command
            .args(["--config", "/dev/null"])
            .args(words)
            .arg(path);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text != "LARDER_RUNTIME_DIR"
                && (text.starts_with("LARDER_") || text.starts_with("REMOTE_FXCACHE_"))
            {
                command.env_remove(&name);
            }
        }
        finished(command, &shown)
    }
}

/// What a command printed; an error if it failed or took too long.
fn finished(mut command: Command, shown: &str) -> Result<String> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .about(shown)?;
    let pid = child.id();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(child.wait_with_output());
    });
    let Ok(output) = told.recv_timeout(COMMAND) else {
        let text = format!("did not end within 90 seconds (process {pid})");
        return Err(Error::new(Kind::TimedOut, text).about(shown));
    };
    let output = output.about(shown)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().replace("larder: ", "");
        return Err(Error::new(Kind::Io, show::plain(&said)).about(shown));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The directory of the demo, and its end.
struct Stage {
    root: PathBuf,
    scene: Scene,
    keep: bool,
}

impl Stage {
    fn new(keep: bool) -> Result<Stage> {
        let name = format!("larder-demo-{}", std::process::id());
        // Resolved now, so that the mount is known by one name.
        let temp = std::fs::canonicalize(std::env::temp_dir()).about("the temporary directory")?;
        let root = temp.join(name);
        let make = |path: &Path| {
            let made = DirBuilder::new().mode(0o700).create(path);
            made.about(path.display())
        };
        make(&root)?;
        let scene = Scene {
            far: root.join("server"),
            near: root.join("folder"),
            program: std::env::current_exe().about("the larder program")?,
        };
        make(&scene.far)?;
        make(&scene.near)?;
        Ok(Stage { root, scene, keep })
    }

    fn scene(&self) -> Scene {
        self.scene.clone()
    }

    fn is_mounted(&self) -> Result<bool> {
        let near = control::mountpoint(&self.scene.near)?;
        Ok(daemon::mounts()?.iter().any(|m| m.mountpoint == near))
    }

    /// The end of the mount's log, for whoever has to find out why.
    fn show_log(&self) {
        if self.is_mounted().unwrap_or(true) {
            let _ = self.scene.larder(&["umount"], &self.scene.near);
        }
        if self.is_mounted().unwrap_or(true) {
            return;
        }
        let log = self.scene.near.join(".larder/larder.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(20)) {
            show::complain(&format!("log: {line}"));
        }
    }

    /// Unmounts and removes. What cannot be unmounted is not removed.
    fn clear(&self) -> Result<()> {
        if self.is_mounted()? {
            let _ = self.scene.larder(&["umount"], &self.scene.near);
        }
        if self.is_mounted()? {
            detach(&self.scene.near);
        }
        if self.is_mounted()? {
            let text = "could not be unmounted; run `fusermount3 -u -z` on it";
            return Err(Error::new(Kind::Busy, text).about(self.scene.near.display()));
        }
        if self.keep {
            show::tell(&format!(
                "\nThe folders are kept in {}.",
                self.root.display()
            ));
            return Ok(());
        }
        std::fs::remove_dir_all(&self.root).about(self.root.display())
    }
}

fn detach(mountpoint: &Path) {
    let quiet = || Stdio::null();
    for (program, words) in [
        ("fusermount3", ["-u", "-z"].as_slice()),
        ("umount", &["-l"]),
    ] {
        let done = Command::new(program)
            .args(words)
            .arg(mountpoint)
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .status();
        if done.is_ok_and(|status| status.success()) {
            return;
        }
    }
}
