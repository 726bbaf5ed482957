//! What is in plain directories, and users that are not root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Mount, Server, is_mounted};

/// Size and time of each regular file beneath `root`, ours left out.
pub fn files(root: &Path) -> BTreeMap<PathBuf, (u64, i128)> {
    let mut found = BTreeMap::new();
    let mut work = vec![root.to_owned()];
    while let Some(dir) = work.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let facts = entry.metadata().unwrap();
            if entry.file_name() == ".larder" {
                continue;
            }
            if facts.is_dir() {
                work.push(entry.path());
            } else if facts.is_file() {
                let time =
                    i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec());
                let name = entry.path().strip_prefix(root).unwrap().to_owned();
                found.insert(name, (facts.size(), time));
            }
        }
    }
    found
}

/// Mode, owner and group of each file and link beneath `root`, as far as the folder has them too: it
/// has no set-id bits, and its owner may always read and write.
fn owners(root: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    let mut found = BTreeMap::new();
    let mut work = vec![root.to_owned()];
    while let Some(dir) = work.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let facts = entry.metadata().unwrap();
            let name = entry.path().strip_prefix(root).unwrap().to_owned();
            match facts.is_dir() {
                true if entry.file_name() == ".larder" => continue,
                true => work.push(entry.path()),
                false => {}
            }
            let mode = facts.mode() & 0o1777 | 0o600;
            found.insert(name, (mode, facts.uid(), facts.gid()));
        }
    }
    found
}

fn goes_up(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    ![".tmp", ".lock", "~"].iter().any(|end| name.ends_with(end))
}

/// The server has every file that the mount shows: bytes, length and time.
pub fn assert_all_went_up(mount: &Mount<'_>, server: &Server) {
    mount.flush();
    let shown = files(&mount.at);
    let there = files(&server.root);
    for (path, facts) in shown.iter().filter(|(path, _)| goes_up(path)) {
        // A rewrite with the same bytes goes nowhere, so the server keeps the older time; git does
        // that, in its own files and when it checks out.
        let theirs = there.get(path).copied();
        let theirs = match path.starts_with("repo") {
            true => theirs.map(|(size, _)| (size, facts.1)),
            false => theirs,
        };
        assert_eq!(theirs, Some(*facts), "{} at the server", path.display());
        let (ours, theirs) = (mount.path(path), server.root.join(path));
        assert!(
            fs::read(ours).unwrap() == fs::read(theirs).unwrap(),
            "{}: other bytes at the server",
            path.display()
        );
    }
    assert_nothing_set_aside(mount);
}

/// Nothing that was written here lost its name.
pub fn assert_nothing_set_aside(mount: &Mount<'_>) {
    let status = mount.status();
    assert_eq!(
        status["conflicts"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
    assert_eq!(
        status["orphans"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
}

/// After the unmount the folder has what the mount held, at the same paths, and nothing else.
pub fn assert_folder_is_what_was_mounted(mount: Mount<'_>) {
    let shown: BTreeMap<_, _> = files(&mount.at)
        .into_iter()
        .map(|(path, facts)| (mount.path(&path), (path, facts)))
        .map(|(at, (path, facts))| (path, (facts, fs::read(at).unwrap())))
        .collect();
    let belongs = owners(&mount.at);
    let at = mount.unmount();
    for (path, found) in owners(&at) {
        assert_eq!(Some(&found), belongs.get(&path), "{}", path.display());
    }
    let folder = files(&at);
    for (path, facts) in &folder {
        let (expected, content) = shown.get(path).unwrap_or_else(|| {
            panic!(
                "{} is in the folder and was not in the mount",
                path.display()
            )
        });
        assert_eq!(facts, expected, "{}", path.display());
        assert!(
            fs::read(at.join(path)).unwrap() == *content,
            "{}",
            path.display()
        );
    }
    // Everything was read just now, so everything is held.
    assert_eq!(folder.len(), shown.len());
    for left in ["staged", "partial", "removing", "graveyard"] {
        let left = files(&at.join(".larder").join(left));
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// Somebody without privileges, with a home, a runtime directory and a mount of their own.
pub struct User {
    dir: tempfile::TempDir,
}

/// Nobody in particular.
const NOBODY: u32 = 65534;

impl User {
    /// Mounts as this user.
    pub fn mount(url: &str) -> User {
        let user = User::new();
        let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
        assert_eq!(
            mode & 0o666,
            0o666,
            "ordinary users may not open /dev/fuse: `packaging/tools.sh test` lets them"
        );
        user.larder(&["mount", "--remote", url, "--upload"]);
        user
    }

    pub fn new() -> User {
        let dir = tempfile::Builder::new().prefix("user-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where this was built need not be a place that others can look into.
        fs::copy(env!("CARGO_BIN_EXE_larder"), dir.path().join("larder")).unwrap();
        for name in ["home", "run", "mnt"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        User { dir }
    }

    /// Where everybody may look, as in the directory of a build they need not.
    pub fn others(&self) -> &Path {
        self.dir.path()
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A command that runs as this user.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if rustix::process::geteuid().is_root() {
            let id = NOBODY.to_string();
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb on the mount.
    pub fn try_larder(&self, args: &[&str]) -> std::process::Output {
        let (verb, rest) = args.split_first().unwrap();
        self.command(self.dir.path().join("larder"))
            .arg(verb)
            .arg(self.mountpoint())
            .args(rest)
            .output()
            .unwrap()
    }

    /// The same where it has to work; gives what it printed.
    pub fn larder(&self, args: &[&str]) -> String {
        let output = self.try_larder(args);
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn flush(&self) {
        self.larder(&["flush", "--wait"]);
    }

    pub fn unmount(&self) -> PathBuf {
        self.larder(&["umount"]);
        self.mountpoint()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint()) {
            let _ = self
                .command("fusermount3")
                .arg("-uz")
                .arg(self.mountpoint())
                .output();
        }
    }
}
