//! `larder conflicts`: what was set aside, and what becomes of it.

use std::path::PathBuf;

use clap::Args;

use super::place::OfProfile;
use super::{Context, Outcome, ask, show};
use crate::control::{Answer, ConflictStatus, Keep, OrphanStatus, Request};
use crate::error::Result;

/// List versions that were set aside because the remote had changed too, or settle them
#[derive(Debug, Args)]
pub struct Conflicts {
    /// Which mount; not needed where there is only one
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Put your version of conflict ID back at its path; it goes up as a new write
    #[arg(long, value_name = "ID", conflicts_with = "keep_theirs")]
    keep_ours: Option<u64>,
    /// Drop your version of conflict ID
    #[arg(long, value_name = "ID")]
    keep_theirs: Option<u64>,
    /// Remove what killed writers left unfinished, all of it
    #[arg(long, conflicts_with_all = ["keep_ours", "keep_theirs"])]
    drop_unfinished: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

impl Conflicts {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let mut client = ask::mount_at(place.as_deref(), context)?;
        let settle = match (self.keep_ours, self.keep_theirs) {
            (Some(id), _) => Some((id, Keep::Ours)),
            (None, Some(id)) => Some((id, Keep::Theirs)),
            (None, None) => None,
        };
        let order = match settle {
            Some((id, keep)) => Some(Request::Settle { id, keep }),
            None => self.drop_unfinished.then_some(Request::DropUnfinished),
        };
        if let Some(order) = order {
            let report = ask::order(&mut client, &order)?;
            return ask::tell(&report, self.json);
        }
        match ask::ask(&mut client, &Request::Conflicts)? {
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
        lines.push("settle with `larder conflicts --keep-ours ID` or `--keep-theirs ID`".into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_a_conflict_says_where_both_versions_are() {
        let conflict = ConflictStatus {
            id: 3,
            path: "TB/a%20b.pkl".into(),
            kept_at: ".larder/conflicts/3-a b.pkl".into(),
            remote: "http://nas:5002".into(),
            at_ms: 0,
            size: 2048,
        };
        let text = render(&[conflict], &[]);
        for part in [
            "   3  ",
            "TB/a b.pkl",
            ".larder/conflicts/3-a b.pkl",
            "nas",
            "--keep-ours",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(render(&[], &[]), "no conflicts");
    }
}
