//! `larder sync`: ask the remotes now.

use std::path::PathBuf;

use clap::Args;

use super::place::OfProfile;
use super::{Context, Outcome, ask};
use crate::control::Request;
use crate::error::Result;

/// Ask every remote of a mount now what is new
#[derive(Debug, Args)]
pub struct Sync {
    /// Which mount; not needed where there is only one
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Sync {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let mut client = ask::mount_at(place.as_deref(), context)?;
        let report = ask::order(&mut client, &Request::Sync)?;
        ask::tell(&report, self.json)
    }
}
