//! A LAN server of either kind: finds out by itself whether a larder or an original FXCACHE
//! server answers, and speaks its language from then on. Looks again whenever the remote is
//! connected to anew, for one may have taken the other's place.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::fxcache::Fxcache;
use super::http::Http;
use super::url::RemoteUrl;
use super::{Backend, Capabilities, Changes, Download, Found, Timeouts, Upload};
use crate::error::{Kind, Result};
use crate::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use crate::path::RelPath;
use crate::secret::Secret;

const UNKNOWN: u8 = 0;
const NATIVE: u8 = 1;
const ORIGINAL: u8 = 2;

/// See the module.
pub struct Lan {
    native: Http,
    original: Fxcache,
    which: AtomicU8,
}

impl Lan {
    /// A client for `url`, which must be `http` or `https`. An original server's index is looked
    /// at every `refresh`. Does no I/O but, for `https`, reading the system's certificates.
    pub fn new(
        url: &RemoteUrl,
        key: Option<Secret>,
        times: Timeouts,
        refresh: Duration,
    ) -> Result<Lan> {
        Ok(Lan {
            native: Http::new(url, key.clone(), times)?,
            original: Fxcache::new(url, key, times, refresh)?,
            which: AtomicU8::new(UNKNOWN),
        })
    }

    /// Asks who is there.
    async fn look(&self) -> Result<Capabilities> {
        let native = match self.native.capabilities().await {
            // It answered, and not as a larder does.
            Err(error) if matches!(error.kind(), Kind::Io | Kind::Corrupt) => error,
            asked => {
                if asked.is_ok() {
                    self.which.store(NATIVE, Ordering::Relaxed);
                }
                return asked;
            }
        };
        match self.original.capabilities().await {
            Ok(found) => {
                self.which.store(ORIGINAL, Ordering::Relaxed);
                Ok(found)
            }
            // Somebody is there who speaks neither.
            Err(error) if error.kind() == Kind::Io && native.kind() == Kind::Corrupt => Err(native),
            Err(error) => Err(error),
        }
    }

    async fn who(&self) -> Result<&dyn Backend> {
        if self.which.load(Ordering::Relaxed) == UNKNOWN {
            self.look().await?;
        }
        Ok(match self.which.load(Ordering::Relaxed) {
            ORIGINAL => &self.original,
            _ => &self.native,
        })
    }
}

#[async_trait]
impl Backend for Lan {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.look().await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.who().await?.list(batches).await
    }

    async fn epoch(&self) -> Result<Option<String>> {
        self.who().await?.epoch().await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.who().await?.changes(since, wait).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.who().await?.head(key).await
    }

    async fn find(&self, key: &RelPath) -> Result<Found> {
        self.who().await?.find(key).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.who().await?.get(key, range, version).await
    }

    async fn get_among(&self, key: &RelPath, version: &Version) -> Result<Download> {
        self.who().await?.get_among(key, version).await
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        self.who().await?.put(key, upload, precondition).await
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.who().await?.delete(key, version).await
    }
}
