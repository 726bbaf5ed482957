//! Writes to the directory: a whole temporary file, then, under the lock that all larders
//! take, the precondition and the rename.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use sha2::Digest;

use super::{look, meta};
use crate::backends::Upload;
use crate::backends::pulse::Pulse;
use crate::backends::verdict::conflict;
use crate::beneath::{Dir, FileKind, Mode, OFlags, Onto, facts_of, set_times_of};
use crate::clock::{Chance, Clock};
use crate::error::{Error, Kind, Result};
use crate::object::{Meta, Precondition, Version};
use crate::path::RelPath;

/// Temporary files older than this were left behind by somebody who died.
const LEFT_BEHIND_NS: i64 = 24 * 3600 * 1_000_000_000;

/// See [`Backend::put`](crate::backends::Backend::put).
pub(super) fn put(
    root: &Dir,
    key: &RelPath,
    upload: &Upload,
    only: &Precondition,
    pulse: &Pulse,
    patience: Duration,
) -> Result<Meta> {
    let ours = root.reserved()?;
    let temporary = Temporary::make(&ours)?;
    copy(upload, &temporary.file, pulse)?;
    set_times_of(&temporary.file, None, Some(upload.mtime_ns))?;
    temporary.file.sync_all()?;
    pulse.beat();
    let _turn = turn(&ours, patience)?;
    check(root, key, only)?;
    let parent = key.parent().unwrap_or_default();
    root.make_dirs(&parent)?;
    ours.rename_into(&temporary.name, root, key, Onto::Replace)?;
    let meta = meta(&facts_of(&temporary.file)?)?;
    root.sync(&parent)?;
    Ok(meta)
}

/// See [`Backend::delete`](crate::backends::Backend::delete). Directories that it leaves
/// empty go as well, as they came.
pub(super) fn delete(
    root: &Dir,
    key: &RelPath,
    version: Option<&Version>,
    patience: Duration,
) -> Result<()> {
    let ours = root.reserved()?;
    let _turn = turn(&ours, patience)?;
    let Some(now) = look(root, key)? else {
        return Ok(());
    };
    if version.is_some_and(|version| *version != now.version) {
        return Err(conflict());
    }
    root.remove_file(key)?;
    let mut above = key.parent();
    while let Some(parent) = above.filter(|parent| !parent.is_root()) {
        if root.remove_dir(&parent).is_err() {
            break;
        }
        above = parent.parent();
    }
    Ok(())
}

fn check(root: &Dir, key: &RelPath, only: &Precondition) -> Result<()> {
    let now = match root.stat(key) {
        Ok(facts) => match facts.kind {
            FileKind::File => Some(meta(&facts)?.version),
            FileKind::Dir => {
                return Err(Error::new(Kind::IsADirectory, "a directory is in the way"));
            }
            _ => return Err(Error::new(Kind::Denied, "a link or a device is in the way")),
        },
        Err(error) if error.kind() == Kind::NotFound => None,
        Err(error) => return Err(error),
    };
    match only {
        Precondition::Absent if now.is_some() => Err(conflict()),
        Precondition::Matches(version) if now.as_ref() != Some(version) => Err(conflict()),
        _ => Ok(()),
    }
}

/// Copies, and proves that what was copied is what was promised.
fn copy(upload: &Upload, to: &File, pulse: &Pulse) -> Result<()> {
    let piece = upload.pace.piece();
    let mut buffer = vec![0; piece];
    let mut hash = sha2::Sha256::new();
    let mut at = 0;
    while at < upload.size {
        if pulse.is_abandoned() {
            return Err(Error::new(Kind::Cancelled, "nobody waits for it any more"));
        }
        let left = usize::try_from(upload.size - at).unwrap_or(piece);
        let most = left.min(piece);
        let count = match upload.file.read_at(&mut buffer[..most], at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        let paused = pulse.pause();
        upload.pace.take_blocking(count);
        drop(paused);
        to.write_all_at(&buffer[..count], at)?;
        hash.update(&buffer[..count]);
        at += count as u64;
        pulse.beat();
    }
    match at == upload.size && *hash.finalize() == upload.sha256.0 {
        true => Ok(()),
        false => {
            let why = "the file changed while it was sent";
            Err(Error::new(Kind::Corrupt, why))
        }
    }
}

/// Waits for this larder's turn to write; it ends when the file is closed.
fn turn(ours: &Dir, patience: Duration) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let lock = ours.open_file(
        &RelPath::new(b"put.lock")?,
        flags,
        Mode::from_raw_mode(0o600),
    )?;
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => {
                let why = "another larder keeps the directory locked";
                return Err(Error::new(Kind::TimedOut, why));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A file that is being written; gone when dropped, unless it was renamed.
struct Temporary<'a> {
    ours: &'a Dir,
    name: RelPath,
    file: File,
}

impl Temporary<'_> {
    fn make(ours: &Dir) -> Result<Temporary<'_>> {
        let partial = RelPath::new(b"partial")?;
        ours.make_dirs(&partial)?;
        sweep(ours, &partial);
        let name = format!("partial/{:016x}.put", Chance::from_system().next_u64());
        let name = RelPath::new(name.as_bytes())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = ours.open_file(&name, flags, Mode::from_raw_mode(0o644))?;
        Ok(Temporary { ours, name, file })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing left of this name.
        let _ = self.ours.remove_file(&self.name);
    }
}

/// Removes what was left behind. Best effort: the next upload tries again. A temporary's
/// mtime may already be the writer's, so its ctime tells its age.
fn sweep(ours: &Dir, partial: &RelPath) {
    let now = Clock::System.now_ns();
    for entry in ours.read_dir(partial).unwrap_or_default() {
        let is_old = now.saturating_sub(entry.facts.ctime_ns) > LEFT_BEHIND_NS;
        if !is_old || !entry.name.ends_with(b".put") {
            continue;
        }
        if let Ok(path) = RelPath::new(&[b"partial/".as_slice(), &entry.name].concat()) {
            let _ = ours.remove_file(&path);
        }
    }
}
