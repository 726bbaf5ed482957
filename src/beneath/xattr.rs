//! Extended attributes of files and directories, by descriptor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

use super::resolve::{UNHURT, resolve, said};
use super::{Dir, FileKind};
use crate::error::{About, Result};
use crate::path::RelPath;

/// The largest extended attribute value, and list of names, that Linux has.
const XATTR_MAX: usize = 64 << 10;

/// What an extended attribute must be before it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrSet {
    Any,
    /// Else [`Kind::Exists`].
    Absent,
    /// Else [`Kind::NoAttribute`].
    Present,
}

impl Dir {
    /// Reads an extended attribute of a file or directory. [`Kind::NoAttribute`] when it has none of the name.
    pub fn xattr(&self, path: &RelPath, name: &[u8]) -> Result<Vec<u8>> {
        let fd = self.open_for_xattr(path)?;
        call::get(fd.as_fd(), name).map_err(said).about(path)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        path: &RelPath,
        name: &[u8],
        value: &[u8],
        how: XattrSet,
    ) -> Result<()> {
        let fd = self.open_for_xattr(path)?;
        call::set(fd.as_fd(), name, value, how)
            .map_err(said)
            .about(path)
    }

    /// The names of all extended attributes.
    pub fn xattrs(&self, path: &RelPath) -> Result<Vec<Vec<u8>>> {
        let fd = self.open_for_xattr(path)?;
        let list = call::list(fd.as_fd()).map_err(said).about(path)?;
        Ok(split(&list))
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, path: &RelPath, name: &[u8]) -> Result<()> {
        let fd = self.open_for_xattr(path)?;
        call::remove(fd.as_fd(), name).map_err(said).about(path)
    }

    fn open_for_xattr(&self, path: &RelPath) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | UNHURT;
        resolve(self.0.as_fd(), path, flags, Mode::empty())
            .map_err(|error| match self.stat(path) {
                // What tools that copy attributes take as "there are none".
                Ok(it) if it.kind == FileKind::Symlink => said(Errno::OPNOTSUPP),
                _ => error,
            })
            .about(path)
    }
}

/// Reads an extended attribute of an open file. [`Kind::NoAttribute`] when it has none of the name.
///
/// [`Kind::NoAttribute`]: crate::error::Kind::NoAttribute
pub fn xattr_of(file: &File, name: &[u8]) -> Result<Vec<u8>> {
    call::get(file.as_fd(), name).map_err(said)
}

/// Sets an extended attribute of an open file.
pub fn set_xattr_of(file: &File, name: &[u8], value: &[u8], how: XattrSet) -> Result<()> {
    call::set(file.as_fd(), name, value, how).map_err(said)
}

/// The names of all extended attributes of an open file.
pub fn xattrs_of(file: &File) -> Result<Vec<Vec<u8>>> {
    Ok(split(&call::list(file.as_fd()).map_err(said)?))
}

/// Removes an extended attribute of an open file.
pub fn remove_xattr_of(file: &File, name: &[u8]) -> Result<()> {
    call::remove(file.as_fd(), name).map_err(said)
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(<[u8]>::to_vec).collect()
}

/// Extended attributes, by descriptor.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod call {
    use super::{BorrowedFd, XATTR_MAX, XattrSet, sys};
    use rustix::buffer::spare_capacity;
    use rustix::fs::XattrFlags;
    use rustix::io::Result;

    pub fn get(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = Vec::with_capacity(XATTR_MAX);
        sys::fgetxattr(fd, name, spare_capacity(&mut value))?;
        Ok(value)
    }

    pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], how: XattrSet) -> Result<()> {
        let flags = match how {
            XattrSet::Any => XattrFlags::empty(),
            XattrSet::Absent => XattrFlags::CREATE,
            XattrSet::Present => XattrFlags::REPLACE,
        };
        sys::fsetxattr(fd, name, value, flags)
    }

    pub fn list(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let mut names = Vec::with_capacity(XATTR_MAX);
        sys::flistxattr(fd, spare_capacity(&mut names))?;
        Ok(names)
    }

    pub fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        sys::fremovexattr(fd, name)
    }
}

/// Elsewhere there are none.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
mod call {
    use super::{BorrowedFd, Errno, XattrSet};
    use rustix::io::Result;

    pub fn get(_: BorrowedFd<'_>, _: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::OPNOTSUPP)
    }

    pub fn set(_: BorrowedFd<'_>, _: &[u8], _: &[u8], _: XattrSet) -> Result<()> {
        Err(Errno::OPNOTSUPP)
    }

    pub fn list(_: BorrowedFd<'_>) -> Result<Vec<u8>> {
        Err(Errno::OPNOTSUPP)
    }

    pub fn remove(_: BorrowedFd<'_>, _: &[u8]) -> Result<()> {
        Err(Errno::OPNOTSUPP)
    }
}
