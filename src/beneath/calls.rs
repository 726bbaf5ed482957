//! The calls that take more than one step, or differ between systems.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as sys, AtFlags, Mode};
use rustix::io::Errno;

use super::facts::facts;
use super::resolve::{Place, place, retry, said};
use super::{Dir, Entry, Facts, Onto};
use crate::error::Result;
use crate::path::{RESERVED, RelPath};

pub(super) fn stat_at(root: BorrowedFd<'_>, path: &RelPath) -> Result<Facts> {
    if path.is_root() {
        return Ok(facts(&sys::fstat(root).map_err(said)?));
    }
    let place = place(root, path)?;
    let stat = retry(|| sys::statat(place.dir.as_fd(), place.name, AtFlags::SYMLINK_NOFOLLOW));
    stat.map(|stat| facts(&stat)).map_err(said)
}

/// A path descriptor needs no permission on the file, so that `chmod 0` can be undone by its
/// owner. `/proc/self/fd` is a link to the held inode itself: no name is resolved again.
#[cfg(target_os = "linux")]
pub(super) fn chmod_at(root: BorrowedFd<'_>, path: &RelPath, mode: Mode) -> Result<()> {
    use super::facts::kind_of;
    use super::resolve::resolve;
    use std::os::fd::AsRawFd;
    let fd = resolve(root, path, sys::OFlags::PATH, Mode::empty())?;
    if kind_of(&sys::fstat(&fd).map_err(said)?) == super::FileKind::Symlink {
        return Err(said(Errno::OPNOTSUPP));
    }
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    sys::chmod(link, mode).map_err(said)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn chmod_at(root: BorrowedFd<'_>, path: &RelPath, mode: Mode) -> Result<()> {
    let place = place(root, path)?;
    sys::chmodat(
        place.dir.as_fd(),
        place.name,
        mode,
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(said)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(super) fn rename_at(from: &Place<'_>, to: &Place<'_>, onto: Onto) -> rustix::io::Result<()> {
    use rustix::fs::RenameFlags;
    let flags = match onto {
        Onto::Replace => return sys::renameat(&from.dir, from.name, &to.dir, to.name),
        Onto::NoReplace => RenameFlags::NOREPLACE,
        Onto::Exchange => RenameFlags::EXCHANGE,
    };
    sys::renameat_with(&from.dir, from.name, &to.dir, to.name, flags)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn rename_at(from: &Place<'_>, to: &Place<'_>, onto: Onto) -> rustix::io::Result<()> {
    match onto {
        Onto::Replace => sys::renameat(&from.dir, from.name, &to.dir, to.name),
        Onto::NoReplace | Onto::Exchange => Err(Errno::OPNOTSUPP),
    }
}

pub(super) fn entries(dir: Dir) -> rustix::io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut listing = sys::Dir::new(dir.0)?;
    while let Some(entry) = listing.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes() == RESERVED.as_bytes() {
            continue;
        }
        match sys::statat(listing.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push(Entry {
                name: name.to_bytes().to_vec(),
                facts: facts(&stat),
            }),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}
