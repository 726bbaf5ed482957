//! A bucket as every part of this backend reaches it: client, keys, deadlines.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::ChecksumMode;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::answer::{self, Facts};
use super::client;
use super::failure::failed;
use super::keys::Keys;
use crate::backends::Timeouts;
use crate::backends::url::Bucket;
use crate::error::{Error, Kind, Result};
use crate::object::Meta;
use crate::secret::AccessKey;

/// See the module.
pub(super) struct Door {
    pub(super) bucket: Bucket,
    pub(super) keys: Keys,
    pub(super) times: Timeouts,
    /// Requests that one file may have in flight.
    pub(super) lanes: usize,
    /// Places in memory for parts that came before their turn.
    pub(super) room: Arc<Semaphore>,
    access: Option<AccessKey>,
    client: OnceCell<Client>,
}

impl Door {
    pub(super) fn new(
        bucket: Bucket,
        access: Option<AccessKey>,
        times: Timeouts,
        lanes: usize,
        room: usize,
    ) -> Door {
        Door {
            keys: Keys::new(&bucket.prefix),
            bucket,
            times,
            lanes,
            room: Arc::new(Semaphore::new(room)),
            access,
            client: OnceCell::new(),
        }
    }

    /// The client, made at first. Errors: `TimedOut` if looking for keys takes too long.
    pub(super) async fn client(&self) -> Result<&Client> {
        let made = self.client.get_or_init(|| {
            // Large, and needed once.
            Box::pin(client::build(
                &self.bucket,
                self.access.as_ref(),
                &self.times,
            ))
        });
        timeout(self.times.answer, made).await.map_err(|_| {
            Error::new(
                Kind::TimedOut,
                "finding out whose keys to use took too long",
            )
        })
    }

    /// The object `key` as it is now; none if there is no such object.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Meta>> {
        let request = self.client().await?.head_object();
        let request = request
            .bucket(self.name())
            .key(key)
            .checksum_mode(ChecksumMode::Enabled);
        match timed(self.times.answer, request.send()).await {
            Ok(found) => {
                let size = answer::size(found.content_length())?;
                Facts::of_head(&found).meta(size).map(Some)
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the bucket is one of the fast kind, whose ETags are no hashes.
    pub(super) fn is_express(&self) -> bool {
        self.bucket.name.ends_with("--x-s3")
    }

    /// The bucket's name.
    pub(super) fn name(&self) -> &str {
        &self.bucket.name
    }
}

/// What a request came to within `limit`.
pub(super) async fn timed<T, E>(
    limit: Duration,
    asked: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match timeout(limit, Box::pin(asked)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => {
            let why = format!("no answer for {} s", limit.as_secs_f32());
            Err(Error::new(Kind::TimedOut, why))
        }
    }
}
