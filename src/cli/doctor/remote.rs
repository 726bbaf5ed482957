//! Whether each remote is there and lets us in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Check;
use crate::backends::url::Place;
use crate::backends::{self, Backend, Capabilities, Options, retry};
use crate::config::MountConfig;
use crate::daemon::{self, Tier};
use crate::error::{About, Error, Kind, Result};

const NAME: &str = "remote";
/// For everything together with one remote.
const PATIENCE: Duration = Duration::from_secs(10);

/// One check a remote; one that says so if there is none.
pub fn checks(config: &MountConfig) -> Result<Vec<Check>> {
    if config.remotes.is_empty() {
        let advice = "add --remote URL to have one checked";
        return Ok(vec![Check::warn(NAME, "none is configured", advice)]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .about("starting the checks")?;
    let tiers = match daemon::tiers(config) {
        Ok(tiers) => tiers,
        Err(error) => {
            let advice = "correct the URL";
            return Ok(vec![Check::fail(NAME, error.to_string(), advice)]);
        }
    };
    let each = tiers.iter();
    Ok(each
        .map(|tier| runtime.block_on(check(tier, config)))
        .collect())
}

async fn check(tier: &Tier, config: &MountConfig) -> Check {
    let url = &tier.url;
    let backend = match open(tier, config) {
        Ok(backend) => backend,
        Err(error) => return Check::fail(NAME, error.to_string(), "correct the URL or the key"),
    };
    let began = Instant::now();
    let asked = tokio::time::timeout(PATIENCE, backend.capabilities()).await;
    let late = || Error::new(Kind::TimedOut, "no answer within 10 seconds");
    match asked.unwrap_or_else(|_| Err(late())) {
        Ok(can) => verdict(tier, can, began.elapsed()),
        Err(error) => Check::fail(
            NAME,
            format!("{}: {}", url.shown(), error.message()),
            advice(url.place(), error.kind()),
        ),
    }
}

fn open(tier: &Tier, config: &MountConfig) -> Result<Arc<dyn Backend>> {
    let options = Options {
        ask_on_miss: config.ask_on_miss,
        upload: tier.upload,
        retry: retry::Policy {
            attempts: 1,
            ..retry::Policy::default()
        },
        ..Options::default()
    };
    backends::connect(&tier.url, &tier.credentials, &options)
}

fn verdict(tier: &Tier, can: Capabilities, took: Duration) -> Check {
    let how = match (can.put, can.changes) {
        _ if can.is_original() && can.listing => {
            "an FXCACHE server, listed by its own index; takes uploads"
        }
        _ if can.is_original() => {
            "an FXCACHE server whose index cannot be had: names are asked for one by one; takes uploads"
        }
        _ if can.is_bucket() && !can.listing => {
            "a bucket that these keys may not list: names are asked for one by one"
        }
        _ if can.is_bucket() && tier.upload => {
            "a bucket; what is written here goes up; is listed again now and then"
        }
        _ if can.is_bucket() => "a bucket, for reading; is listed again now and then",
        (true, true) => "takes uploads, tells changes",
        (true, false) => "takes uploads, is listed again now and then",
        (false, true) => "for reading only, tells changes",
        (false, false) => "for reading only, is listed again now and then",
    };
    let url = &tier.url;
    let found = format!("{url} answered in {} ms: {how}", took.as_millis());
    if tier.upload && !can.put {
        let advice = match url.place() {
            Place::S3(_) => {
                "uploads are wanted but it refuses them: let these keys write there (s3:PutObject), or say ?upload=false"
            }
            _ => {
                "uploads are wanted but it refuses them: set its key with --key-file or LARDER_KEY, or start the server with --open-writes"
            }
        };
        return Check::fail(NAME, found, advice);
    }
    Check::ok(NAME, found)
}

fn advice(place: &Place, kind: Kind) -> &'static str {
    match kind {
        kind if matches!(place, Place::S3(_)) => match kind.is_away() {
            true => {
                "check the endpoint and the network; a mount works without it and catches up later"
            }
            // What a bucket refuses is said with what to do.
            false => "",
        },
        kind if matches!(place, Place::Directory(_)) && kind.is_away() => {
            "check the path, and whether what it lies on is mounted; a mount works without it and catches up later"
        }
        Kind::Unauthorized => "set the key with --key-file or LARDER_KEY",
        Kind::NotFound | Kind::Corrupt | Kind::Unsupported => {
            "is it a larder server? start one there with `larder serve DIR`"
        }
        kind if kind.is_away() => {
            "check the address, that `larder serve` runs there, and firewalls; a mount works without it and catches up later"
        }
        _ => "check the address and the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::url::RemoteUrl;
    use crate::cli::doctor::Verdict;
    use crate::secret::Credentials;

    fn tier(url: &str, upload: bool) -> Tier {
        Tier {
            url: RemoteUrl::parse(url).unwrap(),
            credentials: Credentials::default(),
            is_partition: false,
            upload,
        }
    }

    const BUCKET: Capabilities = Capabilities {
        put: true,
        conditional_put: true,
        delete: true,
        changes: false,
        listing: true,
        probe: false,
        copy: true,
        page: Some(1000),
    };

    #[test]
    fn a_bucket_is_called_one_and_advised_as_one() {
        let took = Duration::from_millis(12);
        let said = |upload, can| verdict(&tier("s3://bars/v1", upload), can, took);
        let check = said(true, BUCKET);
        assert_eq!(check.verdict, Verdict::Ok);
        assert!(
            check
                .found
                .starts_with("s3://bars/v1 answered in 12 ms: a bucket; what is")
        );
        // Asking for names makes it no server of another kind.
        let asking = Capabilities {
            probe: true,
            ..BUCKET
        };
        assert!(said(false, asking).found.contains("a bucket, for reading"));
        let refusing = Capabilities {
            put: false,
            ..BUCKET
        };
        let check = said(true, refusing);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.advice.contains("s3:PutObject"), "{}", check.advice);
        let bucket = tier("s3://bars", false);
        let advice = advice(bucket.url.place(), Kind::Offline);
        assert!(advice.contains("endpoint") && !advice.contains("serve"));
    }
}
