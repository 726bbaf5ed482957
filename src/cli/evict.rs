//! `larder evict`: make room.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{Outcome, ask, show};
use crate::control::{BATCH, Client, Report, Request};
use crate::error::{Error, Kind, Result};

/// Drop the local bytes of files that a remote has; they stay listed and come back when read
#[derive(Debug, Args)]
pub struct Evict {
    /// Files or directories in a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Everything: give the mountpoint as PATH
    #[arg(long)]
    all: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Evict {
    pub fn run(&self) -> Result<Outcome> {
        let mut by_mount: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for path in &self.paths {
            let (mountpoint, inside) = ask::mount_of(path)?;
            if inside.is_root() != self.all {
                return Err(not_meant(self.all).about(path.display()));
            }
            by_mount
                .entry(mountpoint)
                .or_default()
                .push(inside.encode());
        }
        let mut sum = Report::default();
        for (mountpoint, paths) in by_mount {
            let mut client = Client::connect(&mountpoint)?;
            for batch in paths.chunks(BATCH) {
                let paths = if self.all { Vec::new() } else { batch.to_vec() };
                let request = Request::Evict {
                    paths,
                    all: self.all,
                };
                add(&mut sum, ask::order(&mut client, &request)?);
            }
        }
        ask::tell(&sum, self.json)
    }
}

fn not_meant(all: bool) -> Error {
    let text = match all {
        true => {
            "is not a mountpoint; --all is for a whole mount, leave it out for files and directories"
        }
        false => "is the whole mount; add --all if you mean that",
    };
    Error::new(Kind::Invalid, text)
}

fn add(sum: &mut Report, report: Report) {
    sum.files += report.files;
    sum.bytes += report.bytes;
    sum.failed += report.failed;
    let room = 20usize.saturating_sub(sum.failures.len());
    sum.failures.extend(report.failures.into_iter().take(room));
    sum.stayed += report.stayed;
    let files = show::count(sum.files, "file", "files");
    sum.text = format!("evicted {files}, {}", show::bytes(sum.bytes));
    if sum.stayed > 0 {
        let stayed = show::count(sum.stayed, "file stays", "files stay");
        sum.text += &format!("; {stayed}: open, pinned, or nowhere else");
    }
}
