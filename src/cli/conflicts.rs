//! `larder conflicts`: what was set aside, both versions side by side, and what becomes of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::ask::Asked;
use super::place::OfProfile;
use super::{Context, Outcome, ask, show};
use crate::control::{
    Answer, ConflictDetail, ConflictStatus, Keep, OrphanStatus, Request, VersionStatus,
    WhichConflict,
};
use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// List versions that were set aside because the remote had changed too, look at them, or settle them
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Conflicts {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    list: List,
    /// Put your version of conflict ID back at its path; the same as `keep-mine ID`
    #[arg(long, value_name = "ID", conflicts_with = "keep_theirs")]
    keep_ours: Option<u64>,
    /// Drop your version of conflict ID; the same as `keep-theirs ID`
    #[arg(long, value_name = "ID")]
    keep_theirs: Option<u64>,
    /// Remove what killed writers left unfinished, all of it
    #[arg(long, conflicts_with_all = ["keep_ours", "keep_theirs"])]
    drop_unfinished: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    List(List),
    Show(Show),
    KeepMine(KeepMine),
    KeepTheirs(KeepTheirs),
}

/// List what was set aside, and what killed writers left
#[derive(Debug, Args)]
struct List {
    /// Which mount, or a folder that is not mounted now; not needed where there is only one mount
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Show both versions of a conflict side by side, and how they differ
#[derive(Debug, Args)]
struct Show {
    /// The conflict: its number in the list, or the file's path
    #[arg(value_name = "PATH|ID", required = true)]
    which: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

/// Put your version back at its path; it goes up in the place of the remote's version that is
/// shown there now, and is a conflict again if the remote has another one by then
#[derive(Debug, Args)]
struct KeepMine {
    /// The conflicts: their numbers in the list, or the files' paths
    #[arg(value_name = "PATH|ID", required = true)]
    which: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

/// Leave the remote's version where it is, and remove yours for good
#[derive(Debug, Args)]
struct KeepTheirs {
    /// The conflicts: their numbers in the list, or the files' paths
    #[arg(value_name = "PATH|ID", required = true)]
    which: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// Which mount, or a folder that is not mounted now; not needed for paths, nor where there is
    /// only one mount
    #[arg(long = "mount", value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Conflicts {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        match &self.what {
            Some(What::List(list)) => list.run(context),
            Some(What::Show(verb)) => each(&verb.which, |which| verb.place.show(which, context)),
            Some(What::KeepMine(verb)) => each(&verb.which, |which| {
                verb.place.settle(which, Keep::Ours, context)
            }),
            Some(What::KeepTheirs(verb)) => each(&verb.which, |which| {
                verb.place.settle(which, Keep::Theirs, context)
            }),
            None => self.order(context),
        }
    }

    fn order(&self, context: &Context) -> Result<Outcome> {
        let settle = |id: u64, keep| Request::Settle {
            which: WhichConflict::Id(id),
            keep,
        };
        let request = match (self.keep_ours, self.keep_theirs) {
            (Some(id), _) => settle(id, Keep::Ours),
            (None, Some(id)) => settle(id, Keep::Theirs),
            (None, None) if self.drop_unfinished => Request::DropUnfinished,
            (None, None) => return self.list.run(context),
        };
        let report = self.list.asked(context)?.order(&request)?;
        ask::tell(&report, self.list.json)
    }
}

/// Does it for each; one that fails does not keep the others from it.
fn each(all: &[OsString], mut one: impl FnMut(&OsString) -> Result<Outcome>) -> Result<Outcome> {
    let mut outcome = Outcome::Done;
    for which in all {
        match one(which) {
            Ok(Outcome::Done) => {}
            Ok(other) => outcome = other,
            Err(error) if all.len() == 1 => return Err(error),
            Err(error) => {
                show::complain(&error);
                outcome = Outcome::NotAll;
            }
        }
    }
    Ok(outcome)
}

impl List {
    fn asked(&self, context: &Context) -> Result<Asked> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        Asked::at(place.as_deref(), context)
    }

    fn run(&self, context: &Context) -> Result<Outcome> {
        match self.asked(context)?.ask(&Request::Conflicts)? {
            Answer::Conflicts { conflicts, orphans } if self.json => {
                show::say_json(&serde_json::json!({"conflicts": conflicts, "orphans": orphans}))?;
                Ok(Outcome::Done)
            }
            Answer::Conflicts { conflicts, orphans } => {
                show::say(&render(&conflicts, &orphans))?;
                Ok(Outcome::Done)
            }
            _ => Err(ask::unexpected()),
        }
    }
}

impl Place {
    /// Whom to ask, and how the conflict is called there.
    fn find(&self, which: &OsString, context: &Context) -> Result<(Asked, WhichConflict)> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let text = which.to_str();
        if let Some(id) = text.and_then(|text| text.parse().ok()) {
            let file = Asked::of(which.as_ref(), place.as_deref(), context);
            if let Ok((asked, inside)) = file {
                refuse_both(asked, id, &inside)?;
            }
            // Whoever stands in a mount means that one.
            let here = || ask::mount_of(Path::new(".")).ok().map(|(at, _)| at);
            let asked = Asked::at(place.or_else(here).as_deref(), context)?;
            return Ok((asked, WhichConflict::Id(id)));
        }
        let (asked, inside) = Asked::of(which.as_ref(), place.as_deref(), context)?;
        Ok((asked, WhichConflict::Path(inside.encode())))
    }

    fn show(&self, which: &OsString, context: &Context) -> Result<Outcome> {
        let (mut asked, which) = self.find(which, context)?;
        let Answer::Conflict(detail) = asked.ask(&Request::Conflict { which })? else {
            return Err(ask::unexpected());
        };
        match self.json {
            true => show::say_json(&detail)?,
            false => show::say(&side_by_side(&detail))?,
        }
        Ok(Outcome::Done)
    }

    fn settle(&self, which: &OsString, keep: Keep, context: &Context) -> Result<Outcome> {
        let (mut asked, which) = self.find(which, context)?;
        let report = asked.order(&Request::Settle { which, keep })?;
        ask::tell(&report, self.json)
    }
}

/// What is settled cannot be taken back: a number that is also the name of a file with another
/// conflict is refused.
fn refuse_both(mut asked: Asked, id: u64, file: &RelPath) -> Result<()> {
    let Answer::Conflicts { conflicts, .. } = asked.ask(&Request::Conflicts)? else {
        return Err(ask::unexpected());
    };
    let numbered = conflicts.iter().find(|c| c.id == id);
    let named = conflicts.iter().find(|c| c.path == file.encode());
    match (numbered, named) {
        (Some(numbered), Some(named)) if numbered.id != named.id => {
            let why = format!(
                "is the number of one conflict and the name of another; write ./{id} for the file, or {} for conflict {id}",
                show::path(&numbered.path)
            );
            Err(Error::new(Kind::Invalid, why).about(id))
        }
        _ => Ok(()),
    }
}

fn render(conflicts: &[ConflictStatus], orphans: &[OrphanStatus]) -> String {
    if conflicts.is_empty() && orphans.is_empty() {
        return "no conflicts".to_owned();
    }
    let mut lines = Vec::new();
    for c in conflicts {
        lines.push(format!(
            "{:>4}  {}  {:>10}  {}\n      yours is kept in {}; {} has the other one",
            c.id,
            show::time(c.at_ms.saturating_mul(1_000_000)),
            show::bytes(c.size),
            show::path(&c.path),
            c.kept_at,
            c.remote,
        ));
    }
    if !conflicts.is_empty() {
        lines.push("compare with `larder conflicts show FILE`; settle with `larder conflicts keep-mine FILE` or `keep-theirs FILE`: its path, or its number here (with --mount where there are several mounts)".into());
    }
    for o in orphans {
        lines.push(format!(
            "left unfinished  {}  {:>10}  .larder/orphans/{}",
            show::time(o.at_ms.saturating_mul(1_000_000)),
            show::bytes(o.size),
            o.name,
        ));
    }
    if !orphans.is_empty() {
        lines.push("remove what is unfinished with `larder conflicts --drop-unfinished`".into());
    }
    lines.join("\n")
}

fn side_by_side(detail: &ConflictDetail) -> String {
    let (c, mine) = (&detail.conflict, &detail.mine);
    let mut lines = vec![
        format!(
            "conflict {} of {}, since {}",
            c.id,
            show::path(&c.path),
            show::time(c.at_ms.saturating_mul(1_000_000))
        ),
        String::new(),
    ];
    let theirs = detail.theirs.as_ref();
    let row = |name: &str, of: &dyn Fn(&VersionStatus) -> String| {
        let other = theirs.map_or_else(|| "no such file any more".to_owned(), of);
        // One side alone says nothing.
        let other = if other.is_empty() {
            "–".into()
        } else {
            other
        };
        format!("  {name:<9}{:<34}  {other}", of(mine))
    };
    lines.push(format!("  {:<9}{:<34}  {}", "", "mine", "theirs"));
    lines.push(row("by", &|v| v.by.clone()));
    lines.push(row("size", &|v| format!("{} bytes", show::number(v.size))));
    lines.push(row("changed", &|v| show::time(v.mtime_ns)));
    lines.push(row("sha256", &|v| {
        let hash = v.sha256.as_deref().unwrap_or("not known");
        hash.get(..32)
            .map_or_else(|| hash.to_owned(), |begin| format!("{begin}…"))
    }));
    lines.push(format!("  mine is kept in {}", c.kept_at));
    lines.push(String::new());
    lines.push(format!("  {}", verdict(detail)));
    if let Some(diff) = &detail.diff {
        lines.push(String::new());
        lines.extend(diff.lines().map(show::harmless));
    }
    lines.push(String::new());
    lines.push(format!(
        "larder conflicts keep-mine {}     yours goes up in the place of theirs\nlarder conflicts keep-theirs {}   theirs stays, yours is removed",
        c.id, c.id
    ));
    lines.join("\n")
}

fn verdict(detail: &ConflictDetail) -> String {
    let unread = detail
        .unread
        .as_deref()
        .map(|why| format!("; theirs could not be read: {why}"));
    let unread = unread.unwrap_or_default();
    match (detail.equal, detail.first_difference, &detail.theirs) {
        (_, _, None) => "there is nothing at the path any more".to_owned(),
        (Some(true), _, _) => "both have the same bytes".to_owned(),
        (Some(false), Some(at), _) => format!("they differ, first at byte {}", show::number(at)),
        (Some(false), None, _) => format!("they differ{unread}"),
        (None, _, _) => format!("whether they differ is not known{unread}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict() -> ConflictStatus {
        ConflictStatus {
            id: 3,
            path: "TB/a%20b.pkl".into(),
            kept_at: ".larder/conflicts/3-a b.pkl".into(),
            remote: "http://nas:5002".into(),
            at_ms: 0,
            size: 2048,
        }
    }

    #[test]
    fn p5_a_conflict_says_where_both_versions_are() {
        let text = render(&[conflict()], &[]);
        for part in [
            "   3  ",
            "TB/a b.pkl",
            ".larder/conflicts/3-a b.pkl",
            "nas",
            "keep-mine",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(render(&[], &[]), "no conflicts");
    }

    #[test]
    fn p5_both_versions_stand_side_by_side_and_cannot_speak_to_the_terminal() {
        let mut detail = ConflictDetail {
            conflict: conflict(),
            mine: VersionStatus {
                by: "this machine".into(),
                size: 2048,
                sha256: Some("a1".repeat(32)),
                held: true,
                ..VersionStatus::default()
            },
            theirs: Some(VersionStatus {
                by: "http://nas:5002".into(),
                size: 4096,
                ..VersionStatus::default()
            }),
            equal: Some(false),
            first_difference: Some(1234),
            diff: Some("-a\u{1b}[2J\n+b\t!".into()),
            unread: None,
        };
        let text = side_by_side(&detail);
        for part in [
            "conflict 3 of TB/a b.pkl",
            "2,048 bytes",
            "4,096 bytes",
            "http://nas:5002",
            "not known",
            "first at byte 1,234",
            "keep-mine 3",
            "keep-theirs 3",
            "-a\\u{1b}[2J\n+b\t!",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
        detail.theirs = None;
        assert!(side_by_side(&detail).contains("nothing at the path any more"));
    }
}
