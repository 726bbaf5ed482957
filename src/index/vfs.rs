//! SQLite's access to files, minus its habit of resolving paths.
//!
//! The index lies under the mountpoint and is reached through a descriptor
//! (`/proc/self/fd/N/index.db`). SQLite's own `xFullPathname` would resolve that
//! link to a path that leads through the mount, into the daemon itself. This VFS is
//! the platform's default with that one function replaced: paths are used as given.
//! (Interface: <https://sqlite.org/c3ref/vfs.html>.)

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use rusqlite::ffi;

use crate::error::{Error, Kind, Result};

/// The name to open connections with.
pub const NAME: &CStr = c"larder";

/// Copies the path as it is.
///
/// # Safety
/// SQLite passes a terminated path and a buffer of `capacity` bytes.
unsafe extern "C" fn keep_path(
    _vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    capacity: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: `path` is a terminated string by SQLite's contract.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes_with_nul();
    if usize::try_from(capacity).is_ok_and(|room| bytes.len() <= room) {
        // SAFETY: `out` has room for `capacity` bytes, which is enough, and they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len()) };
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_CANTOPEN
    }
}

/// Registers the VFS, once a process.
pub fn register() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| {
        // SAFETY: finding the default VFS has no precondition; SQLite initialises itself.
        let default = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
        if default.is_null() {
            return false;
        }
        // SAFETY: not null, and the default VFS is never freed. Its functions take the data that
        // is copied with it, and its `pNext` is overwritten by the registration.
        let mut ours = unsafe { std::ptr::read(default) };
        ours.zName = NAME.as_ptr();
        ours.xFullPathname = Some(keep_path);
        let ours = Box::leak(Box::new(ours));
        // SAFETY: the structure is valid and lives as long as the process.
        unsafe { ffi::sqlite3_vfs_register(ours, 0) == ffi::SQLITE_OK }
    });
    match done {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Io,
            "index: SQLite has no file access on this system",
        )),
    }
}
