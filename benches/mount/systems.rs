//! File systems that are compared: each is mounted by a program that runs as long as its
//! [`Mounted`] lives, and is taken away with it, also when the work on it fails.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Lab, is_mounted};
use crate::report::{BARE, LARDER, LIMIT};

/// How long a mount may take to come or go.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait_until(what: &str, most: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < most, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Something to read and write at.
pub struct Mounted {
    pub at: PathBuf,
    child: Option<Child>,
}

impl Mounted {
    /// A directory as it is.
    pub fn bare(at: &Path) -> Mounted {
        Mounted {
            at: at.to_owned(),
            child: None,
        }
    }

    /// Runs a program that stays until its mount is taken away.
    pub fn start(lab: &Lab, command: &mut Command, at: &Path) -> Mounted {
        fs::create_dir_all(at).unwrap();
        let log = lab.path("mount.log");
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut mounted = Mounted {
            at: at.to_owned(),
            child: Some(child),
        };
        let begun = Instant::now();
        while !is_mounted(at) {
            let ended = mounted.child.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let program = command.get_program().to_string_lossy().into_owned();
                let program = program.rsplit('/').next().unwrap_or_default();
                panic!("{program} does not mount: {}", said.trim());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        for how in ["-u", "-u", "-uz"] {
            if is_mounted(&self.at) {
                let mut command = Command::new("fusermount3");
                let _ = command
                    .arg(how)
                    .arg(&self.at)
                    .stderr(Stdio::null())
                    .status();
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A file system by its name, and how it is mounted afresh.
pub struct System<'a> {
    pub name: String,
    mount: Box<dyn Fn() -> Mounted + 'a>,
}

impl<'a> System<'a> {
    pub fn new(name: impl Into<String>, mount: impl Fn() -> Mounted + 'a) -> System<'a> {
        System {
            name: name.into(),
            mount: Box::new(mount),
        }
    }

    pub fn mount(&self) -> Mounted {
        (self.mount)()
    }

    pub fn bare(dir: PathBuf) -> System<'a> {
        System::new(BARE, move || Mounted::bare(&dir))
    }

    /// The yardstick over a directory; the words after it say how.
    pub fn limit(lab: &'a Lab, dir: PathBuf, how: &'a [&'a str]) -> System<'a> {
        System::new(LIMIT, move || {
            let at = lab.path("yardstick");
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("yardstick").arg(&dir).arg(&at).args(how);
            Mounted::start(lab, &mut command, &at)
        })
    }

    /// Larder over a store that is kept from mount to mount.
    pub fn larder(lab: &'a Lab, store: &'a str, args: Vec<String>) -> System<'a> {
        System::new(LARDER, move || larder(lab, store, &args, &[]))
    }
}

/// Mounts Larder over a directory of the laboratory.
pub fn larder(lab: &Lab, store: &str, args: &[String], env: &[(&str, &str)]) -> Mounted {
    let at = lab.path(store);
    fs::create_dir_all(&at).unwrap();
    let mut command = lab.larder();
    command.envs(env.iter().copied());
    command.arg("mount").arg(&at).args(args);
    command.args(["--foreground", "--min-free", "0B", "--log", "warn"]);
    Mounted::start(lab, &mut command, &at)
}

/// The same over an empty directory, once it knows all files of its remote.
pub fn fresh_larder(lab: &Lab, args: &[String], env: &[(&str, &str)], files: usize) -> Mounted {
    set_aside(lab, "fresh");
    let mounted = larder(lab, "fresh", args, env);
    knows(lab, &mounted, files);
    mounted
}

/// Takes a directory of the laboratory out of the way, if it is there. It is removed when all is done:
/// for a minute and more after files went, ext4 looks at each inode that they gave up whenever it makes
/// one (`recently_deleted` in `fs/ext4/ialloc.c`), and whoever makes files pays for it.
pub fn set_aside(lab: &Lab, dir: &str) {
    static ASIDE: AtomicUsize = AtomicUsize::new(0);
    let number = ASIDE.fetch_add(1, Ordering::Relaxed);
    let aside = lab.dir("aside").join(format!("{dir}_{number}"));
    match fs::rename(lab.path(dir), aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        renamed => renamed.unwrap(),
    }
}

/// What `larder status` says.
pub fn status(lab: &Lab, mounted: &Mounted) -> Value {
    let output = lab
        .larder()
        .arg("status")
        .arg(&mounted.at)
        .arg("--json")
        .output();
    serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default()
}

pub fn knows(lab: &Lab, mounted: &Mounted, files: usize) {
    wait_until("all files are listed", 10 * PATIENCE, || {
        status(lab, mounted)["known"]["files"] == files
    });
}
