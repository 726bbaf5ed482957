//! How often a remote is listed again where each request of a listing costs; pure.
//!
//! Such a listing takes a request for every so many objects, so the larger the remote, the more
//! rarely it is listed: what the mount asks by itself stays within a number of requests a day.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than any mount lives, and far from the end of what clocks can add.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How many times in a row the wait doubles where listings find nothing new.
const DOUBLINGS: u32 = 3;

/// What the user allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The least time between two listings.
    pub refresh: Duration,
    /// Most requests a day; none for no limit.
    pub budget: Option<u64>,
}

/// Requests that a listing of `objects` takes, where one names `page`.
pub fn requests(objects: u64, page: u32) -> u64 {
    objects.div_ceil(u64::from(page.max(1))).max(1)
}

impl Pace {
    /// How long to wait after a listing of so many requests, if `quiet` in a row found nothing new.
    pub fn wait(self, requests: u64, quiet: u32) -> Duration {
        let base = self.refresh.max(self.affordable(requests)).min(LONGEST);
        (base * (1 << quiet.min(DOUBLINGS))).min(LONGEST)
    }

    /// The wait at which listings of so many requests stay within the budget on every day; one
    /// that takes more than a day's comes as rarely as makes good for it.
    fn affordable(self, requests: u64) -> Duration {
        let Some(budget) = self.budget else {
            return Duration::ZERO;
        };
        let (requests, budget) = (requests.max(1), budget.max(1));
        let nanos = match budget / requests {
            0 => DAY.as_nanos() * u128::from(requests.div_ceil(budget)),
            listings => DAY.as_nanos().div_ceil(u128::from(listings)),
        };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The requests a day that listings of so many requests make if they are so far apart.
pub fn requests_a_day(requests: u64, every: Duration) -> u64 {
    let day = DAY.as_nanos() * u128::from(requests);
    u64::try_from(day / every.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(refresh_s: u64, budget: Option<u64>) -> Pace {
        Pace {
            refresh: Duration::from_secs(refresh_s),
            budget,
        }
    }

    #[test]
    fn p8_a_large_bucket_is_listed_as_often_as_the_budget_allows() {
        let wait = |objects, quiet| pace(30, Some(20_000)).wait(requests(objects, 1000), quiet);
        assert_eq!(wait(0, 0), Duration::from_secs(30));
        assert_eq!(wait(6_000, 0), Duration::from_secs(30));
        assert_eq!(wait(63_000, 0).as_secs(), 272);
        assert_eq!(wait(63_000, 2), wait(63_000, 0) * 4);
        assert_eq!(wait(10_000_000, 0), DAY / 2);
        // More than a day's budget.
        assert_eq!(wait(30_000_000, 0), DAY * 2);
        assert_eq!(pace(30, None).wait(10_000, 0), Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn p8_the_budget_of_a_day_holds(
            refresh in 1u64..100_000, budget in 1u64..100_000, requests in 1u64..200_000, quiet in 0u32..10
        ) {
            let wait = pace(refresh, Some(budget)).wait(requests, quiet);
            prop_assert!(wait >= Duration::from_secs(refresh));
            // Listings that begin within any one day, the first at its first moment.
            let listings = u64::try_from(DAY.as_nanos().div_ceil(wait.as_nanos())).unwrap();
            prop_assert!(listings == 1 || listings * requests <= budget);
            // Over many days, however large the remote is.
            prop_assert!(requests_a_day(requests, wait) <= budget || wait == LONGEST);
        }

        #[test]
        fn p8_waits_grow_with_the_remote_and_the_quiet_and_shrink_with_the_budget(
            refresh in 0u64..100_000, budget in 0u64..100_000, requests in 0u64..200_000, quiet in 0u32..10,
            more in 0u64..100_000
        ) {
            let at = |b, r, q| pace(refresh, Some(b)).wait(r, q);
            let wait = at(budget, requests, quiet);
            prop_assert!(at(budget, requests + more, quiet) >= wait);
            prop_assert!(at(budget + more, requests, quiet) <= wait);
            prop_assert!(at(budget, requests, quiet + 1) >= wait);
            prop_assert!(at(budget, requests, quiet) <= at(budget, requests, 0) * 8);
            prop_assert!(pace(refresh, None).wait(requests, quiet) <= wait);
        }

        #[test]
        fn p8_no_setting_is_too_large(refresh in any::<u64>(), budget in any::<u64>(), objects in any::<u64>()) {
            let requests = requests(objects, 1);
            let wait = pace(refresh, Some(budget)).wait(requests, 9);
            prop_assert!(wait <= LONGEST);
            let _ = requests_a_day(requests, wait);
        }
    }
}
