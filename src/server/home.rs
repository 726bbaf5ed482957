//! Where the server keeps its own things: the index, the lock, uploads that are on their way.
//!
//! In the served directory's `.larder`, so that an upload is published by a rename; where
//! that cannot be written, in the user's state directory, and then nothing can be uploaded.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::beneath::{Dir, Mode, OFlags};
use crate::clock::Chance;
use crate::error::{About, Error, Kind, Result};
use crate::path::{RESERVED, RelPath};

use super::root::Root;

/// The lock on the place; it ends with this.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The place, and the lock on it.
pub struct Home {
    /// Where the index is.
    pub index: PathBuf,
    /// None: the served directory cannot be written.
    pub uploads: Option<Uploads>,
    pub lock: Lock,
}

impl Home {
    /// Takes possession. [`Kind::Busy`] when another server has it.
    pub fn open(root: &Root, state_dir: Option<PathBuf>) -> Result<Home> {
        match Home::inside(root) {
            Err(error) if matches!(error.kind(), Kind::ReadOnly | Kind::Denied) => {
                Home::outside(root, state_dir)
            }
            other => other,
        }
    }

    fn inside(root: &Root) -> Result<Home> {
        let larder = root.dir().reserved()?;
        let path = RelPath::new(b"serve.lock")?;
        let mode = Mode::from_raw_mode(0o600);
        let lock = larder.open_file(&path, OFlags::RDWR | OFlags::CREATE, mode)?;
        let lock = hold(lock)?;
        let uploads = Uploads::open(&larder)?;
        Ok(Home {
            index: root.path().join(RESERVED).join("serve.db"),
            uploads: Some(uploads),
            lock,
        })
    }

    fn outside(root: &Root, state_dir: Option<PathBuf>) -> Result<Home> {
        let dir = state_dir.map_or_else(default_state_dir, Ok)?;
        // It has the names of all that is served.
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&dir).about(dir.display())?;
        let dir = fs::canonicalize(&dir).about(dir.display())?;
        let digest = Sha256::digest(root.path().as_os_str().as_encoded_bytes());
        let name = format!("serve-{}", hex::encode(&digest[..8]));
        let lock = dir.join(format!("{name}.lock"));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .about(lock.display())?;
        Ok(Home {
            index: dir.join(format!("{name}.db")),
            uploads: None,
            lock: hold(file)?,
        })
    }
}

/// Locks the file for this process and writes its number into it.
fn hold(mut file: File) -> Result<Lock> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Only for the message; an unreadable number does not change the refusal.
            let _ = (&file).take(20).read_to_string(&mut owner);
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "the directory is served already, by process {}; stop that one first",
                    owner.trim()
                ),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Lock { _file: file })
}

fn default_state_dir() -> Result<PathBuf> {
    let given = |name| env::var_os(name).map(PathBuf::from);
    if let Some(dir) = given("XDG_STATE_HOME").filter(|dir| dir.is_absolute()) {
        return Ok(dir.join("larder"));
    }
    match given("HOME") {
        Some(home) if home != Path::new("/root") => Ok(home.join(".local/state/larder")),
        Some(_) => Ok(PathBuf::from("/var/lib/larder")),
        None => Err(Error::new(
            Kind::Invalid,
            "the served directory cannot be written and there is no HOME to keep the index in; set XDG_STATE_HOME",
        )),
    }
}

/// The directory of uploads that are on their way. Whatever is in it at a start was cut off.
pub struct Uploads {
    dir: Arc<Dir>,
    chance: Chance,
}

impl Uploads {
    fn open(larder: &Dir) -> Result<Uploads> {
        let name = RelPath::new(b"uploads")?;
        match larder.make_dir(&name, 0o700) {
            Err(error) if error.kind() != Kind::Exists => return Err(error),
            _ => {}
        }
        let dir = larder.open_dir(&name)?;
        for left in dir.read_dir(&RelPath::root())? {
            let removed = RelPath::new(&left.name).and_then(|name| dir.remove_file(&name));
            if let Err(error) = removed {
                tracing::warn!(%error, "what an interrupted upload left cannot be removed");
            }
        }
        Ok(Uploads {
            dir: Arc::new(dir),
            chance: Chance::from_system(),
        })
    }

    /// A new, empty file. It is removed when it is dropped unpublished.
    pub fn begin(&self) -> Result<Incoming> {
        let name = RelPath::new(format!("{:016x}", self.chance.next_u64()).as_bytes())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self
            .dir
            .open_file(&name, flags, Mode::from_raw_mode(0o666))?;
        Ok(Incoming {
            dir: self.dir.clone(),
            name,
            file,
            published: false,
        })
    }
}

/// One upload on its way.
pub struct Incoming {
    dir: Arc<Dir>,
    name: RelPath,
    pub file: File,
    published: bool,
}

impl Incoming {
    /// Gives the file its name in the tree, in one step.
    pub fn publish(&mut self, root: &Dir, to: &RelPath, onto: crate::beneath::Onto) -> Result<()> {
        self.dir.rename_into(&self.name, root, to, onto)?;
        self.published = true;
        Ok(())
    }
}

impl Incoming {
    /// Sets the bytes aside, complete but without a name in the tree, and without a descriptor.
    pub fn park(mut self) -> Parked {
        self.published = true;
        Parked {
            dir: self.dir.clone(),
            name: self.name.clone(),
        }
    }
}

/// Bytes that came and wait to become part of a file. They are removed when this is dropped.
pub struct Parked {
    dir: Arc<Dir>,
    name: RelPath,
}

impl Parked {
    /// For reading.
    pub fn open(&self) -> Result<File> {
        self.dir
            .open_file(&self.name, OFlags::RDONLY, Mode::empty())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = self.dir.remove_file(&self.name);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.published {
            // What stays is removed at the next start.
            let _ = self.dir.remove_file(&self.name);
        }
    }
}
