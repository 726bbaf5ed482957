//! The limit of the interface where files are written: one flat directory that a directory lies
//! beneath, and no thought of what happens when it is killed. A process of its own.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, WriteFlags,
};

use crate::yardstick::{GENERATION, TTL, attr, passes_through, reply_absent, run};

const TOP: u64 = 1;

struct Scratch {
    dir: PathBuf,
    names: Mutex<HashMap<OsString, u64>>,
    /// Numbers are those of the files, which are opened once each.
    open: Mutex<HashMap<u64, (File, Option<BackingId>)>>,
    next: AtomicU64,
    passthrough: bool,
}

/// Mounts `dir`, which is empty, at `at`, and serves until it is unmounted.
pub fn serve(dir: &Path, at: &Path) {
    let scratch = Scratch {
        dir: dir.to_owned(),
        names: Mutex::default(),
        open: Mutex::default(),
        next: AtomicU64::new(TOP + 1),
        passthrough: false,
    };
    run(scratch, at, 2, drop);
}

impl Scratch {
    fn top(&self) -> FileAttr {
        attr(TOP, &fs::metadata(&self.dir).unwrap())
    }
}

impl Filesystem for Scratch {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.passthrough = passes_through(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.names.lock().unwrap().get(name) {
            Some(&ino) => {
                let meta = fs::metadata(self.dir.join(name)).unwrap();
                reply.entry(&TTL, &attr(ino, &meta), GENERATION);
            }
            None => reply_absent(reply, self.top()),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if ino.0 == TOP {
            return reply.attr(&TTL, &self.top());
        }
        let open = self.open.lock().unwrap();
        match open.get(&ino.0) {
            Some((file, _)) => reply.attr(&TTL, &attr(ino.0, &file.metadata().unwrap())),
            None => reply.error(Errno::EIO),
        }
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let file = File::create_new(self.dir.join(name)).unwrap();
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let (made, none) = (attr(ino, &file.metadata().unwrap()), FopenFlags::empty());
        let backing = self.passthrough.then(|| reply.open_backing(&file).unwrap());
        let mut open = self.open.lock().unwrap();
        let (_, backing) = open.entry(ino).or_insert((file, backing));
        self.names.lock().unwrap().insert(name.to_owned(), ino);
        match backing {
            Some(backing) => {
                reply.created_passthrough(&TTL, &made, GENERATION, FileHandle(ino), none, backing);
            }
            None => reply.created(&TTL, &made, GENERATION, FileHandle(ino), none),
        }
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
        let open = self.open.lock().unwrap();
        match open[&fh.0].0.write_all_at(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Whoever makes a promise at `close()` has to hear of it.
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().unwrap().remove(&fh.0);
        reply.ok();
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if fs::rename(self.dir.join(name), self.dir.join(newname)).is_err() {
            return reply.error(Errno::EIO);
        }
        let mut names = self.names.lock().unwrap();
        let ino = names.remove(name).unwrap();
        names.insert(newname.to_owned(), ino);
        reply.ok();
    }
}
