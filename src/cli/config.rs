//! `larder config show`: every value and where it came from.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::flags::{MountFlags, ServeFlags};
use super::{Context, Outcome, show};
use crate::config::{ConfigFile, Shown, resolve_mount, resolve_serve};
use crate::daemon;
use crate::error::Result;

/// Look at the configuration
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Show(Box<Show>),
}

/// Print every setting with its value and where that came from
#[derive(Debug, Args)]
struct Show {
    /// Of the mount at this place; without it, of any mount
    mountpoint: Option<PathBuf>,
    /// Of `larder serve` instead
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, conflicts_with = "mountpoint")]
    serve: Option<Option<PathBuf>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: MountFlags,
}

impl Config {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let What::Show(show) = &self.what;
        show.run(context)
    }
}

impl Show {
    fn run(&self, context: &Context) -> Result<Outcome> {
        let file = context.file()?;
        let (shown, notes) = match &self.serve {
            Some(dir) => {
                let resolve = |dir: Option<&PathBuf>| {
                    let flags = ServeFlags::default().flags(dir);
                    resolve_serve(&file, &context.env, &flags)
                };
                // Without a directory there is still something to show.
                let got =
                    resolve(dir.as_ref()).or_else(|_| resolve(Some(&PathBuf::from("DIR"))))?;
                (got.shown, got.notes)
            }
            None => {
                let at = self.settings.place(self.mountpoint.as_deref(), context)?;
                let at = at.unwrap_or_default();
                let got = resolve_mount(&at, &file, &context.env, &self.settings.flags())?;
                daemon::tiers(&got.config)?;
                (got.shown, got.notes.into_iter().chain(got.off).collect())
            }
        };
        notes.iter().for_each(|note| show::complain(note));
        match self.json {
            true => show::say_json(&shown)?,
            false => show::say(&render(&shown, &file))?,
        }
        Ok(Outcome::Done)
    }
}

fn render(shown: &[Shown], file: &ConfigFile) -> String {
    let file = match file.path() {
        Some(path) => format!("# file: {}", path.display()),
        None => "# file: none (looked for larder/larder.toml in the configuration directory, and /etc/larder/larder.toml)".into(),
    };
    let mut lines = vec![file];
    let most = shown
        .iter()
        .map(|s| s.value.chars().count())
        .filter(|n| *n <= 30);
    let width = most.max().unwrap_or(0);
    let names = shown.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for line in shown {
        let value = match line.value.is_empty() {
            true => "-",
            false => &line.value,
        };
        lines.push(format!(
            "{:<names$} {value:<width$}  # {}",
            line.name, line.source
        ));
    }
    lines.join("\n")
}
