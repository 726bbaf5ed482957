//! Where log lines go: standard error, or a file in the store that does not grow for ever.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::error::{About, Error, Kind, Result};
use crate::path::RESERVED;

/// A log file that reaches this size becomes `larder.log.1`, whose predecessor goes.
const MOST: u64 = 4 << 20;
const NAME: &str = "larder.log";

/// Log lines to standard error.
pub fn to_stderr(filter: &str) -> Result<()> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(checked(filter)?)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false);
    lines
        .try_init()
        .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
    catch_panics();
    Ok(())
}

/// Log lines to `.larder/larder.log` in `store`. The directory is opened now, before
/// anything is mounted over it, and never looked up again.
pub fn to_store(filter: &str, store: &Path) -> Result<()> {
    let filter = checked(filter)?;
    let rolling = Rolling::open(&store.join(RESERVED), MOST)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Mutex::new(rolling))
        .with_ansi(false)
        .with_target(false);
    lines
        .try_init()
        .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
    catch_panics();
    Ok(())
}

/// Whether `filter` can be used, before anything is started.
pub fn checked(filter: &str) -> Result<EnvFilter> {
    // It calls every file that is not there an error, and shows signatures.
    let quieter = format!("{filter},s3s=off");
    EnvFilter::try_new(quieter).map_err(|_| {
        let text = format!(
            "log = {filter:?} is not usable: it must be error, warn, info, debug, trace, or a filter such as larder=debug"
        );
        Error::new(Kind::Invalid, text)
    })
}

fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("this is a bug, please report it: {panic}");
    }));
}

struct Rolling {
    /// Keeps the directory open: the paths go through its descriptor.
    _dir: File,
    path: PathBuf,
    old: PathBuf,
    file: File,
    size: u64,
    most: u64,
}

impl Rolling {
    fn open(dir: &Path, most: u64) -> Result<Rolling> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::from(error).about(dir.display()));
            }
            _ => {}
        }
        let facts = std::fs::symlink_metadata(dir).about(dir.display())?;
        if !facts.is_dir() {
            let text = "is not a directory; a store needs it for its own files, so move it away";
            return Err(Error::new(Kind::NotADirectory, text).about(dir.display()));
        }
        // It may have become a link since.
        let held = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY)
            .open(dir)
            .about(dir.display())?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        let path = here.join(NAME);
        let file = append(&path).about(dir.join(NAME).display())?;
        let size = file.metadata().about(dir.join(NAME).display())?.size();
        Ok(Rolling {
            _dir: held,
            old: here.join(format!("{NAME}.1")),
            path,
            file,
            size,
            most,
        })
    }

    fn roll(&mut self) -> io::Result<()> {
        std::fs::rename(&self.path, &self.old)?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

impl Write for Rolling {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size >= self.most {
            self.roll()?;
        }
        let n = self.file.write(line)?;
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_the_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let mut log = Rolling::open(&store.join(RESERVED), 100).unwrap();
        // What lies over the store later is not asked.
        std::fs::rename(&store, dir.path().join("moved")).unwrap();
        for _ in 0..100 {
            log.write_all(b"ten bytes\n").unwrap();
        }
        let at = dir.path().join("moved").join(RESERVED);
        let names = std::fs::read_dir(&at).unwrap().count();
        let sum: u64 = std::fs::read_dir(&at)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!((names, sum), (2, 200));
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join(RESERVED)).unwrap();
        assert!(Rolling::open(&dir.path().join(RESERVED), 100).is_err());
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(
            checked("larder=loud")
                .unwrap_err()
                .to_string()
                .contains("larder=loud")
        );
        assert!(checked("info,larder=debug").is_ok());
    }
}
