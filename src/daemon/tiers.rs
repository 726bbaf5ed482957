//! The remotes of a mount as its words say: read, and checked against each other. Asks nobody.

use crate::backends::url::RemoteUrl;
use crate::config::MountConfig;
use crate::error::{Error, Kind, Result};
use crate::secret::Credentials;

/// One remote, before anybody knows whether it is there.
#[derive(Debug, Clone)]
pub struct Tier {
    pub url: RemoteUrl,
    pub credentials: Credentials,
    /// Whether what is written here goes up to it.
    pub upload: bool,
    /// See [`RemoteSpec`](crate::config::RemoteSpec).
    pub is_partition: bool,
}

impl Tier {
    /// Whether `shown` was another one of the caches of which this is one.
    pub fn supersedes(&self, shown: &str) -> bool {
        let is_beside = |other: RemoteUrl| self.url.is_beside(&other);
        self.is_partition && RemoteUrl::parse(shown).is_ok_and(is_beside)
    }
}

/// The remotes in their order. Errors: [`Kind::Invalid`] for addresses that mean nothing, that are
/// given twice, or that want what the mount rules out.
pub fn tiers(config: &MountConfig) -> Result<Vec<Tier>> {
    let mut tiers: Vec<Tier> = Vec::new();
    for spec in &config.remotes {
        let url = RemoteUrl::parse(&spec.url)?;
        let asks = url.options().upload;
        if asks == Some(true) && config.read_only {
            let why = "?upload contradicts read_only; drop one";
            return Err(Error::new(Kind::Invalid, why).about(url));
        }
        if tiers.iter().any(|tier| tier.url.shown() == url.shown()) {
            let why = "is given twice; give it once, with all its options";
            return Err(Error::new(Kind::Invalid, why).about(url));
        }
        tiers.push(Tier {
            upload: asks.unwrap_or(config.upload) && !config.read_only,
            credentials: spec.credentials.clone(),
            is_partition: spec.is_partition,
            url,
        });
    }
    Ok(tiers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::url::Place;
    use crate::config::{ConfigFile, Environment, Flags, resolve_mount};
    use std::path::Path;

    fn of(remotes: &str, settings: &[(&str, &str)]) -> Result<Vec<(String, bool)>> {
        let mut env = vec![("LARDER_REMOTE", remotes)];
        env.extend(settings);
        let env = Environment::of(&env);
        let file = ConfigFile::default();
        let got = resolve_mount(Path::new("/m"), &file, &env, &Flags::default())?;
        let tiers = tiers(&got.config)?;
        let each = tiers.iter().map(|t| (t.url.shown().to_owned(), t.upload));
        Ok(each.collect())
    }

    fn uploads(remotes: &str, settings: &[(&str, &str)]) -> Vec<bool> {
        let tiers = of(remotes, settings).unwrap();
        tiers.into_iter().map(|(_, upload)| upload).collect()
    }

    #[test]
    fn uploads_go_where_the_url_or_else_the_mount_says() {
        let urls = "http://lan:1?rate=1MiB file:///a?upload=false s3://bucket?upload";
        assert_eq!(uploads(urls, &[]), [false, false, true]);
        let all = [("LARDER_UPLOAD", "true")];
        assert_eq!(uploads(urls, &all), [true, false, true]);
        let shown = of(urls, &[]).unwrap();
        assert_eq!(shown[0].0, "http://lan:1");
    }

    #[test]
    fn the_prefix_of_a_profile_arrives_as_it_is() {
        let mut flags = Flags::default();
        flags.set("profile", ["lumibot"]);
        for (prefix, wanted) in [
            ("/p//q/", "p//q/v2"),
            ("/ a b /", " a b /v2"),
            ("x#y?z%20ü", "x#y?z%20ü/v2"),
        ] {
            let env = Environment::of(&[
                ("LUMIBOT_CACHE_BACKEND", "s3"),
                ("LUMIBOT_CACHE_MODE", "readonly"),
                ("LUMIBOT_CACHE_S3_BUCKET", "bars"),
                ("LUMIBOT_CACHE_S3_PREFIX", prefix),
                ("LUMIBOT_CACHE_S3_VERSION", "v2"),
                ("LUMIBOT_CACHE_S3_REGION", "eu-west-1"),
                // The mode says more than this: nothing is ever pushed.
                ("LARDER_UPLOAD", "true"),
            ]);
            let file = ConfigFile::default();
            let got = resolve_mount(Path::new("/m"), &file, &env, &flags).unwrap();
            let tiers = tiers(&got.config).unwrap();
            let Place::S3(bucket) = tiers[0].url.place() else {
                panic!("not a bucket");
            };
            assert_eq!(
                (bucket.name.as_str(), bucket.prefix.as_str()),
                ("bars", wanted)
            );
            assert_eq!(bucket.region.as_deref(), Some("eu-west-1"));
            assert!(!tiers[0].upload);
        }
    }

    #[test]
    fn another_prefix_or_version_of_the_profile_is_another_cache() {
        let mut flags = Flags::default();
        flags.set("profile", ["lumibot"]);
        flags.set("remote", ["s3://bars/typed"]);
        let env = Environment::of(&[
            ("LUMIBOT_CACHE_BACKEND", "s3"),
            ("LUMIBOT_CACHE_MODE", "readwrite"),
            ("LUMIBOT_CACHE_S3_BUCKET", "bars"),
            ("LUMIBOT_CACHE_S3_VERSION", "v2"),
        ]);
        let file = ConfigFile::default();
        let got = resolve_mount(Path::new("/m"), &file, &env, &flags).unwrap();
        let tiers = tiers(&got.config).unwrap();
        for (shown, is) in [
            ("s3://bars/v1", true),
            ("s3://bars/a b/v1", true),
            ("s3://bars", true),
            ("s3://bars/v1?endpoint=http://127.0.0.1:9000", false),
            ("s3://other/v1", false),
            ("http://lan:1", false),
        ] {
            assert_eq!(tiers[1].supersedes(shown), is, "{shown}");
            // One that somebody typed may be a mistake.
            assert!(!tiers[0].supersedes(shown));
        }
    }

    #[test]
    fn what_contradicts_is_refused_in_one_line() {
        let refusal = |urls, settings: &[_]| of(urls, settings).unwrap_err().to_string();
        let read_only = [("LARDER_READ_ONLY", "true")];
        assert_eq!(
            uploads("http://a:1 http://b:1?upload=no", &read_only),
            [false, false]
        );
        let text = refusal("http://a:1?upload", &read_only);
        assert!(
            text.contains("http://a:1") && text.contains("read_only"),
            "{text}"
        );
        let text = refusal("http://a:1?upload http://A:1/?upload=false", &[]);
        assert_eq!(
            text,
            "http://a:1: is given twice; give it once, with all its options"
        );
        let text = refusal("http://a:1?uplaod", &[]);
        assert!(text.contains("did you mean upload?"), "{text}");
    }
}
