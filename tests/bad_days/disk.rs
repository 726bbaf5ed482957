//! Disks of a test's own: small ones, read-only ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Lab, eventually};

/// Something mounted for a test; taken away with it.
pub struct Disk {
    pub at: PathBuf,
}

fn mounted(at: &Path, args: &[&str]) -> Disk {
    fs::create_dir_all(at).unwrap();
    let done = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(
        done.success(),
        "these tests mount small disks: run them as root"
    );
    Disk { at: at.to_owned() }
}

impl Disk {
    /// An empty disk of `size` (`4m`).
    pub fn new(lab: &Lab, name: &str, size: &str) -> Disk {
        let options = format!("size={size},mode=755");
        mounted(&lab.path(name), &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// An empty disk with room for so many files.
    pub fn with_inodes(lab: &Lab, name: &str, inodes: u32) -> Disk {
        let options = format!("size=64m,nr_inodes={inodes},mode=755");
        mounted(&lab.path(name), &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// A disk of its own, in the file `name` of the laboratory, which can die.
    pub fn mortal(lab: &Lab, name: &str) -> Disk {
        let image = lab.path(format!("{name}.img"));
        if !image.exists() {
            File::create(&image).unwrap().set_len(64 << 20).unwrap();
            let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
            assert!(made.unwrap().success());
        }
        // Somebody looks after it, as at every start of a machine.
        let checked = Command::new("e2fsck").arg("-fp").arg(&image).output();
        assert!(checked.unwrap().status.code().is_some_and(|code| code < 4));
        let options = "loop,errors=remount-ro";
        mounted(&lab.path(name), &["-o", options, image.to_str().unwrap()])
    }

    /// The kernel finds an error on the disk, and lets nobody write any more.
    pub fn fail(&self) {
        let of_all = fs::read_to_string("/proc/mounts").unwrap();
        let at = self.at.to_str().unwrap();
        let mut devices = of_all.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let device = words.next()?.strip_prefix("/dev/loop")?;
            (words.next() == Some(at)).then_some(device)
        });
        let device = devices.next().expect("a disk in a file");
        let trigger = format!("/sys/fs/ext4/loop{device}/trigger_fs_error");
        fs::write(trigger, "a test").unwrap();
    }

    /// From now on every access is an error; what was not on the disk yet is lost.
    pub fn die(&self) {
        const SHUTDOWN: libc::Ioctl = 0x8004_587d;
        let without_log = 2_u32;
        let dir = File::open(&self.at).unwrap();
        // SAFETY: the call reads one number.
        let done = unsafe { libc::ioctl(dir.as_raw_fd(), SHUTDOWN, &raw const without_log) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Takes it away for good: nobody has anything of it open any more.
    pub fn leave(self) {
        eventually("nobody is on the disk", || {
            let gone = Command::new("umount").arg(&self.at).output();
            gone.is_ok_and(|output| output.status.success())
        });
    }

    /// Another view of `dir`.
    pub fn bound(lab: &Lab, dir: &Path, name: &str) -> Disk {
        mounted(&lab.path(name), &["--bind", dir.to_str().unwrap()])
    }

    /// Nothing can be written any more, or again.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.at)
            .status();
        assert!(done.unwrap().success());
    }

    /// Takes all the room there is but `left` bytes, into a file that others do not look at.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.at.join(".larder/ballast");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let chunk = [0; 4096];
        while file.write_all(&chunk).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(left)).unwrap();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.at).output();
        if !gone.is_ok_and(|o| o.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        }
    }
}
