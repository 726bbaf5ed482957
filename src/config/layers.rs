//! The layers, one over the other, and what each value's source was.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::lumibot::Lumibot;
use super::settings::{Reading, Section, Setting, Source, nearest};
use super::value::{parse_duration, parse_size, parse_switch, show_duration, show_size};
use super::{Environment, Profile};
use crate::error::{Error, Kind, Result};

/// Stands for a secret.
pub(super) const NOT_SHOWN: &str = "(set, not shown)";

/// What the command line said, by the names of the settings.
#[derive(Debug, Clone, Default)]
pub struct Flags(BTreeMap<&'static str, Vec<OsString>>);

impl Flags {
    /// Notes that the flag was given with these values; none: it was not given.
    pub fn set<V: Into<OsString>>(
        &mut self,
        name: &'static str,
        values: impl IntoIterator<Item = V>,
    ) {
        let values: Vec<OsString> = values.into_iter().map(Into::into).collect();
        if !values.is_empty() {
            self.0.insert(name, values);
        }
    }
}

/// One line of `larder config show`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    pub name: &'static str,
    pub value: String,
    pub source: String,
}

/// One setting's value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub items: Vec<OsString>,
    pub source: Source,
}

impl Found {
    fn shown(&self) -> String {
        let items: Vec<_> = self.items.iter().map(|i| i.to_string_lossy()).collect();
        items.join(" ")
    }
}

/// The values of one section while they are read.
pub(super) struct Values {
    pub section: Section,
    pub found: BTreeMap<&'static str, Found>,
    /// Every `exclude` of every layer: they add up.
    pub excludes: Vec<String>,
    /// Key files of single remotes, by URL.
    pub remote_keys: BTreeMap<String, PathBuf>,
    /// What the profile adds.
    pub lumibot: Option<Lumibot>,
    pub notes: Vec<String>,
}

impl Values {
    pub(super) fn gather(
        section: Section,
        mountpoint: Option<&Path>,
        file: &ConfigFile,
        env: &Environment,
        flags: &Flags,
    ) -> Result<Values> {
        let mut values = Values::empty(section);
        for setting in section.settings() {
            values.take(setting, mountpoint, file, env, flags)?;
        }
        Ok(values)
    }

    /// The values of one setting only, for any mount.
    pub(super) fn only(
        name: &str,
        file: &ConfigFile,
        env: &Environment,
        flags: &Flags,
    ) -> Result<Values> {
        let mut values = Values::empty(Section::Mount);
        if let Some(setting) = Section::Mount.setting(name) {
            values.take(setting, None, file, env, flags)?;
        }
        Ok(values)
    }

    fn empty(section: Section) -> Values {
        Values {
            section,
            found: BTreeMap::new(),
            excludes: Vec::new(),
            remote_keys: BTreeMap::new(),
            lumibot: None,
            notes: Vec::new(),
        }
    }

    fn take(
        &mut self,
        setting: &Setting,
        mountpoint: Option<&Path>,
        file: &ConfigFile,
        env: &Environment,
        flags: &Flags,
    ) -> Result<()> {
        if let Some(text) = setting.default {
            let items = match setting.list {
                true => words(OsStr::new(text)),
                false => vec![text.into()],
            };
            self.put(setting, items, Source::Default);
        }
        self.take_file(setting, mountpoint, file)?;
        self.take_env(setting, env)?;
        if let Some(items) = flags.0.get(setting.name) {
            self.put(setting, items.clone(), Source::Flag(setting.name));
        }
        Ok(())
    }

    fn put(&mut self, setting: &Setting, items: Vec<OsString>, source: Source) {
        if setting.name == "exclude" {
            let texts = items.iter().map(|i| i.to_string_lossy().into_owned());
            self.excludes.extend(texts);
        }
        self.found.insert(setting.name, Found { items, source });
    }

    fn take_file(
        &mut self,
        setting: &Setting,
        mountpoint: Option<&Path>,
        file: &ConfigFile,
    ) -> Result<()> {
        for layer in file.layers(self.section, mountpoint) {
            let Some(value) = layer.table.get(setting.name) else {
                continue;
            };
            let source = Source::File {
                path: file.path().map(Path::to_owned).unwrap_or_default(),
                table: layer.name.to_owned(),
            };
            let items = self.file_items(setting, value, file, &source)?;
            self.put(setting, items, source);
        }
        Ok(())
    }

    fn file_items(
        &mut self,
        setting: &Setting,
        value: &toml::Value,
        file: &ConfigFile,
        source: &Source,
    ) -> Result<Vec<OsString>> {
        let name = setting.name;
        match value {
            toml::Value::Array(items) if setting.list => {
                let each = items
                    .iter()
                    .map(|item| self.file_item(name, item, file, source));
                each.collect()
            }
            _ => Ok(vec![self.file_item(name, value, file, source)?]),
        }
    }

    fn file_item(
        &mut self,
        name: &str,
        value: &toml::Value,
        file: &ConfigFile,
        source: &Source,
    ) -> Result<OsString> {
        match value {
            toml::Value::String(text) => Ok(file.expand(text)),
            toml::Value::Integer(number) => Ok(number.to_string().into()),
            toml::Value::Boolean(switch) => Ok(switch.to_string().into()),
            toml::Value::Table(table) if name == "remote" => self.file_remote(table, file, source),
            other => Err(refusal(
                name,
                &other.to_string(),
                source,
                "a text, a number or true/false",
            )),
        }
    }

    /// `{ url = "…", key_file = "…" }`: a remote with a key of its own.
    fn file_remote(
        &mut self,
        table: &toml::Table,
        file: &ConfigFile,
        source: &Source,
    ) -> Result<OsString> {
        const ALLOWED: &str = "a URL, or { url = \"…\", key_file = \"…\" }";
        let text = |key: &str| table.get(key).and_then(toml::Value::as_str);
        let known = table.keys().all(|key| key == "url" || key == "key_file");
        let (Some(url), true) = (text("url"), known) else {
            // Its names alone: a value that stands there may be a key.
            let names: Vec<&str> = table.keys().map(String::as_str).collect();
            let shown = format!("{{ {} }}", names.join(", "));
            return Err(refusal("remote", &shown, source, ALLOWED));
        };
        if let Some(key_file) = text("key_file") {
            let path = PathBuf::from(file.expand(key_file));
            self.remote_keys.insert(url.to_owned(), path);
        }
        Ok(url.into())
    }

    fn take_env(&mut self, setting: &Setting, env: &Environment) -> Result<()> {
        let set = setting
            .env
            .iter()
            .find_map(|(name, reading)| env.get(name).map(|value| (*name, *reading, value)));
        let Some((name, reading, value)) = set else {
            return Ok(());
        };
        // A cache of another program: what is meant for it is not meant for this one.
        if name.starts_with("REMOTE_FXCACHE") && self.profile()?.is_some() {
            self.notes.push(format!(
                "{name} is FXCACHE's and not used by the profile; what it says can be said with --{}",
                setting.name.replace('_', "-")
            ));
            return Ok(());
        }
        let source = Source::Environment(name);
        let items = match (reading, setting.list) {
            (Reading::FxcacheMode, _) => vec![mode(setting.name, value, &source)?.into()],
            (Reading::Plain, true) => words(value),
            (Reading::Plain, false) => vec![value.clone()],
        };
        if !items.is_empty() {
            self.put(setting, items, source);
        }
        Ok(())
    }

    pub(super) fn read<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> std::result::Result<T, &'static str>,
    ) -> Result<T> {
        let found = self.found.get(name);
        let Some(found) = found else {
            return Err(Error::new(Kind::Invalid, format!("{name} is not set")));
        };
        // The last one wins, as with any repeated flag.
        let text = found
            .items
            .last()
            .map(OsString::as_os_str)
            .unwrap_or_default();
        let parsed = text.to_str().ok_or("text in UTF-8").and_then(parse);
        parsed.map_err(|allowed| refusal(name, &text.to_string_lossy(), &found.source, allowed))
    }

    /// Which program's environment says the rest. The table has it first.
    pub(super) fn profile(&self) -> Result<Option<Profile>> {
        self.read("profile", |text| match text.trim() {
            "none" => Ok(None),
            "lumibot" => Ok(Some(Profile::Lumibot)),
            other => Err(match nearest(other, ["lumibot"]) {
                Some(_) => "lumibot or none; did you mean lumibot?",
                None => "lumibot or none",
            }),
        })
    }

    pub(super) fn switch(&self, name: &'static str) -> Result<bool> {
        self.read(name, parse_switch)
    }

    pub(super) fn limit(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> std::result::Result<u64, &'static str>,
    ) -> Result<Option<u64>> {
        self.read(name, |text| match text.trim() {
            "none" | "unlimited" => Ok(None),
            text => match parse(text) {
                Ok(0) => Err("more than 0, or none for no limit"),
                other => other.map(Some),
            },
        })
    }

    pub(super) fn path(&self, name: &'static str) -> Option<PathBuf> {
        let found = self.found.get(name)?;
        found.items.last().map(PathBuf::from)
    }

    pub(super) fn log(&self) -> Result<String> {
        self.read("log", |text| match text.trim() {
            "" => Err("a level (error, warn, info, debug, trace) or a filter such as larder=debug"),
            text => Ok(text.to_owned()),
        })
    }

    pub(super) fn show(&self, setting: &Setting) -> Shown {
        if setting.name == "remote" {
            return self.show_remotes();
        }
        let Some(found) = self.found.get(setting.name) else {
            return Shown {
                name: setting.name,
                value: String::new(),
                source: Source::Default.to_string(),
            };
        };
        let value = match setting.name {
            _ if setting.secret => NOT_SHOWN.into(),
            "exclude" => self.excludes.join(" "),
            "max_size" | "min_free" => parse_size(&found.shown()).map_or(found.shown(), show_size),
            "refresh" | "sweep" => {
                parse_duration(&found.shown()).map_or(found.shown(), show_duration)
            }
            _ => found.shown(),
        };
        Shown {
            name: setting.name,
            value,
            source: found.source.to_string(),
        }
    }
}

impl Values {
    fn show_remotes(&self) -> Shown {
        let found = self.found.get("remote");
        let urls = found.map_or(&[][..], |found| &found.items).iter();
        let urls = urls.map(|url| without_password(&url.to_string_lossy()));
        let added = self.profile_url();
        let source = match (found, &added) {
            (None, None) => Source::Default.to_string(),
            (Some(found), None) => found.source.to_string(),
            (None, Some(_)) => "profile lumibot".into(),
            (Some(found), Some(_)) => format!("{}, profile lumibot", found.source),
        };
        Shown {
            name: "remote",
            value: urls.chain(added).collect::<Vec<_>>().join(" "),
            source,
        }
    }

    /// The remote that the profile adds behind the others.
    pub(super) fn profile_url(&self) -> Option<String> {
        let bucket = self.lumibot.as_ref()?.bucket.as_ref()?;
        Some(bucket.url(self.switch("read_only").unwrap_or(false)))
    }
}

/// Whether both come from the environment (or both from flags), where the order of
/// two different names says nothing; the key itself wins then.
pub(super) fn same_layer(one: &Found, other: &Found) -> bool {
    std::mem::discriminant(&one.source) == std::mem::discriminant(&other.source)
}

pub(super) fn refusal(name: &str, value: &str, source: &Source, allowed: &str) -> Error {
    let value: String = value
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    let text = format!("{name} = \"{value}\" (from {source}) is not usable: it must be {allowed}");
    Error::new(Kind::Invalid, text)
}

fn mode(name: &str, value: &OsStr, source: &Source) -> Result<&'static str> {
    let text = value.to_string_lossy();
    match text.trim().to_ascii_lowercase().as_str() {
        "cache" => Ok("false"),
        "stream" => Ok("true"),
        _ => Err(refusal(name, &text, source, "cache or stream")),
    }
}

fn words(value: &OsStr) -> Vec<OsString> {
    let text = value.to_string_lossy();
    text.split_whitespace().map(OsString::from).collect()
}

/// A URL without what stands before its host.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}")
}
