//! Whether somebody is writing a file right now.
//!
//! One question, asked of the kernel where it can tell. The answer holds for the moment
//! of the call only: who needs more compares the file's facts before and after.

use std::fs::File;

/// From `<asm-generic/fcntl.h>`; the libc crate does not name it.
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

/// Whether any process has the file open for writing; none where that cannot be known
/// (another operating system, another owner's file, a network file system).
///
/// `file` must be open for reading only.
#[cfg(target_os = "linux")]
pub fn has_writer(file: &File) -> Option<bool> {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    // Should a writer come while the lease stands, the kernel sends a signal, by default one
    // that kills. SIGURG is ignored unless somebody asks for it.
    // SAFETY: fcntl with integer arguments on a descriptor that `file` keeps open.
    let told = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) };
    if told != 0 {
        return None;
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) } == 0 {
        // SAFETY: as above. A lease ends with the descriptor at the latest.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Some(false);
    }
    // EAGAIN means a writer; anything else, that leases are not to be had here.
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Some(true),
        _ => None,
    }
}

/// See the one for Linux: elsewhere nothing is known.
#[cfg(not(target_os = "linux"))]
pub fn has_writer(_: &File) -> Option<bool> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn p4_an_open_writer_is_seen_and_a_closed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        assert_eq!(has_writer(&File::open(&path).unwrap()), Some(true));
        drop(writer);
        let reader = File::open(&path).unwrap();
        assert_eq!(has_writer(&reader), Some(false));
        // The lease is gone: opening for writing does not wait.
        File::options().append(true).open(&path).unwrap();
    }
}
