//! What this machine has.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Check, read};
use crate::cli::show;
use crate::control::Client;
use crate::daemon;

/// Bit of CAP_SYS_ADMIN in a capability mask.
const SYS_ADMIN: u64 = 1 << 21;
/// Fewer watches than this are not enough for a cache of usual size.
const FEW_WATCHES: u64 = 65_536;

/// Whether the FUSE device can be opened.
pub fn device() -> Check {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match opened {
        Ok(_) => Check::ok("device", "/dev/fuse can be opened"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Check::fail(
            "device",
            "/dev/fuse does not exist",
            "run `sudo modprobe fuse`; in a container, start it with --device /dev/fuse",
        ),
        Err(error) => Check::fail(
            "device",
            format!("/dev/fuse cannot be opened ({error})"),
            "run `sudo chmod 666 /dev/fuse`; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN",
        ),
    }
}

/// Whether an ordinary user can mount.
pub fn helper() -> Check {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join("fusermount3"))
            .find(|file| file.is_file())
    });
    let is_root = rustix::process::geteuid().is_root();
    match found {
        Some(path) => helper_at(&path, is_root),
        None if is_root => Check::ok("fusermount3", "not installed; root mounts without it"),
        None => Check::fail(
            "fusermount3",
            "not installed, and only root can mount without it",
            "run `sudo apt install fuse3` (or your system's package of that name)",
        ),
    }
}

fn helper_at(path: &PathBuf, is_root: bool) -> Check {
    let shown = path.display();
    let is_suid = std::fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0 && m.uid() == 0);
    if is_suid || is_root {
        return Check::ok("fusermount3", shown.to_string());
    }
    Check::warn(
        "fusermount3",
        format!("{shown} is not setuid root"),
        "if mounting is refused, reinstall the package fuse3",
    )
}

/// Whether reads can bypass the daemon.
pub fn passthrough(wanted: bool) -> Check {
    const NAME: &str = "passthrough";
    if !wanted {
        return Check::ok(NAME, "switched off; reads go through the page cache");
    }
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if kernel(release).is_none_or(|version| version < (6, 9)) {
        return Check::warn(
            NAME,
            format!("kernel {release} cannot; reads go through the page cache"),
            "everything works; a kernel from 6.9 on reads held files faster",
        );
    }
    if !has_sys_admin() {
        return Check::warn(
            NAME,
            format!("kernel {release} can, but not for this user; reads go through the page cache"),
            "everything works; mounted as root (CAP_SYS_ADMIN) held files are read faster",
        );
    }
    Check::ok(NAME, format!("kernel {release} reads held files directly"))
}

/// Major and minor of a kernel's release.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_sys_admin() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & SYS_ADMIN != 0)
}

/// Whether `larder serve` and programs of the user can watch many directories.
pub fn watches() -> Check {
    let most = read("/proc/sys/fs/inotify/max_user_watches");
    let most: Option<u64> = most.and_then(|text| text.trim().parse().ok());
    match most {
        None => Check::ok("watches", "no limit known here"),
        Some(n) if n >= FEW_WATCHES => {
            Check::ok("watches", format!("up to {} directories", show::number(n)))
        }
        Some(n) => Check::warn(
            "watches",
            format!("only {} directories can be watched", show::number(n)),
            "matters for `larder serve` only; run `sudo sysctl fs.inotify.max_user_watches=524288`",
        ),
    }
}

/// Whether `--allow-other` is allowed.
pub fn allow_other() -> Check {
    const NAME: &str = "allow-other";
    if rustix::process::geteuid().is_root() {
        return Check::ok(NAME, "root may");
    }
    let allowed = read("/etc/fuse.conf")
        .is_some_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    match allowed {
        true => Check::ok(NAME, "/etc/fuse.conf has user_allow_other"),
        false => Check::fail(
            NAME,
            "/etc/fuse.conf does not allow it to users",
            "add the line user_allow_other to /etc/fuse.conf, as root",
        ),
    }
}

/// The mountpoint and the store behind it. A living mount is not touched.
pub fn folder(mountpoint: &Path, store: &Path, min_free: u64) -> Vec<Check> {
    let at = mountpoint.display();
    let ours = daemon::mounts().unwrap_or_default();
    if ours.iter().any(|m| m.mountpoint == mountpoint) {
        let check = match Client::connect(mountpoint) {
            Ok(_) => Check::ok("mountpoint", format!("{at} is mounted")),
            Err(_) => Check::fail(
                "mountpoint",
                format!("{at} is mounted, but its daemon does not answer"),
                format!("run `larder umount {at}`; the files in it are safe"),
            ),
        };
        return vec![check];
    }
    let mut checks = vec![directory(mountpoint)];
    if checks
        .iter()
        .all(|check| check.verdict == super::Verdict::Ok)
    {
        checks.push(space(store, min_free));
    }
    checks
}

fn directory(mountpoint: &Path) -> Check {
    const NAME: &str = "mountpoint";
    let at = mountpoint.display();
    match std::fs::metadata(mountpoint) {
        Ok(facts) if facts.is_dir() => Check::ok(NAME, format!("{at} is a directory")),
        Ok(_) => Check::fail(
            NAME,
            format!("{at} is not a directory"),
            "choose a directory",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Check::fail(
            NAME,
            format!("{at} does not exist"),
            format!("run `mkdir -p {at}`"),
        ),
        Err(error) => Check::fail(
            NAME,
            format!("{at} cannot be used ({error})"),
            "if a dead mount is there, `fusermount3 -u -z` on it helps",
        ),
    }
}

fn space(store: &Path, min_free: u64) -> Check {
    const NAME: &str = "disk";
    let shown = store.display();
    let facts = match rustix::fs::statvfs(store) {
        Ok(facts) => facts,
        Err(error) => {
            let found = format!("{shown} cannot be looked at ({error})");
            return Check::fail(NAME, found, "check that the directory is there and yours");
        }
    };
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    let found = format!("{} free at {shown}", show::bytes(free));
    if rustix::fs::access(store, rustix::fs::Access::WRITE_OK).is_err() {
        let advice = "a store has to be written; give another one with --store";
        return Check::fail(NAME, format!("{shown} cannot be written"), advice);
    }
    if free < min_free {
        let advice = format!(
            "nothing can be kept, for {} are to stay free; make room or lower --min-free",
            show::bytes(min_free)
        );
        return Check::fail(NAME, found, advice);
    }
    Check::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn kernels_are_read() {
        assert_eq!(kernel("6.9.0-rc1-amd64"), Some((6, 9)));
        assert_eq!(kernel("5.15.0"), Some((5, 15)));
        assert_eq!(kernel("odd"), None);
    }

    #[test]
    fn a_folder_that_cannot_be_used_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let verdict = |path: &Path, free| folder(path, path, free).pop().unwrap();
        assert_eq!(verdict(&file, 0).verdict, Verdict::Fail);
        let missing = verdict(&dir.path().join("none"), 0);
        assert!(missing.advice.contains("mkdir -p"), "{missing:?}");
        assert_eq!(verdict(dir.path(), 0).verdict, Verdict::Ok);
        assert!(verdict(dir.path(), u64::MAX).advice.contains("--min-free"));
    }
}
