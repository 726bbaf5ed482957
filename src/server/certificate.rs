//! The server's certificate and its key: read at the start, and again when their files change, for
//! certificates are renewed every few weeks.
//!
//! What cannot be used replaces nothing: until both files fit, new connections get what was read
//! before. Connections that stand go on as they are.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::disk::blocking;
use crate::error::{Error, Kind, Result};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Of each of the two files, what tells one state of it from another; none: it is not there.
type Looks = [Option<(u64, u64, i64, i64)>; 2];

/// See the module.
#[derive(Clone)]
pub struct Certificate {
    /// The chain and its key.
    files: Arc<(PathBuf, PathBuf)>,
    now: Arc<RwLock<TlsAcceptor>>,
    looks: Looks,
}

impl Certificate {
    /// Reads both files, which are PEM.
    pub fn read(chain: &Path, key: &Path) -> Result<Certificate> {
        // Before they are read: what changes meanwhile is read again.
        let looks = [looks(chain), looks(key)];
        let acceptor = acceptor(chain, key)?;
        Ok(Certificate {
            files: Arc::new((chain.to_owned(), key.to_owned())),
            now: Arc::new(RwLock::new(acceptor)),
            looks,
        })
    }

    /// What a connection is accepted with that comes now.
    pub fn now(&self) -> TlsAcceptor {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// Reads the files again whenever they change, until `closing`.
    pub async fn follow(mut self, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = closing.cancelled() => return,
            }
            let this = self.clone();
            // Fails only if the runtime ends.
            if let Ok(looks) = blocking(move || Ok(this.look())).await {
                self.looks = looks;
            }
        }
    }

    /// Takes what is new. Returns what the files look like.
    fn look(&self) -> Looks {
        let (chain, key) = &*self.files;
        let looks = [looks(chain), looks(key)];
        if looks == self.looks {
            return looks;
        }
        match acceptor(chain, key) {
            Ok(acceptor) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                tracing::info!(certificate = %chain.display(), "the certificate was read again");
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate changed and cannot be used: the one before is kept");
            }
        }
        looks
    }
}

fn looks(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.ino(), facts.size(), facts.ctime(), facts.ctime_nsec()))
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let bad = |path: &Path, error: String| Error::new(Kind::Invalid, error).about(path.display());
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| bad(chain, format!("no certificate can be read: {error}")))?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| bad(key, format!("no private key can be read: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(chain, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .map_err(|error| bad(chain, format!("certificate and key do not fit: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
