//! How many connections each address holds: one host does not get all that there are.
//!
//! A reverse proxy on the server's own machine stands for many clients, and comes from 127.0.0.1 or
//! ::1: those two are not counted. One on another machine is an address as any.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::together;

/// Of all connections, an address may hold this part.
const PART: usize = 4;

/// Who is connected.
pub struct Crowd {
    most: usize,
    held: Mutex<HashMap<IpAddr, Held>>,
}

/// What one address has.
#[derive(Default)]
struct Held {
    connections: usize,
    /// It was said that it wants more.
    is_told: bool,
}

/// One connection's place among its address's. Dropping it leaves the place.
pub struct Place {
    crowd: Arc<Crowd>,
    who: Option<IpAddr>,
}

impl Crowd {
    /// Of a server that takes so many connections.
    pub fn of(connections: usize) -> Arc<Crowd> {
        Arc::new(Crowd {
            most: (connections / PART).max(1),
            held: Mutex::default(),
        })
    }

    /// A place for one more connection from there; none: it has all that it may have.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let crowd = self.clone();
        if is_own(peer) {
            return Some(Place { crowd, who: None });
        }
        let who = together(peer);
        let mut all = self.lock();
        let held = all.entry(who).or_default();
        if held.connections < self.most {
            held.connections += 1;
            let who = Some(who);
            return Some(Place { crowd, who });
        }
        if !std::mem::replace(&mut held.is_told, true) {
            let most = self.most;
            tracing::warn!(peer = %who, most, "an address has all connections that one may have; more are refused");
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(who) = self.who else { return };
        let mut all = self.crowd.lock();
        if let Some(held) = all.get_mut(&who) {
            held.connections -= 1;
            if held.connections == 0 {
                all.remove(&who);
            }
        }
    }
}

/// The machine's own address, where a proxy speaks for others.
fn is_own(peer: IpAddr) -> bool {
    let own: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    own.contains(&peer.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_a_place_that_is_left_is_free_again_and_nothing_of_it_is_kept() {
        let crowd = Crowd::of(8);
        let admit = |peer: &str| crowd.admit(peer.parse().unwrap());
        let (one, two) = (admit("10.0.0.1"), admit("::ffff:10.0.0.1"));
        assert!(one.is_some() && two.is_some() && admit("10.0.0.1").is_none());
        // Another address, and a proxy on this machine, do not feel it.
        let other = admit("10.0.0.2");
        let proxied: Vec<_> = ["127.0.0.1", "::1", "::ffff:127.0.0.1"]
            .map(|own| [(); 9].map(|()| admit(own)))
            .into_iter()
            .flatten()
            .collect();
        assert!(other.is_some() && proxied.iter().all(Option::is_some));
        drop(one);
        let again = admit("10.0.0.1");
        assert!(again.is_some());
        // One machine has as many IPv6 addresses as it likes.
        let network = ["2001:db8::1", "2001:db8::2"].map(admit);
        assert!(network.iter().all(Option::is_some) && admit("2001:db8::3").is_none());
        drop((two, other, proxied, again, network));
        assert!(crowd.lock().is_empty());
    }
}
