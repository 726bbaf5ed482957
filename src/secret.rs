//! A text that must not be seen: it cannot be displayed, and its debug form is an ellipsis.
//!
//! Owns nothing but the text. It does not wipe memory; it keeps keys out of logs,
//! status pages and error texts, which is where they leak (promise P10).

use std::fmt;

use crate::error::{Error, Kind, Result};

/// An API key or a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a key as a person or a file gives it: surrounding white space does not count.
    /// Errors: [`Kind::Invalid`] if it is empty or cannot stand in a header.
    pub fn new(text: &str) -> Result<Secret> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::new(Kind::Invalid, "the key is empty"));
        }
        if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            let why = "the key holds a character that is not printable ASCII";
            return Err(Error::new(Kind::Invalid, why));
        }
        Ok(Secret(text.into()))
    }

    /// The text itself, for the one place that sends or compares it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// An access key of an S3 account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The key's public name.
    pub id: String,
    pub secret: Secret,
    /// Of temporary keys.
    pub session: Option<Secret>,
}

/// What a remote is asked with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// For a LAN server.
    pub key: Option<Secret>,
    /// For an S3 bucket; without one, what the environment of the S3 tools says.
    pub access: Option<AccessKey>,
}

impl From<Option<Secret>> for Credentials {
    fn from(key: Option<Secret>) -> Credentials {
        Credentials { key, access: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_a_secret_is_not_shown() {
        let secret = Secret::new(" hunter2\n").unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(format!("{:?}", Some(secret)), "Some(…)");
    }

    #[test]
    fn a_key_must_fit_into_a_header() {
        for bad in ["", " \n", "a\nb", "schlüssel"] {
            let error = Secret::new(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(bad.trim().is_empty() || !error.to_string().contains(bad));
        }
    }
}
