//! placeholder
use super::Outcome;
use crate::error::Result;
use clap::Args;
#[derive(Debug, Args)]
pub struct Demo {}
impl Demo {
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
