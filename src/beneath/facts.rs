//! What the system says of a file, in types that are the same everywhere.

use rustix::fs::{FileType, Mode, RawMode, Stat, Timespec, Timestamps, UTIME_OMIT};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Dir,
    Symlink,
    /// A FIFO, socket or device: nothing that a cache holds.
    Other,
}

/// What the file system says of one name or one open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub kind: FileKind,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub atime_ns: i64,
    pub ino: u64,
    pub dev: u64,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    /// 512-byte blocks really in use.
    pub blocks: u64,
}

pub(super) fn kind_of(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode as _) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

/// The widths of `struct stat` differ between platforms; ours do not.
#[allow(clippy::unnecessary_cast)]
pub(super) fn facts(stat: &Stat) -> Facts {
    let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Facts {
        kind: kind_of(stat),
        size: stat.st_size as u64,
        mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        atime_ns: ns(stat.st_atime as i64, stat.st_atime_nsec as i64),
        ino: stat.st_ino as u64,
        dev: stat.st_dev as u64,
        mode: stat.st_mode as u32 & 0o7777,
        uid: stat.st_uid as u32,
        gid: stat.st_gid as u32,
        nlink: stat.st_nlink as u64,
        blocks: stat.st_blocks as u64,
    }
}

pub(super) fn timestamps(atime: Option<i64>, mtime: Option<i64>) -> Timestamps {
    let spec = |ns: Option<i64>| match ns {
        // Euclid, so that times before 1970 keep their nanoseconds positive.
        Some(ns) => Timespec {
            tv_sec: ns.div_euclid(1_000_000_000),
            tv_nsec: ns.rem_euclid(1_000_000_000) as _,
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        },
    };
    Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    }
}

/// Set-user-ID and set-group-ID: what no file here gets. Its bytes may be somebody else's than its
/// owner's, and where it lies need not be `nosuid`, as a mount is.
pub const SET_ID: u32 = 0o6000;

/// Permission bits for a call.
#[allow(clippy::unnecessary_cast)]
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode((mode & 0o7777 & !SET_ID) as RawMode)
}
