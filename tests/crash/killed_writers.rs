//! Writers that a signal ends in the middle of a file (promise P4).

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use super::common::{self, Lab, Mount, Server, bytes, eventually, put};

/// 50 MB, of which a killed writer gets about half done.
const WHOLE: usize = 50_000_000;

fn python(script: &str, path: &Path) -> Child {
    Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Writes half of it, then waits; goes on when it is told to.
const HALF: &str = "
import sys
f = open(sys.argv[1], 'wb')
for i in range(25): f.write(b'x' * 1000000)
f.flush()
sys.stdin.readline()
for i in range(25): f.write(b'x' * 1000000)
";
const THREADED: &str = "
import sys, threading
f = open(sys.argv[1], 'wb', buffering=0)
def work(n):
    for i in range(5): f.write(b'x' * 1000000)
threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
[t.start() for t in threads]; [t.join() for t in threads]
idle = [threading.Thread(target=lambda: __import__('time').sleep(100)) for n in range(3)]
[t.start() for t in idle]
sys.stdin.readline()
";

struct Scene<'a> {
    server: &'a Server,
    mount: &'a Mount<'a>,
    other: &'a Mount<'a>,
}

impl Scene<'_> {
    fn half(&self, name: &str) {
        eventually("half is written", || {
            fs::metadata(self.mount.path(name)).is_ok_and(|m| m.len() == 25_000_000)
        });
    }

    /// Nobody anywhere sees anything but `content` under the name.
    fn nobody_sees_half(&self, name: &str, content: Option<&[u8]>) {
        let places = [&self.mount.at, &self.other.at, &self.server.root];
        for root in places {
            let found = fs::read(root.join(name)).ok();
            assert!(
                found.as_deref() == content,
                "{}: {:?} bytes",
                root.join(name).display(),
                found.map(|f| f.len())
            );
        }
    }

    fn killed(&self, mut child: Child, signal: &str, name: &str, content: Option<&[u8]>) {
        self.half(name);
        let orphans = self.orphans();
        // Before the kill others see the old version only.
        assert_eq!(fs::read(self.other.path(name)).ok().as_deref(), content);
        let pid = child.id().to_string();
        assert!(common::signal(&pid, signal));
        assert!(child.wait().unwrap().signal().is_some());
        eventually("the orphan is reported", || self.orphans() == orphans + 1);
        self.nobody_sees_half(name, content);
        self.mount.flush();
        self.nobody_sees_half(name, content);
    }

    fn orphans(&self) -> usize {
        self.mount.status()["orphans"].as_array().unwrap().len()
    }
}

fn uploading(url: &str) -> [&str; 5] {
    ["--remote", url, "--upload", "--min-free", "1MiB"]
}

fn with_scene(args: &[&str], test: impl FnOnce(&Scene<'_>)) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("old.bin"), &bytes(1, 5000));
    let base = uploading(&server.url);
    let mount = lab.mount("mnt", &[&base, args].concat());
    let other = lab.mount("other", &base);
    for at in [&mount, &other] {
        eventually("the file is listed", || at.path("old.bin").exists());
    }
    test(&Scene {
        server: &server,
        mount: &mount,
        other: &other,
    });
    // The plain tree has whole files only.
    let at = mount.unmount();
    for (name, size) in [("old.bin", 5000), ("new.bin", WHOLE as u64)] {
        if let Ok(facts) = fs::metadata(at.join(name)) {
            assert_eq!(facts.len(), size, "{name}");
        }
    }
}

fn killed_writers_publish_nothing(args: &[&str]) {
    with_scene(args, |scene| {
        let old = bytes(1, 5000);
        for (script, signal) in [(HALF, "-KILL"), (HALF, "-TERM"), (THREADED, "-KILL")] {
            let new = python(script, &scene.mount.path("new.bin"));
            scene.killed(new, signal, "new.bin", None);
            let over = python(script, &scene.mount.path("old.bin"));
            scene.killed(over, signal, "old.bin", Some(&old));
        }
        // A shell that redirects: what it starts is killed.
        for (name, content) in [("new.bin", None), ("old.bin", Some(old.as_slice()))] {
            let path = scene.mount.path(name);
            let script = format!(
                "exec python3 -c \"import sys, time; sys.stdout.buffer.write(b'x' * 25000000); sys.stdout.flush(); print(1, file=sys.stderr); time.sleep(100)\" > '{}'",
                path.display()
            );
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).stderr(Stdio::null());
            scene.killed(shell.spawn().unwrap(), "-KILL", name, content);
        }
        let told = scene.mount.verb(&["conflicts"]);
        assert!(String::from_utf8_lossy(&told.stdout).contains("--drop-unfinished"));
        let dropped = scene.mount.verb(&["conflicts", "--drop-unfinished"]);
        assert!(dropped.status.success());
        assert_eq!(scene.orphans(), 0);
    });
}

#[test]
fn p4_killed_writers_publish_nothing() {
    killed_writers_publish_nothing(&[]);
}

#[test]
fn p4_killed_writers_publish_nothing_without_passthrough() {
    killed_writers_publish_nothing(&["--no-passthrough"]);
}

/// `exit()` and an ordinary end close the file like `close()` does.
#[test]
fn p4_a_writer_that_ends_by_itself_publishes() {
    with_scene(&[], |scene| {
        let mut child = python(HALF, &scene.mount.path("new.bin"));
        scene.half("new.bin");
        writeln!(child.stdin.take().unwrap(), "go on").unwrap();
        assert!(child.wait().unwrap().success());
        let mut exits = python(
            "import os, sys\nf = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)\nos.write(f, b'w' * 5000)\nos._exit(3)",
            &scene.mount.path("old.bin"),
        );
        assert_eq!(exits.wait().unwrap().code(), Some(3));
        scene.mount.flush();
        assert_eq!(
            fs::metadata(scene.server.root.join("new.bin"))
                .unwrap()
                .len(),
            WHOLE as u64
        );
        assert_eq!(
            fs::read(scene.server.root.join("old.bin")).unwrap(),
            [b'w'; 5000]
        );
        assert_eq!(scene.orphans(), 0);
    });
}

/// A shell opens, duplicates and closes before the command has written anything: killed then,
/// the old version stays, whoever is killed.
#[test]
fn p4_a_redirection_that_came_to_nothing_replaces_nothing() {
    with_scene(&[], |scene| {
        let path = scene.mount.path("old.bin");
        let script = format!("sleep 100 > '{}'; true", path.display());
        let mut shell = Command::new("bash").args(["-c", &script]).spawn().unwrap();
        eventually("it is open", || {
            fs::metadata(&path).is_ok_and(|m| m.len() == 0)
        });
        let sleeping = format!("/proc/{}/task/{0}/children", shell.id());
        let child = fs::read_to_string(sleeping).unwrap();
        eventually("it runs", || {
            fs::read_to_string(format!("/proc/{}/comm", child.trim()))
                .is_ok_and(|c| c.trim() == "sleep")
        });
        assert!(common::signal(child.trim(), "-9"));
        shell.wait().unwrap();
        scene.mount.flush();
        scene.nobody_sees_half("old.bin", Some(&bytes(1, 5000)));
    });
    // And when it is the daemon that is killed.
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("old.bin"), &bytes(1, 5000));
    let args = ["--remote", server.url.as_str(), "--upload"];
    let mount = lab.mount("mnt", &args);
    let path = mount.path("old.bin");
    eventually("the file is listed", || path.exists());
    let script = format!("sleep 100 > '{}'; true", path.display());
    let mut shell = Command::new("bash").args(["-c", &script]).spawn().unwrap();
    eventually("it is open", || {
        fs::metadata(&path).is_ok_and(|m| m.len() == 0)
    });
    mount.kill();
    let children = fs::read_to_string(format!("/proc/{}/task/{0}/children", shell.id())).unwrap();
    for child in children.split_whitespace() {
        common::signal(child, "-9");
    }
    shell.wait().unwrap();
    let mount = lab.mount("mnt", &args);
    mount.flush();
    assert_eq!(fs::read(mount.path("old.bin")).unwrap(), bytes(1, 5000));
    assert_eq!(
        fs::read(server.root.join("old.bin")).unwrap(),
        bytes(1, 5000)
    );
}

/// A child that inherited the descriptor and is killed later takes nothing back.
#[test]
fn p3_a_child_killed_after_the_close_takes_nothing_back() {
    with_scene(&[], |scene| {
        let path = scene.mount.path("new.bin");
        let mut file = File::create(&path).unwrap();
        let fd = file.try_clone().unwrap();
        let mut child = Command::new("sleep").arg("100").stdout(fd).spawn().unwrap();
        file.write_all(&bytes(7, 70_000)).unwrap();
        super::ledger::close(file).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        scene.mount.flush();
        assert_eq!(fs::read(&path).unwrap(), bytes(7, 70_000));
        assert_eq!(
            fs::read(scene.server.root.join("new.bin")).unwrap(),
            bytes(7, 70_000)
        );
        assert_eq!(scene.orphans(), 0);
        fs::write(&path, vec![b'x'; WHOLE]).unwrap();
    });
}

#[test]
fn p4_another_name_or_mode_does_not_end_a_change_in_place() {
    type Change = fn(&Path);
    let renamed: Change = |at| fs::rename(at.join("old.bin"), at.join("new.bin")).unwrap();
    let changed: Change = |at| {
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(at.join("old.bin"), mode).unwrap();
        let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::open(at.join("old.bin"))
            .unwrap()
            .set_times(times)
            .unwrap();
    };
    for (change, name) in [(renamed, "new.bin"), (changed, "old.bin")] {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        put(&server.root.join("old.bin"), &bytes(1, 5000));
        let args = uploading(&server.url);
        let mount = lab.mount("mnt", &args);
        eventually("the file is listed", || mount.path("old.bin").exists());
        let mut file = OpenOptions::new()
            .write(true)
            .open(mount.path("old.bin"))
            .unwrap();
        file.write_all(&bytes(2, 2500)).unwrap();
        change(&mount.at);
        let pid = mount.pid().to_string();
        assert!(common::signal(&pid, "-9"));
        eventually("the dead mount is detached", || {
            !common::is_mounted(&mount.at)
        });
        drop((file, mount));

        let mount = lab.mount("mnt", &args);
        let notes = mount.status()["notes"].to_string();
        let said = format!("{name}: was left unfinished while it was changed in place");
        assert!(notes.contains(&said), "{notes}");
        mount.verb(&["flush"]);
        put(&mount.path("another"), b"goes up");
        eventually("others go up", || server.root.join("another").exists());
        for entry in ["old.bin", "new.bin"] {
            if let Ok(found) = fs::read(server.root.join(entry)) {
                assert_eq!(found, bytes(1, 5000), "{entry}");
            }
        }
        // Written again, it goes up.
        put(&mount.path(name), &bytes(3, 700));
        mount.flush();
        assert_eq!(fs::read(server.root.join(name)).unwrap(), bytes(3, 700));
    }
}

/// A mount whose daemon dies when a rename has changed the tree, and its server.
fn dying_in_a_rename(lab: &Lab) -> (Server, Mount<'_>) {
    let server = lab.serve("srv", &[]);
    put(&server.root.join("old.bin"), &bytes(1, 5000));
    let env = [("LARDER_CRASH_AT", "rename.tree")];
    let mount = lab.try_mount_with("mnt", &env, &uploading(&server.url));
    let mount = mount.ok().unwrap();
    eventually("the file is listed", || mount.path("old.bin").exists());
    (server, mount)
}

/// Renames, which is the end, and mounts again.
fn renamed<'a>(lab: &'a Lab, server: &Server, mount: Mount<'_>, from: &str, to: &str) -> Mount<'a> {
    assert!(fs::rename(mount.path(from), mount.path(to)).is_err());
    eventually("the dead mount is detached", || {
        !common::is_mounted(&mount.at)
    });
    drop(mount);
    lab.mount("mnt", &uploading(&server.url))
}

#[test]
fn p3_a_whole_file_that_was_put_over_one_being_changed_goes_up() {
    let lab = Lab::new();
    let (server, mount) = dying_in_a_rename(&lab);
    let mut file = OpenOptions::new()
        .write(true)
        .open(mount.path("old.bin"))
        .unwrap();
    file.write_all(&bytes(2, 2500)).unwrap();
    // Its own close() was answered; the file is not at its end yet.
    super::ledger::close(file.try_clone().unwrap()).unwrap();
    put(&mount.path("new.tmp"), &bytes(3, 700));
    let mount = renamed(&lab, &server, mount, "new.tmp", "old.bin");
    drop(file);
    mount.flush();
    assert_eq!(fs::read(mount.path("old.bin")).unwrap(), bytes(3, 700));
    assert_eq!(
        fs::read(server.root.join("old.bin")).unwrap(),
        bytes(3, 700)
    );
}

#[test]
fn p4_a_new_file_that_is_renamed_half_written_is_not_whole_after_a_kill() {
    let lab = Lab::new();
    let (server, mount) = dying_in_a_rename(&lab);
    let url = server.url.clone();
    server.kill();
    put(&mount.path("made.bin"), &bytes(2, 5000));
    let mut file = OpenOptions::new()
        .write(true)
        .open(mount.path("made.bin"))
        .unwrap();
    file.write_all(&bytes(3, 2500)).unwrap();
    assert!(fs::rename(mount.path("made.bin"), mount.path("b.bin")).is_err());
    eventually("the dead mount is detached", || {
        !common::is_mounted(&mount.at)
    });
    drop((file, mount));
    let mount = lab.mount("mnt", &["--remote", &url, "--upload", "--min-free", "1MiB"]);
    let said = "b.bin: was left unfinished while it was changed in place";
    eventually("it is said", || {
        mount.status()["notes"].to_string().contains(said)
    });
}
