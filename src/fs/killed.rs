//! Whether a process that closes a file does so because a signal ends it (promise P4).
//!
//! At FLUSH the kernel still runs in the dying task. Its flags, field 9 of
//! `/proc/<pid>/stat`, then hold `PF_EXITING` and, for a signal, `PF_SIGNALED`
//! (`include/linux/sched.h`); both are clear for an ordinary close and for `exit()`.

const PF_EXITING: u64 = 0x4;
const PF_SIGNALED: u64 = 0x400;

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
}
