//! The typed values, read from the layers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::ConfigFile;
use super::layers::{Flags, Shown, Values, refusal, same_layer, without_password};
use super::lumibot::{self, Lumibot};
use super::settings::{OTHER_VARIABLES, Section, nearest};
use super::value::{parse_bucket, parse_duration, parse_size};
use super::{
    ConflictPolicy, DEFAULT_EXCLUDES, Environment, MountConfig, Offline, Patterns, Profile,
    RemoteSpec, ServeSettings,
};
use crate::error::{About, Error, Kind, Result};
use crate::secret::{AccessKey, Credentials, Secret};

/// The typed outcome, with what may be shown of it.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    pub config: T,
    /// Every value with its source, in the table's order.
    pub shown: Vec<Shown>,
    /// What is worth telling: misspelt variables, key files that others can read.
    pub notes: Vec<String>,
    /// Why the profile that was asked for adds no remote, and what to do about it.
    pub off: Option<String>,
}

/// The folder of the program that the profile is of; none without a profile.
pub fn profile_folder(
    file: &ConfigFile,
    env: &Environment,
    flags: &Flags,
) -> Result<Option<PathBuf>> {
    match Values::only("profile", file, env, flags)?.profile()? {
        Some(Profile::Lumibot) => lumibot::folder(env).map(|(folder, _)| Some(folder)),
        None => Ok(None),
    }
}

/// Lays the layers over each other for a mount at `mountpoint` (absolute).
pub fn resolve_mount(
    mountpoint: &Path,
    file: &ConfigFile,
    env: &Environment,
    flags: &Flags,
) -> Result<Resolved<MountConfig>> {
    let mut values = Values::gather(Section::Mount, Some(mountpoint), file, env, flags)?;
    if values.profile()? == Some(Profile::Lumibot) {
        values.lumibot = Some(Lumibot::read(env)?);
    }
    let credentials = Credentials {
        key: values.secret("key", "key_file")?,
        access: values.access()?,
    };
    let config = MountConfig {
        mountpoint: mountpoint.to_owned(),
        store: values.path("store"),
        remotes: values.remotes(&credentials)?,
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
        max_listed: values.limit("max_listed", count)?,
        ask_on_miss: values.switch("ask_on_miss")?,
        passthrough: values.switch("passthrough")?,
        threads: values.read("threads", |text| few(text, 64, "a number from 1 to 64"))?,
        transfers: values.read("transfers", |text| few(text, 256, "a number from 1 to 256"))?,
        prefetch: values.read("prefetch", |text| match text.trim() {
            "0" => Ok(0),
            text => few(text, 256, "a number from 0 (never) to 256"),
        })?,
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
        s3_bucket: match values.path("s3_bucket") {
            Some(_) => values.read("s3_bucket", parse_bucket).map(Some)?,
            None => None,
        },
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

    /// Those that were named, in order; behind them the one that the profile adds.
    fn remotes(&mut self, credentials: &Credentials) -> Result<Vec<RemoteSpec>> {
        let mut remotes = self.named_remotes(credentials)?;
        let bucket = self.lumibot.as_ref().and_then(|l| l.bucket.clone());
        if let (Some(url), Some(bucket)) = (self.profile_url(), bucket) {
            let access = bucket.access.or_else(|| credentials.access.clone());
            let credentials = Credentials { key: None, access };
            remotes.push(RemoteSpec {
                url,
                is_partition: true,
                credentials,
            });
        }
        Ok(remotes)
    }

    fn named_remotes(&mut self, credentials: &Credentials) -> Result<Vec<RemoteSpec>> {
        let Some(found) = self.found.get("remote").cloned() else {
            return Ok(Vec::new());
        };
        let mut remotes: Vec<RemoteSpec> = Vec::new();
        for item in &found.items {
            let url = item.to_str().map(str::trim).filter(|url| url.contains(':'));
            let Some(url) = url else {
                let allowed = "a URL such as http://192.168.1.20:5002, s3://bucket/prefix or file:///srv/cache";
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
            // What is said for all goes to those that can use it; a directory takes no key.
            let is = |scheme: &str| {
                let begin = url.get(..scheme.len());
                begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            };
            let key = match self.remote_keys.get(url).cloned() {
                Some(path) => Some(self.key_file(&path)?),
                None => credentials.key.clone().filter(|_| is("http")),
            };
            remotes.push(RemoteSpec {
                url: url.to_owned(),
                is_partition: false,
                credentials: Credentials {
                    key,
                    access: credentials.access.clone().filter(|_| is("s3:")),
                },
            });
        }
        Ok(remotes)
    }

    /// The access key for buckets that was given here; none leaves it to the S3 tools' settings.
    fn access(&mut self) -> Result<Option<AccessKey>> {
        const ID: &str = "s3_access_key_id";
        let id = match self.found.contains_key(ID) {
            true => Some(self.read(ID, |text| Ok(text.trim().to_owned()))?),
            false => None,
        };
        let secret = self.secret("s3_secret_access_key", "s3_secret_access_key_file")?;
        let session = self.secret("s3_session_token", "s3_session_token_file")?;
        if session.is_some() && id.is_none() && secret.is_none() {
            let text = "s3_session_token is set but s3_access_key_id is not; it goes with a key";
            return Err(Error::new(Kind::Invalid, text));
        }
        access_key(
            id,
            secret,
            session,
            ["s3_access_key_id", "s3_secret_access_key"],
        )
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
            _ => {
                let why = "it is larger than 4,096 bytes, so it is no key";
                return Err(Error::new(Kind::Invalid, why).about(format!("key file {shown}")));
            }
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
        let settings = self.section.settings().iter();
        let mut shown: Vec<Shown> = settings.map(|s| self.show(s)).collect();
        let mut off = None;
        if let Some(lumibot) = &self.lumibot {
            shown.extend(lumibot.shown.iter().cloned());
            shown.extend(lumibot::show_folder(env));
            off = lumibot.off();
        }
        self.notes.extend(misspelt(env));
        Resolved {
            config,
            shown,
            notes: self.notes,
            off,
        }
    }
}

/// The access key of these parts; `names` are those of its id and its secret.
pub(super) fn access_key(
    id: Option<String>,
    secret: Option<Secret>,
    session: Option<Secret>,
    names: [&str; 2],
) -> Result<Option<AccessKey>> {
    let refused = |text| Err(Error::new(Kind::Invalid, text));
    let [have, lacks] = match (id, secret) {
        (None, None) => return Ok(None),
        (Some(id), Some(_)) if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()) => {
            return refused(format!("{} is not an access key's name", names[0]));
        }
        (Some(id), Some(secret)) => {
            return Ok(Some(AccessKey {
                id,
                secret,
                session,
            }));
        }
        (Some(_), None) => names,
        (None, Some(_)) => [names[1], names[0]],
    };
    refused(format!(
        "{have} is set but {lacks} is not; set both, or neither for what the AWS tools use here"
    ))
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
