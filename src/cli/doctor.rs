//! `larder doctor`: what could keep a mount from working, and what to do about it.

mod machine;
mod remote;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::flags::MountFlags;
use super::{Context, Outcome, show};
use crate::config::resolve_mount;
use crate::error::Result;

/// Check this machine, the folder and the remotes, and say what to do
#[derive(Debug, Args)]
pub struct Doctor {
    /// The folder that is or will be mounted over
    mountpoint: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: MountFlags,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do; empty where nothing has to be done.
    advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check::new(name, Verdict::Ok, found, "")
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check::new(name, Verdict::Warn, found, advice)
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check::new(name, Verdict::Fail, found, advice)
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Check {
        Check {
            name,
            verdict,
            found: show::plain(&found.into()),
            advice: advice.into(),
        }
    }
}

impl Doctor {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let folder = self.settings.place(self.mountpoint.as_deref(), context)?;
        let place = folder.clone().unwrap_or_default();
        let flags = self.settings.flags();
        let resolved = resolve_mount(&place, &context.file()?, &context.env, &flags)?;
        let notes = resolved.notes.iter().chain(&resolved.off);
        notes.for_each(|note| show::complain(note));
        let config = resolved.config;
        let mut checks = vec![
            machine::device(),
            machine::helper(),
            machine::passthrough(config.passthrough),
            machine::watches(),
        ];
        if config.allow_other {
            checks.push(machine::allow_other());
        }
        let own = self.mountpoint.is_none();
        if folder.is_some() && own && !place.exists() {
            let found = format!("{} is made by the first mount", place.display());
            checks.push(Check::ok("mountpoint", found));
        } else if folder.is_some() {
            let store = config.store.as_deref().unwrap_or(&place);
            checks.extend(machine::folder(&place, store, config.min_free));
        }
        checks.extend(remote::checks(&config)?);
        if self.json {
            show::say_json(&checks)?;
        } else {
            checks
                .iter()
                .try_for_each(|check| show::say(&line(check)))?;
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(match failed {
            true => Outcome::NotAll,
            false => Outcome::Done,
        })
    }
}

fn line(check: &Check) -> String {
    let verdict = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let advice = match check.advice.is_empty() {
        true => String::new(),
        false => format!("; {}", check.advice),
    };
    format!("{verdict}  {:<12} {}{advice}", check.name, check.found)
}

/// The text of a small file of the system; none if it cannot be read.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(path)).ok()
}
