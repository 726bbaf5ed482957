//! The system's mounts: listing ours, taking one away, telling a dead one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{About as _, Error, Kind, Result};

/// A mount of ours that the system lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    /// What it was mounted with; unlike the mountpoint, no two have the same.
    pub source: String,
    /// The user it belongs to.
    pub user: Option<u32>,
}

/// What the source of every mount of ours begins with.
pub const SOURCE_PREFIX: &str = "larder:";

/// Our mounts, in the order they were made.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo").about("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(entry).collect())
}

/// One line of mountinfo (`proc_pid_mountinfo(5)`): ours have a source that begins with `larder:`.
/// The type is `fuse.larder` through `fusermount3`, and `fuse` where root mounted directly.
fn entry(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let is_fuse = [b"fuse".as_slice(), b"fuse.larder"].contains(fields.get(dash + 1)?);
    let source = unescape(fields.get(dash + 2)?);
    if !is_fuse || !source.starts_with(SOURCE_PREFIX.as_bytes()) {
        return None;
    }
    Some(MountEntry {
        mountpoint: OsString::from_vec(unescape(fields.get(4)?)).into(),
        source: String::from_utf8_lossy(&source).into_owned(),
        user: fields.get(dash + 3).and_then(|options| user(options)),
    })
}

/// The kernel tells who mounted it among the options.
fn user(options: &[u8]) -> Option<u32> {
    let mut options = options.split(|b| *b == b',');
    let id = options.find_map(|option| option.strip_prefix(b"user_id="))?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(digits) => {
                out.push(
                    digits
                        .iter()
                        .fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// How to take a mount away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Fails with [`Kind::Busy`] while files in it are open.
    Now,
    /// At once for everybody who comes later; those who have it open keep it.
    Lazily,
}

/// Takes the mount at `mountpoint` away: as root by the system call, else by `fusermount3`.
pub fn unmount(mountpoint: &Path, how: How) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = match how {
        How::Now => UnmountFlags::NOFOLLOW,
        How::Lazily => UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    };
    match unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => by_helper(mountpoint, how),
        Err(rustix::io::Errno::BUSY) => Err(in_use(mountpoint)),
        Err(errno) => Err(std::io::Error::from(errno)).about(mountpoint.display()),
    }
}

fn in_use(mountpoint: &Path) -> Error {
    Error::new(
        Kind::Busy,
        "files in it are open; close them (see `fuser -vm`), then unmount again",
    )
    .about(mountpoint.display())
}

fn by_helper(mountpoint: &Path, how: How) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == How::Lazily {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            Error::new(
                Kind::Io,
                format!("fusermount3 cannot be run ({e}); install the package fuse3"),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(in_use(mountpoint));
    }
    let line = said
        .lines()
        .next()
        .unwrap_or("fusermount3 failed")
        .to_owned();
    Err(Error::new(Kind::Io, line).about(mountpoint.display()))
}

/// Cuts a mount off from a daemon that was killed but cannot end, because one of its threads is
/// in the kernel, waiting for an answer that nobody will give: every request then fails.
pub fn abort(mount: &MountEntry) {
    use rustix::mount::{UnmountFlags, unmount};
    // For root; it cuts off even where it cannot unmount.
    let _ = unmount(
        &mount.mountpoint,
        UnmountFlags::FORCE | UnmountFlags::NOFOLLOW,
    );
    // For the owner, where fusectl is mounted. The connection is named by the device's minor number.
    let Ok(text) = std::fs::read("/proc/self/mountinfo") else {
        return;
    };
    for line in text.split(|b| *b == b'\n') {
        let device = line.split(|b| *b == b' ').nth(2);
        let minor = device.and_then(|d| std::str::from_utf8(d).ok()?.split_once(':'));
        if let (Some(found), Some((_, minor))) = (entry(line), minor)
            && found == *mount
        {
            let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), b"1");
        }
    }
}

/// Whether something is mounted at `mountpoint` whose daemon is gone.
pub fn is_dead(mountpoint: &Path) -> bool {
    let looked = rustix::fs::stat(mountpoint);
    matches!(looked, Err(rustix::io::Errno::NOTCONN))
}

/// Takes a dead mount of ours away. Returns whether there was one.
pub fn detach_dead(mountpoint: &Path) -> Result<bool> {
    if !is_dead(mountpoint) {
        return Ok(false);
    }
    unmount(mountpoint, How::Lazily)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_blanks_in_their_names_are_read() {
        let line = b"36 35 98:0 / /mnt/a\\040b\\134c rw,noatime master:1 - fuse.larder larder:7f rw,user_id=0";
        let entry = entry(line).unwrap();
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.source, "larder:7f");
        assert_eq!(
            super::entry(b"36 35 98:0 / /mnt rw - ext4 /dev/sda rw"),
            None
        );
        assert_eq!(super::entry(b""), None);
    }
}
