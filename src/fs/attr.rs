//! Attributes and times, as the kernel has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::index::{NodeKind, ROOT};
use crate::overlay::{Attr, Caller};

const SECOND: i64 = 1_000_000_000;

pub(super) fn convert(attr: &Attr, owner: Caller) -> FileAttr {
    let time = system_time(attr.mtime_ns);
    FileAttr {
        ino: INodeNo(attr.id.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: system_time(attr.ctime_ns),
        crtime: time,
        kind: match attr.kind {
            NodeKind::File => FileType::RegularFile,
            NodeKind::Dir => FileType::Directory,
            NodeKind::Symlink => FileType::Symlink,
        },
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid.unwrap_or(owner.uid),
        gid: attr.gid.unwrap_or(owner.gid),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    match ns >= 0 {
        true => UNIX_EPOCH + distance,
        false => UNIX_EPOCH - distance,
    }
}

/// A time as `fuser` decoded it. Before 1970 the kernel's seconds are negative and its nanoseconds
/// count up from them; `fuser` 0.18 counts those down as well (`system_time_from_time`).
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            let back = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX);
            let nanos = i64::from(before.duration().subsec_nanos());
            back.saturating_mul(-SECOND).saturating_add(nanos)
        }
    }
}

pub(super) fn requested_time(time: TimeOrNow) -> i64 {
    match time {
        TimeOrNow::SpecificTime(time) => nanoseconds(time),
        TimeOrNow::Now => nanoseconds(SystemTime::now()),
    }
}

pub(super) fn dot_attr() -> Attr {
    Attr {
        id: ROOT,
        kind: NodeKind::Dir,
        size: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        mode: 0o755,
        uid: None,
        gid: None,
        nlink: 1,
    }
}
