//! The system's mounts: listing ours, taking one away, telling a dead one.

use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
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

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Our mounts, in the order they were made.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let text = std::fs::read(MOUNTINFO).about(MOUNTINFO)?;
    Ok(lines(&text).filter_map(entry).collect())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
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

/// A mount itself, whatever is mounted at its mountpoint next: a daemon that was killed may be
/// started anew at the moment when somebody takes its dead mount away.
struct Pinned(OwnedFd);

impl Pinned {
    /// What is mounted at `mountpoint` now. No daemon is asked.
    fn at(mountpoint: &Path) -> Result<Pinned> {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = open(mountpoint, flags, Mode::empty()).map_err(std::io::Error::from);
        pinned.map(Pinned).about(mountpoint.display())
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Whether it is the one of `mount`. Numbers of mounts are used again, but not of a pinned one.
    fn is(&self, mount: &MountEntry) -> Result<bool> {
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(&info).about(info)?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        let id = id.unwrap_or_default().trim().as_bytes();
        let text = std::fs::read(MOUNTINFO).about(MOUNTINFO)?;
        Ok(lines(&text).any(|line| {
            line.split(|b| *b == b' ').next() == Some(id) && entry(line).as_ref() == Some(mount)
        }))
    }

    /// Whether its daemon is gone.
    fn is_dead(&self) -> bool {
        use rustix::fs::{AtFlags, statat};
        let looked = statat(&self.0, "", AtFlags::EMPTY_PATH);
        matches!(looked, Err(rustix::io::Errno::NOTCONN))
    }

    /// Takes it away from `mountpoint`, whether it is in use or not.
    fn detach(&self, mountpoint: &Path) -> Result<()> {
        use rustix::mount::{UnmountFlags, unmount};
        match unmount(self.path(), UnmountFlags::DETACH) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::PERM) => by_helper(mountpoint, How::Lazily),
            // Somebody else was first.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(errno) => Err(std::io::Error::from(errno)).about(mountpoint.display()),
        }
    }
}

/// Takes a mount away whether it is in use or not; for the guard of a dead daemon. One that was
/// made in its place meanwhile is left alone.
pub fn detach(mount: &MountEntry) -> Result<()> {
    let pinned = Pinned::at(&mount.mountpoint)?;
    if pinned.is(mount)? {
        abort(&pinned, mount);
        pinned.detach(&mount.mountpoint)?;
    }
    Ok(())
}

/// Cuts a mount off from a daemon that was killed but cannot end, because one of its threads is
/// in the kernel, waiting for an answer that nobody will give: every request then fails.
fn abort(pinned: &Pinned, mount: &MountEntry) {
    use rustix::mount::{UnmountFlags, unmount};
    // For root; it cuts off, and does not unmount what is pinned.
    let _ = unmount(pinned.path(), UnmountFlags::FORCE);
    // For the owner, where fusectl is mounted. The connection is named by the device's minor number.
    let Ok(text) = std::fs::read(MOUNTINFO) else {
        return;
    };
    for line in lines(&text) {
        let device = line.split(|b| *b == b' ').nth(2);
        let minor = device.and_then(|d| std::str::from_utf8(d).ok()?.split_once(':'));
        if let (Some(found), Some((_, minor))) = (entry(line), minor)
            && found == *mount
        {
            let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), b"1");
        }
    }
}

/// Takes a dead mount of ours away. Returns whether there was one.
pub fn detach_dead(mountpoint: &Path) -> Result<bool> {
    match Pinned::at(mountpoint) {
        Ok(pinned) if pinned.is_dead() => pinned.detach(mountpoint).map(|()| true),
        _ => Ok(false),
    }
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
