//! Checksums that a client promises, compared while the bytes pass.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::Stream;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::Checksum;
use s3s::{S3Error, S3Result, StdError, TrailingHeaders, s3_error};

use super::chunked::Trailers;

/// Announces the checksum that comes after the body.
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");

/// The algorithms: what a header calls them, how a hasher begins, where their sum stands.
type Kind = (
    &'static str,
    fn(&mut ChecksumHasher),
    fn(&Checksum) -> Option<&String>,
);
const KINDS: [Kind; 5] = [
    (
        "x-amz-checksum-crc32",
        |hasher| hasher.crc32 = Some(s3s::crypto::Crc32::new()),
        |sums| sums.checksum_crc32.as_ref(),
    ),
    (
        "x-amz-checksum-crc32c",
        |hasher| hasher.crc32c = Some(s3s::crypto::Crc32c::new()),
        |sums| sums.checksum_crc32c.as_ref(),
    ),
    (
        "x-amz-checksum-crc64nvme",
        |hasher| hasher.crc64nvme = Some(s3s::crypto::Crc64Nvme::new()),
        |sums| sums.checksum_crc64nvme.as_ref(),
    ),
    (
        "x-amz-checksum-sha1",
        |hasher| hasher.sha1 = Some(s3s::crypto::Sha1::new()),
        |sums| sums.checksum_sha1.as_ref(),
    ),
    (
        "x-amz-checksum-sha256",
        |hasher| hasher.sha256 = Some(s3s::crypto::Sha256::new()),
        |sums| sums.checksum_sha256.as_ref(),
    ),
];

/// Where the lines after a body are found, if it has any.
pub enum After {
    Nothing,
    Signed(TrailingHeaders),
    Plain(Trailers),
}

impl After {
    fn take(&self) -> Option<HeaderMap> {
        match self {
            After::Nothing => None,
            After::Signed(trailers) => trailers.take(),
            After::Plain(trailers) => trailers.take(),
        }
    }
}

/// A body that ends with an error if it is not the one that was promised.
pub struct Checked<S> {
    inner: S,
    after: After,
    md5: Option<(Md5, [u8; 16])>,
    hasher: Option<ChecksumHasher>,
    /// In the headers, by kind; what is awaited after the body has no value yet.
    promised: Vec<(&'static Kind, Option<String>)>,
    sums: Checksum,
    fault: Option<S3Error>,
}

impl<S> Checked<S> {
    /// `headers` are the request's. A composite checksum, which is one of the parts' checksums, is
    /// none of the bytes, and not looked at.
    pub fn new(inner: S, headers: &HeaderMap, after: After) -> S3Result<Checked<S>> {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.map(|value| value.trim().to_owned())
        };
        let awaited = text(TRAILER.as_str()).unwrap_or_default().to_lowercase();
        let mut hasher = ChecksumHasher::default();
        let mut promised = Vec::new();
        for kind in &KINDS {
            let value = text(kind.0).filter(|value| !value.contains('-'));
            let is_awaited = awaited.split(',').any(|name| name.trim() == kind.0);
            if value.is_some() || is_awaited {
                kind.1(&mut hasher);
                promised.push((kind, value));
            }
        }
        let md5 = match text("content-md5").map(|text| STANDARD.decode(text)) {
            None => None,
            Some(Ok(sum)) => Some(<[u8; 16]>::try_from(sum).map_err(|_| no_md5())?),
            Some(Err(_)) => return Err(no_md5()),
        };
        Ok(Checked {
            inner,
            after,
            md5: md5.map(|sum| (Md5::new(), sum)),
            hasher: (!promised.is_empty()).then_some(hasher),
            promised,
            sums: Checksum::default(),
            fault: None,
        })
    }

    /// What is wrong with the body, once it has ended.
    pub fn fault(&mut self) -> Option<S3Error> {
        self.fault.take()
    }

    /// The checksums that were compared.
    pub fn sums(self) -> Checksum {
        self.sums
    }

    fn compare(&mut self) -> S3Result<()> {
        if let Some((md5, promised)) = self.md5.take()
            && md5.finalize() != promised
        {
            return Err(s3_error!(
                BadDigest,
                "the body is not what Content-MD5 says"
            ));
        }
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let sums = hasher.finalize();
        let trailers = self.after.take().unwrap_or_default();
        for ((name, _, sum), value) in &self.promised {
            let late = trailers.get(*name).and_then(|value| value.to_str().ok());
            let promised = value.as_deref().or(late).map(str::trim);
            let promised =
                promised.ok_or_else(|| s3_error!(InvalidRequest, "{name} is missing"))?;
            if sum(&sums).map(String::as_str) != Some(promised) {
                return Err(s3_error!(BadDigest, "the body is not what {name} says"));
            }
        }
        self.sums = sums;
        Ok(())
    }
}

fn no_md5() -> S3Error {
    s3_error!(InvalidDigest, "Content-MD5 is not the Base64 of an MD5")
}

impl<S, E> Stream for Checked<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<StdError>,
{
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_next(context));
        match frame {
            Some(Ok(bytes)) => {
                if let Some((md5, _)) = &mut this.md5 {
                    md5.update(&bytes);
                }
                if let Some(hasher) = &mut this.hasher {
                    hasher.update(&bytes);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => match this.compare() {
                Ok(()) => Poll::Ready(None),
                Err(error) => {
                    this.fault = Some(error);
                    let why = "the body is not the one that was promised";
                    Poll::Ready(Some(Err(why.into())))
                }
            },
        }
    }
}
impl<S> Unpin for Checked<S> {}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    async fn code(headers: &[(&'static str, &str)]) -> Result<Checksum, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let body = [
            Ok::<_, StdError>(Bytes::from_static(b"123")),
            Ok(Bytes::from_static(b"456789")),
        ];
        let said = |error: S3Error| error.code().as_str().to_owned();
        let mut checked = Checked::new(stream::iter(body), &map, After::Nothing).map_err(said)?;
        while let Some(piece) = checked.next().await {
            if piece.is_err() {
                return Err(said(checked.fault().unwrap()));
            }
        }
        Ok(checked.sums())
    }

    #[tokio::test]
    async fn p1_every_promised_checksum_is_compared() {
        // The check values of the algorithms' catalogues, of `123456789`.
        let good = [
            ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (
                "x-amz-checksum-sha256",
                "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
            ),
        ];
        let sums = code(&good).await.unwrap();
        assert_eq!(sums.checksum_crc32.as_deref(), Some("y/Q5Jg=="));
        for (name, _) in &good[1..] {
            assert_eq!(code(&[(name, "AAAAAA==")]).await.unwrap_err(), "BadDigest");
        }
        let other = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
        assert_eq!(code(&other).await.unwrap_err(), "BadDigest");
        let short = [("content-md5", "AAAA")];
        assert_eq!(code(&short).await.unwrap_err(), "InvalidDigest");
        let awaited = [("x-amz-trailer", "x-amz-checksum-crc32")];
        assert_eq!(code(&awaited).await.unwrap_err(), "InvalidRequest");
        assert!(
            code(&[("x-amz-checksum-crc32", "AAAAAA==-3")])
                .await
                .is_ok()
        );
    }
}
