//! `larder warm`: fetch files before anybody opens them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{Context, Outcome, ask, show};
use crate::control::{Answer, BATCH, Client, Request, Stopped, Warmed};
use crate::error::Result;

/// Failures that are named.
const NAMED: usize = 20;

/// Fetch files now, so that programs find them here; nothing is evicted for it
#[derive(Debug, Args)]
pub struct Warm {
    /// Files or directories in a mount, or a mountpoint for all of it; not needed where there is
    /// only one mount
    paths: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Warm {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let mut sum = Warmed::default();
        if self.paths.is_empty() {
            let mut client = ask::mount_at(None, context)?;
            warm(&mut client, vec![String::new()], &mut sum)?;
        }
        let mut by_mount: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for path in &self.paths {
            let (mountpoint, inside) = ask::mount_of(path)?;
            by_mount
                .entry(mountpoint)
                .or_default()
                .push(inside.encode());
        }
        for (mountpoint, paths) in by_mount {
            let mut client = Client::connect(&mountpoint)?;
            for batch in paths.chunks(BATCH) {
                warm(&mut client, batch.to_vec(), &mut sum)?;
                if sum.stopped.is_some() {
                    return self.tell(&sum);
                }
            }
        }
        self.tell(&sum)
    }

    fn tell(&self, sum: &Warmed) -> Result<Outcome> {
        match self.json {
            true => show::say_json(sum)?,
            false => show::say(&summary(sum))?,
        }
        for failure in &sum.failures {
            show::complain(&format!("{}: {}", show::path(&failure.path), failure.why));
        }
        let unnamed = sum.failed.saturating_sub(sum.failures.len() as u64);
        if unnamed > 0 {
            let more = show::count(unnamed, "more file", "more files");
            show::complain(&format!("{more} could not be had"));
        }
        if let Some(stopped) = &sum.stopped {
            show::complain(&ended_early(sum, stopped));
        }
        Ok(match sum.failed == 0 && sum.stopped.is_none() {
            true => Outcome::Done,
            false => Outcome::NotAll,
        })
    }
}

fn warm(client: &mut Client, paths: Vec<String>, sum: &mut Warmed) -> Result<()> {
    let Answer::Warmed(part) = ask::ask(client, &Request::Warm { paths })? else {
        return Err(ask::unexpected());
    };
    sum.files += part.files;
    sum.bytes += part.bytes;
    sum.missing.files += part.missing.files;
    sum.missing.bytes += part.missing.bytes;
    sum.here += part.here;
    sum.busy += part.busy;
    sum.failed += part.failed;
    let room = NAMED.saturating_sub(sum.failures.len());
    sum.failures.extend(part.failures.into_iter().take(room));
    sum.stopped = part.stopped;
    Ok(())
}

fn summary(sum: &Warmed) -> String {
    let files = show::count(sum.files, "file", "files");
    let mut text = format!("fetched {files}, {}", show::bytes(sum.bytes));
    if sum.here > 0 {
        let here = show::count(sum.here, "file was", "files were");
        text += &format!("; {here} here already");
    }
    if sum.busy > 0 {
        let busy = show::count(sum.busy, "file is", "files are");
        text += &format!("; {busy} being written, left as they are");
    }
    text
}

fn ended_early(sum: &Warmed, stopped: &Stopped) -> String {
    let of = format!(
        "{} of {} missing files came, {} of {}",
        show::number(sum.files),
        show::number(sum.missing.files),
        show::bytes(sum.bytes),
        show::bytes(sum.missing.bytes)
    );
    match stopped {
        Stopped::Full(limit) if limit == "disk" => format!(
            "the disk has no room for more: {of}, and nothing is evicted for the rest; make room on it, or warm fewer paths"
        ),
        Stopped::Full(limit) => format!(
            "the store is full: {of}, and nothing is evicted for the rest; mount with a bigger --{limit}, or warm fewer paths"
        ),
        Stopped::Away(remote) => {
            format!("{remote} does not answer: {of}; warm again when it is back")
        }
        Stopped::Refused(why) => {
            format!("given up, for one file after the other cannot be had: {of}; {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Amount;

    #[test]
    fn an_early_end_takes_one_line_and_says_what_came() {
        let sum = Warmed {
            files: 1200,
            bytes: 3 << 20,
            missing: Amount {
                files: 63_000,
                bytes: 5 << 30,
            },
            here: 1,
            busy: 2,
            ..Warmed::default()
        };
        assert_eq!(
            summary(&sum),
            "fetched 1,200 files, 3.0 MiB; 1 file was here already; 2 files are being written, left as they are"
        );
        for (stopped, part) in [
            (Stopped::Full("max-size".into()), "a bigger --max-size"),
            (Stopped::Full("max-files".into()), "a bigger --max-files"),
            (Stopped::Full("disk".into()), "make room on it"),
            (Stopped::Away("http://x".into()), "http://x does not answer"),
            (Stopped::Refused("no key".into()), "no key"),
        ] {
            let line = ended_early(&sum, &stopped);
            let of = "1,200 of 63,000 missing files came, 3.0 MiB of 5.0 GiB";
            assert!(line.contains(part) && line.contains(of), "{line}");
            assert_eq!(line.lines().count(), 1);
        }
    }
}
