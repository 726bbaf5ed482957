//! A small laboratory: real servers and real mounts, made by the real program, in a
//! directory of their own, and taken away whatever happens.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

pub mod many;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a condition may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The program under test.
pub fn larder() -> Command {
    Command::new(env!("CARGO_BIN_EXE_larder"))
}

/// Waits until `condition` holds; fails with `what` if it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < SOON,
            "never happened within {SOON:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What promise P8 allows.
pub const FRESH: Duration = Duration::from_secs(1);

/// `limit` on this machine now: where twice as many programs want to run as there are processors,
/// everything takes twice as long.
fn allowed(limit: Duration) -> Duration {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut words = text.split([' ', '/']);
    let mut next = |n| words.nth(n).and_then(|word| word.parse::<f64>().ok());
    let (lately, now) = (next(0).unwrap_or_default(), next(2).unwrap_or_default());
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    limit.mul_f64(1.0 + lately.max(now) / processors as f64)
}

/// Waits until `condition` holds, at most about `limit`; returns how long it took.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let done = condition();
        let took = begun.elapsed();
        let most = allowed(limit);
        assert!(took <= most, "took {took:?}, more than {most:?}: {what}");
        if done {
            return took;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory for one test, with a home and a runtime directory of its own.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        assert!(
            Path::new("/dev/fuse").exists(),
            "these tests mount: they need /dev/fuse and the package fuse3"
        );
        let dir = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        fs::create_dir_all(dir.path().join("run")).unwrap();
        Lab { dir }
    }

    /// A path in the laboratory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in the laboratory, made if missing.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The program, blind to the machine's own configuration.
    pub fn larder(&self) -> Command {
        let mut command = larder();
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program and gives what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.larder().args(args).output().unwrap()
    }

    /// Serves `dir` of the laboratory on a free port.
    pub fn serve(&self, dir: &str, args: &[&str]) -> Server {
        self.serve_at(dir, "0", args)
    }

    /// The same on a port that was used before.
    pub fn serve_at(&self, dir: &str, port: &str, args: &[&str]) -> Server {
        self.serve_logged(dir, port, args, Stdio::null())
    }

    /// The same with its log somewhere.
    pub fn serve_logged(
        &self,
        dir: &str,
        port: &str,
        args: &[&str],
        log: impl Into<Stdio>,
    ) -> Server {
        let root = self.dir(dir);
        let mut child = self
            .larder()
            .args(["serve", "--host", "127.0.0.1", "--port", port])
            .args(args)
            .arg(&root)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let at = line.find("http")?;
                line.starts_with("serving")
                    .then(|| line[at..].trim().to_owned())
            })
            .expect("the server says where it is");
        // The rest of what it prints has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, root, url }
    }

    /// Mounts at `name` of the laboratory, in the background, as a user would.
    pub fn mount(&self, name: &str, args: &[&str]) -> Mount<'_> {
        let mount = self.try_mount(name, args);
        mount.unwrap_or_else(|output| {
            panic!("mount failed: {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// The same where failing is what is expected.
    pub fn try_mount(&self, name: &str, args: &[&str]) -> Result<Mount<'_>, Output> {
        self.try_mount_with(name, &[], args)
    }

    /// The same with variables in the daemon's environment.
    pub fn try_mount_with(
        &self,
        name: &str,
        env: &[(&str, &str)],
        args: &[&str],
    ) -> Result<Mount<'_>, Output> {
        let at = self.dir(name);
        let output = self
            .larder()
            .envs(env.iter().copied())
            .arg("mount")
            .arg(&at)
            .args(args)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(output);
        }
        Ok(Mount { lab: self, at })
    }
}

/// A running server. Ends with the test.
pub struct Server {
    child: Child,
    pub root: PathBuf,
    pub url: String,
}

impl Server {
    pub fn port(&self) -> String {
        self.url.rsplit(':').next().unwrap().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has looked at all its files once.
    pub fn scanned(&self) {
        // Nobody gets a listing before.
        get(&format!("{}/v1/index", self.url));
    }

    /// What it was asked so far, by kind.
    pub fn stats(&self) -> Value {
        let text = get(&format!("{}/v1/stats", self.url));
        serde_json::from_str(&text).unwrap()
    }

    /// All requests for files or facts so far, but for those that ask for changes or figures.
    pub fn requests(&self) -> u64 {
        let stats = self.stats();
        ["index", "get", "head", "put", "delete"]
            .iter()
            .map(|kind| stats.get(*kind).and_then(Value::as_u64).unwrap_or_default())
            .sum()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops or continues it: a server that accepts and never answers.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(self::signal(&pid, signal));
        // The first thread that gets it stops the others; on a busy machine that is not at once.
        let stopped = |task: &Path| {
            let text = fs::read_to_string(task.join("status")).unwrap_or_default();
            text.lines().any(|line| line.starts_with("State:\tT"))
        };
        if signal == "-STOP" {
            eventually("every thread of the server has stopped", || {
                let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
                tasks.flatten().all(|task| stopped(&task.path()))
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One plain GET over loopback.
pub fn get(url: &str) -> String {
    let output = Command::new("curl")
        .args(["-fsS", "--max-time", "10", url])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{url}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A mount. Taken away with the test, even when it fails.
pub struct Mount<'a> {
    pub lab: &'a Lab,
    pub at: PathBuf,
}

impl Mount<'_> {
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at.join(name)
    }

    /// Runs a verb on this mount.
    pub fn verb(&self, args: &[&str]) -> Output {
        let (verb, rest) = args.split_first().unwrap();
        self.lab
            .larder()
            .arg(verb)
            .arg(&self.at)
            .args(rest)
            .output()
            .unwrap()
    }

    pub fn status(&self) -> Value {
        let output = self.verb(&["status", "--json"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.status()["pid"].as_u64().unwrap() as u32
    }

    /// Waits until nothing is pending.
    pub fn flush(&self) {
        let output = self.verb(&["flush", "--wait"]);
        let (said, why) = (&output.stdout, &output.stderr);
        assert!(
            output.status.success(),
            "{} {} {}",
            String::from_utf8_lossy(said),
            String::from_utf8_lossy(why),
            self.status()
        );
    }

    pub fn sync(&self) {
        let output = self.verb(&["sync"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Requests that the kernel waits for, as its control file system counts them.
    pub fn waiting(&self) -> u64 {
        let control = self.lab.dir("control");
        let done = |program: &str, options: &[&str]| {
            let status = Command::new(program).args(options).arg(&control).status();
            status.is_ok_and(|status| status.success())
        };
        assert!(
            done("mount", &["-t", "fusectl", "none"]),
            "this test needs to mount the control file system of FUSE"
        );
        // Not asked of the mount itself: it may have nothing to say.
        let mounts = mountinfo();
        let ours = |line: &&str| line.split(' ').nth(4) == self.at.to_str();
        let line = mounts.lines().rfind(ours).unwrap();
        let device = line.split(' ').nth(2).unwrap();
        let minor = device.split(':').nth(1).unwrap();
        let text = fs::read_to_string(control.join(format!("{minor}/waiting")));
        done("umount", &[]);
        text.unwrap().trim().parse().unwrap()
    }

    /// The end of a fault: nothing that was asked of the mount is still waited for.
    pub fn nothing_waits(&self) {
        eventually("nothing waits in the kernel", || self.waiting() == 0);
    }

    /// Unmounts as a user would, and waits for it.
    pub fn unmount(self) -> PathBuf {
        // What this process has open, a child that another test starts has too, until it runs
        // its program.
        eventually("nobody has a file of the mount open", || {
            let output = self.verb(&["umount"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() || said.contains("files in it are open"),
                "{said}"
            );
            output.status.success()
        });
        self.at.clone()
    }

    /// Kills the daemon at this instant, and waits until the guard has taken the dead mount away.
    pub fn kill(self) -> PathBuf {
        let pid = self.pid().to_string();
        assert!(signal(&pid, "-9"));
        eventually("the dead mount is detached", || !is_mounted(&self.at));
        self.at.clone()
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if !is_mounted(&self.at) {
            return;
        }
        let _ = self.lab.larder().arg("umount").arg(&self.at).output();
        if is_mounted(&self.at) {
            let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        }
    }
}

/// Sends a signal, such as `-9`, to a process, or to the group of that number with a minus before
/// it. Returns whether there was one.
pub fn signal(pid: impl std::fmt::Display, signal: &str) -> bool {
    let pid = pid.to_string();
    let sent = Command::new("kill").args([signal, "--", &pid]).status();
    sent.unwrap().success()
}

/// Whether something is mounted at `at`; the mount itself is not touched.
pub fn is_mounted(at: &Path) -> bool {
    mountinfo()
        .lines()
        .any(|line| line.split(' ').nth(4) == at.to_str())
}

/// All mounts, also those whose names are no text.
pub fn mountinfo() -> String {
    String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).into_owned()
}

/// Bytes that differ from file to file, the same each time.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Writes a file with its directories.
pub fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
