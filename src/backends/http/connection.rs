//! How the server is reached: credentials, deadlines, and what is never done.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use tokio::time::timeout;

use super::failure::lost;
use crate::backends::Timeouts;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::wire;

/// The headers that every request carries. Marked as sensitive, so that no log shows them.
pub(in crate::backends) fn credentials(
    key: Option<Secret>,
    login: Option<&(String, Option<Secret>)>,
) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, text: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Error::new(Kind::Invalid, "the key cannot stand in a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok::<_, Error>(())
    };
    if let Some(key) = key {
        add(HeaderName::from_static(wire::KEY_HEADER), key.reveal())?;
    }
    if let Some((user, password)) = login {
        let password = password.as_ref().map_or("", Secret::reveal);
        let pair = format!("{user}:{password}");
        let text = STANDARD.encode(pair);
        add(header::AUTHORIZATION, &format!("Basic {text}"))?;
    }
    Ok(headers)
}

/// The answer's head, within `limit`.
pub(in crate::backends) async fn ask(request: RequestBuilder, limit: Duration) -> Result<Response> {
    match timeout(limit, request.send()).await {
        Ok(sent) => sent.map_err(lost),
        Err(_) => {
            let why = format!("no answer within {} s", limit.as_secs_f32());
            Err(Error::new(Kind::TimedOut, why))
        }
    }
}

/// No redirects, no proxies, no endless waits.
pub(in crate::backends) fn client(
    headers: &HeaderMap,
    tls: bool,
    times: &Timeouts,
) -> ClientBuilder {
    // Fails only if a provider is installed already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers.clone())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .connect_timeout(times.connect)
        .tcp_keepalive(Duration::from_secs(15))
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(16);
    match tls {
        true => builder,
        // A machine without certificates must still reach a plain server.
        false => builder.tls_certs_only([]),
    }
}
