//! The typed values, read from the layers.

use std::path::Path;
use std::time::Duration;

use super::file::ConfigFile;
use super::layers::{Flags, Shown, Values, refusal, same_layer, without_password};
use super::settings::{OTHER_VARIABLES, Section, nearest};
use super::value::{parse_duration, parse_size};
use super::{
    ConflictPolicy, DEFAULT_EXCLUDES, Environment, MountConfig, Offline, Patterns, RemoteSpec,
    ServeSettings,
};
use crate::error::{About, Error, Kind, Result};
use crate::secret::Secret;

/// The typed outcome, with what may be shown of it.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    pub config: T,
    /// Every value with its source, in the table's order.
    pub shown: Vec<Shown>,
    /// What is worth telling: misspelt variables, key files that others can read.
    pub notes: Vec<String>,
}

/// Lays the layers over each other for a mount at `mountpoint` (absolute).
pub fn resolve_mount(
    mountpoint: &Path,
    file: &ConfigFile,
    env: &Environment,
    flags: &Flags,
) -> Result<Resolved<MountConfig>> {
    let mut values = Values::gather(Section::Mount, Some(mountpoint), file, env, flags)?;
    let key = values.secret("key", "key_file")?;
    let config = MountConfig {
        mountpoint: mountpoint.to_owned(),
        store: values.path("store"),
        remotes: values.remotes(key)?,
        upload: values.switch("upload")?,
        read_only: values.switch("read_only")?,
        stream: values.switch("stream")?,
        max_size: values.limit("max_size", size)?,
        min_free: values.read("min_free", size)?,
        max_files: values.limit("max_files", count)?,
        offline: values.read("offline", offline)?,
        propagate_deletes: values.switch("propagate_deletes")?,
        allow_other: values.switch("allow_other")?,
        exclude: values.excludes()?,
        publish_last: values.publish_last()?,
        conflicts: values.read("conflicts", conflicts)?,
        refresh: values.read("refresh", |text| between(text, 1, 86_400))?,
        list_budget: values.limit("list_budget", count)?,
        ask_on_miss: values.switch("ask_on_miss")?,
        passthrough: values.switch("passthrough")?,
        threads: values.read("threads", |text| few(text, 64, "a number from 1 to 64"))?,
        transfers: values.read("transfers", |text| few(text, 256, "a number from 1 to 256"))?,
        uploads: values.read("uploads", |text| few(text, 64, "a number from 1 to 64"))?,
        log: values.log()?,
    };
    for contrary in ["upload", "propagate_deletes"] {
        if config.read_only && values.switch(contrary)? {
            return Err(values.contradiction("read_only", contrary));
        }
    }
    Ok(values.resolved(config, env))
}

/// Lays the layers over each other for the server.
pub fn resolve_serve(
    file: &ConfigFile,
    env: &Environment,
    flags: &Flags,
) -> Result<Resolved<ServeSettings>> {
    let mut values = Values::gather(Section::Serve, None, file, env, flags)?;
    let dir = values.path("dir").ok_or_else(|| {
        let text = "which directory? write `larder serve DIR`, or set FXCACHE_PATH";
        Error::new(Kind::Invalid, text)
    })?;
    let config = ServeSettings {
        dir,
        host: values.read("host", |text| Ok(text.trim().to_owned()))?,
        port: values.read("port", |text| {
            text.trim().parse().map_err(|_| "a port from 0 to 65535")
        })?,
        key: values.secret("key", "key_file")?,
        read_key: values.secret("read_key", "read_key_file")?,
        open_writes: values.switch("open_writes")?,
        allow_delete: values.switch("allow_delete")?,
        tls_cert: values.path("tls_cert"),
        tls_key: values.path("tls_key"),
        sweep: values.read("sweep", |text| between(text, 1, 7 * 86_400))?,
        log: values.log()?,
    };
    for (one, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
        if values.path(one).is_some() && values.path(other).is_none() {
            let text = format!("{one} is set but {other} is not; HTTPS needs both");
            return Err(Error::new(Kind::Invalid, text));
        }
    }
    Ok(values.resolved(config, env))
}

impl Values {
    fn excludes(&self) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        if self.switch("default_excludes")? {
            all.extend(DEFAULT_EXCLUDES.iter().map(|&pattern| pattern.to_owned()));
        }
        all.extend(self.excludes.iter().cloned());
        Patterns::new(&all).about("exclude")?;
        Ok(all)
    }

    /// One word, `none`, for no pattern: what is said in the environment cannot be empty.
    fn publish_last(&self) -> Result<Vec<String>> {
        let found = self.found.get("publish_last");
        let items = found.map_or(&[][..], |found| &found.items);
        let patterns: Vec<String> = match items {
            [only] if only == "none" => Vec::new(),
            items => items
                .iter()
                .map(|i| i.to_string_lossy().into_owned())
                .collect(),
        };
        Patterns::new(&patterns).about("publish_last")?;
        Ok(patterns)
    }

    fn remotes(&mut self, key: Option<Secret>) -> Result<Vec<RemoteSpec>> {
        let Some(found) = self.found.get("remote").cloned() else {
            return Ok(Vec::new());
        };
        let mut remotes: Vec<RemoteSpec> = Vec::new();
        for item in &found.items {
            let url = item.to_str().map(str::trim).filter(|url| url.contains(':'));
            let Some(url) = url else {
                let allowed = "a URL such as http://192.168.1.20:5002 or file:///srv/cache";
                return Err(refusal(
                    "remote",
                    &item.to_string_lossy(),
                    &found.source,
                    allowed,
                ));
            };
            if remotes.iter().any(|have| have.url == url) {
                let why = "each remote once";
                return Err(refusal(
                    "remote",
                    &without_password(url),
                    &found.source,
                    why,
                ));
            }
            // A directory takes no key.
            let takes_key = url.get(..4).is_some_and(|s| s.eq_ignore_ascii_case("http"));
            let own = match self.remote_keys.get(url).cloned() {
                Some(path) => Some(self.key_file(&path)?),
                None => key.clone().filter(|_| takes_key),
            };
            remotes.push(RemoteSpec {
                url: url.to_owned(),
                credentials: own.into(),
            });
        }
        Ok(remotes)
    }

    /// The key itself or the file it is in, whichever was said later.
    fn secret(&mut self, direct: &'static str, in_file: &'static str) -> Result<Option<Secret>> {
        let key = self.found.get(direct);
        let file = self.found.get(in_file);
        let from_file = match (key, file) {
            (Some(key), Some(file)) => file.source > key.source && !same_layer(key, file),
            (key, _) => key.is_none(),
        };
        if from_file {
            return match self.path(in_file) {
                Some(path) => self.key_file(&path).map(Some),
                None => Ok(None),
            };
        }
        let text = self
            .found
            .get(direct)
            .and_then(|f| f.items.last()?.to_str());
        let secret = Secret::new(text.unwrap_or_default());
        secret.map(Some).map_err(|error| error.about(direct))
    }

    fn key_file(&mut self, path: &Path) -> Result<Secret> {
        use std::os::unix::fs::PermissionsExt;
        let shown = path.display();
        let facts = std::fs::metadata(path).about(format!("key file {shown}"))?;
        let text = match facts.len() {
            0..=4096 => std::fs::read_to_string(path).about(format!("key file {shown}"))?,
            _ => String::new(),
        };
        let secret = Secret::new(&text).about(format!("key file {shown}"))?;
        if facts.permissions().mode() & 0o004 != 0 {
            let note = format!("key file {shown} can be read by everyone; run `chmod 600 {shown}`");
            self.notes.push(note);
        }
        Ok(secret)
    }

    fn contradiction(&self, one: &'static str, other: &'static str) -> Error {
        let source = |name| {
            self.found
                .get(name)
                .map(|f| f.source.to_string())
                .unwrap_or_default()
        };
        let text = format!(
            "{one} (from {}) and {other} (from {}) contradict each other; drop one",
            source(one),
            source(other)
        );
        Error::new(Kind::Invalid, text)
    }

    fn resolved<T>(mut self, config: T, env: &Environment) -> Resolved<T> {
        let shown = self
            .section
            .settings()
            .iter()
            .map(|s| self.show(s))
            .collect();
        self.notes.extend(misspelt(env));
        Resolved {
            config,
            shown,
            notes: self.notes,
        }
    }
}

fn size(text: &str) -> std::result::Result<u64, &'static str> {
    parse_size(text)
}

fn count(text: &str) -> std::result::Result<u64, &'static str> {
    let text = text.trim().replace('_', "");
    text.parse()
        .map_err(|_| "a whole number, or none for no limit")
}

fn few(text: &str, most: usize, allowed: &'static str) -> std::result::Result<usize, &'static str> {
    let number = text.trim().parse().ok();
    number.filter(|n| (1..=most).contains(n)).ok_or(allowed)
}

fn between(text: &str, least: u64, most: u64) -> std::result::Result<Duration, &'static str> {
    let time = parse_duration(text)?;
    if (least..=most).contains(&time.as_secs()) {
        return Ok(time);
    }
    Err("a time from 1s to a day (sweep: to a week)")
}

fn offline(text: &str) -> std::result::Result<Offline, &'static str> {
    match text.trim() {
        "hide" => Ok(Offline::Hide),
        "error" => Ok(Offline::Error),
        _ => Err("hide or error"),
    }
}

fn conflicts(text: &str) -> std::result::Result<ConflictPolicy, &'static str> {
    match text.trim() {
        "keep-both" => Ok(ConflictPolicy::KeepBoth),
        "local-wins" => Ok(ConflictPolicy::LocalWins),
        _ => Err("keep-both or local-wins"),
    }
}

/// Variables that look like settings of ours and are none.
fn misspelt(env: &Environment) -> Vec<String> {
    let known: Vec<&str> = [Section::Mount, Section::Serve]
        .iter()
        .flat_map(|section| section.settings())
        .flat_map(|setting| setting.env.iter().map(|(name, _)| *name))
        .chain(OTHER_VARIABLES.iter().copied())
        .collect();
    let ours = env.names().filter(|name| name.starts_with("LARDER_"));
    ours.filter(|name| !known.contains(name))
        .map(|name| match nearest(name, known.iter().copied()) {
            Some(near) => format!("{name} is not a setting; did you mean {near}?"),
            None => format!("{name} is not a setting; `larder config show` lists them"),
        })
        .collect()
}
