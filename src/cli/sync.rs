//! `larder sync`: ask the remotes now.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, ask};
use crate::control::Request;
use crate::error::Result;

/// Ask every remote of a mount now what is new
#[derive(Debug, Args)]
pub struct Sync {
    /// Which mount; not needed where there is only one
    mountpoint: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Sync {
    pub fn run(&self) -> Result<Outcome> {
        let mut client = ask::mount_at(self.mountpoint.as_deref())?;
        let report = ask::order(&mut client, &Request::Sync)?;
        ask::tell(&report, self.json)
    }
}
