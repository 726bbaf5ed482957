//! Which bytes of a file are here: a set of half-open ranges. Pure.

use crate::object::ByteRange;

/// Sorted ranges that neither overlap nor touch, none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<ByteRange>);

impl RangeSet {
    /// The empty set.
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    /// Adds `range`, joined with what it overlaps or touches.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|held| held.end < range.start);
        let last = self.0.partition_point(|held| held.start <= range.end);
        let joined = match self.0.get(first..last) {
            Some([head, .., tail]) => head.start.min(range.start)..tail.end.max(range.end),
            Some([only]) => only.start.min(range.start)..only.end.max(range.end),
            _ => range,
        };
        self.0.splice(first..last, [joined]);
    }

    /// Whether every byte of `range` is in the set.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self
                .0
                .get(self.0.partition_point(|held| held.end <= range.start))
                .is_some_and(|held| held.start <= range.start && range.end <= held.end)
    }

    /// What of `range` is not in the set, in order.
    pub fn missing(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.0.partition_point(|held| held.end <= range.start);
        for held in &self.0[first..] {
            if held.start >= range.end {
                break;
            }
            if at < held.start {
                gaps.push(at..held.start);
            }
            at = held.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// How many bytes are in the set.
    pub fn covered(&self) -> u64 {
        self.0.iter().map(|held| held.end - held.start).sum()
    }

    /// Whether the set is all of a file of `size` bytes.
    pub fn is_whole(&self, size: u64) -> bool {
        self.contains(0..size)
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ByteRange> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 48;

    fn any_range() -> impl Strategy<Value = ByteRange> {
        (0..=SIZE, 0..=SIZE).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    proptest! {
        #[test]
        fn behaves_as_a_bitmap(
            inserts in proptest::collection::vec(any_range(), 0..12),
            asked in any_range(),
        ) {
            let mut set = RangeSet::new();
            let mut bits = [false; SIZE as usize];
            for range in inserts {
                set.insert(range.clone());
                range.for_each(|at| bits[at as usize] = true);
            }
            let apart = set.0.windows(2).all(|pair| pair[0].end < pair[1].start);
            prop_assert!(apart && set.iter().all(|range| !range.is_empty()));
            let here = |at: &u64| bits[*at as usize];
            prop_assert_eq!(set.covered(), (0..SIZE).filter(here).count() as u64);
            prop_assert_eq!(set.is_whole(SIZE), (0..SIZE).all(|at| here(&at)));
            prop_assert_eq!(set.contains(asked.clone()), asked.clone().all(|at| here(&at)));
            let gaps = set.missing(asked.clone());
            prop_assert!(gaps.windows(2).all(|pair| pair[0].end < pair[1].start));
            let missing: Vec<u64> = gaps.into_iter().flatten().collect();
            prop_assert_eq!(missing, asked.filter(|at| !here(at)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_empty_file_is_whole_and_the_largest_range_fits() {
        let mut set = RangeSet::new();
        assert!(set.is_whole(0));
        set.insert(0..u64::MAX);
        assert_eq!(set.covered(), u64::MAX);
        assert_eq!(set.missing(5..u64::MAX), []);
    }
}
