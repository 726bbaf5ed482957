//! A mount's life, as the command line sees it.

use std::path::{Path, PathBuf};

use crate::config::MountConfig;
use crate::error::{Error, Kind, Result};

/// A mount of ours that the system lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    pub source: String,
}

pub fn mount(_config: MountConfig, _ready: Box<dyn FnOnce() + Send>) -> Result<()> {
    Err(Error::new(Kind::Unsupported, "not built in"))
}

pub fn detach_dead(_mountpoint: &Path) -> Result<bool> {
    Ok(false)
}

pub fn mounts() -> Result<Vec<MountEntry>> {
    Ok(Vec::new())
}
