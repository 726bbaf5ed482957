//! Which bytes to ask for next; pure.

use crate::object::ByteRange;

/// A reader this close ahead of the stream waits for it instead of asking for its own range.
pub const NEAR: u64 = 4 << 20;
/// A range asked for out of order is at least this long, so that small reads do not become small requests.
pub const SIDE: u64 = 1 << 20;
/// Bytes at the end that are shown only after the whole was verified, where a hash is known.
pub const HOLD_BACK: u64 = 64 << 10;
/// A file at most this long is fetched whole whatever its readers do.
pub const SMALL: u64 = 64 << 20;

/// The range to fetch for a reader of `want` while a stream stands at `at`: none if the stream
/// will be there soon. `holes` are the missing parts of the file, in order.
pub fn side_range(
    want: &ByteRange,
    at: Option<u64>,
    holes: &[ByteRange],
    size: u64,
) -> Option<ByteRange> {
    let first = holes
        .iter()
        .find(|h| h.end > want.start && h.start < want.end)?;
    let start = first.start.max(want.start);
    if at.is_some_and(|at| at <= start && start - at <= NEAR) {
        return None;
    }
    let end = want
        .end
        .max(start.saturating_add(SIDE))
        .min(first.end)
        .min(size);
    Some(start..end)
}

/// The next range of the background stream: the first hole at or after `at`, else the first of all.
pub fn next_hole(holes: &[ByteRange], at: u64) -> Option<ByteRange> {
    holes
        .iter()
        .find(|h| h.end > at)
        .map(|h| h.start.max(at)..h.end)
        .or_else(|| holes.first().cloned())
}

/// Whether a download that nobody reads any more should go on: small ones, and those well begun.
pub fn worth_finishing(size: u64, have: u64) -> bool {
    size <= SMALL || have >= size / 4
}

/// Which part of `want` must wait until the whole is verified.
pub fn is_held_back(want: &ByteRange, size: u64, hash_known: bool) -> bool {
    hash_known && want.end > size.saturating_sub(HOLD_BACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_near_the_stream_waits_for_it() {
        let whole = 0..100 << 20;
        assert_eq!(
            side_range(
                &(NEAR..NEAR + 10),
                Some(0),
                std::slice::from_ref(&whole),
                whole.end
            ),
            None
        );
        let far = 50 << 20;
        assert_eq!(
            side_range(
                &(far..far + 10),
                Some(0),
                std::slice::from_ref(&whole),
                whole.end
            ),
            Some(far..far + SIDE)
        );
    }

    proptest! {
        #[test]
        fn side_ranges_are_missing_and_inside(start in 0u64..1 << 24, len in 1u64..1 << 20, cut in 0u64..1 << 24, at: Option<u64>) {
            let size = 1 << 24;
            let want = start..(start + len).min(size);
            let holes = [0..cut / 2, cut..size];
            if let Some(range) = side_range(&want, at, &holes, size) {
                prop_assert!(range.start < range.end && range.end <= size);
                prop_assert!(holes.iter().any(|h| h.start <= range.start && range.end <= h.end));
                prop_assert!(range.start >= want.start && range.start < want.end);
            }
        }

        #[test]
        fn the_stream_visits_every_hole(cuts in proptest::collection::btree_set(0u64..1000, 2..10)) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let mut holes: Vec<ByteRange> = cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect();
            let mut at = 500;
            while let Some(hole) = next_hole(&holes, at) {
                prop_assert!(hole.start < hole.end);
                at = hole.end;
                holes = holes.into_iter().flat_map(|h| {
                    let left = h.start..h.end.min(hole.start.max(h.start));
                    let right = h.start.max(hole.end.min(h.end))..h.end;
                    [left, right].into_iter().filter(|r| r.start < r.end)
                }).collect();
            }
            prop_assert!(holes.is_empty());
        }
    }
}
