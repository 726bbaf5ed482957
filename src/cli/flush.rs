//! `larder flush`: send what is pending.

use std::path::PathBuf;

use clap::Args;

use super::place::OfProfile;
use super::{Context, Outcome, ask};
use crate::control::Request;
use crate::error::Result;

/// Send now what is waiting to go up
#[derive(Debug, Args)]
pub struct Flush {
    /// Which mount; not needed where there is only one
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    profile: OfProfile,
    /// Come back when everything is there
    #[arg(long, short)]
    wait: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Flush {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let place = self.profile.folder(self.mountpoint.as_deref(), context)?;
        let mut client = ask::mount_at(place.as_deref(), context)?;
        let report = ask::order(&mut client, &Request::Flush { wait: self.wait })?;
        ask::tell(&report, self.json)
    }
}
