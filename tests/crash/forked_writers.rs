//! Writers that share an open file with processes they started (promises P3 and P4): what a
//! child closes ends nothing while the writer goes on, and the last close counts, whoever
//! makes it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::common::{Lab, Mount, Server, bytes, eventually, is_mounted, put, signal};

/// Opens a file, writes half of it, has a child close what it inherited, and waits. The
/// second argument says how the child comes about, the third how the file is opened.
const PARENT: &str = "
import os, subprocess, sys, time
path, how, mode = sys.argv[1:4]
# Any name that a program may have.
with open('/proc/self/comm', 'wb') as name: name.write(b'w\\xff')
f = open(path, mode, buffering=0)
f.write(b'x' * 300000)
if how == 'close_fds': subprocess.run(['true'], close_fds=True)
elif how == 'at exec': subprocess.run(['true'], close_fds=False)
elif how == 'inherited':
    os.set_inheritable(f.fileno(), True)
    subprocess.run(['true'], close_fds=False)
elif how == 'grandchild':
    os.set_inheritable(f.fileno(), True)
    subprocess.run(['sh', '-c', 'true; true'], close_fds=False)
elif how == 'shell': subprocess.run(['true'], stdout=f)
elif how == 'fork exits':
    child = os.fork()
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
elif how == 'fork closes':
    r, w = os.pipe()
    if os.fork() == 0:
        os.close(f.fileno())
        os.write(w, b'.')
        time.sleep(100)
    os.read(r, 1)
elif how == 'orphaned':
    # Whoever opened the file is gone, its child writes, and a child of that closes.
    gone = os.pipe()
    if os.fork() != 0: os._exit(0)
    os.close(gone[1])
    os.read(gone[0], 1)
    f.write(b'y' * 300000)
    child = os.fork()
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
elif how == 'thread':
    import threading
    t = threading.Thread(target=lambda: subprocess.run(['true'], close_fds=True))
    t.start(); t.join()
print('half', os.getpid(), flush=True)
time.sleep(100)
";

/// The file is handed on, and closed last by one who did not open it. The mapping stands in for
/// a release that does not come.
const LAST: &str = "
import mmap, os, sys, time
path, how = sys.argv[1:3]
f = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.write(f, b'a' * 100000)

def end_of(pipe):
    os.close(pipe[1])
    os.read(pipe[0], 1)

closed = os.pipe()
if os.fork() == 0:
    end_of(closed)
    gone = os.pipe()
    if how == 'again' and os.fork() != 0: os._exit(0)
    if how == 'again': end_of(gone)
    os.write(f, b'b' * 100000)
    m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
    os.close(f)
    # The mapping has a descriptor of its own.
    for n in os.listdir('/proc/self/fd'):
        try:
            if os.readlink('/proc/self/fd/' + n) == path: os.close(int(n))
        except OSError: pass
    print('closed', flush=True)
    time.sleep(100)
os.close(f)
for end in closed: os.close(end)
if how == 'gone': os._exit(0)
time.sleep(100)
";

/// A process, and who else has to go with it.
struct Family {
    first: Child,
    said: String,
}

impl Family {
    /// Starts a script and waits until it says something.
    fn start(script: &str, args: &[&str], path: &std::path::Path) -> Family {
        let mut first = Command::new("setsid")
            .args(["python3", "-c", script])
            .arg(path)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = first.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        Family { first, said }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // `setsid` made a session, and so a group, that goes by the number of the first.
        signal(format!("-{}", self.first.id()), "-9");
        let _ = self.first.wait();
    }
}

fn scene(lab: &Lab) -> (Server, Vec<String>) {
    let server = lab.serve("srv", &[]);
    put(&server.root.join("old.bin"), &bytes(1, 5000));
    let args = ["--remote", server.url.as_str(), "--upload"];
    let args = args.map(str::to_owned).to_vec();
    (server, args)
}

fn mount<'a>(lab: &'a Lab, args: &[String], flags: &[&str]) -> Mount<'a> {
    let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
    all.extend(flags);
    let mount = lab.mount("mnt", &all);
    eventually("the file is listed", || mount.path("old.bin").exists());
    mount
}

/// Nothing that was written to it is published, here or at the server.
fn old_bin_is_as_it_was(daemon: &Mount<'_>, server: &Server) {
    daemon.flush();
    for at in [&daemon.at, &server.root] {
        assert_eq!(fs::read(at.join("old.bin")).unwrap(), bytes(1, 5000));
    }
}

const HOW: [&str; 9] = [
    "close_fds",
    "at exec",
    "inherited",
    "grandchild",
    "shell",
    "fork exits",
    "fork closes",
    "orphaned",
    "thread",
];

/// Killed while a writer goes on: nothing of it is published, whatever its children closed.
fn what_a_child_closes_ends_nothing(flags: &[&str]) {
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    let mut daemon = mount(&lab, &args, flags);
    let mut orphans = 0;
    for how in HOW {
        let writer = Family::start(PARENT, &[how, "wb"], &daemon.path("old.bin"));
        assert!(writer.said.starts_with("half"), "{how}: {:?}", writer.said);
        let new = Family::start(PARENT, &[how, "wb"], &daemon.path("new.bin"));
        assert!(new.said.starts_with("half"), "{how}: {:?}", new.said);
        daemon.kill();
        drop((writer, new));
        daemon = mount(&lab, &args, flags);
        daemon.flush();
        orphans += 2;
        let status = daemon.status();
        assert_eq!(
            status["orphans"].as_array().unwrap().len(),
            orphans,
            "{how}: {status}"
        );
        for at in [&daemon.at, &server.root] {
            assert_eq!(
                fs::read(at.join("old.bin")).unwrap(),
                bytes(1, 5000),
                "{how}"
            );
            assert!(!at.join("new.bin").exists(), "{how}");
        }
    }
}

#[test]
fn p4_what_a_child_closes_ends_nothing() {
    what_a_child_closes_ends_nothing(&[]);
}

#[test]
fn p4_what_a_child_closes_ends_nothing_without_passthrough() {
    what_a_child_closes_ends_nothing(&["--no-passthrough"]);
}

/// Somebody else's mount may have any name, too, and stands in the same list as ours.
#[test]
fn p4_what_a_child_closes_ends_nothing_beside_a_mount_of_any_name() {
    let lab = Lab::new();
    let at = lab.path(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&at).unwrap();
    let _beside = Beside::mounted(at);
    let (server, args) = scene(&lab);
    let daemon = mount(&lab, &args, &[]);
    let writer = Family::start(PARENT, &["fork exits", "wb"], &daemon.path("old.bin"));
    daemon.kill();
    drop(writer);
    old_bin_is_as_it_was(&mount(&lab, &args, &[]), &server);
}

/// Somebody else's mount.
struct Beside(PathBuf);

impl Beside {
    fn mounted(at: PathBuf) -> Beside {
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "none"]).arg(&at).status();
        assert!(done.unwrap().success(), "this test needs to mount a tmpfs");
        Beside(at)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The same for a file that is changed in place: it stays here, and the server keeps its own.
#[test]
fn p4_what_a_child_closes_is_held_back_in_place() {
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    for how in ["close_fds", "fork exits"] {
        let name = format!("{how}.bin");
        put(&server.root.join(&name), &bytes(2, 4000));
        let daemon = mount(&lab, &args, &[]);
        eventually("it is listed", || daemon.path(&name).exists());
        let writer = Family::start(PARENT, &[how, "r+b"], &daemon.path(&name));
        daemon.kill();
        drop(writer);
        let daemon = mount(&lab, &args, &[]);
        assert_eq!(fs::metadata(daemon.path(&name)).unwrap().len(), 300_000);
        eventually("it is held back", || {
            daemon.status().to_string().contains("changed in place")
        });
        daemon.verb(&["flush"]);
        assert_eq!(fs::read(server.root.join(&name)).unwrap(), bytes(2, 4000));
        // Written again it goes.
        fs::write(daemon.path(&name), b"whole").unwrap();
        daemon.flush();
        assert_eq!(fs::read(server.root.join(&name)).unwrap(), b"whole");
        daemon.unmount();
    }
}

/// Whoever closes last has the promise of its `close()`.
#[test]
fn p3_the_last_close_counts_whoever_makes_it() {
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    for (how, flags) in [
        ("stays", &[] as &[&str]),
        ("gone", &[]),
        ("again", &[]),
        ("stays", &["--no-passthrough"]),
        ("gone", &["--no-passthrough"]),
    ] {
        let daemon = mount(&lab, &args, flags);
        let family = Family::start(LAST, &[how], &daemon.path("old.bin"));
        assert!(
            family.said.starts_with("closed"),
            "{how}: {:?}",
            family.said
        );
        daemon.kill();
        drop(family);
        let daemon = mount(&lab, &args, flags);
        daemon.flush();
        let whole = [[b'a'; 100_000], [b'b'; 100_000]].concat();
        for at in [&daemon.at, &server.root] {
            assert!(fs::read(at.join("old.bin")).unwrap() == whole, "{how}");
        }
        daemon.unmount();
        fs::write(server.root.join("old.bin"), bytes(1, 5000)).unwrap();
    }
}

/// Children that merely inherited the file and end by themselves, because their parent was
/// killed, do not finish what it wrote.
#[test]
fn p4_idle_children_do_not_finish_what_a_killed_writer_began() {
    const POOL: &str = "
import os, sys
f = open(sys.argv[1], 'wb', buffering=0)
f.write(b'x' * 300000)
r, w = os.pipe()
for n in range(3):
    if os.fork() == 0:
        os.close(w)
        os.read(r, 1)
        os._exit(1)
print('half', os.getpid(), flush=True)
import time; time.sleep(100)
";
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    let daemon = mount(&lab, &args, &[]);
    let mut family = Family::start(POOL, &[], &daemon.path("old.bin"));
    let pid = family.said.split_whitespace().nth(1).unwrap().to_owned();
    assert!(signal(&pid, "-9"));
    family.first.wait().unwrap();
    eventually("the orphan is reported", || {
        daemon.status()["orphans"].as_array().unwrap().len() == 1
    });
    old_bin_is_as_it_was(&daemon, &server);
    // One that writes on and finishes has finished it.
    const HEIR: &str = "
import os, sys
f = open(sys.argv[1], 'wb', buffering=0)
f.write(b'a' * 1000)
r, w = os.pipe()
if os.fork() == 0:
    os.close(w)
    os.read(r, 1)
    f.write(b'b' * 1000)
    os._exit(0)
print('half', os.getpid(), flush=True)
import time; time.sleep(100)
";
    let mut family = Family::start(HEIR, &[], &daemon.path("old.bin"));
    let pid = family.said.split_whitespace().nth(1).unwrap().to_owned();
    signal(&pid, "-9");
    family.first.wait().unwrap();
    let whole = [[b'a'; 1000], [b'b'; 1000]].concat();
    eventually("it goes up", || {
        fs::read(server.root.join("old.bin")).unwrap() == whole
    });
}

/// A parent that hands the file to a child and closes at once has finished nothing.
#[test]
fn p4_a_file_handed_to_a_child_is_not_finished_while_it_is_empty() {
    const HANDS: &str = "
import subprocess, sys, time
f = open(sys.argv[1], 'wb')
p = subprocess.Popen(['sleep', '100'], stdout=f)
f.close()
print('closed', p.pid, flush=True)
time.sleep(100)
";
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    let daemon = mount(&lab, &args, &[]);
    let family = Family::start(HANDS, &[], &daemon.path("old.bin"));
    daemon.kill();
    drop(family);
    old_bin_is_as_it_was(&mount(&lab, &args, &[]), &server);
}

/// What is open keeps a mount that was detached, and is looked for in it like before.
#[test]
fn p4_what_a_child_closes_in_a_mount_that_was_detached_ends_nothing() {
    const STAYS: &str = "
import os, sys, time
f = open(sys.argv[1], 'wb')
print('open', flush=True)
while not os.path.exists(sys.argv[2] + '.go'): time.sleep(0.01)
child = os.fork()
if child == 0: os._exit(0)
os.waitpid(child, 0)
open(sys.argv[2] + '.done', 'w')
time.sleep(100)
";
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    let daemon = mount(&lab, &args, &[]);
    let (sign, pid, at) = (lab.path("sign"), daemon.pid(), daemon.at.clone());
    let family = Family::start(STAYS, &[sign.to_str().unwrap()], &at.join("old.bin"));
    assert!(signal(pid, "-15"));
    eventually("it is detached", || !is_mounted(&at));
    fs::write(sign.with_extension("go"), b"").unwrap();
    eventually("the child has ended", || {
        sign.with_extension("done").exists()
    });
    assert!(signal(pid, "-9"));
    eventually("the killed daemon is gone", || !signal(pid, "-0"));
    drop((family, daemon));
    old_bin_is_as_it_was(&mount(&lab, &args, &[]), &server);
}

/// Of two children that start at once each inherits what was opened for the other, and closes
/// that: nothing is finished as long as the other has not written.
#[test]
fn p4_what_a_sibling_closes_ends_nothing() {
    const SIBLINGS: &str = "
import os, subprocess, sys, time
f = open(sys.argv[1], 'wb')
r, w = os.pipe()
told = os.pipe()
if os.fork() == 0:
    os.read(r, 1)
    f.close()
    os.write(told[1], b'.')
    time.sleep(100)
subprocess.Popen(['sleep', '100'], stdout=f)
f.close()
os.write(w, b'.')
os.read(told[0], 1)
print('closed', flush=True)
time.sleep(100)
";
    let lab = Lab::new();
    let (server, args) = scene(&lab);
    let daemon = mount(&lab, &args, &[]);
    let family = Family::start(SIBLINGS, &[], &daemon.path("old.bin"));
    assert!(family.said.starts_with("closed"), "{:?}", family.said);
    daemon.kill();
    drop(family);
    old_bin_is_as_it_was(&mount(&lab, &args, &[]), &server);
}
