//! What the rules of `plan` promise, whatever is asked for.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// A file that comes as fast as it is asked for.
struct World {
    reading: Reading,
    have: RangeSet,
    requests: Vec<ByteRange>,
}

impl World {
    fn new(size: u64) -> World {
        World {
            reading: Reading::new(size, RangeSet::new(), true),
            have: RangeSet::new(),
            requests: Vec::new(),
        }
    }

    fn table(size: u64, columns: &[ByteRange]) -> World {
        let mut world = World::new(size);
        world.reading.set_parts(Parts::Known(columns.into()));
        world
    }

    /// The requests that are made now, while none of them is answered.
    fn sent(&mut self) -> Vec<ByteRange> {
        let have = self.have.clone();
        let holes = |range| have.missing(range);
        let sent = std::iter::from_fn(|| self.reading.next(&holes, true)).collect::<Vec<_>>();
        self.requests.extend(sent.iter().cloned());
        sent
    }

    fn answered(&mut self, block: &ByteRange) {
        self.reading.ended(block);
        self.have.insert(block.clone());
    }

    /// Everything that was asked for comes. Returns how many round trips that took.
    fn settle(&mut self) -> usize {
        for trips in 0.. {
            let sent = self.sent();
            if sent.is_empty() {
                return trips;
            }
            for block in sent {
                self.answered(&block);
            }
        }
        0
    }

    fn ask(&mut self, want: ByteRange) -> usize {
        let is_here = self.have.contains(want.clone());
        self.reading.ask(&want, is_here);
        let trips = self.settle();
        assert!(self.have.contains(want));
        trips
    }

    /// Reads a range as the kernel does for a program that asks for all of it at once: in pieces,
    /// and a little beyond its end.
    fn read_through_the_kernel(&mut self, range: &ByteRange, piece: u64) -> usize {
        let end = (range.end + piece).min(self.reading.size);
        let mut at = range.start / PAGE * PAGE;
        let mut trips = 0;
        while at < end {
            let next = end.min(at + piece);
            let waits = self.ask(at..next);
            // For what lies beyond, nobody waits.
            trips += if at < range.end { waits } else { 0 };
            at = next;
        }
        trips
    }
}

#[test]
fn the_first_answer_brings_what_is_read_first() {
    let size = 200 * MIB + 77;
    for name in ["a.parquet", "A.PARQUET", "b.zip", "c.feather"] {
        let first = first_ask(name.as_bytes(), size);
        assert_eq!(first.end, size, "{name}");
        assert!((256 << 10..264 << 10).contains(&len(&first)) && first.start.is_multiple_of(PAGE));
        let first = first_ask(name.as_bytes(), 9 * MIB);
        assert_eq!(first, 9 * MIB - (64 << 10)..9 * MIB);
    }
    for name in ["a.bin", "parquet", ".zip2", ""] {
        assert_eq!(first_ask(name.as_bytes(), size), 0..128 << 10);
    }
}

#[test]
fn reading_from_the_front_soon_keeps_several_requests_busy_and_the_file_is_wanted_whole() {
    let size = 1024 * MIB;
    let mut world = World::new(size);
    let mut waits = 0;
    for at in 0..300 {
        let want = at * MIB..(at + 1) * MIB;
        waits += usize::from(!world.have.contains(want.clone()));
        world.ask(want);
        assert_eq!(world.reading.is_whole_wanted(), at >= 256, "at {at}");
        if at == 100 {
            let covered = world.have.covered();
            assert!((132 * MIB..=166 * MIB).contains(&covered), "{covered}");
        }
    }
    assert!(waits <= 6, "{waits}");
    assert!(
        world
            .requests
            .iter()
            .all(|block| len(block) <= 3 * BLOCK / 2)
    );
    // Nobody is answered: so many are under way at once.
    let mut world = World::new(size);
    for at in 0..60 {
        world.ask(at * MIB..(at + 1) * MIB);
    }
    world.have = RangeSet::new();
    world.reading.ask(&(200 * MIB..201 * MIB), false);
    let sent = world.sent();
    assert!(sent.len() > AHEAD_LANES / 2, "{}", sent.len());
    assert_eq!(
        sent[0],
        200 * MIB..201 * MIB,
        "what is waited for comes first"
    );
}

#[test]
fn a_slow_remote_is_asked_for_a_second_of_it() {
    let mut world = World::new(1024 * MIB);
    world.reading.set_pace(4 * MIB);
    for at in 0..100 {
        world.ask(at * MIB..(at + 1) * MIB);
        assert!(world.have.covered() <= (at + 1 + 4) * MIB);
    }
}

/// Forty columns of 5 MiB each, a footer, two of them read.
#[test]
fn columns_come_in_one_piece_and_nothing_beside_them() {
    for piece in [128 << 10, MIB] {
        let column = |n: u64| 4 + n * 5 * MIB..4 + (n + 1) * 5 * MIB;
        let columns: Vec<_> = (0..40).map(column).collect();
        for wanted in [[7, 30], [7, 8], [39, 0], [8, 7]] {
            let mut world = World::table(columns[39].end + (30 << 10), &columns);
            let mut trips = 0;
            for n in wanted {
                trips += world.read_through_the_kernel(&columns[n], piece);
            }
            // The kernel asks for a piece beyond each.
            let most = ((10 * MIB).mul_f(1.05) + 2 * piece).max((10 * MIB).mul_f(1.15));
            let came = world.have.covered();
            assert!(came < most, "{wanted:?}, {piece}: {came} of {most}");
            // The beginning of the next column may be what the kernel read ahead.
            assert!(trips <= 4, "{wanted:?}, {piece}: {trips}");
        }
    }
}

/// Threads that answer the kernel overtake one another.
#[test]
fn what_the_kernel_reads_ahead_begins_no_column_in_whatever_order_it_comes() {
    let columns: Vec<_> = (0..40)
        .map(|n| n * 2 * MIB + 77..(n + 1) * 2 * MIB + 77)
        .collect();
    for piece in [64 << 10, 128 << 10, 256 << 10] {
        let mut world = World::table(81 * MIB, &columns);
        let column = &columns[7];
        let begin = column.start / PAGE * PAGE;
        world.ask(begin..begin + piece);
        // What goes over the end comes before what is in the middle.
        let last = column.end / PAGE * PAGE - piece / 2;
        world.ask(last..last + piece);
        world.ask(last - piece..last);
        let came = world.have.covered();
        assert!(came < len(column) + 2 * piece, "{piece}: {came}");
    }
}

trait Times {
    fn mul_f(self, times: f64) -> u64;
}

impl Times for u64 {
    fn mul_f(self, times: f64) -> u64 {
        (self as f64 * times) as u64
    }
}

#[test]
fn who_reads_all_columns_in_order_does_not_wait_for_each() {
    let columns: Vec<_> = (0..200u64).map(|n| n * MIB..(n + 1) * MIB).collect();
    let mut world = World::table(201 * MIB, &columns);
    let mut waits = 0;
    for at in 0..45 {
        waits += usize::from(world.ask(at * MIB..(at + 1) * MIB) > 0);
    }
    assert!(waits < 15, "{waits}");
}

proptest! {
    /// Whatever is asked for comes, nothing twice, in requests of a bounded size and number.
    #[test]
    fn what_is_asked_for_comes_once(
        asks in proptest::collection::vec((0u64..64 * MIB, 1u64..3 * MIB), 1..40),
        columns in proptest::collection::btree_set(0u64..64 * MIB, 0..20),
        answers in proptest::collection::vec(0usize..8, 1..60),
        whole: bool,
    ) {
        let size = 64 * MIB;
        let cuts: Vec<u64> = columns.into_iter().collect();
        let columns: Vec<_> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
        let mut world = World::table(size, &columns);
        let mut under_way: Vec<ByteRange> = Vec::new();
        let mut asked = RangeSet::new();
        for (n, (at, length)) in asks.into_iter().enumerate() {
            let want = at..(at + length).min(size);
            asked.insert(want.clone());
            let is_here = world.have.contains(want.clone());
            world.reading.ask(&want, is_here);
            for block in world.sent() {
                prop_assert!(block.start < block.end && block.end <= size);
                prop_assert!(len(&block) <= 3 * BLOCK / 2);
                prop_assert_eq!(world.have.missing(block.clone()), vec![block.clone()], "here already");
                prop_assert!(under_way.iter().all(|o| o.end <= block.start || block.end <= o.start));
                under_way.push(block);
            }
            prop_assert!(under_way.len() <= AHEAD_LANES + ASKED_LANES);
            // Some are answered, in any order.
            for _ in 0..answers[n % answers.len()].min(under_way.len()) {
                let block = under_way.swap_remove(n % under_way.len());
                world.answered(&block);
            }
        }
        if whole {
            world.reading.want_whole();
        }
        for block in under_way {
            world.answered(&block);
        }
        world.settle();
        for range in asked.iter() {
            prop_assert!(world.have.contains(range.clone()));
        }
        prop_assert!(!whole || world.have.is_whole(size));
    }

    /// Who jumps about gets exactly what he asks for.
    #[test]
    fn who_jumps_about_gets_what_he_asks_for(
        order in Just((0..20u64).collect::<Vec<_>>()).prop_shuffle(),
        length in 1u64..100_000,
    ) {
        // Any two are further apart than what counts as near.
        let size = 1024 * MIB;
        let mut world = World::new(size);
        for n in &order {
            let at = n * 3 * MIB;
            world.ask(at..at + length);
        }
        prop_assert_eq!(world.have.covered(), 20 * length);
        prop_assert!(!world.reading.is_whole_wanted());
    }

    /// Reading forward fetches at most twice as much again as was read.
    #[test]
    fn the_window_is_bound_to_what_was_read(begin in 1u64..512, steps in proptest::collection::vec(1u64..2 * MIB, 1..60)) {
        let mut world = World::new(1024 * MIB);
        let mut at = begin * MIB;
        let first = at;
        for step in steps {
            world.ask(at..at + step);
            at += step;
        }
        let read = at - first;
        prop_assert!(world.have.covered() <= read + (2 * read).clamp(WINDOW, WINDOW_MOST));
    }
}
