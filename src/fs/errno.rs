//! The one table from what went wrong to what the kernel is told.

use fuser::Errno;

use crate::error::{Error, Kind};

/// The errno for an error.
pub fn errno(error: &Error) -> Errno {
    Errno::from_i32(match error.kind() {
        Kind::NotFound => libc::ENOENT,
        Kind::Exists => libc::EEXIST,
        Kind::NotADirectory => libc::ENOTDIR,
        Kind::IsADirectory => libc::EISDIR,
        Kind::NotEmpty => libc::ENOTEMPTY,
        Kind::Invalid | Kind::Range => libc::EINVAL,
        Kind::NameTooLong => libc::ENAMETOOLONG,
        Kind::Denied => libc::EPERM,
        Kind::Unauthorized => libc::EACCES,
        Kind::ReadOnly => libc::EROFS,
        Kind::NoSpace => libc::ENOSPC,
        Kind::Unsupported => libc::EOPNOTSUPP,
        Kind::Stale => libc::ESTALE,
        Kind::Busy => libc::EBUSY,
        Kind::NoAttribute => libc::ENODATA,
        Kind::TooSmall => libc::ERANGE,
        Kind::Cancelled => libc::EINTR,
        Kind::Conflict
        | Kind::Offline
        | Kind::TimedOut
        | Kind::Unavailable
        | Kind::Corrupt
        | Kind::Io => libc::EIO,
    })
}
