//! Where a mount's socket lies, found without touching the mount.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{About, Error, Kind, Result};

/// Longest path that every system takes for a socket.
const SOCKET_PATH_MAX: usize = 100;
/// As the kernel has it.
const LINKS_MAX: usize = 40;

/// The one name of a mountpoint: absolute, without `.`, `..` and symbolic links.
///
/// Nothing of a file system that may be mounted at `path` itself is asked: its parent
/// is resolved, and the last name is only read as a link, which never reaches a daemon.
pub fn mountpoint(path: &Path) -> Result<PathBuf> {
    let shown = path.display().to_string();
    let mut path = lexical(&std::path::absolute(path).about(&shown)?);
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(path);
        };
        let parent = std::fs::canonicalize(parent).about(&shown)?;
        let here = parent.join(name);
        match std::fs::read_link(&here) {
            Ok(target) => path = lexical(&parent.join(target)),
            Err(_) => return Ok(here),
        }
    }
    Err(Error::new(Kind::Invalid, "too many symbolic links").about(shown))
}

/// `path` with `.` and `..` taken out by text alone.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Where the daemon at `mountpoint` (as [`mountpoint`] gives it) listens. Makes the
/// runtime directory if it is missing.
pub fn socket_path(mountpoint: &Path) -> Result<PathBuf> {
    let mut refused = None;
    for dir in runtime_dirs() {
        match prepare(&dir) {
            Ok(()) => return named(&dir, mountpoint),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let none = || Error::new(Kind::Denied, "no runtime directory; set XDG_RUNTIME_DIR");
    Err(refused.unwrap_or_else(none))
}

/// Where a daemon at `mountpoint` may listen: it may have been started with another
/// environment than ours.
pub(super) fn candidates(mountpoint: &Path) -> Vec<PathBuf> {
    let dirs = runtime_dirs()
        .into_iter()
        .filter(|dir| is_ours(dir).is_ok());
    dirs.filter_map(|dir| named(&dir, mountpoint).ok())
        .collect()
}

fn named(dir: &Path, mountpoint: &Path) -> Result<PathBuf> {
    let hash = Sha256::digest(mountpoint.as_os_str().as_bytes());
    let path = dir.join(format!("{}.sock", hex::encode(&hash[..8])));
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let text = "the runtime directory's path is too long for a socket; set XDG_RUNTIME_DIR to a shorter one";
        return Err(Error::new(Kind::NameTooLong, text).about(dir.display()));
    }
    Ok(path)
}

/// The directories in the order in which they are tried.
fn runtime_dirs() -> Vec<PathBuf> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).filter(|v| Path::new(v).is_absolute());
        value.map(PathBuf::from)
    };
    if let Some(dir) = absolute("LARDER_RUNTIME_DIR") {
        return vec![dir];
    }
    let uid = own_uid();
    if uid == 0 {
        return vec!["/run/larder".into(), "/tmp/larder-0".into()];
    }
    let mut dirs = Vec::new();
    dirs.extend(absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("larder")));
    let login = PathBuf::from(format!("/run/user/{uid}"));
    if login.is_dir() {
        dirs.push(login.join("larder"));
    }
    dirs.push(format!("/tmp/larder-{uid}").into());
    dirs
}

/// Whether a mount of `user` listens to somebody else than us.
pub fn is_foreign(user: u32) -> bool {
    user != own_uid()
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn prepare(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::from(error).about(dir.display()))
        }
        _ => is_ours(dir),
    }
}

/// Whether nobody else can put a socket into `dir`.
fn is_ours(dir: &Path) -> Result<()> {
    let facts = std::fs::symlink_metadata(dir).about(dir.display())?;
    let refused = |why: String| Err(Error::new(Kind::Denied, why).about(dir.display()));
    if !facts.is_dir() {
        return refused("is not a directory, so no socket can be put there; remove it".into());
    }
    if facts.uid() != own_uid() {
        return refused(format!(
            "belongs to user {}, so no socket is put there",
            facts.uid()
        ));
    }
    if facts.mode() & 0o077 != 0 {
        return refused("is open to other users; run `chmod 700` on it".into());
    }
    Ok(())
}

/// For messages: a path on one line.
pub(super) fn shown(path: &Path) -> String {
    let text = path.as_os_str().to_string_lossy();
    text.chars().flat_map(visible).collect()
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_mountpoint_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(root.join("a/mnt")).unwrap();
        std::os::unix::fs::symlink("a/mnt", root.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("link"), root.join("again")).unwrap();
        for text in [
            "a/mnt",
            "a/./mnt/",
            "a/x/../mnt",
            "link",
            "again",
            "a/mnt/.",
        ] {
            assert_eq!(
                mountpoint(&root.join(text)).unwrap(),
                root.join("a/mnt"),
                "{text}"
            );
        }
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        assert!(mountpoint(&root.join("loop")).is_err());
        assert!(mountpoint(&root.join("none/mnt")).is_err());
    }

    #[test]
    fn p10_a_runtime_directory_that_is_not_ours_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(
            prepare(&open)
                .unwrap_err()
                .to_string()
                .contains("chmod 700")
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(prepare(&link).is_err());
        let fresh = dir.path().join("fresh");
        prepare(&fresh).unwrap();
        assert_eq!(std::fs::metadata(&fresh).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn names_are_shown_on_one_line() {
        assert_eq!(
            shown(Path::new(OsStr::from_bytes(b"/a\nb/\xc3\xbc"))),
            "/a\\nb/ü"
        );
    }
}
