//! How much has to go, and what of the candidates. Pure: whoever calls offers only
//! files that may be evicted (promise P11), least recently used first.

/// What the store may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes in held files.
    pub max_bytes: Option<u64>,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// Held files.
    pub max_files: Option<u64>,
    /// Once over a limit, go down to this part of it, so that the next file does not
    /// start it all again.
    pub low_mark: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_bytes: None,
            min_free: 1 << 30,
            max_files: None,
            low_mark: 0.9,
        }
    }
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub held_bytes: u64,
    pub held_files: u64,
    pub free_bytes: u64,
}

/// What has to go, at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub bytes: u64,
    pub files: u64,
}

/// A file that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub id: u64,
    pub size: u64,
}

/// What has to go; nothing while every limit is kept.
pub fn need(limits: &Limits, usage: &Usage) -> Option<Need> {
    let low = limits.low_mark.clamp(0.0, 1.0);
    let over = |held: u64, max: Option<u64>| match max {
        Some(max) if held > max => held - part(max, low),
        _ => 0,
    };
    let short = if usage.free_bytes < limits.min_free {
        // The mirror image: the room above the limit is as large as the room below one.
        let headroom = limits.min_free - part(limits.min_free, low);
        limits.min_free - usage.free_bytes + headroom
    } else {
        0
    };
    let need = Need {
        bytes: over(usage.held_bytes, limits.max_bytes).max(short),
        files: over(usage.held_files, limits.max_files),
    };
    (need != Need::default()).then_some(need)
}

/// Takes candidates, in the order given, until enough is gone. A file that would not
/// bring what is still needed stays.
pub fn pick(need: Need, candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut left = need;
    let mut picked = Vec::new();
    for candidate in candidates {
        if left == Need::default() {
            break;
        }
        if left.files == 0 && candidate.size == 0 {
            continue;
        }
        left.bytes = left.bytes.saturating_sub(candidate.size);
        left.files = left.files.saturating_sub(1);
        picked.push(candidate);
    }
    picked
}

/// A part of `whole`, never more than it.
fn part(whole: u64, of: f64) -> u64 {
    ((whole as f64 * of) as u64).min(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        max_bytes: Some(1000),
        min_free: 100,
        max_files: Some(10),
        low_mark: 0.9,
    };

    #[test]
    fn p11_nothing_goes_at_the_limit_and_down_to_the_low_mark_above_it() {
        let usage = |held_bytes, held_files, free_bytes| Usage {
            held_bytes,
            held_files,
            free_bytes,
        };
        let bytes = |bytes| Some(Need { bytes, files: 0 });
        assert_eq!(need(&LIMITS, &usage(1000, 10, 100)), None);
        assert_eq!(need(&LIMITS, &usage(1001, 10, 100)), bytes(101));
        assert_eq!(need(&LIMITS, &usage(0, 0, 60)), bytes(50));
        assert_eq!(need(&LIMITS, &usage(1001, 10, 0)), bytes(110));
        let files = Some(Need { bytes: 0, files: 2 });
        assert_eq!(need(&LIMITS, &usage(0, 11, 100)), files);
        assert_eq!(
            need(&Limits::default(), &usage(u64::MAX, u64::MAX, 1 << 30)),
            None
        );
    }

    proptest! {
        #[test]
        fn p11_what_is_picked_is_enough_oldest_first_and_not_more(
            sizes in proptest::collection::vec(0u64..50, 0..20),
            bytes in 0u64..400,
            files in 0u64..20,
        ) {
            let all: Vec<_> = (0..).zip(&sizes).map(|(id, &size)| Candidate { id, size }).collect();
            let picked = pick(Need { bytes, files }, all.iter().copied());
            prop_assert!(picked.is_sorted_by_key(|candidate| candidate.id));
            let sum = |these: &[Candidate]| these.iter().map(|c| c.size).sum::<u64>();
            let enough = |these: &[Candidate]| sum(these) >= bytes && these.len() as u64 >= files;
            prop_assert_eq!(enough(&picked), enough(&all));
            if let Some((_, but_last)) = picked.split_last() {
                prop_assert!(!enough(but_last));
            } else {
                prop_assert!(enough(&[]) || all.is_empty() || (files == 0 && sum(&all) == 0));
            }
        }

        #[test]
        fn p11_after_evicting_the_need_is_gone(
            held_bytes in 0u64..5000, held_files in 0u64..50, free_bytes in 0u64..500,
        ) {
            let usage = Usage { held_bytes, held_files, free_bytes };
            if let Some(need) = need(&LIMITS, &usage) {
                let after = Usage {
                    held_bytes: held_bytes.saturating_sub(need.bytes),
                    held_files: held_files.saturating_sub(need.files),
                    free_bytes: free_bytes + need.bytes,
                };
                prop_assert_eq!(super::need(&LIMITS, &after), None);
            }
        }
    }
}
