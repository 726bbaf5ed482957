//! Finding the mount that is meant, and asking it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::show::{self, Meter};
use super::{Context, Outcome};
use crate::control::{self, Answer, Client, Report, Request};
use crate::daemon;
use crate::error::{About, Error, Kind, Result};
use crate::path::RelPath;

/// Asks the mount and shows progress on the way.
pub fn ask(client: &mut Client, request: &Request) -> Result<Answer> {
    let mut meter = Meter::new();
    client.ask(request, &mut |step| meter.step(&step))
}

/// The report of an order.
pub fn order(client: &mut Client, request: &Request) -> Result<Report> {
    match ask(client, request)? {
        Answer::Done(report) => Ok(report),
        _ => Err(unexpected()),
    }
}

/// An answer to another question than was asked.
pub fn unexpected() -> Error {
    let text = "the daemon answered something else; it is of another version than this command, so unmount and mount again";
    Error::new(Kind::Unsupported, text)
}

/// Says what an order did.
pub fn tell(report: &Report, json: bool) -> Result<Outcome> {
    if json {
        show::say_json(report)?;
    } else if !report.text.is_empty() {
        show::say(&report.text)?;
    }
    for failure in &report.failures {
        show::complain(failure);
    }
    let shown = report.failures.len() as u64;
    if report.failed > shown && shown > 0 {
        let more = show::count(report.failed - shown, "more failure", "more failures");
        show::complain(&more);
    }
    Ok(match report.failed {
        0 => Outcome::Done,
        _ => Outcome::NotAll,
    })
}

/// Whoever answers for a folder: the daemon of its mount, or, where it is not mounted, this process.
pub enum Asked {
    Mount(Client),
    Folder(PathBuf),
}

impl Asked {
    /// Whoever answers for the mount or the folder at `path`; without one, for the only mount.
    pub fn at(path: Option<&Path>, context: &Context) -> Result<Asked> {
        match (mount_at(path, context), path) {
            (Err(error), Some(path)) if error.kind() == Kind::NotFound => {
                match daemon::store_above(path)? {
                    Some((folder, inside)) if inside.is_root() => Ok(Asked::Folder(folder)),
                    _ => Err(error),
                }
            }
            (found, _) => found.map(Asked::Mount),
        }
    }

    /// Whoever answers for the file at `path`, and where it is there. A path that leads nowhere is
    /// one in the mount or folder at `place`.
    pub fn of(path: &Path, place: Option<&Path>, context: &Context) -> Result<(Asked, RelPath)> {
        let missing = match mount_of(path) {
            Ok((mountpoint, inside)) => {
                return Ok((Asked::Mount(Client::connect(&mountpoint)?), inside));
            }
            Err(error) if error.kind() == Kind::NotFound => error,
            Err(error) => return Err(error),
        };
        if let Some((folder, inside)) = daemon::store_above(path)? {
            return Ok((Asked::Folder(folder), inside));
        }
        if path.is_absolute() {
            return Err(missing);
        }
        let asked = match (Asked::at(place, context), place) {
            (Err(error), None) if error.kind() == Kind::NotFound => return Err(missing),
            (asked, _) => asked?,
        };
        let path = path.strip_prefix(".").unwrap_or(path);
        let inside = RelPath::new(path.as_os_str().as_bytes()).about(path.display())?;
        Ok((asked, inside))
    }

    /// Asks, and shows progress on the way.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        match self {
            Asked::Mount(client) => ask(client, request),
            Asked::Folder(folder) => {
                let mut meter = Meter::new();
                let step = &mut |step| meter.step(&step);
                let (answer, notes) = daemon::ask_folder(folder, request.clone(), step)?;
                notes.iter().for_each(|note| show::complain(note));
                Ok(answer)
            }
        }
    }

    /// The report of an order.
    pub fn order(&mut self, request: &Request) -> Result<Report> {
        match self.ask(request)? {
            Answer::Done(report) => Ok(report),
            _ => Err(unexpected()),
        }
    }
}

/// The mount at `path`; without one, the only one that answers us, or the one of the profile. What
/// others mounted and what a killed daemon left is not meant.
pub fn mount_at(path: Option<&Path>, context: &Context) -> Result<Client> {
    if let Some(path) = path {
        return Client::connect(path);
    }
    let mut answering = Vec::new();
    let mut nobody = None;
    for mount in daemon::mounts()? {
        match Client::connect(&mount.mountpoint) {
            Ok(client) => answering.push(client),
            Err(error) => nobody = Some(error),
        }
    }
    if answering.len() > 1 {
        let of_profile = context.profile_folder()?;
        let named = of_profile.and_then(|folder| control::mountpoint(&folder).ok());
        match named.and_then(|at| answering.iter().position(|one| one.mountpoint() == at)) {
            Some(one) => return Ok(answering.swap_remove(one)),
            None => return Err(which(&answering)),
        }
    }
    let nothing = || {
        let text = "nothing is mounted; start with `larder mount MOUNTPOINT --remote URL`";
        Error::new(Kind::NotFound, text)
    };
    answering
        .pop()
        .ok_or_else(|| nobody.unwrap_or_else(nothing))
}

fn which(answering: &[Client]) -> Error {
    let names: Vec<_> = answering
        .iter()
        .map(|one| one.mountpoint().display().to_string())
        .collect();
    let text = format!("which mount? name one of {}", names.join(", "));
    Error::new(Kind::Invalid, text)
}

/// The mount that `path` lies in, and where in it. Nothing in the mount is touched.
pub fn mount_of(path: &Path) -> Result<(PathBuf, RelPath)> {
    let mounts = daemon::mounts()?;
    let known: Vec<&Path> = mounts.iter().map(|m| m.mountpoint.as_path()).collect();
    let shown = path.display();
    let absolute = std::path::absolute(path).about(&shown)?;
    locate(&absolute, &known)?.ok_or_else(|| {
        let text = "is not inside a larder mount; `larder status` shows what is mounted";
        Error::new(Kind::NotFound, text).about(&shown)
    })
}

/// Follows `path` name by name up to the first one of `known`.
fn locate(path: &Path, known: &[&Path]) -> Result<Option<(PathBuf, RelPath)>> {
    let mut left: Vec<Component> = Vec::new();
    let mut owned: Vec<std::ffi::OsString> = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                left.pop();
            }
            Component::Normal(_) => left.push(part),
            _ => {}
        }
    }
    owned.extend(left.iter().rev().map(|part| part.as_os_str().to_owned()));
    let mut here = PathBuf::from("/");
    let mut links = 0;
    loop {
        if known.contains(&here.as_path()) {
            let rest: Vec<&[u8]> = owned.iter().rev().map(|name| name.as_bytes()).collect();
            let rel = RelPath::new(&rest.join(&b'/')).about(path.display())?;
            return Ok(Some((here, rel)));
        }
        let Some(name) = owned.pop() else {
            return Ok(None);
        };
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) if links < 40 => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                let parts = target.components().rev().filter_map(|part| match part {
                    Component::Normal(name) => Some(name.to_owned()),
                    Component::ParentDir => Some("..".into()),
                    _ => None,
                });
                owned.extend(parts);
            }
            _ => here = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_mount_without_touching_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let mnt = root.join("mnt");
        std::fs::create_dir(&mnt).unwrap();
        std::os::unix::fs::symlink("mnt", root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("up")).unwrap();
        let find = |text: &str| locate(&root.join(text), &[&mnt]).unwrap();
        let inside = |text: &str| Some((mnt.clone(), RelPath::new(text.as_bytes()).unwrap()));
        assert_eq!(find("mnt"), inside(""));
        assert_eq!(find("mnt/a/b"), inside("a/b"));
        assert_eq!(find("link/a"), inside("a"));
        assert_eq!(find("up/link/./a/../c"), inside("c"));
        assert_eq!(find("mntx/a"), None);
        assert!(locate(&mnt.join(".larder/x"), &[&mnt]).is_err());
    }
}
