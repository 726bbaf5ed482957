//! `larder.toml`: found, read, and checked for words that mean nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Environment;
use super::settings::{Section, nearest};
use crate::error::{About, Error, Kind, Result};

/// The file's own limit: anything longer is not a configuration.
const LONGEST: u64 = 1 << 20;
/// Read when the user has no file of their own.
const SYSTEM_WIDE: &str = "/etc/larder/larder.toml";

/// A configuration file that was read and whose words are known.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    path: PathBuf,
    mount: Table,
    mounts: Vec<(PathBuf, Table)>,
    serve: Table,
    home: Option<PathBuf>,
}

/// One table that applies, lowest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub table: &'a Table,
    pub name: &'a str,
}

impl ConfigFile {
    /// Reads the file that applies: `chosen` (`--config`), else `LARDER_CONFIG`, else
    /// `larder/larder.toml` in the XDG configuration directory, else the one of the
    /// system. A file that was asked for must be there; the others need not.
    pub fn find(chosen: Option<&Path>, env: &Environment) -> Result<ConfigFile> {
        let home = env.get("HOME").map(PathBuf::from);
        let asked = chosen
            .map(Path::to_owned)
            .or_else(|| env.get("LARDER_CONFIG").map(PathBuf::from));
        if let Some(path) = asked {
            return ConfigFile::read(&path, home);
        }
        let own = env
            .get("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
            .or_else(|| home.as_ref().map(|home| home.join(".config")))
            .map(|dir| dir.join("larder/larder.toml"));
        for path in own.into_iter().chain([PathBuf::from(SYSTEM_WIDE)]) {
            match ConfigFile::read(&path, home.clone()) {
                Err(error) if error.kind() == Kind::NotFound => {}
                other => return other,
            }
        }
        Ok(ConfigFile::default())
    }

    fn read(path: &Path, home: Option<PathBuf>) -> Result<ConfigFile> {
        let shown = path.display();
        let size = std::fs::metadata(path).about(&shown)?.len();
        if size > LONGEST {
            return Err(
                Error::new(Kind::Invalid, "is over 1 MiB, so it is no larder.toml").about(&shown),
            );
        }
        let text = std::fs::read_to_string(path).about(&shown)?;
        ConfigFile::parse(&text, path, home).about(&shown)
    }

    /// Reads `text` as the file at `path`; `home` is what `~` stands for.
    pub fn parse(text: &str, path: &Path, home: Option<PathBuf>) -> Result<ConfigFile> {
        let table: Table = text.parse().map_err(|e| unreadable(text, &e))?;
        let mut file = ConfigFile {
            path: path.to_owned(),
            home,
            ..ConfigFile::default()
        };
        for (name, value) in table {
            match (name.as_str(), value) {
                ("mount", Value::Table(inner)) => {
                    file.mount = checked(inner, Section::Mount, "mount")?;
                }
                ("serve", Value::Table(inner)) => {
                    file.serve = checked(inner, Section::Serve, "serve")?;
                }
                ("mounts", Value::Table(inner)) => file.mounts = file.each_mount(inner)?,
                (known @ ("mount" | "serve" | "mounts"), _) => {
                    let text = format!("`{known}` is a table: write [{known}]");
                    return Err(Error::new(Kind::Invalid, text));
                }
                (other, _) => return Err(unknown(other, "", &["mount", "mounts", "serve"])),
            }
        }
        Ok(file)
    }

    fn each_mount(&self, table: Table) -> Result<Vec<(PathBuf, Table)>> {
        let mut mounts = Vec::new();
        for (mountpoint, value) in table {
            let name = format!("mounts.\"{mountpoint}\"");
            let Value::Table(inner) = value else {
                let text = format!("`{name}` is a table: write [{name}]");
                return Err(Error::new(Kind::Invalid, text));
            };
            let path = PathBuf::from(self.expand(&mountpoint));
            if !path.is_absolute() {
                let text = format!("[{name}]: a mountpoint starts with / or ~/ here");
                return Err(Error::new(Kind::Invalid, text));
            }
            mounts.push((path, checked(inner, Section::Mount, &name)?));
        }
        Ok(mounts)
    }

    /// Where it was read from; none if there is no file.
    pub fn path(&self) -> Option<&Path> {
        Some(self.path.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The mountpoints that have a table of their own.
    pub fn mountpoints(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().map(|(path, _)| path.as_path())
    }

    /// The tables that apply to `section`, lowest first.
    pub(super) fn layers(&self, section: Section, mountpoint: Option<&Path>) -> Vec<Layer<'_>> {
        let (table, name) = match section {
            Section::Mount => (&self.mount, "mount"),
            Section::Serve => (&self.serve, "serve"),
        };
        let mut layers = vec![Layer { table, name }];
        let own = self
            .mounts
            .iter()
            .filter(|(path, _)| section == Section::Mount && Some(path.as_path()) == mountpoint);
        layers.extend(own.map(|(path, table)| Layer {
            table,
            name: path.to_str().unwrap_or("mounts"),
        }));
        layers
    }

    /// `~/x` as the user means it.
    pub(super) fn expand(&self, text: &str) -> OsString {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest).into_os_string(),
            _ => text.into(),
        }
    }
}

/// A TOML error in one line, with the line it is about.
fn unreadable(text: &str, error: &toml::de::Error) -> Error {
    let line = error
        .span()
        .map(|span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
    let message = error.message().replace('\n', ", ");
    let at = line.map_or(String::new(), |line| format!("line {line}: "));
    Error::new(Kind::Invalid, format!("{at}{message}"))
}

fn checked(table: Table, section: Section, name: &str) -> Result<Table> {
    let known: Vec<&str> = section.settings().iter().map(|s| s.name).collect();
    for key in table.keys() {
        match section.setting(key) {
            Some(setting) if setting.secret => {
                let text = format!(
                    "[{name}] `{key}`: a key does not belong in this file; put it in a file of its own (chmod 600) and set `{key}_file`"
                );
                return Err(Error::new(Kind::Invalid, text));
            }
            Some(_) => {}
            None => return Err(unknown(key, name, &known)),
        }
    }
    Ok(table)
}

fn unknown(key: &str, table: &str, known: &[&str]) -> Error {
    let place = if table.is_empty() {
        String::new()
    } else {
        format!("[{table}] ")
    };
    let hint = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    Error::new(
        Kind::Invalid,
        format!("{place}`{key}` is not a setting; {hint}"),
    )
}
