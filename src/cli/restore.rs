//! `larder restore`: show again what was deleted here.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Outcome, ask, show};
use crate::control::{Client, Request};
use crate::error::Result;

/// Show again what was deleted here but is still at a remote
#[derive(Debug, Args)]
pub struct Restore {
    /// Files or directories in a mount; a directory brings back everything beneath it
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print the results as JSON, one a line
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub fn run(&self) -> Result<Outcome> {
        let mut outcome = Outcome::Done;
        for path in &self.paths {
            match self.restore(path) {
                Ok(Outcome::Done) => {}
                Ok(_) => outcome = Outcome::NotAll,
                Err(error) if self.paths.len() == 1 => return Err(error),
                Err(error) => {
                    show::complain(&error.to_string());
                    outcome = Outcome::NotAll;
                }
            }
        }
        Ok(outcome)
    }

    fn restore(&self, path: &Path) -> Result<Outcome> {
        let (mountpoint, inside) = ask::mount_of(path)?;
        let request = Request::Restore {
            path: inside.encode(),
        };
        let report = ask::order(&mut Client::connect(&mountpoint)?, &request)?;
        ask::tell(&report, self.json)
    }
}
