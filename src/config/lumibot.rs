//! Lumibot's remote cache: what its environment variables mean, read as Lumibot reads them. Pure.
//!
//! Owns the mapping from `LUMIBOT_CACHE_*` to a prefix of a bucket, who asks there, whether files go
//! up, and the folder that Lumibot keeps its cache in. It trims what Lumibot trims, in Lumibot's order,
//! and refuses what Lumibot refuses in Lumibot's words. A `.env` file is not read.

use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Environment;
use super::layers::{NOT_SHOWN, Shown};
use super::resolve::access_key;
use super::settings::Source;
use crate::error::{About, Error, Kind, Result};
use crate::secret::{AccessKey, Secret};

const BACKEND: &str = "LUMIBOT_CACHE_BACKEND";
const MODE: &str = "LUMIBOT_CACHE_MODE";
const BUCKET: &str = "LUMIBOT_CACHE_S3_BUCKET";
const PREFIX: &str = "LUMIBOT_CACHE_S3_PREFIX";
const REGION: &str = "LUMIBOT_CACHE_S3_REGION";
const ACCESS_KEY_ID: &str = "LUMIBOT_CACHE_S3_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "LUMIBOT_CACHE_S3_SESSION_TOKEN";
const VERSION: &str = "LUMIBOT_CACHE_S3_VERSION";
const FOLDER: &str = "LUMIBOT_CACHE_FOLDER";

/// What stays literal in a URL's path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// What Lumibot is told by its environment.
#[derive(Debug)]
pub(super) struct Lumibot {
    /// None while its remote cache is off.
    pub bucket: Option<Bucket>,
    off: Option<&'static str>,
    /// Every value, as it was understood, with its source.
    pub shown: Vec<Shown>,
}

/// Where its remote cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub name: String,
    pub prefix: String,
    pub version: String,
    pub region: Option<String>,
    pub access: Option<AccessKey>,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    ReadWrite,
    ReadOnly,
}

impl Lumibot {
    /// Reads `env`. Errors: [`Kind::Invalid`], with Lumibot's own words where it has some.
    pub(super) fn read(env: &Environment) -> Result<Lumibot> {
        let mut variables = Variables {
            env,
            shown: Vec::new(),
        };
        let backend = variables.word("lumibot.backend", BACKEND, "local")?;
        let mode = variables.word("lumibot.mode", MODE, "disabled")?;
        // While it is off, Lumibot looks at nothing else.
        let bucket = match backend == "s3" {
            true => mode_of(&mode)?
                .map(|mode| variables.bucket(mode))
                .transpose()?,
            false => None,
        };
        Ok(Lumibot {
            off: match (&bucket, backend.as_str()) {
                (Some(_), _) => None,
                (None, "s3") => Some("LUMIBOT_CACHE_MODE is disabled"),
                (None, _) => Some("LUMIBOT_CACHE_BACKEND is not s3"),
            },
            bucket,
            shown: variables.shown,
        })
    }

    /// Why there is no bucket, and what to do about it.
    pub(super) fn off(&self) -> Option<String> {
        let why = self.off?;
        Some(format!(
            "Lumibot's remote cache is off ({why}); export LUMIBOT_CACHE_BACKEND=s3, LUMIBOT_CACHE_MODE=readwrite (or readonly) and LUMIBOT_CACHE_S3_BUCKET; a .env file is not read"
        ))
    }
}

impl Bucket {
    /// The remote: its keys are Lumibot's own, `<prefix>/<version>/<path in the folder>`. In a mount
    /// where nothing is written nothing can go up.
    pub(super) fn url(&self, read_only: bool) -> String {
        let parts = [&self.prefix, &self.version];
        let parts: Vec<String> = parts
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| utf8_percent_encode(part, PATH).to_string())
            .collect();
        let upload = self.mode == Mode::ReadWrite && !read_only;
        let mut url = format!("s3://{}/{}?upload={upload}", self.name, parts.join("/"));
        if let Some(region) = &self.region {
            url.push_str("&region=");
            url.extend(utf8_percent_encode(region, NON_ALPHANUMERIC));
        }
        url
    }
}

/// Where Lumibot keeps its cache on this machine: its variable, else its platform's default.
pub(super) fn folder(env: &Environment) -> Result<(PathBuf, Source)> {
    if let Some(folder) = env.get(FOLDER) {
        return Ok((PathBuf::from(folder), Source::Environment(FOLDER)));
    }
    caches(env).map(|caches| (caches.join("lumibot/1.0"), Source::Default))
}

/// The folder's line, if there is one.
pub(super) fn show_folder(env: &Environment) -> Option<Shown> {
    let (folder, source) = folder(env).ok()?;
    Some(Shown {
        name: "lumibot.folder",
        value: folder.display().to_string(),
        source: source.to_string(),
    })
}

#[cfg(target_os = "macos")]
fn caches(env: &Environment) -> Result<PathBuf> {
    home(env).map(|home| home.join("Library/Caches"))
}

#[cfg(not(target_os = "macos"))]
fn caches(env: &Environment) -> Result<PathBuf> {
    match env.get("XDG_CACHE_HOME") {
        Some(caches) => Ok(PathBuf::from(caches)),
        None => home(env).map(|home| home.join(".cache")),
    }
}

fn home(env: &Environment) -> Result<PathBuf> {
    let missing = || {
        let text = "Lumibot's cache folder is not known, for neither LUMIBOT_CACHE_FOLDER nor HOME is set; name the folder";
        Error::new(Kind::Invalid, text)
    };
    env.get("HOME").map(PathBuf::from).ok_or_else(missing)
}

/// The variables while they are read; each leaves its line.
struct Variables<'a> {
    env: &'a Environment,
    shown: Vec<Shown>,
}

impl Variables<'_> {
    fn bucket(&mut self, mode: Mode) -> Result<Bucket> {
        let name = self.text("lumibot.bucket", BUCKET)?.unwrap_or_default();
        if name.is_empty() {
            let text = "LUMIBOT_CACHE_S3_BUCKET must be set when using the S3 cache backend.";
            return Err(Error::new(Kind::Invalid, text));
        }
        let prefix = self.part("lumibot.prefix", PREFIX, "")?;
        let version = self.part("lumibot.version", VERSION, "v1")?;
        let region = self.text("lumibot.region", REGION)?;
        let id = self.text("lumibot.access_key_id", ACCESS_KEY_ID)?;
        let secret = self.secret("lumibot.secret_access_key", SECRET_ACCESS_KEY)?;
        let session = self.secret("lumibot.session_token", SESSION_TOKEN)?;
        Ok(Bucket {
            name: bucket_name(name)?,
            prefix,
            version,
            region,
            access: access_key(id, secret, session, [ACCESS_KEY_ID, SECRET_ACCESS_KEY])?,
            mode,
        })
    }

    /// Without white space around it; none where nothing is left.
    fn text(&mut self, name: &'static str, variable: &'static str) -> Result<Option<String>> {
        let (text, source) = self.raw(variable, "")?;
        let text = strip(&text).to_owned();
        self.show(name, text.clone(), &source);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The same in lower case; `default` where it is missing or empty.
    fn word(
        &mut self,
        name: &'static str,
        variable: &'static str,
        default: &str,
    ) -> Result<String> {
        let (text, source) = self.raw(variable, default)?;
        let word = strip(&text).to_lowercase();
        self.show(name, word.clone(), &source);
        Ok(word)
    }

    /// A part of a key: without slashes around what is left; `default` if that is nothing.
    fn part(
        &mut self,
        name: &'static str,
        variable: &'static str,
        default: &str,
    ) -> Result<String> {
        let (text, source) = self.raw(variable, default)?;
        let (part, source) = match strip(&text).trim_matches('/') {
            "" => (default.to_owned(), Source::Default),
            part => (part.to_owned(), source),
        };
        self.show(name, part.clone(), &source);
        Ok(part)
    }

    fn secret(&mut self, name: &'static str, variable: &'static str) -> Result<Option<Secret>> {
        let (text, source) = self.raw(variable, "")?;
        let text = strip(&text);
        let secret = match text.is_empty() {
            true => None,
            false => Some(Secret::new(text).about(variable)?),
        };
        let value = secret.as_ref().map_or("", |_| NOT_SHOWN);
        self.show(name, value.to_owned(), &source);
        Ok(secret)
    }

    fn raw(&self, variable: &'static str, default: &str) -> Result<(String, Source)> {
        let Some(value) = self.env.get(variable) else {
            return Ok((default.to_owned(), Source::Default));
        };
        let text = value.to_str().ok_or_else(|| {
            let text = format!("{variable} is not text in UTF-8");
            Error::new(Kind::Invalid, text)
        })?;
        Ok((text.to_owned(), Source::Environment(variable)))
    }

    fn show(&mut self, name: &'static str, value: String, source: &Source) {
        self.shown.push(Shown {
            name,
            value,
            source: source.to_string(),
        });
    }
}

/// As Python strips: its white space has four separators more than Unicode's.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

fn mode_of(mode: &str) -> Result<Option<Mode>> {
    match mode {
        "disabled" | "off" | "local" => Ok(None),
        "readwrite" | "rw" | "s3_readwrite" => Ok(Some(Mode::ReadWrite)),
        "readonly" | "ro" | "s3_readonly" => Ok(Some(Mode::ReadOnly)),
        _ => {
            let text = format!(
                "Unsupported LUMIBOT_CACHE_MODE '{mode}'. Expected one of: disabled, readwrite, readonly."
            );
            Err(Error::new(Kind::Invalid, text))
        }
    }
}

/// What else stood here would become part of the URL.
fn bucket_name(name: String) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match name.chars().all(plain) {
        true => Ok(name),
        false => Err(Error::new(
            Kind::Invalid,
            "LUMIBOT_CACHE_S3_BUCKET is not the name of a bucket",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Bucket>> {
        Lumibot::read(&Environment::of(pairs)).map(|lumibot| lumibot.bucket)
    }

    /// Lumibot with its cache on, and `pairs`.
    fn on(pairs: &[(&str, &str)]) -> Result<Bucket> {
        let mut all = vec![(BACKEND, "s3"), (MODE, "readwrite"), (BUCKET, "b-1")];
        all.retain(|(name, _)| pairs.iter().all(|(other, _)| other != name));
        all.extend(pairs);
        read(&all).map(|bucket| bucket.unwrap())
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err().to_string()
    }

    #[test]
    fn only_s3_turns_it_on() {
        let rest = [(MODE, "readwrite"), (BUCKET, "b-1")];
        for backend in ["s3", " S3 ", "\tS3\n", "\u{a0}s3\u{1f}"] {
            let on = [&[(BACKEND, backend)][..], &rest].concat();
            assert!(read(&on).unwrap().is_some(), "{backend:?}");
        }
        for backend in ["", "local", "gcs", "s3x", "s 3", "  "] {
            let off = [&[(BACKEND, backend)][..], &rest].concat();
            assert_eq!(read(&off).unwrap(), None, "{backend:?}");
        }
        assert_eq!(read(&rest).unwrap(), None);
        // Nothing else is looked at then.
        assert_eq!(read(&[(BACKEND, "gcs"), (MODE, "??")]).unwrap(), None);
    }

    #[test]
    fn every_spelling_of_the_mode() {
        let mode = |text| {
            let pairs = [(BACKEND, "s3"), (MODE, text), (BUCKET, "b-1")];
            read(&pairs).unwrap().map(|bucket| bucket.mode)
        };
        for text in ["", "disabled", "off", "local", " OFF\n"] {
            assert_eq!(mode(text), None, "{text:?}");
        }
        for text in ["readwrite", "rw", "s3_readwrite", " ReadWrite "] {
            assert_eq!(mode(text), Some(Mode::ReadWrite), "{text:?}");
        }
        for text in ["readonly", "ro", "s3_readonly", "\tRO"] {
            assert_eq!(mode(text), Some(Mode::ReadOnly), "{text:?}");
        }
        assert_eq!(read(&[(BACKEND, "s3"), (BUCKET, "b-1")]).unwrap(), None);
    }

    #[test]
    fn mistakes_are_refused_in_lumibots_words_and_order() {
        assert_eq!(
            refusal(&[(BACKEND, "s3"), (MODE, " Read-Write ")]),
            "Unsupported LUMIBOT_CACHE_MODE 'read-write'. Expected one of: disabled, readwrite, readonly."
        );
        assert_eq!(
            refusal(&[(BACKEND, "s3"), (MODE, "  "), (BUCKET, "b-1")]),
            "Unsupported LUMIBOT_CACHE_MODE ''. Expected one of: disabled, readwrite, readonly."
        );
        for bucket in [&[][..], &[(BUCKET, "")], &[(BUCKET, " \t")]] {
            let pairs = [&[(BACKEND, "s3"), (MODE, "ro")][..], bucket].concat();
            assert_eq!(
                refusal(&pairs),
                "LUMIBOT_CACHE_S3_BUCKET must be set when using the S3 cache backend."
            );
        }
        // Off, it needs no bucket.
        assert_eq!(read(&[(BACKEND, "s3"), (MODE, "off")]).unwrap(), None);
        for name in ["b/x", "b?upload", "b@host", "arn:aws:s3:::b"] {
            assert!(on(&[(BUCKET, name)]).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_are_lumibots_own() {
        let url = |prefix, version| {
            let bucket = on(&[(PREFIX, prefix), (VERSION, version)]);
            bucket.unwrap().url(false)
        };
        for (prefix, version, path) in [
            ("", "", "v1"),
            ("stage/cache", "v3", "stage/cache/v3"),
            (" /stage/cache/ ", " /v3/ ", "stage/cache/v3"),
            ("/p//q/", "/", "p//q/v1"),
            ("//", " ", "v1"),
            // Trimmed once, and only then without slashes.
            ("/ a /", "v1", "%20a%20/v1"),
            ("a#b?c%d", "v1", "a%23b%3Fc%25d/v1"),
            ("Prod/ü", "V2.1_x", "Prod/%C3%BC/V2.1_x"),
        ] {
            let wanted = format!("s3://b-1/{path}?upload=true");
            assert_eq!(url(prefix, version), wanted, "{prefix:?} {version:?}");
        }
    }

    #[test]
    fn the_mode_and_the_region_go_into_the_url() {
        let bucket = on(&[(MODE, "ro"), (REGION, " eu-central-1 ")]).unwrap();
        let wanted = "s3://b-1/v1?upload=false&region=eu%2Dcentral%2D1";
        assert_eq!(bucket.url(false), wanted);
        let bucket = on(&[(REGION, " ")]).unwrap();
        assert_eq!(bucket.url(false), "s3://b-1/v1?upload=true");
        assert_eq!(bucket.url(true), "s3://b-1/v1?upload=false");
    }

    #[test]
    fn p10_keys_are_explicit_or_left_to_the_s3_tools_and_never_shown() {
        assert_eq!(on(&[]).unwrap().access, None);
        let blank = [(ACCESS_KEY_ID, " "), (SECRET_ACCESS_KEY, "\t")];
        assert_eq!(on(&blank).unwrap().access, None);
        let both = [
            (BACKEND, "s3"),
            (MODE, "rw"),
            (BUCKET, "b-1"),
            (ACCESS_KEY_ID, " AKIA1 "),
            (SECRET_ACCESS_KEY, " sesame\n"),
            (SESSION_TOKEN, "open"),
        ];
        let got = Lumibot::read(&Environment::of(&both)).unwrap();
        let access = got.bucket.as_ref().unwrap().access.clone().unwrap();
        assert_eq!(access.id, "AKIA1");
        assert_eq!(access.secret, Secret::new("sesame").unwrap());
        assert_eq!(access.session, Some(Secret::new("open").unwrap()));
        let everything = format!("{got:?}");
        assert!(everything.contains("AKIA1") && !everything.contains("sesame"));
        assert!(!everything.contains("\"open\""), "{everything}");
        for half in [(ACCESS_KEY_ID, "AKIA1"), (SECRET_ACCESS_KEY, "sesame")] {
            let text = on(&[half]).unwrap_err().to_string();
            assert!(text.contains(ACCESS_KEY_ID) && text.contains(SECRET_ACCESS_KEY));
            assert!(!text.contains("sesame"), "{text}");
        }
        // As at Lumibot, a token alone is nothing.
        assert_eq!(on(&[(SESSION_TOKEN, "open")]).unwrap().access, None);
    }

    #[test]
    fn the_folder_is_lumibots() {
        let folder = |pairs: &[_]| folder(&Environment::of(pairs)).map(|(path, _)| path);
        let home = ("HOME", "/home/u");
        let own = [(FOLDER, "/data/bars"), home];
        assert_eq!(folder(&own).unwrap(), PathBuf::from("/data/bars"));
        let default = match cfg!(target_os = "macos") {
            true => "/home/u/Library/Caches/lumibot/1.0",
            false => "/home/u/.cache/lumibot/1.0",
        };
        assert_eq!(folder(&[home]).unwrap(), PathBuf::from(default));
        let empty = [(FOLDER, ""), home];
        assert_eq!(folder(&empty).unwrap(), PathBuf::from(default));
        if cfg!(not(target_os = "macos")) {
            let xdg = [("XDG_CACHE_HOME", "/xdg"), home];
            assert_eq!(folder(&xdg).unwrap(), PathBuf::from("/xdg/lumibot/1.0"));
        }
        assert!(folder(&[]).is_err());
    }

    #[test]
    fn off_says_why_and_what_to_set() {
        let off = |pairs: &[_]| Lumibot::read(&Environment::of(pairs)).unwrap().off();
        let text = off(&[]).unwrap();
        assert!(
            text.starts_with("Lumibot's remote cache is off (LUMIBOT_CACHE_BACKEND is not s3)")
        );
        assert!(text.contains("LUMIBOT_CACHE_S3_BUCKET") && text.contains(".env"));
        let text = off(&[(BACKEND, "S3")]).unwrap();
        assert!(text.contains("LUMIBOT_CACHE_MODE is disabled"), "{text}");
        assert_eq!(off(&[(BACKEND, "s3"), (MODE, "rw"), (BUCKET, "b-1")]), None);
    }
}
