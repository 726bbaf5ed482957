//! The limit of the interface: a file system over a directory that knows the whole tree
//! beforehand and does nothing but answer. Read-only; a process of its own. What it has to fetch
//! comes by one request on a connection that is kept, and is handed to the kernel as it is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    Session,
};

use crate::client::{Client, get};

pub const TTL: Duration = Duration::from_secs(365 * 24 * 3600);
pub const GENERATION: Generation = Generation(0);
const LARGEST: u32 = 1 << 20;
/// Who waits for a server holds a thread.
const FETCHING: usize = 4;

/// Where bytes come from.
pub enum Source {
    /// The kernel reads the files itself.
    Passthrough,
    /// They are read here.
    Files,
    /// A server, by its address, as they are opened.
    Server(String),
}

struct Node {
    path: PathBuf,
    attr: FileAttr,
    names: HashMap<OsString, u64>,
    listing: Vec<(OsString, u64)>,
}

struct Yardstick {
    root: PathBuf,
    /// A node's number is its place here and one more.
    nodes: Vec<Node>,
    source: Source,
    passthrough: bool,
    clients: Mutex<Vec<Client>>,
    kernel: Arc<OnceLock<Notifier>>,
    files: RwLock<HashMap<u64, File>>,
    next: AtomicU64,
    backings: Mutex<HashMap<u64, (Arc<BackingId>, usize)>>,
}

/// Mounts `dir` at `at`, and serves until it is unmounted.
pub fn serve(dir: &Path, at: &Path, source: Source) {
    let mut nodes = Vec::new();
    add(&mut nodes, dir.to_owned());
    let threads = match source {
        Source::Server(_) => FETCHING,
        Source::Passthrough | Source::Files => 2,
    };
    let kernel = Arc::<OnceLock<Notifier>>::default();
    let yardstick = Yardstick {
        root: dir.to_owned(),
        nodes,
        source,
        passthrough: false,
        clients: Mutex::default(),
        kernel: kernel.clone(),
        files: RwLock::default(),
        next: AtomicU64::new(1),
        backings: Mutex::default(),
    };
    run(yardstick, at, threads, |notifier| {
        let _ = kernel.set(notifier);
    });
}

/// Mounts a file system as Larder is mounted, and serves until it is unmounted.
pub fn run(
    system: impl Filesystem + 'static,
    at: &Path,
    threads: usize,
    tell: impl FnOnce(Notifier),
) {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("yardstick".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let session = Session::new(system, at, &config).unwrap();
    tell(session.notifier());
    session.spawn().unwrap().join().unwrap();
}

/// Has the kernel read and write files by itself, if it can.
pub fn passes_through(config: &mut KernelConfig) -> bool {
    config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok()
}

/// What is shown of the file or directory `ino`.
pub fn attr(ino: u64, meta: &Metadata) -> FileAttr {
    let time = UNIX_EPOCH + Duration::from_secs(meta.mtime().unsigned_abs());
    FileAttr {
        ino: INodeNo(ino),
        size: meta.len(),
        blocks: meta.blocks(),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: match meta.is_dir() {
            true => FileType::Directory,
            false => FileType::RegularFile,
        },
        perm: (meta.mode() & 0o7777) as u16,
        nlink: 1,
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Number 0 with a time to live: the kernel remembers that there is nothing.
pub fn reply_absent(reply: ReplyEntry, like: FileAttr) {
    let nothing = FileAttr {
        ino: INodeNo(0),
        ..like
    };
    reply.entry(&TTL, &nothing, GENERATION);
}

/// Adds what stands at `path`, and all below it. Gives its number.
fn add(nodes: &mut Vec<Node>, path: PathBuf) -> u64 {
    let meta = std::fs::symlink_metadata(&path).unwrap();
    let ino = nodes.len() as u64 + 1;
    nodes.push(Node {
        path: path.clone(),
        attr: attr(ino, &meta),
        names: HashMap::new(),
        listing: Vec::new(),
    });
    if meta.is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let child = add(nodes, entry.path());
            let node = &mut nodes[ino as usize - 1];
            node.names.insert(entry.file_name(), child);
            node.listing.push((entry.file_name(), child));
        }
    }
    ino
}

impl Yardstick {
    fn node(&self, ino: INodeNo) -> &Node {
        &self.nodes[ino.0 as usize - 1]
    }

    /// Gives the kernel all of a file.
    fn fetch(&self, ino: INodeNo, address: &str) {
        let kept = self.clients.lock().unwrap().pop();
        let mut client = kept.unwrap_or_else(|| Client::new(address));
        let name = self.node(ino).path.strip_prefix(&self.root).unwrap();
        let request = get(&format!("/v1/files/{}", name.display()));
        client.ask(&request).unwrap();
        self.kernel.wait().store(ino, 0, &client.body).unwrap();
        self.clients.lock().unwrap().push(client);
    }
}

impl Filesystem for Yardstick {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As Larder asks for them.
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_readahead(LARGEST);
        let _ = config.set_max_background(64);
        self.passthrough = matches!(self.source, Source::Passthrough) && passes_through(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent).names.get(name) {
            Some(&ino) => reply.entry(&TTL, &self.node(INodeNo(ino)).attr, GENERATION),
            None => reply_absent(reply, self.node(parent).attr),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.node(ino).attr);
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if let Source::Server(address) = &self.source {
            self.fetch(ino, address);
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
        let Ok(file) = File::open(&self.node(ino).path) else {
            return reply.error(Errno::EIO);
        };
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        if !self.passthrough {
            self.files.write().unwrap().insert(fh, file);
            return reply.opened(FileHandle(fh), FopenFlags::FOPEN_KEEP_CACHE);
        }
        let mut backings = self.backings.lock().unwrap();
        let (backing, opens) = backings.entry(ino.0).or_insert_with(|| {
            let backing = reply.open_backing(&file).unwrap();
            (Arc::new(backing), 0)
        });
        *opens += 1;
        let backing = backing.clone();
        drop(backings);
        reply.opened_passthrough(FileHandle(fh), FopenFlags::empty(), &backing);
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
        let mut buffer = vec![0; size as usize];
        let files = self.files.read().unwrap();
        match files
            .get(&fh.0)
            .map(|file| file.read_at(&mut buffer, offset))
        {
            Some(Ok(n)) => reply.data(&buffer[..n]),
            _ => reply.error(Errno::EIO),
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
        // The kernel does not ask again.
        reply.error(Errno::ENOSYS);
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
        if self.passthrough {
            let mut backings = self.backings.lock().unwrap();
            if let Some((_, opens)) = backings.get_mut(&ino.0) {
                *opens -= 1;
                if *opens == 0 {
                    backings.remove(&ino.0);
                }
            }
        } else {
            self.files.write().unwrap().remove(&fh.0);
        }
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = self.node(ino).listing.iter().enumerate();
        for (n, (name, child)) in listing.skip(offset as usize) {
            let kind = self.node(INodeNo(*child)).attr.kind;
            if reply.add(INodeNo(*child), n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = self.node(ino).listing.iter().enumerate();
        for (n, (name, child)) in listing.skip(offset as usize) {
            let attr = &self.node(INodeNo(*child)).attr;
            if reply.add(attr.ino, n as u64 + 1, name, &TTL, attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }
}
