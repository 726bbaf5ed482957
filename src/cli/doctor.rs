//! placeholder
use super::{Context, Outcome};
use crate::error::Result;
use clap::Args;
#[derive(Debug, Args)]
pub struct Doctor {}
impl Doctor {
    pub fn run(&self, _c: &Context) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
