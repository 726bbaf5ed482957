//! Which folder a command is about: the one that was named, or that of the program whose profile
//! is asked for. Nothing that may be mounted there is touched.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::config::{Flags, profile_folder};
use crate::control;
use crate::error::{About, Kind, Result};

/// The other way to name a mount.
#[derive(Debug, Args)]
pub struct OfProfile {
    /// The mount at the cache folder of another program: lumibot
    #[arg(long, value_name = "NAME", conflicts_with = "mountpoint")]
    profile: Option<OsString>,
}

impl OfProfile {
    /// The folder that was named, either way; none if none was.
    pub fn folder(&self, named: Option<&Path>, context: &Context) -> Result<Option<PathBuf>> {
        if named.is_some() || self.profile.is_none() {
            return Ok(named.map(Path::to_owned));
        }
        let mut flags = Flags::default();
        flags.set("profile", self.profile.clone());
        profile_folder(&context.file()?, &context.env, &flags)
    }
}

impl Context {
    /// The folder of the profile that larder.toml or the environment asks for.
    pub fn profile_folder(&self) -> Result<Option<PathBuf>> {
        profile_folder(&self.file()?, &self.env, &Flags::default())
    }
}

/// The one name of a mountpoint that need not be there yet.
pub fn future(path: &Path) -> Result<PathBuf> {
    match control::mountpoint(path) {
        Err(error) if error.kind() == Kind::NotFound => {
            std::path::absolute(path).about(path.display())
        }
        other => other,
    }
}

/// Makes a folder that another program would make for itself. One that is there is not looked at.
pub fn make(folder: &Path) -> Result<()> {
    let mut maker = std::fs::DirBuilder::new();
    if let Some(parent) = folder.parent() {
        maker
            .recursive(true)
            .create(parent)
            .about(parent.display())?;
    }
    match maker.recursive(false).mode(0o755).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.about(folder.display()),
    }
}
