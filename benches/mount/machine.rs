//! Where it was measured: figures mean nothing without it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::peers::rclone_path;

/// The load averages of the last 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first line that a program prints, on either stream.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return "not there".to_owned();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // sshfs names what it stands on first.
    let own = said.lines().find(|line| line.starts_with("SSHFS"));
    let line = own.or_else(|| said.lines().next());
    line.unwrap_or_default().trim().to_owned()
}

fn version(program: impl AsRef<std::ffi::OsStr>, word: &str) -> String {
    first_line(Command::new(program).arg(word))
}

fn memory_gib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.split_whitespace().nth(1).unwrap_or_default();
    kib.parse::<f64>().unwrap_or_default() / f64::from(1 << 20)
}

/// Lines for the report; `dir` is where the work was done.
pub fn facts(dir: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let mut find = Command::new("stat");
    let system = first_line(find.args(["-f", "-c", "%T"]).arg(dir));
    let commit = first_line(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    let root = rustix::process::geteuid().is_root();
    let mut text = String::new();
    for (what, is) in [
        ("date", jiff::Timestamp::now().strftime("%F").to_string()),
        ("cores", cores.to_string()),
        ("memory", format!("{:.0} GiB", memory_gib())),
        ("kernel", version("uname", "-sr")),
        ("file system beneath", system),
        ("root (passthrough, cold page cache)", root.to_string()),
        (
            "larder",
            format!(
                "{} ({commit})",
                version(env!("CARGO_BIN_EXE_larder"), "--version")
            ),
        ),
        ("rustc", version("rustc", "--version")),
        ("rclone", version(rclone_path(), "--version")),
        ("sshfs", version("sshfs", "--version")),
        ("OpenSSH", version("ssh", "-V")),
        ("s3fs", version("s3fs", "--version")),
    ] {
        writeln!(text, "- {what}: {is}").unwrap();
    }
    text
}
