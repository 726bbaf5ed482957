//! Time and chance, passed in so that tests decide both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time comes from. It orders nothing between machines (promise P8).
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's own.
    System,
    /// A test's: nanoseconds since 1970, moved by hand.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `ns` until it is moved.
    pub fn manual(ns: i64) -> (Clock, Arc<AtomicI64>) {
        let hand = Arc::new(AtomicI64::new(ns));
        (Clock::Manual(hand.clone()), hand)
    }

    /// Nanoseconds since 1970 (UTC).
    pub fn now_ns(&self) -> i64 {
        match self {
            Clock::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
            Clock::Manual(hand) => hand.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since 1970 (UTC).
    pub fn now_ms(&self) -> i64 {
        self.now_ns() / 1_000_000
    }
}

/// A life of the machine, from one start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// Names it.
    pub id: i64,
    /// When it began, in nanoseconds since 1970.
    pub at_ns: i64,
}

impl Boot {
    /// The one that the machine is in, where it can be told (Linux).
    pub fn current(clock: &Clock) -> Option<Boot> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        // Sixty random bits of it are enough.
        let digits: String = id
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(15)
            .collect();
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
        Some(Boot {
            id: i64::from_str_radix(&digits, 16).ok()?,
            at_ns: clock.now_ns() - (seconds * 1e9) as i64,
        })
    }
}

/// Random numbers for jitter and for names that must not collide; not for secrets.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// Seeded by hand.
    pub fn seeded(seed: u64) -> Chance {
        Chance(AtomicU64::new(seed))
    }

    /// Seeded by the standard library's per-process random keys.
    pub fn from_system() -> Chance {
        use std::hash::{BuildHasher, Hasher, RandomState};
        Chance::seeded(RandomState::new().build_hasher().finish())
    }

    /// The next number: SplitMix64 (Steele, Lea and Flood, 2014).
    pub fn next_u64(&self) -> u64 {
        let mut z = self
            .0
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`.
    pub fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
