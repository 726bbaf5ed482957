//! Names in, replies out: the small translations that many requests share.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};

use super::attr::{convert, dot_attr};
use super::errno::errno;
use super::passthrough::{Backings, Mode};
use super::{Edge, GENERATION, TTL};
use crate::beneath::read_early;
use crate::error::{Error, Kind, Result};
use crate::index::{NodeId, ROOT};
use crate::overlay::{Answer, Attr, Caller, Opened, Overlay};
use crate::path::Name;

/// A file up to this size is on its way from the disk while its reader is told that it is open: who
/// opens a small one reads all of it, as a rule. Where reads come through us, the kernel may have
/// the bytes without the disk.
const READ_EARLY: u64 = 256 << 10;

/// A name for looking up: one that cannot exist is merely not there.
pub(super) fn existing(name: &OsStr) -> Result<Name> {
    Name::new(name.as_bytes()).map_err(|error| match error.kind() {
        Kind::NameTooLong => error,
        _ => Error::new(Kind::NotFound, "no such file"),
    })
}

/// A name for something new.
pub(super) fn new_name(name: &OsStr) -> Result<Name> {
    Name::new(name.as_bytes()).map_err(|error| match error.kind() {
        Kind::NameTooLong => error,
        _ => Error::new(Kind::Denied, error.message()),
    })
}

pub(super) fn done(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Edge {
    pub(super) fn attr(&self, attr: &Attr) -> FileAttr {
        convert(attr, self.owner)
    }

    pub(super) fn light(&self) -> Light {
        Light {
            backings: self.backings.clone(),
            owner: self.owner,
            cached: self.cached_flags(),
        }
    }

    pub(super) fn lasts(&self) -> Lasts {
        lasts(&self.overlay)
    }

    pub(super) fn reply_entry(&self, reply: ReplyEntry, made: Result<Attr>) {
        match made {
            Ok(attr) => reply.entry(&TTL, &self.attr(&attr), GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn caller(req: &Request) -> Caller {
        Caller {
            uid: req.uid(),
            gid: req.gid(),
        }
    }

    /// Hands an answer over: now, or from a task that owns the reply.
    pub(super) fn give<T: 'static, R: Send + 'static>(
        &self,
        answer: Answer<T>,
        reply: R,
        send: impl FnOnce(R, Result<T>) + Send + 'static,
    ) {
        match answer {
            Answer::Now(result) => send(reply, result),
            Answer::Later(pending) => {
                self.runtime
                    .spawn(async move { send(reply, pending.await) });
            }
        }
    }

    pub(super) fn mode_for(
        &self,
        opened: &Opened,
        register: impl FnOnce(&File) -> std::io::Result<fuser::BackingId>,
    ) -> Mode {
        self.backings
            .enter(opened.id, opened.backing.as_deref(), register)
    }

    pub(super) fn cached_flags(&self) -> FopenFlags {
        // Where every open goes through the page cache, it stays right between opens: other bytes
        // have another inode. Beside passthrough, which writes behind its back, it does not.
        match self.backings.is_enabled() {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_KEEP_CACHE,
        }
    }
}

/// The part of the edge that tasks take with them.
pub(super) struct Light {
    pub backings: Arc<Backings>,
    pub owner: Caller,
    pub cached: FopenFlags,
}

impl Light {
    pub fn attr(&self, attr: &Attr) -> FileAttr {
        convert(attr, self.owner)
    }

    pub fn reply_opened(&self, reply: ReplyOpen, opened: &Opened) {
        let fh = FileHandle(opened.fh);
        let mode = self
            .backings
            .enter(opened.id, opened.backing.as_deref(), |file| {
                reply.open_backing(file)
            });
        // A reader has nothing to say when it closes.
        let close = match opened.writes {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_NOFLUSH,
        };
        match mode {
            Mode::Passthrough(backing) => {
                if let (Some(file), false) = (&opened.backing, opened.writes) {
                    read_early(file, READ_EARLY);
                }
                reply.opened_passthrough(fh, close, &backing);
            }
            Mode::Cached if opened.is_cached => {
                reply.opened(fh, FopenFlags::FOPEN_KEEP_CACHE | close);
            }
            Mode::Cached => reply.opened(fh, self.cached | close),
        }
    }
}

/// Longest that the kernel remembers that a name is not at the top. When all names are to be asked
/// for anew, what it knows beneath a directory goes with that; what is not at the top has no name to
/// go by, and goes by itself.
const AT_THE_TOP: Duration = Duration::from_secs(1);

/// How long the kernel may remember what it was told of a name.
#[derive(Clone, Copy)]
pub(super) struct Lasts {
    pub(super) present: Duration,
    absent: Duration,
}

pub(super) fn lasts(overlay: &Overlay) -> Lasts {
    Lasts {
        present: overlay.presence_lasts().unwrap_or(TTL),
        absent: overlay.absence_lasts().unwrap_or(TTL),
    }
}

impl Lasts {
    /// The same for a name in `parent`, if it still holds by `now`.
    pub(super) fn until(self, now: Lasts, parent: NodeId) -> Lasts {
        let absent = self.absent.min(now.absent);
        Lasts {
            present: self.present.min(now.present),
            absent: match parent {
                ROOT => absent.min(AT_THE_TOP),
                _ => absent,
            },
        }
    }
}

/// The answer to a lookup; that a name is not there is an answer, too, with no inode in it.
pub(super) fn reply_found(
    reply: ReplyEntry,
    found: Result<Option<Attr>>,
    owner: Caller,
    lasts: Lasts,
) {
    match found {
        Ok(Some(attr)) => reply.entry(&lasts.present, &convert(&attr, owner), GENERATION),
        Ok(None) => {
            let nothing = Attr {
                id: NodeId(0),
                ..dot_attr()
            };
            reply.entry(&lasts.absent, &convert(&nothing, owner), GENERATION);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(error) => reply.error(errno(&error)),
    }
}
