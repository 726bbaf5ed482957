//! The file system, seen from one directory: names are resolved beneath a held
//! descriptor and never through a symbolic link.
//!
//! It promises that no [`RelPath`], whatever others put into the tree meanwhile,
//! leads out of the directory (promise P10), and that no open waits: a FIFO or a
//! device under a file's name is refused, not opened. It keeps nothing but the
//! descriptor, and knows neither what the files mean nor who else uses them.
//!
//! On Linux the kernel resolves (`openat2`); elsewhere, and on kernels without that
//! call, each component is opened in turn with `O_NOFOLLOW`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, Gid, Uid};
pub use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{About, Error, Kind, Result};
use crate::path::{RESERVED, RelPath};

mod calls;
mod facts;
mod resolve;
#[cfg(test)]
mod tests;
mod xattr;

use calls::{chmod_at, entries, rename_at, stat_at};
pub use facts::{Facts, FileKind, SET_ID};
use facts::{facts, kind_of, permissions, timestamps};
use resolve::{CAREFUL, PASS, UNHURT, place, resolve, retry, said, step};
pub use xattr::{XattrSet, remove_xattr_of, set_xattr_of, xattr_of, xattrs_of};

/// One entry of a directory. The name is raw: it may be one that no
/// [`Name`](crate::path::Name) accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub facts: Facts,
}

/// How full the file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes altogether.
    pub total: u64,
    /// Bytes that an ordinary user may still write.
    pub free: u64,
    /// Inodes altogether; 0 where the file system does not count them.
    pub files: u64,
    pub files_free: u64,
    pub block_size: u64,
    pub name_max: u64,
}

/// What a rename does about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Replaces it in one step.
    Replace,
    /// Fails with [`Kind::Exists`].
    NoReplace,
    /// Both names change places in one step.
    Exchange,
}

/// A directory, held open. Everything is relative to it.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl From<OwnedFd> for Dir {
    /// Takes a directory's descriptor, opened for reading.
    fn from(fd: OwnedFd) -> Dir {
        Dir(fd)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens a directory that the user named; here, and only here, links are followed.
    pub fn open_ambient(path: &Path) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry(|| sys::openat(sys::CWD, path, flags, Mode::empty()));
        opened.map(Dir).map_err(said).about(path.display())
    }

    /// The descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A second descriptor of the same directory.
    pub fn try_clone(&self) -> Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    /// What the directory itself is now. `nlink` 0: it was removed.
    pub fn facts(&self) -> Result<Facts> {
        Ok(facts(&sys::fstat(&self.0).map_err(said)?))
    }

    /// Opens, or with [`OFlags::CREATE`] makes, a regular file.
    pub fn open_file(&self, path: &RelPath, flags: OFlags, mode: Mode) -> Result<File> {
        let mode = mode - (Mode::SUID | Mode::SGID);
        let fd = resolve(self.0.as_fd(), path, flags | UNHURT, mode).about(path)?;
        let stat = sys::fstat(&fd).map_err(said).about(path)?;
        match kind_of(&stat) {
            FileKind::File => Ok(File::from(fd)),
            FileKind::Dir => Err(said(Errno::ISDIR).about(path)),
            _ => Err(Error::new(Kind::Denied, "not a regular file").about(path)),
        }
    }

    /// Opens a directory.
    pub fn open_dir(&self, path: &RelPath) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = resolve(self.0.as_fd(), path, flags, Mode::empty()).about(path)?;
        Ok(Dir(fd))
    }

    /// What the name stands for; a symbolic link is told as itself.
    pub fn stat(&self, path: &RelPath) -> Result<Facts> {
        stat_at(self.0.as_fd(), path).about(path)
    }

    /// Makes one directory.
    pub fn make_dir(&self, path: &RelPath, mode: u32) -> Result<()> {
        let mode = permissions(mode);
        self.at(path, |dir, name| sys::mkdirat(dir, name, mode))
    }

    /// Makes a directory and those above it, as far as they are missing.
    pub fn make_dirs(&self, path: &RelPath) -> Result<()> {
        match resolve(self.0.as_fd(), path, PASS, Mode::empty()) {
            Err(error) if error.kind() == Kind::NotFound => {}
            other => return other.map(drop).about(path),
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(&parent)?;
        }
        match self.make_dir(path, 0o755) {
            // Somebody else made it, or put something else there: look again.
            Err(error) if error.kind() == Kind::Exists => {
                resolve(self.0.as_fd(), path, PASS, Mode::empty())
                    .map(drop)
                    .about(path)
            }
            other => other,
        }
    }

    /// Removes a name that is not a directory.
    pub fn remove_file(&self, path: &RelPath) -> Result<()> {
        self.at(path, |dir, name| sys::unlinkat(dir, name, AtFlags::empty()))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: &RelPath) -> Result<()> {
        self.at(path, |dir, name| {
            sys::unlinkat(dir, name, AtFlags::REMOVEDIR)
        })
    }

    /// Renames within this directory's tree.
    pub fn rename(&self, from: &RelPath, to: &RelPath, onto: Onto) -> Result<()> {
        self.rename_into(from, self, to, onto)
    }

    /// Renames from this directory's tree into another's on the same file system.
    pub fn rename_into(&self, from: &RelPath, dir: &Dir, to: &RelPath, onto: Onto) -> Result<()> {
        let source = place(self.0.as_fd(), from).about(from)?;
        let target = place(dir.0.as_fd(), to).about(to)?;
        retry(|| rename_at(&source, &target, onto))
            .map_err(said)
            .about(to)
    }

    /// Makes a symbolic link that says `target`. Nothing here will ever follow it.
    pub fn symlink(&self, target: &[u8], path: &RelPath) -> Result<()> {
        self.at(path, |dir, name| sys::symlinkat(target, dir, name))
    }

    /// What a symbolic link says.
    pub fn read_link(&self, path: &RelPath) -> Result<Vec<u8>> {
        let target = self.at(path, |dir, name| sys::readlinkat(dir, name, Vec::new()))?;
        Ok(target.into_bytes())
    }

    /// Sets the permission bits. [`Kind::Unsupported`] for a symbolic link, as everywhere on Linux.
    pub fn set_mode(&self, path: &RelPath, mode: u32) -> Result<()> {
        chmod_at(self.0.as_fd(), path, permissions(mode)).about(path)
    }

    /// Sets owner and group, as far as given.
    pub fn set_owner(&self, path: &RelPath, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        self.at_or_itself(path, |dir, name| {
            sys::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the times, as far as given, in nanoseconds since 1970.
    pub fn set_times(&self, path: &RelPath, atime: Option<i64>, mtime: Option<i64>) -> Result<()> {
        let times = timestamps(atime, mtime);
        self.at_or_itself(path, |dir, name| {
            sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// All entries in no order, without `.`, `..` and `.larder`; those that vanish meanwhile are skipped.
    pub fn read_dir(&self, path: &RelPath) -> Result<Vec<Entry>> {
        let dir = self.open_dir(path)?;
        entries(dir).map_err(said).about(path)
    }

    /// How full the file system is.
    pub fn space(&self) -> Result<Space> {
        let it = sys::fstatvfs(&self.0).map_err(said)?;
        Ok(Space {
            total: it.f_blocks.saturating_mul(it.f_frsize),
            free: it.f_bavail.saturating_mul(it.f_frsize),
            files: it.f_files,
            files_free: it.f_favail,
            block_size: it.f_frsize,
            name_max: it.f_namemax,
        })
    }

    /// Makes a directory's names outlive a power cut.
    pub fn sync(&self, path: &RelPath) -> Result<()> {
        let dir = self.open_dir(path)?;
        retry(|| sys::fsync(&dir.0)).map_err(said).about(path)
    }

    /// Opens our own directory, [`RESERVED`], which no [`RelPath`] can name; makes it, mode
    /// 0700, when it is not there. Refuses a symbolic link and another file system's mount point.
    pub fn reserved(&self) -> Result<Dir> {
        match retry(|| sys::mkdirat(&self.0, RESERVED, Mode::RWXU)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // On a read-only file system it may still be there, to be read.
            Err(Errno::ROFS)
                if sys::statat(&self.0, RESERVED, AtFlags::SYMLINK_NOFOLLOW).is_ok() => {}
            Err(errno) => return Err(said(errno).about(RESERVED)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CAREFUL;
        let fd = step(self.0.as_fd(), RESERVED.as_bytes(), flags, Mode::empty()).about(RESERVED)?;
        let dir = Dir(fd);
        if dir.facts()?.dev != self.facts()?.dev {
            let why = "another file system is mounted here; unmount it";
            return Err(Error::new(Kind::Denied, why).about(RESERVED));
        }
        if dir.facts()?.mode & 0o077 != 0 {
            // Made by hand, or copied without its mode; where it is somebody else's, it is theirs to close.
            let _ = sys::fchmod(&dir.0, Mode::RWXU);
        }
        Ok(dir)
    }

    /// Runs one `…at` call on the path's last component.
    fn at<T>(
        &self,
        path: &RelPath,
        call: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let place = place(self.0.as_fd(), path).about(path)?;
        retry(|| call(place.dir.as_fd(), place.name))
            .map_err(said)
            .about(path)
    }

    /// The same for calls that can be done to this directory itself, too.
    fn at_or_itself<T>(
        &self,
        path: &RelPath,
        call: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        match path.is_root() {
            true => retry(|| call(self.0.as_fd(), b".")).map_err(said),
            false => self.at(path, call),
        }
    }
}

/// What an open file is now.
pub fn facts_of(file: &File) -> Result<Facts> {
    Ok(facts(&sys::fstat(file).map_err(said)?))
}

/// Has a file of up to `most` bytes read from the disk, unless its first page is in memory. Waits for
/// nothing; where the file system cannot tell what is in memory, nothing is done. A larger file is
/// left alone: whoever reads it on from a first page that is there gets the rest in smaller pieces.
#[cfg(target_os = "linux")]
pub fn read_early(file: &File, most: u64) {
    use rustix::io::{ReadWriteFlags, preadv2};
    if sys::fstat(file).is_ok_and(|stat| stat.st_size as u64 > most) {
        return;
    }
    let mut first = [0];
    let first = &mut [std::io::IoSliceMut::new(&mut first)];
    if preadv2(file, first, 0, ReadWriteFlags::NOWAIT) == Err(Errno::AGAIN) {
        // An advice: without it the reader waits for the disk a little longer.
        let _ = sys::fadvise(file, 0, None, sys::Advice::WillNeed);
    }
}

/// No other system tells.
#[cfg(not(target_os = "linux"))]
pub fn read_early(_file: &File, _most: u64) {}

/// Sets an open file's permission bits, exactly: no umask counts.
pub fn set_mode_of(file: &File, mode: u32) -> Result<()> {
    sys::fchmod(file, permissions(mode)).map_err(said)
}

/// Gives an open file to somebody. Errors: `Denied` unless this process may.
pub fn set_owner_of(file: &File, uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    sys::fchown(file, Some(uid), Some(gid)).map_err(said)
}

/// Sets an open file's times, as far as given, in nanoseconds since 1970.
pub fn set_times_of(file: &File, atime: Option<i64>, mtime: Option<i64>) -> Result<()> {
    sys::futimens(file, &timestamps(atime, mtime)).map_err(said)
}
