//! `larder ls`: what is there, and where its bytes are.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Outcome, ask, show};
use crate::control::{Answer, Client, EntryKind, Listed, Request};
use crate::error::Result;
use crate::path::RelPath;

/// List files with their state: remote, partial, clean, dirty, uploading, local, conflict, stale
#[derive(Debug, Args)]
pub struct Ls {
    /// A directory or a file in a mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// With everything beneath
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub fn run(&self) -> Result<Outcome> {
        let (mountpoint, inside) = ask::mount_of(&self.path)?;
        let mut client = Client::connect(&mountpoint)?;
        let mut after = None;
        loop {
            let request = Request::List {
                path: inside.encode(),
                recursive: self.recursive,
                after: after.take(),
            };
            let answer = ask::ask(&mut client, &request)?;
            let Answer::Listing {
                entries,
                more,
                unknown,
            } = answer
            else {
                return Err(ask::unexpected());
            };
            for entry in &entries {
                self.say(entry, &inside)?;
            }
            after = entries.into_iter().next_back().map(|entry| entry.path);
            if !more || after.is_none() {
                return Ok(told(&unknown));
            }
        }
    }

    fn say(&self, entry: &Listed, base: &RelPath) -> Result<()> {
        if self.json {
            return show::say_json(&Line::of(entry));
        }
        show::say(&render(entry, base))
    }
}

/// Says what is missing in the list.
fn told(unknown: &[String]) -> Outcome {
    for remote in unknown {
        let text = format!(
            "{remote}: was not listed yet, so not all that it has is shown; `larder status` says why"
        );
        show::complain(&text);
    }
    match unknown.is_empty() {
        true => Outcome::Done,
        false => Outcome::NotAll,
    }
}

/// An entry for programs: the path as text, or in Base64 where it is not UTF-8.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    kind: EntryKind,
    size: u64,
    mtime_ns: i64,
    mode: u32,
    state: &'a str,
    pinned: bool,
    remote: Option<&'a str>,
}

impl Line<'_> {
    fn of(entry: &Listed) -> Line<'_> {
        use base64::Engine as _;
        let raw: Vec<u8> = percent_encoding::percent_decode_str(&entry.path).collect();
        let (path, path_b64) = match String::from_utf8(raw) {
            Ok(text) => (Some(text), None),
            Err(bad) => {
                let engine = &base64::engine::general_purpose::STANDARD;
                (None, Some(engine.encode(bad.as_bytes())))
            }
        };
        Line {
            path,
            path_b64,
            kind: entry.kind,
            size: entry.size,
            mtime_ns: entry.mtime_ns,
            mode: entry.mode,
            state: entry.state.word(),
            pinned: entry.pinned,
            remote: entry.remote.as_deref(),
        }
    }
}

/// Like a line of `ls -l`.
fn render(entry: &Listed, base: &RelPath) -> String {
    let (size, state) = match entry.kind {
        EntryKind::Directory => (String::new(), ""),
        _ => (show::bytes(entry.size), entry.state.word()),
    };
    format!(
        "{}  {size:>10}  {}  {state:<9}  {}{}",
        mode(entry.kind, entry.mode),
        show::time(entry.mtime_ns),
        name(&entry.path, base),
        if entry.pinned { "  (pinned)" } else { "" },
    )
}

/// The path from what was asked for; the file itself by its own name.
fn name(encoded: &str, base: &RelPath) -> String {
    let Ok(path) = RelPath::decode(encoded) else {
        return show::path(encoded);
    };
    let skip = match base.is_root() {
        true => 0,
        false => base.as_bytes().len() + 1,
    };
    let below = path.as_bytes().get(skip..).filter(|_| path.is_under(base));
    match below.map(RelPath::new) {
        Some(Ok(below)) if !below.is_root() => below.to_string(),
        _ => path
            .file_name()
            .map_or(path.to_string(), |name| name.to_string()),
    }
}

fn mode(kind: EntryKind, mode: u32) -> String {
    let first = match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
    };
    let bits = "rwxrwxrwx".chars().enumerate();
    let bits = bits.map(|(i, c)| if mode & (0o400 >> i) != 0 { c } else { '-' });
    std::iter::once(first).chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::FileState;

    fn entry(path: &str) -> Listed {
        Listed {
            path: path.into(),
            kind: EntryKind::File,
            size: 2048,
            mtime_ns: 0,
            mode: 0o640,
            state: FileState::Clean,
            pinned: false,
            remote: None,
        }
    }

    #[test]
    fn names_start_at_what_was_asked_for() {
        let base = RelPath::new(b"TB").unwrap();
        let line = render(&entry("TB/a%20b"), &base);
        assert!(line.starts_with("-rw-r-----     2.0 KiB  "), "{line}");
        assert!(line.ends_with("clean      a b"), "{line}");
        assert_eq!(name("TB/x/y", &base), "x/y");
        assert_eq!(name("TB/x", &RelPath::root()), "TB/x");
        assert_eq!(name("TB", &base), "TB");
    }

    #[test]
    fn names_that_are_not_text_reach_programs() {
        let odd = entry("a%FF");
        let line = serde_json::to_string(&Line::of(&odd)).unwrap();
        assert!(
            line.contains("\"path_b64\":\"Yf8=\"") && line.contains("\"state\":\"clean\""),
            "{line}"
        );
    }
}
