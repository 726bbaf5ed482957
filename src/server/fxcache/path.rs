//! How this protocol names files: the `path` of a query, checked and normalised as
//! `os.path.normpath` does it. Pure.
//!
//! A path may also be a key, as later servers have them: `tb:a:b` for `TB/a_b.pkl`.

use std::borrow::Cow;

use axum::http::Uri;
use percent_encoding::percent_decode_str;

use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

use super::answer::Refusal;

/// A file that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Normalised.
    pub text: String,
    key: Option<RelPath>,
    why: Option<Kind>,
}

impl Named {
    /// Checks and normalises.
    pub fn new(path: &str) -> Option<Named> {
        let text = normalised(path)?;
        let (key, why) = match RelPath::new(text.as_bytes()) {
            _ if text == "." => (None, Some(Kind::IsADirectory)),
            Ok(key) => (Some(key), None),
            Err(error) => (None, Some(error.kind())),
        };
        Some(Named { text, key, why })
    }

    /// Where it is; an error if no file of that name can be here.
    pub fn key(&self) -> Result<&RelPath> {
        self.key.as_ref().ok_or_else(|| {
            let (kind, why) = match self.why {
                Some(Kind::IsADirectory) => (Kind::IsADirectory, "this is the directory itself"),
                Some(Kind::NameTooLong) => (Kind::NameTooLong, "the name is too long"),
                _ => (Kind::Denied, "this name is the server's own"),
            };
            Error::new(kind, why).about(&self.text)
        })
    }
}

/// The file that the query's `path` names, which may be a key.
pub fn asked(uri: &Uri) -> Result<Named, Refusal> {
    let path = value(uri, "path").unwrap_or_default();
    let named = expanded(&path).and_then(|path| Named::new(&path));
    named.ok_or_else(|| Refusal::bad("Invalid path"))
}

/// The first value of `name` in the query. What is not UTF-8 becomes U+FFFD.
pub fn value(uri: &Uri, name: &str) -> Option<String> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

fn normalised(path: &str) -> Option<String> {
    if path.is_empty() || path.contains("..") || path.starts_with('/') || path.contains('\0') {
        return None;
    }
    // As they come from programs, which is nearly always.
    if path.split('/').all(|part| !part.is_empty() && part != ".") {
        return Some(path.to_owned());
    }
    let parts = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    let text = parts.collect::<Vec<_>>().join("/");
    Some(if text.is_empty() { ".".into() } else { text })
}

/// The path that a key stands for; a path is itself. None: too few parts.
fn expanded(path: &str) -> Option<Cow<'_, str>> {
    let Some((kind, rest)) = path.split_once(':') else {
        return Some(path.into());
    };
    let parts = |most: usize| {
        let parts: Vec<&str> = rest.splitn(most, ':').collect();
        (parts.len() == most && parts.iter().all(|part| !part.is_empty())).then_some(parts)
    };
    let text = match kind {
        "tb" => format!("TB/{}.pkl", parts(2)?.join("_")),
        "mt" => match parts(1)?[0] {
            result if result.starts_with("0x") => format!("MT/result_{result}.pkl"),
            other => format!("MT/{other}.pkl"),
        },
        "fit" => format!("FIT/opt_{}.pkl", parts(1)?[0]),
        "tt" => format!("TT/cached_{}.pkl", parts(1)?[0]),
        "price" => match parts(5)?[..] {
            [broker, session, tf, instrument, name] => {
                format!("{broker}-{session}-tf_{tf}/{instrument}/{name}.pkl")
            }
            _ => return None,
        },
        "meta" => format!("8/{}.json", parts(3)?.join("/")),
        _ => return Some(path.into()),
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> Option<String> {
        Named::new(path).map(|named| named.text)
    }

    #[test]
    fn p10_paths_that_climb_are_refused_and_the_others_normalised() {
        for bad in ["", "..", "../x", "/x", "a..b.pkl", "a\0b", "a/../b", "//x"] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
        for (given, named) in [
            ("./TB//a.pkl", "TB/a.pkl"),
            ("TB/", "TB"),
            (".", "."),
            ("./", "."),
            ("a b/~\u{fc}:\\.x", "a b/~\u{fc}:\\.x"),
        ] {
            assert_eq!(text(given).as_deref(), Some(named));
        }
    }

    #[test]
    fn p10_names_that_no_file_can_have() {
        let kind = |path: &str| Named::new(path).unwrap().key().err().map(|e| e.kind());
        assert_eq!(kind("TB/a.pkl"), None);
        assert_eq!(kind("."), Some(Kind::IsADirectory));
        assert_eq!(kind(".larder/serve.db"), Some(Kind::Denied));
        assert_eq!(kind(&"x".repeat(300)), Some(Kind::NameTooLong));
    }

    #[test]
    fn queries() {
        let of = |query: &str| {
            let uri: Uri = format!("/exists?{query}").parse().unwrap();
            value(&uri, "path")
        };
        assert_eq!(of("path=a%2Fb+c&path=d").as_deref(), Some("a/b c"));
        assert_eq!(
            of("x=1&p%61th=%C3%BC%ff").as_deref(),
            Some("\u{fc}\u{fffd}")
        );
        assert_eq!(of("path").as_deref(), Some(""));
        assert_eq!(of("paths=1"), None);
    }

    #[test]
    fn keys_stand_for_paths() {
        for (key, path) in [
            ("tb:a:rest", Some("TB/a_rest.pkl")),
            ("tb:a:b:c", Some("TB/a_b:c.pkl")),
            ("tb:a", None),
            ("mt:x", Some("MT/x.pkl")),
            ("mt:0xab", Some("MT/result_0xab.pkl")),
            ("mt:", None),
            ("fit:x", Some("FIT/opt_x.pkl")),
            ("tt:x", Some("TT/cached_x.pkl")),
            ("price:b:s:5:EUR:n:m", Some("b-s-tf_5/EUR/n:m.pkl")),
            ("price:b:s:5:EUR", None),
            ("meta:b:EUR:n", Some("8/b/EUR/n.json")),
            ("meta:b:EUR", None),
            ("other:x", Some("other:x")),
            ("plain.pkl", Some("plain.pkl")),
        ] {
            assert_eq!(expanded(key).as_deref(), path, "{key}");
        }
        assert_eq!(Named::new(&expanded("tb:a:../../x").unwrap()), None);
    }
}
