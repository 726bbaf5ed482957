//! A mount held by its root: once the daemon is dead, what is done here fails, and never
//! reaches the plain folder that comes to light beneath.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Which inode the root of a FUSE mount is, and the root of hardly anything else.
const ROOT: u64 = 1;

pub struct Held(File);

impl Held {
    /// None if the daemon is gone already.
    pub fn new(mountpoint: &Path) -> Option<Held> {
        let root = File::open(mountpoint).ok()?;
        (root.metadata().ok()?.ino() == ROOT).then_some(Held(root))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }

    /// Whether the daemon still answers. Attributes the kernel remembers; to open it has to ask.
    pub fn lives(&self) -> bool {
        File::open(self.path(".")).is_ok()
    }
}
