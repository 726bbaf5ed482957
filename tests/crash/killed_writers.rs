//! Writers that a signal ends in the middle of a file (promise P4).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use super::common::{self, Lab, Mount, Server, bytes, eventually, put};

/// 50 MB, of which a killed writer gets about half done.
const WHOLE: usize = 50_000_000;

fn python(script: &str, path: &std::path::Path) -> Child {
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

fn with_scene(args: &[&str], test: impl FnOnce(&Scene<'_>)) {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("old.bin"), &bytes(1, 5000));
    let base = [
        "--remote",
        server.url.as_str(),
        "--upload",
        "--min-free",
        "1MiB",
    ];
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
