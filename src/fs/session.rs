//! Mounting, and the threads that serve the kernel until it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use fuser::{
    BackgroundSession, Config, INodeNo, InitFlags, KernelConfig, MountOption, Session, SessionACL,
};

use super::Edge;
use super::mounts::{How, unmount};
use super::passthrough::Backings;
use crate::error::{Error, Kind, Result};
use crate::index::Event;
use crate::overlay::{Caller, Overlay};

/// How to mount.
pub struct Options {
    pub mountpoint: PathBuf,
    /// What the system lists as mounted there.
    pub source: String,
    pub allow_other: bool,
    pub read_only: bool,
    pub passthrough: bool,
    pub threads: usize,
}

/// A mount that is being served.
pub struct Mounted {
    session: BackgroundSession,
    mountpoint: PathBuf,
    notifier: JoinHandle<()>,
    is_passthrough: Arc<AtomicBool>,
}

/// Mounts and serves. `events` tells what the kernel must forget.
pub fn mount(
    overlay: Arc<Overlay>,
    runtime: tokio::runtime::Handle,
    options: &Options,
    events: Receiver<Event>,
) -> Result<Mounted> {
    let is_passthrough = Arc::new(AtomicBool::new(false));
    let (index, cached) = (overlay.index.clone(), overlay.clone());
    let edge = Edge {
        overlay,
        runtime,
        wants_passthrough: options.passthrough && rustix::process::geteuid().is_root(),
        backings: Arc::new(Backings::new(false)),
        is_passthrough: is_passthrough.clone(),
        owner: Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        source: options.source.as_str().into(),
    };
    let session = Session::new(edge, &options.mountpoint, &config(options))
        .map_err(|e| explain(&e, options))?;
    let notifier = session.notifier();
    let kernel = notifier.clone();
    cached.set_cache(move |id, bytes| kernel.store(INodeNo(id.0), 0, bytes).is_ok());
    let notifier = std::thread::Builder::new()
        .name("larder-notify".into())
        .spawn(move || super::notify::run(&events, &notifier, &index))?;
    let session = session.spawn().map_err(|e| explain(&e, options))?;
    Ok(Mounted {
        session,
        mountpoint: options.mountpoint.clone(),
        notifier,
        is_passthrough,
    })
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("larder".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(options.threads.max(2));
    config.clone_fd = true;
    config
}

/// Largest request: what one read or write brings at most.
const LARGEST: u32 = 1 << 20;

/// Agrees with the kernel on what it offers. Returns whether held files bypass this process.
pub(super) fn negotiate(
    config: &mut KernelConfig,
    wants_passthrough: bool,
) -> std::io::Result<bool> {
    // Each is a gain where the kernel has it, and none is needed.
    for flag in [
        // Not the kernel's own choice (`FUSE_READDIRPLUS_AUTO`): it takes attributes with the first page
        // of a directory alone, and asks for each of the others.
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        // A cached listing is compared with its directory's time.
        InitFlags::FUSE_AUTO_INVAL_DATA,
    ] {
        let _ = config.add_capabilities(flag);
    }
    // Truncating opens are replacements here; without this they would be two requests.
    if config
        .add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC)
        .is_err()
    {
        return Err(std::io::Error::other(
            "the kernel's FUSE is too old: it cannot open with O_TRUNC in one step",
        ));
    }
    let _ = config.set_max_write(LARGEST);
    let _ = config.set_max_readahead(LARGEST);
    let _ = config.set_max_background(64);
    let passthrough = wants_passthrough
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok();
    Ok(passthrough)
}

/// What a person can do about a mount that failed.
fn explain(error: &std::io::Error, options: &Options) -> Error {
    let hint = if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse; load the kernel module `fuse`, or give the container the device"
    } else if std::fs::File::open("/dev/fuse").is_err() {
        "this user may not open /dev/fuse; as root, run `chmod 666 /dev/fuse`"
    } else if options.allow_other && !rustix::process::geteuid().is_root() {
        "--allow-other needs the line `user_allow_other` in /etc/fuse.conf"
    } else if error.kind() == std::io::ErrorKind::NotFound {
        "is the package fuse3 (fusermount3) installed?"
    } else {
        "see `larder doctor`"
    };
    let text = format!("cannot be mounted ({error}); {hint}");
    Error::new(Kind::Io, text).about(options.mountpoint.display())
}

impl Mounted {
    /// Whether reads of held files bypass this process.
    pub fn is_passthrough(&self) -> Arc<AtomicBool> {
        self.is_passthrough.clone()
    }

    /// Takes the mount away. Errors: `Busy` while files in it are open.
    pub fn unmount(&self, how: How) -> Result<()> {
        unmount(&self.mountpoint, how)
    }

    /// Whether the kernel has ended the session: somebody unmounted it.
    pub fn has_ended(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Waits until the session's threads have ended. The event senders must be gone by then.
    pub fn join(self) -> Result<()> {
        self.session.join()?;
        // A panic there was reported where it happened.
        let _ = self.notifier.join();
        Ok(())
    }
}
