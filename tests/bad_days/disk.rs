//! Disks of a test's own: small ones, read-only ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Lab;

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
