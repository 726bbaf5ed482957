//! Who may read and who may write.
//!
//! Keys are kept and compared as hashes, in constant time, and an address that guesses is
//! locked out for a minute. Without a key, writes are taken from this machine only.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::Secret;
use crate::wire::KEY_HEADER;

use super::problem::Problem;

/// Wrong keys that an address may send in one [`WINDOW`].
const GUESSES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered. An attacker with more has to be stopped elsewhere.
const ADDRESSES: usize = 4096;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Read,
    Write,
}

/// The rules.
pub struct Access {
    write: Option<[u8; 32]>,
    read: Option<[u8; 32]>,
    open_writes: bool,
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Access {
    pub fn new(write: Option<&Secret>, read: Option<&Secret>, open_writes: bool) -> Access {
        let hash = |key: &Secret| Sha256::digest(key.reveal().as_bytes()).into();
        Access {
            write: write.map(hash),
            read: read.map(hash),
            open_writes,
            failures: Mutex::default(),
        }
    }

    /// One line for the log at start.
    pub fn describe(&self) -> &'static str {
        match (&self.write, self.open_writes) {
            (Some(_), _) => "writes need the key",
            (None, true) => "there is no key: EVERYBODY who reaches this port may write",
            (None, false) => {
                "there is no key: writes are taken from this machine only (set a key with --key-file or LARDER_KEY to take them from others)"
            }
        }
    }

    /// Lets the request pass or says why not.
    pub fn check(&self, need: Need, peer: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
        let keys = match need {
            Need::Read => [self.read, self.write],
            Need::Write => [self.write, None],
        };
        match (need, self.read, self.write) {
            (Need::Read, None, _) => return Ok(()),
            (Need::Write, _, None) => return self.keyless_write(peer, headers),
            _ => {}
        }
        let Some(given) = key_of(headers) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "this server needs a key: send it as X-API-Key",
            ));
        };
        self.may_try(peer)?;
        let given: [u8; 32] = Sha256::digest(given).into();
        if fits(&keys, &given) {
            return Ok(());
        }
        self.note_failure(peer);
        Err(wrong_key())
    }

    /// The same for a request whose signature proved that its sender has a key: the one for
    /// writes, or the one for reads.
    pub fn check_signed(
        &self,
        need: Need,
        with: Need,
        peer: IpAddr,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        match (need, with, self.write) {
            (Need::Read, _, _) | (Need::Write, Need::Write, _) => Ok(()),
            (Need::Write, Need::Read, None) => self.keyless_write(peer, headers),
            (Need::Write, Need::Read, Some(_)) => Err(wrong_key()),
        }
    }

    /// Whether the address may show another key, or has shown too many wrong ones.
    pub fn may_try(&self, peer: IpAddr) -> Result<(), Problem> {
        if self.is_locked_out(peer) {
            let why = "too many wrong keys from this address; wait a minute";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, why).retry_after(60));
        }
        Ok(())
    }

    /// Whether a write would pass. A wrong key counts here as well: the answer tells it from the
    /// right one. A reader's key is none.
    pub fn may_write(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let Some(key) = self.write else {
            return self.keyless_write(peer, headers).is_ok();
        };
        let Some(given) = key_of(headers).filter(|_| !self.is_locked_out(peer)) else {
            return false;
        };
        let given: [u8; 32] = Sha256::digest(given).into();
        let (writes, reads) = (fits(&[Some(key)], &given), fits(&[self.read], &given));
        if !writes && !reads {
            self.note_failure(peer);
        }
        writes
    }

    fn keyless_write(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
        // A web page in a browser on this machine is not this machine's user.
        let from_here = peer.to_canonical().is_loopback() && !headers.contains_key(header::ORIGIN);
        if self.open_writes || from_here {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "this server has no key and takes writes from its own machine only; start it with --open-writes, or with --key-file",
        ))
    }

    fn is_locked_out(&self, peer: IpAddr) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures
            .get(&together(peer))
            .is_some_and(|(since, count)| since.elapsed() < WINDOW && *count >= GUESSES)
    }

    /// The address has shown a wrong key.
    pub fn note_failure(&self, peer: IpAddr) {
        let peer = together(peer);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES {
            failures.retain(|_, (since, _)| since.elapsed() < WINDOW);
        }
        if failures.len() < ADDRESSES || failures.contains_key(&peer) {
            let entry = failures.entry(peer).or_insert((Instant::now(), 0));
            if entry.0.elapsed() >= WINDOW {
                *entry = (Instant::now(), 0);
            }
            entry.1 += 1;
        }
    }
}

/// Every key is compared, whichever fits, so that the time tells nothing.
fn fits(keys: &[Option<[u8; 32]>], given: &[u8; 32]) -> bool {
    let compared = keys.iter().flatten();
    bool::from(compared.fold(subtle::Choice::from(0), |fits, key| fits | key.ct_eq(given)))
}

/// Whose guesses, and connections, count together: one machine has as many IPv6 addresses as it likes, all of
/// them in one network of 64 bits.
pub(super) fn together(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => Ipv6Addr::from_bits(peer.to_bits() >> 64 << 64).into(),
        peer => peer,
    }
}

fn wrong_key() -> Problem {
    let why = "the key is not the right one for this";
    Problem::new(StatusCode::UNAUTHORIZED, why)
}

fn key_of(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(KEY_HEADER) {
        return Some(key.as_bytes().trim_ascii());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_all_addresses_of_one_network_guess_together() {
        let access = Access::new(Some(&Secret::new("right").unwrap()), None, false);
        let locked = |peer: &str| access.is_locked_out(peer.parse().unwrap());
        for n in 0..GUESSES {
            access.note_failure(format!("2001:db8::{n:x}:1").parse().unwrap());
            access.note_failure("::ffff:10.0.0.1".parse().unwrap());
        }
        assert!(locked("2001:db8::ffff") && locked("10.0.0.1"));
        assert!(!locked("2001:db8:0:1::1") && !locked("10.0.0.2"));
    }

    #[test]
    fn p10_without_a_key_other_machines_write_only_where_that_was_said() {
        let none = HeaderMap::new();
        let verdict = |open, peer: &str| {
            let access = Access::new(None, None, open);
            let peer = peer.parse().unwrap();
            assert!(access.check(Need::Read, peer, &none).is_ok());
            let checked = access.check(Need::Write, peer, &none);
            assert_eq!(access.may_write(peer, &none), checked.is_ok());
            checked.map_err(|problem| problem.detail().to_owned())
        };
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(verdict(false, here).is_ok(), "{here}");
        }
        for other in ["192.168.1.20", "fe80::1", "::ffff:10.0.0.1"] {
            let why = verdict(false, other).unwrap_err();
            assert!(why.contains("--open-writes") && why.contains("--key-file"));
            assert!(verdict(true, other).is_ok());
        }
    }
}
