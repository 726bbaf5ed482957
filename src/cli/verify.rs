//! `larder verify`: whether the files that are here are what they should be.

use std::path::PathBuf;

use clap::Args;

use super::ask::Asked;
use super::place::OfProfile;
use super::{Context, Outcome, ask, show};
use crate::control::{Answer, Audited, Fault, Request, Verified};
use crate::error::{Error, Kind, Result};

/// Read the files that are here and say which are not what they should be; exits with 0 if all are,
/// with 1 if not, with 2 if it could not tell
#[derive(Debug, Args)]
pub struct Verify {
    /// A file or directory in a mount, a mountpoint, or a folder that is not mounted now; not
    /// needed where there is only one mount
    #[arg(value_name = "PATH")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Fetch rotten files anew, as far as a remote has them
    #[arg(long)]
    repair: bool,
    /// Compare with the remotes, too: what is here and not there, there with other bytes, unknown here
    #[arg(long)]
    remote: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(&self, context: &Context) -> Outcome {
        self.answer(context).unwrap_or_else(|error| {
            show::complain(&error);
            Outcome::Trouble
        })
    }

    fn answer(&self, context: &Context) -> Result<Outcome> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let (mut asked, path) = match &place {
            Some(path) => Asked::of(path, None, context)?,
            None => (Asked::at(None, context)?, crate::path::RelPath::root()),
        };
        if let (Asked::Folder(folder), true) = (&asked, self.repair || self.remote) {
            let why = "is not mounted, so no remote can be asked; mount it, or leave --repair and --remote out";
            return Err(Error::new(Kind::Invalid, why).about(folder.display()));
        }
        let request = Request::Verify {
            path: path.encode(),
            repair: self.repair,
            remote: self.remote,
        };
        let Answer::Verified(verified) = asked.ask(&request)? else {
            return Err(ask::unexpected());
        };
        match self.json {
            true => show::say_json(&verified)?,
            false => show::say(&render(&verified, matches!(asked, Asked::Mount(_))))?,
        }
        let away: Vec<_> = verified
            .remotes
            .iter()
            .filter(|r| r.error.is_some())
            .collect();
        for remote in &away {
            let error = remote.error.as_deref().unwrap_or_default();
            show::complain(&format!("{} was not compared: {error}", remote.url));
        }
        Ok(match (is_right(&verified), away.is_empty()) {
            (false, _) => Outcome::NotAll,
            (true, false) => Outcome::Trouble,
            (true, true) => Outcome::Done,
        })
    }
}

fn is_right(v: &Verified) -> bool {
    let wrong =
        v.changed + v.new + (v.rotten - v.repaired.min(v.rotten)) + v.missing + v.unreadable;
    wrong == 0 && v.remotes.iter().all(agrees)
}

/// What only lies here is as it should be where nothing goes up.
fn agrees(r: &Audited) -> bool {
    let missing = if r.upload { r.only_here } else { 0 };
    r.differs + r.unknown_here + r.gone_there + missing == 0
}

fn render(v: &Verified, is_mounted: bool) -> String {
    let mut lines: Vec<String> = v.faults.iter().map(|f| fault(f, is_mounted)).collect();
    let total = v.changed + v.new + v.rotten + v.missing + v.unreadable;
    let listed = v.faults.iter().filter(|f| f.remote.is_none()).count() as u64;
    if total > listed {
        lines.push(show::count(
            total - listed,
            "more such file",
            "more such files",
        ));
    }
    let files = show::count(v.files, "file", "files");
    lines.push(format!("{files}, {} read", show::bytes(v.bytes)));
    for (n, what) in [
        (v.good, "good"),
        (
            v.noted,
            "of no known hash; it is noted, so the next look can tell",
        ),
        (
            v.older,
            "of an older version; the new one comes when they are read",
        ),
        (
            v.unknown,
            "not sent yet, so nothing tells what they should be; read whole",
        ),
        (v.busy, "being written, left out"),
        (v.changed, "changed by hand"),
        (v.new, "put there by hand"),
        (v.rotten, "rotten"),
        (v.repaired, "of these fetched anew"),
        (v.missing, "missing"),
        (v.unreadable, "cannot be read"),
    ] {
        if n > 0 {
            lines.push(format!("{:>9}  {what}", show::number(n)));
        }
    }
    lines.extend(v.remotes.iter().filter(|r| r.error.is_none()).map(audited));
    lines.join("\n")
}

fn audited(r: &Audited) -> String {
    let mut lines = vec![format!(
        "{}: {}",
        r.url,
        show::count(r.same, "file is the same", "files are the same")
    )];
    for (n, what) in [
        (
            r.not_held,
            "of these not here; they come when they are read",
        ),
        (r.waiting, "wait to go up"),
        (r.elsewhere, "here from another remote"),
        (r.only_here, "here and not there"),
        (r.differs, "there with other bytes"),
        (
            r.unknown_here,
            "there and not known here; `larder sync` brings them",
        ),
        (
            r.gone_there,
            "known here and there no more; `larder sync` takes them away",
        ),
        (
            r.hidden,
            "deleted here, still there; `larder restore` shows them",
        ),
        (r.refused, "there under names that no file here can have"),
    ] {
        if n > 0 {
            lines.push(format!("{:>9}  {what}", show::number(n)));
        }
    }
    lines.join("\n")
}

fn fault(fault: &Fault, is_mounted: bool) -> String {
    let path = show::path(&fault.path);
    let more = match (&fault.more, fault.what.as_str(), fault.dirty) {
        (Some(more), ..) => show::plain(more),
        (_, "rotten", _) if fault.repaired => "other bytes than were stored; fetched anew".into(),
        (_, "rotten", true) => "other bytes than were written, and nowhere else; restore it from a backup, or write it again".into(),
        (_, "rotten", false) => "other bytes than were stored; `larder verify --repair` fetches it anew".into(),
        (_, "changed", _) if is_mounted => "changed in the folder by hand; counts as written here".into(),
        (_, "changed", _) => "changed by hand; will count as written here".into(),
        (_, "new", _) => "put there by hand; will count as written here".into(),
        (_, "missing", true) => "written here, and removed before it went up".into(),
        (_, "missing", false) => "removed by hand; it comes again when it is read".into(),
        (_, "only-here", _) => "is not there, and does not wait to go up".into(),
        (_, "differs", _) => "has other bytes there".into(),
        (_, "unknown-here", _) => "is there, and not known here".into(),
        (_, "gone-there", _) => "is there no more".into(),
        _ => String::new(),
    };
    let of = fault.remote.as_deref().map(|url| format!(" ({url})"));
    format!(
        "{:<12} {path}: {more}{}",
        fault.what,
        of.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_and_what_is_not() {
        let mut v = Verified {
            files: 4,
            good: 1,
            noted: 1,
            older: 1,
            unknown: 1,
            ..Verified::default()
        };
        assert!(is_right(&v));
        v.rotten = 1;
        assert!(!is_right(&v));
        v.repaired = 1;
        assert!(is_right(&v));
        let here = Audited {
            only_here: 4,
            hidden: 1,
            waiting: 2,
            ..Audited::default()
        };
        v.remotes = vec![here.clone()];
        assert!(is_right(&v));
        v.remotes[0].upload = true;
        assert!(!is_right(&v));
        v.remotes[0] = Audited {
            differs: 1,
            only_here: 0,
            ..here
        };
        assert!(!is_right(&v));
    }

    #[test]
    fn every_fault_is_one_line_that_says_what_to_do() {
        let of = |what: &str, dirty| Fault {
            path: "a%0Ab".into(),
            what: what.into(),
            dirty,
            ..Fault::default()
        };
        for what in [
            "rotten",
            "changed",
            "new",
            "missing",
            "only-here",
            "differs",
            "unknown-here",
            "gone-there",
        ] {
            for dirty in [false, true] {
                let line = fault(&of(what, dirty), true);
                assert!(line.lines().count() == 1 && line.len() > 30, "{line}");
                assert!(line.contains("a\\nb"), "{line}");
            }
        }
        let rotten = Verified {
            files: 1,
            rotten: 1,
            faults: vec![of("rotten", false)],
            ..Verified::default()
        };
        let text = render(&rotten, true);
        assert!(
            text.contains("--repair") && text.contains("        1  rotten"),
            "{text}"
        );
    }
}
