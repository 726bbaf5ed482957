//! The command line: one file a verb.
//!
//! It turns words into settings and requests, and facts into lines. Exit code 0 means
//! that all that was asked for was done; 1 that it was not, with one line on standard
//! error that says what to do; 2 that the words were not understood, or that `verify` could not
//! tell (1 is its finding).

mod ask;
mod background;
mod config;
mod conflicts;
mod demo;
mod doctor;
mod evict;
mod flags;
mod flush;
mod guard;
mod log;
mod ls;
mod mount;
mod place;
mod restore;
mod serve;
mod show;
mod status;
mod sync;
mod umount;
mod verify;
mod warm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ConfigFile, Environment};
use crate::error::Result;

/// A cache folder that fills itself: mount over it, and it shows what your server has.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    /// Read this configuration file instead of larder.toml in the configuration directory
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For larder itself: be the daemon of a mount
    #[arg(long, hide = true)]
    background_child: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Mount(Box<mount::Mount>),
    Umount(umount::Umount),
    Status(status::Status),
    Ls(ls::Ls),
    Sync(sync::Sync),
    Flush(flush::Flush),
    Warm(warm::Warm),
    Evict(evict::Evict),
    Conflicts(conflicts::Conflicts),
    Restore(restore::Restore),
    Verify(verify::Verify),
    Serve(Box<serve::Serve>),
    Config(config::Config),
    Doctor(Box<doctor::Doctor>),
    Demo(demo::Demo),
    Guard(guard::Guard),
}

/// Whether all was done that was asked for; the lines about it are out already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    NotAll,
    /// It was a question of right or wrong, and could not be answered.
    Trouble,
}

/// What every verb is given.
struct Context {
    config: Option<PathBuf>,
    /// Whether this process is the daemon that a `larder mount` started.
    is_child: bool,
    env: Environment,
}

impl Context {
    /// The configuration file that applies.
    fn file(&self) -> Result<ConfigFile> {
        ConfigFile::find(self.config.as_deref(), &self.env)
    }
}

/// Runs the command that this process was started as.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    let context = Context {
        config: cli.config,
        is_child: cli.background_child,
        env: Environment::of_process(),
    };
    match dispatch(cli.verb, &context) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::NotAll) => ExitCode::FAILURE,
        Ok(Outcome::Trouble) => ExitCode::from(2),
        Err(error) => {
            show::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb, context: &Context) -> Result<Outcome> {
    match verb {
        Verb::Mount(verb) => verb.run(context),
        Verb::Umount(verb) => verb.run(context),
        Verb::Status(verb) => verb.run(context),
        Verb::Ls(verb) => verb.run(),
        Verb::Sync(verb) => verb.run(context),
        Verb::Flush(verb) => verb.run(context),
        Verb::Warm(verb) => verb.run(context),
        Verb::Evict(verb) => verb.run(),
        Verb::Conflicts(verb) => verb.run(context),
        Verb::Restore(verb) => verb.run(),
        Verb::Verify(verb) => Ok(verb.run(context)),
        Verb::Serve(verb) => verb.run(context),
        Verb::Config(verb) => verb.run(context),
        Verb::Doctor(verb) => verb.run(context),
        Verb::Demo(verb) => verb.run(),
        Verb::Guard(verb) => verb.run(),
    }
}

/// Help and version as they are; a mistake in one line.
fn misunderstood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody reads on: nothing to tell them.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    show::complain(&one_line(&error.to_string()));
    ExitCode::from(2)
}

/// What clap says, without its layout.
fn one_line(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut missing = false;
    for line in text.lines().map(str::trim) {
        if let Some(first) = line.strip_prefix("error: ") {
            missing = first.ends_with(':');
            parts.push(first.trim_end_matches(':').to_owned());
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            parts.push(tip.to_owned());
        } else if let Some(choices) = line.strip_prefix("[possible values: ") {
            parts.push(format!("possible are {}", choices.trim_end_matches(']')));
        } else if missing && line.starts_with('<') {
            parts.push(line.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            let words: Vec<&str> = usage.split_whitespace().take(2).collect();
            let verb = words
                .join(" ")
                .replace(" [OPTIONS]", "")
                .replace(" <COMMAND>", "");
            parts.push(format!("see `{verb} --help`"));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_take_one_line() {
        let text = |args: &[&str]| {
            let error = Cli::try_parse_from(args).unwrap_err();
            one_line(&error.to_string())
        };
        assert_eq!(
            text(&["larder", "mount", "/x", "--remte", "u"]),
            "unexpected argument '--remte' found; a similar argument exists: '--remote'; see `larder mount --help`"
        );
        assert_eq!(
            text(&["larder", "restore"]),
            "the following required arguments were not provided; <PATHS>...; see `larder restore --help`"
        );
        assert!(text(&["larder", "mnt"]).starts_with("unrecognized subcommand 'mnt'"));
    }
}
