//! Other users of the machine: what they see of a mount, of its socket, and of what a daemon keeps.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Lab, Mount, eventually, put};
use crate::{PYTHON, is_root, plain};

/// Everything at or beneath `root`, with its permission bits.
fn modes(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = vec![(root.to_owned(), fs::symlink_metadata(root).unwrap())];
    let mut next = 0;
    while next < found.len() {
        let (path, facts) = &found[next];
        next += 1;
        if facts.is_dir() {
            let inside: Vec<_> = fs::read_dir(path).unwrap().map(Result::unwrap).collect();
            for entry in inside {
                found.push((entry.path(), entry.metadata().unwrap()));
            }
        }
    }
    found
}

/// What a daemon listens at that has `dir` alone.
fn socket(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut sockets = entries.filter(|entry| entry.file_type().unwrap().is_socket());
    let found = sockets.next().unwrap().path();
    assert!(sockets.next().is_none());
    found
}

/// Mounts in a process that hides nothing from anybody, as one with a careless umask does.
fn mount_carelessly<'a>(lab: &'a Lab, runtime: &Path, flags: &[&str]) -> Mount<'a> {
    let at = &lab.dir("mnt");
    let program = lab.larder();
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]);
    shell.arg(program.get_program()).arg("mount").arg(at);
    shell.env_clear();
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let output = shell
        .args(flags)
        .env("LARDER_RUNTIME_DIR", runtime)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Mount {
        lab,
        at: at.to_owned(),
    }
}

#[test]
fn p10_what_a_daemon_keeps_is_its_users_alone() {
    let lab = Lab::new();
    put(&lab.dir("srv").join("far.bin"), b"far");
    let server = lab.serve("srv", &[]);
    let (runtime, store) = (lab.path("runtime"), lab.dir("store"));
    let flags = [
        "--remote",
        &server.url,
        "--upload",
        "--store",
        store.to_str().unwrap(),
    ];
    let mount = mount_carelessly(&lab, &runtime, &flags);
    let path = mount.path("new.bin");
    fs::write(&path, b"new").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::read(mount.path("far.bin")).unwrap(), b"far");
    // One that is being written, and has no name in the folder yet.
    let _open = fs::File::create(mount.path("open.bin")).unwrap();
    let socket = socket(&runtime);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    let kept = store.join(".larder");
    assert_eq!(mode(&kept), 0o700, "nobody else comes further");
    for (path, facts) in modes(&kept) {
        let loose = facts.mode() & 0o022;
        // Files on their way have the mode of their name already.
        let on_its_way = path.starts_with(kept.join("staged"));
        assert!(
            loose == 0 || on_its_way,
            "{}: {:o}",
            path.display(),
            facts.mode()
        );
    }
    let log = fs::metadata(kept.join("larder.log")).unwrap();
    assert_eq!(log.mode() & 0o777, 0o600);
    eventually("both are in the folder", || {
        store.join("new.bin").exists() && store.join("far.bin").exists()
    });
    // What the folder shows is what the mount was told, whatever the umask.
    assert_eq!(mode(&store.join("new.bin")), 0o640);
    assert_eq!(mode(&store.join("far.bin")) & 0o022, 0);
}

/// Runs Python as somebody else; what it prints.
fn as_another(user: &plain::User, program: &str, words: &[&Path]) -> String {
    let output = user
        .command(PYTHON)
        .args(["-c", program])
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

const LOOK: &str = "
import errno, os, sys
for look in (os.listdir, os.stat, lambda p: open(p + '/f'), lambda p: open(p + '/n', 'w')):
    try:
        look(sys.argv[1])
        print('in')
    except OSError as error:
        print(errno.errorcode[error.errno])
";

#[test]
fn p10_without_allow_other_nobody_else_comes_in() {
    if !is_root() {
        println!("SKIPPED: only root may act as another user");
        return;
    }
    let user = plain::User::new();
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("f"), b"for all to read");
    let at = user.others().join("theirs");
    let flags = ["--remote", server.url.as_str()];
    let mount = lab.mount(at.to_str().unwrap(), &flags);
    assert_eq!(as_another(&user, LOOK, &[&mount.at]), "EACCES\n".repeat(4));
    mount.unmount();
    let with = [flags.as_slice(), &["--allow-other"]].concat();
    let mount = lab.mount(at.to_str().unwrap(), &with);
    eventually("it is listed", || mount.path("f").exists());
    // And then modes count: it is root's, for all to look at.
    assert_eq!(
        as_another(&user, LOOK, &[&mount.at]),
        "in\nin\nin\nEACCES\n"
    );
}

const ASK: &str = r#"
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.settimeout(10)
try:
    line.connect(sys.argv[1])
    line.sendall(b'{"ask":"status"}\n')
    print(repr(line.recv(1000)))
except OSError as error:
    print(type(error).__name__)
"#;

#[test]
fn p10_the_socket_answers_nobody_else() {
    if !is_root() {
        println!("SKIPPED: only root may act as another user");
        return;
    }
    let user = plain::User::new();
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let runtime = user.others().join("runtime");
    let _mount = mount_carelessly(&lab, &runtime, &["--remote", &server.url]);
    let socket = socket(&runtime);
    assert_eq!(as_another(&user, ASK, &[&socket]), "PermissionError\n");
    // Even if its modes were as loose as they can be.
    for path in [&socket, &runtime] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let refused = as_another(&user, ASK, &[&socket]);
    let closed = ["b''\n", "ConnectionResetError\n", "BrokenPipeError\n"];
    assert!(closed.contains(&&*refused), "{refused}");
    let us = Command::new(PYTHON).args(["-c", ASK]).arg(&socket).output();
    let said = String::from_utf8(us.unwrap().stdout).unwrap();
    assert!(said.contains("status"), "{said}");
}

const FORGE: &str = "
import os, sys
path = sys.argv[1]
def write(text):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o755)
    os.write(fd, text)
    os.fchmod(fd, 0o6755)
    os.close(fd)
    os.chmod(path, 0o6755)
write(b'first')
write(b'second')
print(oct(os.stat(path).st_mode & 0o7777))
";

/// Somebody who may write to root's mount makes no program there that runs as root, or as anybody.
#[test]
fn p10_nobody_gets_a_file_that_runs_as_another() {
    if !is_root() {
        println!("SKIPPED: only root may let other users in, and act as one");
        return;
    }
    let user = plain::User::new();
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let at = user.others().join("shared");
    let store = lab.dir("store");
    let flags = [
        "--remote",
        &server.url,
        "--upload",
        "--allow-other",
        "--store",
        store.to_str().unwrap(),
    ];
    let mount = lab.mount(at.to_str().unwrap(), &flags);
    let dir = mount.path("open");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(
        as_another(&user, FORGE, &[&dir.join("program")]),
        "0o6755\n"
    );
    let theirs = fs::metadata(dir.join("program")).unwrap();
    mount.flush();
    let check = || {
        let kept = fs::metadata(store.join("open/program")).unwrap();
        assert_eq!(kept.mode() & 0o7777, 0o755, "{:o}", kept.mode());
        assert_eq!((kept.uid(), kept.gid()), (theirs.uid(), theirs.gid()));
        assert_ne!(kept.uid(), 0);
    };
    check();
    // And again when its bytes come back from the server.
    let evicted = mount.verb(&["evict", "--all"]);
    assert!(
        evicted.status.success(),
        "{}",
        String::from_utf8_lossy(&evicted.stderr)
    );
    assert!(!store.join("open/program").exists());
    assert_eq!(fs::read(dir.join("program")).unwrap(), b"second");
    eventually("it is here again", || store.join("open/program").exists());
    check();
}
