//! How a path becomes a descriptor: one `openat2`, or one `openat` a component.
//!
//! Promises that no link is followed on the way and none at the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// How a directory is opened that is only passed through.
#[cfg(target_os = "linux")]
pub(super) const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
#[cfg(not(target_os = "linux"))]
pub(super) const PASS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Nothing is followed, nothing is inherited by children.
pub(super) const CAREFUL: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// What keeps a FIFO from holding us up and a terminal from adopting us; a regular file knows neither.
pub(super) const UNHURT: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// The directory that holds a path's last component, and that component.
pub(super) struct Place<'a> {
    pub dir: Held<'a>,
    pub name: &'a [u8],
}

pub(super) enum Held<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Held<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Root(fd) => *fd,
            Held::Opened(fd) => fd.as_fd(),
        }
    }
}

/// The system's word as our error, said better where it is short.
pub(super) fn said(errno: Errno) -> Error {
    match errno {
        Errno::LOOP => Error::new(Kind::Denied, "a symbolic link is in the way"),
        Errno::XDEV => Error::new(Kind::Denied, "another file system is in the way"),
        other => io::Error::from(other).into(),
    }
}

/// Repeats a call that a signal, or for `openat2` a rename elsewhere, interrupted.
/// `EAGAIN` is bounded, because a lease held by another process says it for ever.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let mut again = 0;
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if again < 128 => again += 1,
            other => return other,
        }
    }
}

/// Opens `path` beneath `root`. The mode counts only where something is created.
pub(super) fn resolve(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let flags = flags | CAREFUL;
    let mode = if flags.contains(OFlags::CREATE) {
        mode
    } else {
        Mode::empty()
    };
    #[cfg(target_os = "linux")]
    if let Some(opened) = by_kernel(root, path, flags, mode) {
        match opened {
            // Asked for a directory, it does not tell a link from a file: look closer.
            Err(Errno::NOTDIR) => {}
            other => return other.map_err(said),
        }
    }
    by_steps(root, path, flags, mode)
}

/// One `openat2`. Nothing, when the kernel (before 5.6) or a sandbox does not have it.
#[cfg(target_os = "linux")]
fn by_kernel(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
    mode: Mode,
) -> Option<rustix::io::Result<OwnedFd>> {
    use rustix::fs::ResolveFlags;
    use std::sync::atomic::{AtomicBool, Ordering};
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let bounds = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let name = if path.is_root() {
        b"."
    } else {
        path.as_bytes()
    };
    match retry(|| sys::openat2(root, name, flags, mode, bounds)) {
        Err(Errno::NOSYS) => {
            MISSING.store(true, Ordering::Relaxed);
            None
        }
        answer => Some(answer),
    }
}

/// The same, one component at a time.
pub(super) fn by_steps(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut names = path.components().peekable();
    if path.is_root() {
        return step(root, b".", flags, mode);
    }
    while let Some(name) = names.next() {
        let dir = held.as_ref().map_or(root, |fd| fd.as_fd());
        let opened = match names.peek() {
            Some(_) => step(dir, name, PASS | CAREFUL, Mode::empty())?,
            None => step(dir, name, flags, mode)?,
        };
        held = Some(opened);
    }
    held.ok_or_else(|| said(Errno::INVAL))
}

/// Opens one component, never through a link.
pub(super) fn step(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let link = |d: BorrowedFd<'_>| {
        sys::statat(d, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode as _) == FileType::Symlink)
    };
    match retry(|| sys::openat(dir, name, flags, mode)) {
        // With O_DIRECTORY a link is told as "not a directory"; BSDs have words of their own.
        Err(Errno::NOTDIR | Errno::MLINK) if link(dir) => Err(said(Errno::LOOP)),
        other => other.map_err(said),
    }
}

/// Opens the directory that holds the last component; none is opened for a path of one.
pub(super) fn place<'a>(root: BorrowedFd<'a>, path: &'a RelPath) -> Result<Place<'a>> {
    let bytes = path.as_bytes();
    let Some(cut) = bytes.iter().rposition(|b| *b == b'/') else {
        if path.is_root() {
            return Err(Error::new(Kind::Invalid, "this cannot be done to the root"));
        }
        return Ok(Place {
            dir: Held::Root(root),
            name: bytes,
        });
    };
    let parent = path.parent().unwrap_or_default();
    let dir = Held::Opened(resolve(root, &parent, PASS, Mode::empty())?);
    Ok(Place {
        dir,
        name: &bytes[cut + 1..],
    })
}
