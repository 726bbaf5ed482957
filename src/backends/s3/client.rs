//! The SDK's client: which address, which region, whose keys.
//!
//! Built when it is first needed, because looking for keys may ask the network. Does not
//! retry and sets no deadline of its own but for connecting: callers do both.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::backends::Timeouts;
use crate::backends::url::Bucket;
use crate::secret::AccessKey;

/// Where nothing names a region: what other stores than Amazon's mostly call theirs.
const REGION: &str = "us-east-1";

/// The variable of the S3 tools that names another store for S3 alone.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_S3";

/// A machine in Amazon's cloud has its metadata near by; elsewhere nobody answers there, and
/// that must not take long.
const METADATA: Duration = Duration::from_millis(800);

/// The client for `bucket`.
pub(super) async fn build(bucket: &Bucket, access: Option<&AccessKey>, times: &Timeouts) -> Client {
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let base = ProviderConfig::without_region().with_http_client(http.clone());
    let metadata = imds::Client::builder()
        .configure(&base)
        .connect_timeout(METADATA)
        .read_timeout(METADATA)
        .operation_timeout(2 * METADATA)
        .max_attempts(1)
        .build();
    let region = region(bucket, &metadata).await;
    let base = base.with_region(Some(region.clone()));
    let credentials = match access {
        Some(access) => explicit(access),
        None => {
            let mut chain = DefaultCredentialsChain::builder()
                .configure(base)
                .region(region.clone())
                .imds_client(metadata);
            if let Some(profile) = &bucket.profile {
                chain = chain.profile_name(profile);
            }
            SharedCredentialsProvider::new(chain.build().await)
        }
    };
    with(bucket, http, region, credentials, times).await
}

fn explicit(access: &AccessKey) -> SharedCredentialsProvider {
    let session = access.session.as_ref().map(|s| s.reveal().to_owned());
    let secret = access.secret.reveal();
    SharedCredentialsProvider::new(Credentials::new(
        &access.id, secret, session, None, "larder",
    ))
}

async fn region(bucket: &Bucket, metadata: &imds::Client) -> Region {
    if let Some(region) = &bucket.region {
        return Region::new(region.clone());
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &bucket.profile {
        profile = profile.profile_name(name);
    }
    let mut chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build());
    if bucket.endpoint.is_none() {
        let machine = imds::region::ImdsRegionProvider::builder().imds_client(metadata.clone());
        chain = chain.or_else(machine.build());
    }
    let found = chain.region().await;
    found.unwrap_or(Region::from_static(REGION))
}

async fn with(
    bucket: &Bucket,
    http: SharedHttpClient,
    region: Region,
    credentials: SharedCredentialsProvider,
    times: &Timeouts,
) -> Client {
    let deadlines = TimeoutConfig::builder()
        .connect_timeout(times.connect)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(region)
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        .timeout_config(deadlines)
        // Bodies are checked as they are passed on, however many requests they come in.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Ok(name) = AppName::new("larder") {
        loader = loader.app_name(name);
    }
    if let Some(profile) = &bucket.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &bucket.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    // Also where the tools' own settings name a store that is not Amazon's.
    let elsewhere = shared.endpoint_url().is_some() || std::env::var_os(ENDPOINT).is_some();
    let path_style = bucket.path_style.unwrap_or(elsewhere);
    let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style);
    Client::from_conf(config.build())
}
