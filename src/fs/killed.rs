//! Who closes a file, as far as it decides what the close means (promises P3, P4).
//!
//! At FLUSH the kernel still runs in the closing task. If a signal ends it, its flags,
//! field 9 of `/proc/<pid>/stat`, hold `PF_EXITING` and `PF_SIGNALED`
//! (`include/linux/sched.h`); both are clear for an ordinary close and for `exit()`.
//!
//! A task in `execve()` closes what is close-on-exec while it holds its own
//! `exec_update_lock`, and waits for our answer; whoever reads its `stat` or its `fdinfo`
//! waits for that lock. So those two are never simply read: `statm` needs no lock, and says
//! first whether the task is ending (it has no memory any more).
//!
//! A close need not be the end of a file: its descriptor may be in `/proc/<pid>/fdinfo` still,
//! of the closer (a shell that redirects opens, duplicates and closes), of those that it
//! started, of those that started it, or of those that the opener started besides it (of two
//! children that start at once, each inherits what is meant for the other). Where one process
//! opens and closes, as most do, nobody looks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::index::NodeId;
use crate::overlay::Closer;

const PF_EXITING: u64 = 0x4;
const PF_SIGNALED: u64 = 0x400;
/// The access mode in the flags of an open file, and reading only.
const O_ACCMODE: u64 = 0o3;

/// How far up the closer's ancestors are looked at.
const ANCESTORS: usize = 16;

/// How long tasks are looked at.
const PATIENCE: Duration = Duration::from_millis(100);

/// The task that closes a file.
#[derive(Debug, Clone)]
pub struct Task {
    pub pid: u32,
    pub node: NodeId,
    /// What the system lists as mounted.
    pub source: Arc<str>,
}

impl Closer for Task {
    fn is_being_killed(&self) -> bool {
        is_being_killed(self.pid)
    }

    fn is(&self, opener: u32) -> bool {
        // Threads of a process, and this is all it takes to tell: no lock, no file is read.
        let thread = || format!("/proc/{opener}/task/{}", self.pid);
        opener == 0 || self.pid == opener || Path::new(&thread()).exists()
    }

    fn leaves_it_open(&self, opener: u32) -> bool {
        let (task, is_opener) = (self.clone(), self.is(opener));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let asked = std::thread::Builder::new()
            .name("larder-closer".into())
            .spawn(move || {
                let others = if is_opener { None } else { Some(opener) };
                let _ = tell.send(is_open_around(&task, others));
            });
        // No answer: somebody is in `execve()`, and what that closes was inherited. Whoever
        // opened the file, or the program that starts, still has it.
        asked.is_ok() && told.recv_timeout(PATIENCE).unwrap_or(true)
    }
}

/// Whether one of those has the file open for writing: the closer and its children; if another
/// opened it, that one, its children, and the ancestors of the closer.
fn is_open_around(task: &Task, opener: Option<u32>) -> bool {
    let pid = task.pid;
    let has_it = |pid: u32| keeps_open(pid, task) == Some(true);
    let or_a_child = |pid: u32| has_it(pid) || children(pid).into_iter().any(has_it);
    opener.is_some_and(|opener| or_a_child(opener) || ancestors(pid).any(has_it)) || or_a_child(pid)
}

/// Those that a task was started by, the nearest first.
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |pid: &u32| {
        let status = text(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        line.trim().parse().ok().filter(|pid| *pid > 1)
    };
    std::iter::successors(parent(&pid), parent).take(ANCESTORS)
}

/// Those that a task's process started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let of_thread =
        |entry: std::fs::DirEntry| text(entry.path().join("children")).unwrap_or_default();
    let text: String = threads.flatten().map(of_thread).collect();
    text.split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether the task `pid` is being ended by a signal. A task that cannot be looked at is not.
///
/// A task that executes a program closes its close-on-exec files with `exec_update_lock` held,
/// which reading `stat` waits for: that close would wait for itself, and could not even be
/// killed. A task that ends has given its memory up before it closes its files, and one that
/// executes has not, which `statm` tells without that lock.
pub fn is_being_killed(pid: u32) -> bool {
    let has_memory =
        std::fs::read(format!("/proc/{pid}/statm")).is_ok_and(|statm| !statm.starts_with(b"0 "));
    if has_memory {
        return false;
    }
    std::fs::read(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| flags(&stat))
        .is_some_and(|flags| flags & PF_EXITING != 0 && flags & PF_SIGNALED != 0)
}

/// Field 9. The name before it is in parentheses and may hold anything, these too.
fn flags(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    // Fields 3 to 8 come first: state, ppid, pgrp, session, tty_nr, tpgid.
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// Whether the task `pid` has a descriptor that writes to the file. None: it cannot be looked at.
fn keeps_open(pid: u32, task: &Task) -> Option<bool> {
    // Numbers of mounts differ from one namespace to the next, so they are asked for there.
    let mountinfo = text(format!("/proc/{pid}/mountinfo"))?;
    let mounts = Mounts::of(&mountinfo, &task.source);
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()? {
        let Some(info) = entry.ok().and_then(|entry| text(entry.path())) else {
            // Closed meanwhile.
            continue;
        };
        if writes_to(&info, task.node, &mounts) {
            return Some(true);
        }
    }
    Some(false)
}

/// Names of programs and of mount points, which may be any bytes, stand beside what is looked for.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Which mounts a file of ours may be in.
enum Mounts<'a> {
    /// These: one place, or several where it was bound to others.
    Listed(Vec<&'a str>),
    /// It was detached, and who has files of it open keeps it: none of those that are listed.
    Detached(Vec<&'a str>),
}

impl<'a> Mounts<'a> {
    fn of(mountinfo: &'a str, source: &str) -> Mounts<'a> {
        let source = format!(" {source} ");
        let id = |line: &'a str| line.split(' ').next();
        let ours = mountinfo.lines().filter(|line| line.contains(&source));
        let ours: Vec<&str> = ours.filter_map(id).collect();
        match ours.is_empty() {
            true => Mounts::Detached(mountinfo.lines().filter_map(id).collect()),
            false => Mounts::Listed(ours),
        }
    }

    fn may_be(&self, id: &str) -> bool {
        match self {
            Mounts::Listed(ours) => ours.contains(&id),
            Mounts::Detached(others) => !others.contains(&id),
        }
    }
}

/// Whether one entry of `fdinfo` is the file, open for writing.
fn writes_to(info: &str, node: NodeId, mounts: &Mounts<'_>) -> bool {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let writes = field("flags:")
        .and_then(|flags| u64::from_str_radix(flags, 8).ok())
        .is_some_and(|flags| flags & O_ACCMODE != 0);
    writes
        && field("ino:") == Some(node.0.to_string().as_str())
        && field("mnt_id:").is_some_and(|id| mounts.may_be(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_flags_are_found_behind_any_name() {
        let stat = b"42 (a ) b (c) S 1 42 42 0 -1 4194308 100 0 0";
        assert_eq!(flags(stat), Some(4_194_308));
        assert_eq!(flags(b"garbage"), None);
        assert!(!is_being_killed(std::process::id()));
    }

    #[test]
    fn p4_another_descriptor_of_the_file_is_told_from_others() {
        let listed = "28 1 0:9 / / rw - ext4 /dev/sda rw\n\
                      29 28 0:41 / /mnt rw - fuse larder:7f rw,user_id=0\n\
                      30 28 0:42 / /other rw - fuse larder:80 rw,user_id=0\n";
        let info = |id: u32| format!("pos:\t0\nflags:\t0100001\nmnt_id:\t{id}\nino:\t7\n");
        let ours = Mounts::of(listed, "larder:7f");
        assert!(writes_to(&info(29), NodeId(7), &ours));
        assert!(!writes_to(&info(29), NodeId(8), &ours));
        assert!(!writes_to(&info(30), NodeId(7), &ours));
        assert!(!writes_to(&info(31), NodeId(7), &ours));
        let reads = info(29).replace("100001", "100000");
        assert!(!writes_to(&reads, NodeId(7), &ours));
        // Detached, it is none of those that are listed.
        let gone = Mounts::of(listed, "larder:81");
        assert!(writes_to(&info(31), NodeId(7), &gone));
        assert!(!writes_to(&info(30), NodeId(7), &gone));
        let task = Task {
            pid: std::process::id(),
            node: NodeId(7),
            source: "larder:7f".into(),
        };
        assert_eq!(keeps_open(task.pid, &task), Some(false));
    }
}
