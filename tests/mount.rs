//! The main path, on real mounts of a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs;

use common::{Lab, bytes, eventually, put};

#[test]
fn p14_read_through_then_held_without_a_request() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    put(&server.root.join("TB/a.pkl"), &bytes(1, 100_000));
    put(&server.root.join("empty.bin"), b"");
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    eventually("the file is listed", || mount.path("TB/a.pkl").exists());
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), bytes(1, 100_000));
    assert_eq!(fs::read(mount.path("empty.bin")).unwrap(), b"");
    eventually("both are kept", || mount.status()["held"]["files"] == 2);
    let before = server.requests();
    assert_eq!(fs::read(mount.path("TB/a.pkl")).unwrap(), bytes(1, 100_000));
    assert_eq!(server.requests(), before);
    let at = mount.unmount();
    assert_eq!(fs::read(at.join("TB/a.pkl")).unwrap(), bytes(1, 100_000));
}

#[test]
fn p3_what_was_written_is_in_the_folder_and_goes_up() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    put(&mount.path("MT/result_0x1.pkl"), &bytes(2, 50_000));
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("MT/result_0x1.pkl")).unwrap(),
        bytes(2, 50_000)
    );
    let at = mount.unmount();
    assert_eq!(
        fs::read(at.join("MT/result_0x1.pkl")).unwrap(),
        bytes(2, 50_000)
    );
}

#[test]
fn the_only_mount_that_answers_is_the_one_that_is_meant() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let remote = ["--remote", &server.url];
    // To whoever looks for daemons in this directory it is a mount of somebody else.
    let other = lab.mount("other", &remote);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let env = ("LARDER_RUNTIME_DIR", run.to_str().unwrap());
    let says = |words: &[&str]| {
        let mut command = lab.larder();
        let output = command.env(env.0, env.1).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (_, said) = says(&["flush"]);
    assert!(said.contains("no larder is mounted at"), "{said}");
    let mount = |name| match lab.try_mount_with(name, &[env], &remote) {
        Ok(mount) => mount,
        Err(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    };
    let mine = mount("mine");
    assert_eq!(says(&["flush"]), (true, String::new()));
    let second = mount("second");
    let (done, said) = says(&["flush"]);
    assert!(!done && said.contains("which mount?"), "{said}");
    assert!(said.contains(mine.at.to_str().unwrap()), "{said}");
    assert!(said.contains(second.at.to_str().unwrap()), "{said}");
    assert!(!said.contains(other.at.to_str().unwrap()), "{said}");
    for mount in [&mine, &second] {
        assert_eq!(says(&["umount", mount.at.to_str().unwrap()]).1, "");
    }
}

#[test]
fn p3_a_file_has_its_size_as_soon_as_it_is_closed() {
    for way in [&[][..], &["--no-passthrough"]] {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        let mount = lab.mount("mnt", &[&["--remote", &server.url], way].concat());
        std::thread::scope(|scope| {
            for who in 0..4 {
                let at = mount.path(format!("{who}"));
                scope.spawn(move || {
                    fs::create_dir(&at).unwrap();
                    for n in 1..150 {
                        let file = at.join(format!("{n}"));
                        fs::write(&file, bytes(n, 1000 + n as usize)).unwrap();
                        // The kernel hears of the last close after `close()` returned.
                        let seen = fs::File::open(&file).unwrap().metadata().unwrap().len();
                        assert_eq!(seen, 1000 + n, "{}", file.display());
                        assert_eq!(fs::read(&file).unwrap().len() as u64, 1000 + n);
                    }
                });
            }
        });
    }
}

#[test]
fn p3_a_rewrite_that_was_not_closed_takes_nothing_back() {
    use std::io::Write as _;
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for truncate in [true, false] {
        let name = format!("f{truncate}");
        let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
        // One after the other, faster than the kernel tells of the releases.
        for round in 0..40 {
            let mut file = fs::File::create(mount.path(&name)).unwrap();
            file.write_all(&bytes(round, 5000)).unwrap();
            close(file);
        }
        let pid = mount.pid() as i32;
        let mut open = fs::OpenOptions::new();
        let mut file = open
            .write(true)
            .append(!truncate)
            .truncate(truncate)
            .open(mount.path(&name))
            .unwrap();
        file.write_all(&bytes(99, 700)).unwrap();
        // Not by a program: starting one would close the file in the child.
        // SAFETY: sends a signal to the daemon that this test started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        drop(file);
        eventually("the dead mount is detached", || {
            !common::is_mounted(&mount.at)
        });
        let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
        let found = fs::read(mount.path(&name)).unwrap();
        assert_eq!(
            &found[..5000],
            bytes(39, 5000),
            "{}",
            mount.status()["notes"]
        );
        mount.unmount();
    }
}

/// The kernel tells of the last close late: what was closed is here all the same.
#[test]
fn p3_names_change_places_as_soon_as_both_are_closed() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::io::Write as _;
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    for name in ["a", "b"] {
        put(&server.root.join(name), b"the remote's");
    }
    let mount = lab.mount("mnt", &["--remote", &server.url, "--upload"]);
    let mut kept = Vec::new();
    for name in ["a", "b"] {
        let mut file = fs::File::create(mount.path(name)).unwrap();
        file.write_all(name.as_bytes()).unwrap();
        // As long as a descriptor is left, there is no last close.
        kept.push(file.try_clone().unwrap());
        close(file);
    }
    let (a, b) = (mount.path("a"), mount.path("b"));
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    drop(kept);
    mount.flush();
    for at in [&mount.at, &server.root] {
        assert_eq!(fs::read(at.join("a")).unwrap(), b"b");
        assert_eq!(fs::read(at.join("b")).unwrap(), b"a");
    }
    mount.unmount();
}

/// A daemon that is started again at once is not taken for the one that was killed.
#[test]
fn p7_a_guard_takes_away_nothing_but_its_own_mount() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let listed = common::mountinfo();
    let line = listed
        .lines()
        .find(|line| line.split(' ').nth(4) == mount.at.to_str());
    let source = line.unwrap().split(' ').rev().nth(1).unwrap().to_owned();
    let at = mount.at.to_str().unwrap();
    let guard = |source: &str| lab.run(["guard", at, source, &u32::MAX.to_string()]);
    assert!(guard(&format!("{source}0")).status.success());
    fs::write(mount.path("a"), b"it answers").unwrap();
    assert!(guard(&source).status.success());
    assert!(!common::is_mounted(&mount.at));
}

/// Closes a file and fails if that fails; a dropped one would not tell.
fn close(file: fs::File) {
    use std::os::fd::IntoRawFd as _;
    let fd = file.into_raw_fd();
    // SAFETY: the descriptor was just given up by its owner.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}
