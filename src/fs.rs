//! The kernel's edge: decodes requests, answers what can be answered at once, gives
//! the rest to tasks that own their reply, and converts attributes.
//!
//! A thread of the kernel's never waits for a network. What the mount means is
//! decided in `overlay`.

mod attr;
pub mod errno;
pub mod killed;
mod listing;
pub mod mounts;
pub mod notify;
mod passthrough;
mod reply;
mod session;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::beneath::XattrSet;
use crate::crash;
use crate::index::{NodeId, NodeKind};
use crate::overlay::read::Access;
use crate::overlay::rename::RenameMode;
use crate::overlay::tree::Changes;
use crate::overlay::{Answer, Attr, Caller, Opened, Overlay};

use attr::{dot_attr, requested_time};
use errno::errno;
use listing::Listed;
use passthrough::{Backings, Mode};
use reply::{done, existing, new_name, reply_found, reply_xattr};
pub use session::{Mounted, Options, mount};

/// The kernel is told of every change, so what it was told stays true.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);
const GENERATION: Generation = Generation(0);

/// The file system as the kernel calls it.
pub struct Edge {
    overlay: Arc<Overlay>,
    runtime: tokio::runtime::Handle,
    wants_passthrough: bool,
    backings: Arc<Backings>,
    /// Told to the rest of the daemon: whether reads bypass it.
    is_passthrough: Arc<AtomicBool>,
    owner: Caller,
    /// What the system lists as mounted.
    source: Arc<str>,
}

fn id(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

impl Filesystem for Edge {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let passthrough = session::negotiate(config, self.wants_passthrough)?;
        self.backings = Arc::new(Backings::new(passthrough));
        self.is_passthrough.store(passthrough, Ordering::SeqCst);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = match existing(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (owner, lasts, parent) = (self.owner, self.lasts(), id(parent));
        match self.overlay.lookup_for(req.pid(), parent, &name) {
            Answer::Now(found) => reply_found(reply, found, owner, lasts.until(lasts, parent)),
            Answer::Later(pending) => {
                let overlay = self.overlay.clone();
                self.runtime.spawn(async move {
                    let found = pending.await;
                    let lasts = lasts.until(reply::lasts(&overlay), parent);
                    reply_found(reply, found, owner, lasts);
                });
            }
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.overlay.attr_for(req.pid(), id(ino)) {
            Ok(attr) => reply.attr(&TTL, &self.attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            size,
            mode,
            uid,
            gid,
            mtime_ns: mtime.map(requested_time),
        };
        let edge = self.light();
        let answer = self.overlay.set_attr_for(req.pid(), id(ino), changes);
        self.give(answer, reply, move |reply, result| match result {
            Ok(attr) => reply.attr(&TTL, &edge.attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.overlay.read_link(id(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG && mode & libc::S_IFMT != 0 {
            // Pipes, sockets and devices mean nothing to a remote.
            return reply.error(Errno::EPERM);
        }
        let made = new_name(name).and_then(|name| {
            let (attr, opened) =
                self.overlay
                    .create(id(parent), &name, mode & !umask, Self::caller(req))?;
            self.overlay.flush(opened.fh, || false)?;
            self.overlay.release(opened.fh)?;
            Ok(attr)
        });
        self.reply_entry(reply, made);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = new_name(name).and_then(|name| {
            self.overlay
                .make_dir(id(parent), &name, mode & !umask, Self::caller(req))
        });
        self.reply_entry(reply, made);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(
            reply,
            existing(name).and_then(|name| self.overlay.unlink(id(parent), &name)),
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(
            reply,
            existing(name).and_then(|name| self.overlay.remove_dir(id(parent), &name)),
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        let made = new_name(link_name).and_then(|name| {
            let target = target.as_os_str().as_bytes();
            self.overlay
                .symlink(id(parent), &name, target, Self::caller(req))
        });
        self.reply_entry(reply, made);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            f if f == RenameFlags::empty() => RenameMode::Replace,
            f if f == RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            f if f == RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let renamed = existing(name).and_then(|from| {
            let to = new_name(newname)?;
            self.overlay
                .rename((id(parent), &from), (id(newparent), &to), mode)
        });
        done(reply, renamed);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        // One file, one name: a remote has no second one to give.
        reply.error(Errno::EPERM);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = Access {
            write: flags.acc_mode() != OpenAccMode::O_RDONLY,
            truncate: flags.0 & libc::O_TRUNC != 0,
        };
        let (edge, overlay, opener) = (self.light(), self.overlay.clone(), req.pid());
        let answer = self.overlay.open_for(opener, id(ino), access);
        let told = move |opened: Opened| {
            if opened.writes {
                overlay.opened_by(opened.fh, opener)?;
            }
            Ok(opened)
        };
        self.give(answer, reply, move |reply, result| {
            match result.and_then(told) {
                Ok(opened) => edge.reply_opened(reply, &opened),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = new_name(name).and_then(|name| {
            let made = self
                .overlay
                .create(id(parent), &name, mode & !umask, Self::caller(req))?;
            self.overlay.opened_by(made.1.fh, req.pid())?;
            Ok(made)
        });
        let _ = flags;
        match made {
            Ok((attr, opened)) => {
                let attr = self.attr(&attr);
                let fh = FileHandle(opened.fh);
                match self.mode_for(&opened, |file| reply.open_backing(file)) {
                    Mode::Passthrough(backing) => {
                        reply.created_passthrough(
                            &TTL,
                            &attr,
                            GENERATION,
                            fh,
                            FopenFlags::empty(),
                            &backing,
                        );
                    }
                    Mode::Cached => reply.created(&TTL, &attr, GENERATION, fh, self.cached_flags()),
                }
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = self.overlay.read(fh.0, offset, size);
        self.give(answer, reply, |reply, result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.overlay.write(fh.0, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let closer = killed::Task {
            pid: req.pid(),
            node: id(ino),
            source: self.source.clone(),
        };
        done(reply, self.overlay.flush(fh.0, closer));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // The kernel let go of it before it said so. Who opens the file from now on may get another
        // one, written beside it, and must not be sent to this.
        self.backings.leave(id(ino));
        crash::point("release.told");
        let released = self.overlay.release(fh.0);
        if let Err(error) = &released {
            // Nobody hears the answer to a release.
            tracing::error!(%error, "a closed file could not be put in place; its bytes are kept in the store");
        }
        done(reply, released);
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        done(reply, self.overlay.sync_file(fh.0, datasync));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let answer = self.overlay.open_dir(id(ino));
        self.give(answer, reply, |reply, result| match result {
            Ok(fh) => reply.opened(
                FileHandle(fh),
                FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(ino, fh.0, offset, &mut |entry| match entry {
            Listed::Dot(ino, next, name) => {
                !reply.add(ino, next, FileType::Directory, OsStr::new(name))
            }
            Listed::Entry(entry, next) => {
                let attr = self.attr(&entry.attr);
                !reply.add(attr.ino, next, attr.kind, entry.name.as_os_str())
            }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let lasts = self.lasts().present;
        let listed = self.list(ino, fh.0, offset, &mut |entry| match entry {
            Listed::Dot(ino, next, name) => {
                // The kernel takes nothing from these two but their names.
                let attr = self.attr(&Attr {
                    id: NodeId(ino.0),
                    kind: NodeKind::Dir,
                    ..dot_attr()
                });
                !reply.add(ino, next, OsStr::new(name), &TTL, &attr, GENERATION)
            }
            Listed::Entry(entry, next) => {
                let attr = self.attr(&entry.attr);
                !reply.add(
                    attr.ino,
                    next,
                    entry.name.as_os_str(),
                    &lasts,
                    &attr,
                    GENERATION,
                )
            }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.overlay.close_dir(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        done(reply, self.overlay.sync_dir(id(ino)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.overlay.store.space() {
            Ok(space) => {
                let block = space.block_size.max(1);
                let (total, free) = (space.total / block, space.free / block);
                let size = u32::try_from(block).unwrap_or(4096);
                reply.statfs(
                    total,
                    free,
                    free,
                    space.files,
                    space.files_free,
                    size,
                    255,
                    size,
                );
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            libc::XATTR_CREATE => XattrSet::Absent,
            libc::XATTR_REPLACE => XattrSet::Present,
            _ => XattrSet::Any,
        };
        done(
            reply,
            self.overlay.set_xattr(id(ino), name.as_bytes(), value, how),
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.overlay.xattr(id(ino), name.as_bytes()));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.overlay.xattrs(id(ino)).map(|names| {
            names
                .into_iter()
                .flat_map(|name| name.into_iter().chain([0]))
                .collect::<Vec<u8>>()
        });
        reply_xattr(reply, size, names);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.overlay.remove_xattr(id(ino), name.as_bytes()));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        done(
            reply,
            self.overlay.allocate(fh.0, offset, length, keep_size),
        );
    }
}
