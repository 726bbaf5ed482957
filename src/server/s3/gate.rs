//! Who may do what: signatures in place of keys, with the rules of `access.rs`.
//!
//! The secret access key is the server's key. The access key id may be anything, but where
//! the server has a key for writers and one for readers, the id `read` signs with the readers'.
//! A request without a signature is judged as one of the native protocol is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::Method;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::secret::Secret;
use crate::server::access::Need;

use super::Visit;
use super::refusal::refused;

/// The access key id whose secret is the readers' key.
pub const READER: &str = "read";

/// The keys themselves: a signature cannot be verified with a hash.
pub struct Keys {
    write: Option<Secret>,
    read: Option<Secret>,
}

impl Keys {
    pub fn new(write: Option<&Secret>, read: Option<&Secret>) -> Keys {
        Keys {
            write: write.cloned(),
            read: read.cloned(),
        }
    }

    pub fn are_none(&self) -> bool {
        self.write.is_none() && self.read.is_none()
    }

    /// The key that `id` signs with, and what it is good for.
    fn of(&self, id: &str) -> Option<(Need, &Secret)> {
        match (&self.write, &self.read) {
            (Some(_), Some(read)) if id == READER => Some((Need::Read, read)),
            (Some(write), _) => Some((Need::Write, write)),
            (None, Some(read)) => Some((Need::Read, read)),
            (None, None) => None,
        }
    }
}

/// Lets one request pass, or not.
pub struct Gate(pub Arc<Visit>);

impl Visit {
    /// The directory has one name, or every name.
    pub fn is_bucket(&self, name: &str) -> S3Result<()> {
        match &self.app.s3.bucket {
            Some(own) if own != name => Err(s3_error!(
                NoSuchBucket,
                "the bucket of this server is called {own}"
            )),
            _ => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, id: &str) -> S3Result<SecretKey> {
        let app = &self.0.app;
        if let Err(problem) = app.access.may_try(self.0.peer) {
            return Err(refused(problem));
        }
        let key = app.s3.keys.of(id);
        let (_, key) = key.ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
        self.0.shown.store(true, Ordering::Relaxed);
        Ok(SecretKey::from(key.reveal()))
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    /// Called for every request, with credentials only after their signature was verified.
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Visit { app, peer, .. } = &*self.0;
        self.0.passed.store(true, Ordering::Relaxed);
        let need = match *context.method() {
            Method::GET | Method::HEAD => Need::Read,
            _ => Need::Write,
        };
        let headers = context.headers();
        let signer = context.credentials().map(|known| &known.access_key);
        let checked = match signer.and_then(|id| app.s3.keys.of(id)) {
            Some((with, _)) => app.access.check_signed(need, with, *peer, headers),
            None => app.access.check(need, *peer, headers),
        };
        if let Err(problem) = checked {
            self.0.told().why = Some(problem.detail().to_owned());
            return Err(refused(problem));
        }
        match context.s3_path().get_bucket_name() {
            Some(name) => self.0.is_bucket(name),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_an_id_never_makes_a_readers_key_a_writers() {
        let secret = |text: &str| Secret::new(text).unwrap();
        let (writer, reader) = (secret("w"), secret("r"));
        let of = |keys: &Keys, id| {
            let found = keys
                .of(id)
                .map(|(need, key)| (need, key.reveal().to_owned()));
            found.unwrap()
        };
        let both = Keys::new(Some(&writer), Some(&reader));
        assert_eq!(of(&both, "read"), (Need::Read, "r".to_owned()));
        assert_eq!(of(&both, "anybody"), (Need::Write, "w".to_owned()));
        let one = Keys::new(Some(&writer), None);
        assert_eq!(of(&one, "read"), (Need::Write, "w".to_owned()));
        let other = Keys::new(None, Some(&reader));
        assert_eq!(of(&other, "anybody"), (Need::Read, "r".to_owned()));
        assert!(Keys::new(None, None).of("x").is_none());
    }
}
