//! Which files a reader will open next, as far as what it opened tells; pure.
//!
//! A reader that opens files in the order of the tree leaves a *trail*. Its next files are
//! expected; once enough of them were opened in turn, as many as the trail's *depth* are
//! fetched ahead. The depth grows with each of them that is opened, and the trail is left alone
//! once more than every other one was fetched for nothing. Where that happens again and again, a
//! trail has to be much longer before it is followed. Of readers that go nowhere in order, only
//! one open of several is taken for the beginning of a trail: what comes behind a file has to be
//! looked up.

use std::collections::{HashMap, VecDeque};

use crate::index::NodeId;

/// Files expected of a trail that is not followed yet: readers that go a little out of order stay on it.
pub const EXPECTED: usize = 8;
/// So many files opened in turn make a trail one to follow.
const FOLLOWED_AFTER: u32 = 3;
/// The same while more is fetched for nothing than is opened.
const DOUBTED_AFTER: u32 = 16;
/// So many outcomes are remembered, older ones for half.
const MEMORY: u32 = 256;
/// Files fetched ahead at first.
const FIRST_DEPTH: usize = 4;
/// A file that so many behind it were opened before will not be opened any more.
const GRACE: usize = 32;
/// Fetched for nothing before a trail can be called wrong.
const PATIENCE: u32 = 4;
/// Trails that are kept; the one that was used least recently goes first.
const TRAILS: usize = 32;

/// So many trails that nobody went on, and none that somebody did, make the next ones rare,
const STRAYS: u32 = 2 * TRAILS as u32;
/// as one of so many opens.
const RARE: u64 = 16;

/// How much may be fetched that nobody has asked for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Files ahead of one reader.
    pub depth: usize,
    /// Bytes ahead of all readers.
    pub bytes: u64,
    /// Longer files are not fetched ahead: they are read while they come.
    pub file: u64,
}

/// A file that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub id: NodeId,
    pub size: u64,
    /// Whether it would have to be fetched.
    pub is_far: bool,
}

/// Names a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrailId(u64);

/// What an open came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// None if the file is not on any.
    pub trail: Option<TrailId>,
    /// Whether the file had been fetched ahead.
    pub was_ahead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Fetched,
    Opened,
}

struct Trail {
    id: TrailId,
    /// The last file that the queue knows of.
    end: NodeId,
    queue: VecDeque<(Expected, State)>,
    in_turn: u32,
    depth: usize,
    used: u32,
    wasted: u32,
}

/// All trails.
pub struct Trails {
    bounds: Bounds,
    /// The one that was used last stands last.
    trails: Vec<Trail>,
    by_file: HashMap<NodeId, TrailId>,
    next: u64,
    bytes: u64,
    /// Trails that were dropped before anybody went on them, since somebody last did on one.
    strays: u32,
    /// What lately became of files that were fetched ahead.
    used: u32,
    wasted: u32,
}

impl Trails {
    pub fn new(bounds: Bounds) -> Trails {
        Trails {
            bounds,
            trails: Vec::new(),
            by_file: HashMap::new(),
            next: 0,
            bytes: 0,
            strays: 0,
            used: 0,
            wasted: 0,
        }
    }

    /// A file was opened: it is the next of a trail, or the first of a new one.
    pub fn opened(&mut self, id: NodeId) -> Step {
        let Some(at) = self.by_file.get(&id).and_then(|t| self.position(*t)) else {
            return self.begin(id);
        };
        let mut trail = self.trails.remove(at);
        let place = trail.queue.iter().position(|(e, _)| e.id == id);
        let mut was_ahead = false;
        if let Some(place) = place {
            let (expected, state) = &mut trail.queue[place];
            was_ahead = *state == State::Fetched;
            if was_ahead {
                self.bytes -= expected.size;
                trail.used += 1;
            }
            *state = State::Opened;
            self.pass(&mut trail, place);
        }
        self.remember(u32::from(was_ahead), 0);
        trail.in_turn = trail.in_turn.saturating_add(1);
        let least = match self.wasted > self.used {
            true => DOUBTED_AFTER,
            false => FOLLOWED_AFTER,
        };
        trail.pace(least, self.bounds.depth, was_ahead);
        if trail.is_walked() {
            self.strays = 0;
        }
        let step = Step {
            trail: Some(trail.id),
            was_ahead,
        };
        self.trails.push(trail);
        step
    }

    fn begin(&mut self, id: NodeId) -> Step {
        self.next += 1;
        if self.strays >= STRAYS && !self.next.is_multiple_of(RARE) {
            return Step {
                trail: None,
                was_ahead: false,
            };
        }
        if self.trails.len() == TRAILS {
            let oldest = self.trails.remove(0);
            self.strays += u32::from(!oldest.is_walked());
            self.forget(oldest);
        }
        let trail = TrailId(self.next);
        self.trails.push(Trail {
            id: trail,
            end: id,
            queue: VecDeque::new(),
            in_turn: 1,
            depth: 0,
            used: 0,
            wasted: 0,
        });
        Step {
            trail: Some(trail),
            was_ahead: false,
        }
    }

    /// What is behind the file at `place` for good leaves the queue.
    fn pass(&mut self, trail: &mut Trail, mut place: usize) {
        while let Some((expected, state)) = trail.queue.front().copied() {
            if state != State::Opened && place <= GRACE {
                return;
            }
            trail.queue.pop_front();
            self.leave(&expected, state);
            trail.wasted += u32::from(state == State::Fetched);
            if place == 0 {
                return;
            }
            place -= 1;
        }
    }

    fn leave(&mut self, expected: &Expected, state: State) {
        self.by_file.remove(&expected.id);
        if state == State::Fetched {
            self.bytes -= expected.size;
            self.remember(0, 1);
        }
    }

    fn remember(&mut self, used: u32, wasted: u32) {
        self.used += used;
        self.wasted += wasted;
        if self.used + self.wasted > MEMORY {
            (self.used, self.wasted) = (self.used / 2, self.wasted / 2);
        }
    }

    fn forget(&mut self, trail: Trail) {
        for (expected, state) in &trail.queue {
            self.leave(expected, *state);
        }
    }

    /// Forgets every trail: their reader has not come for a while.
    pub fn clear(&mut self) {
        for trail in std::mem::take(&mut self.trails) {
            self.forget(trail);
        }
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.trails.is_empty()
    }

    /// How many files behind which one the trail wants to know of.
    pub fn wants(&self, id: TrailId) -> Option<(NodeId, usize)> {
        let trail = self.trail(id)?;
        let known = trail.queue.iter().filter(|e| e.1 != State::Opened).count();
        let goal = EXPECTED.max(trail.depth + trail.depth / 2);
        // Asked for by the handful, not one by one.
        (known < goal.div_ceil(2).max(trail.depth)).then(|| (trail.end, goal - known))
    }

    /// These come behind what the trail knows of.
    pub fn expect(&mut self, id: TrailId, files: impl IntoIterator<Item = Expected>) {
        let Some(at) = self.position(id) else { return };
        for expected in files {
            self.trails[at].end = expected.id;
            // Expected by another trail already: whoever comes there first is on that one.
            if self.by_file.contains_key(&expected.id) {
                continue;
            }
            self.by_file.insert(expected.id, id);
            self.trails[at].queue.push_back((expected, State::Waiting));
        }
    }

    /// The next file of the trail to fetch, if one should be; it counts as fetched from now on.
    pub fn next(&mut self, id: TrailId) -> Option<NodeId> {
        let bounds = self.bounds;
        let left = bounds.bytes.saturating_sub(self.bytes);
        let at = self.position(id)?;
        let trail = &mut self.trails[at];
        let newest = trail.queue.iter().rposition(|e| e.1 == State::Opened);
        let ahead = trail.queue.iter_mut().skip(newest.map_or(0, |n| n + 1));
        for (expected, state) in ahead.take(trail.depth) {
            let fits = expected.size <= bounds.file && expected.size <= left;
            if *state == State::Waiting && expected.is_far && fits {
                *state = State::Fetched;
                self.bytes += expected.size;
                return Some(expected.id);
            }
        }
        None
    }

    /// It could not be fetched: the trail is let be until its reader went on for a while.
    pub fn failed(&mut self, id: NodeId) {
        let Some(at) = self.by_file.get(&id).and_then(|t| self.position(*t)) else {
            return;
        };
        let trail = &mut self.trails[at];
        (trail.in_turn, trail.depth) = (0, 0);
        for (expected, state) in &mut trail.queue {
            if expected.id == id && *state == State::Fetched {
                *state = State::Waiting;
                expected.is_far = false;
                self.bytes -= expected.size;
            }
        }
    }

    /// Every trail, the one that was used last first.
    pub fn all(&self) -> Vec<TrailId> {
        self.trails.iter().rev().map(|t| t.id).collect()
    }

    fn position(&self, id: TrailId) -> Option<usize> {
        self.trails.iter().rposition(|t| t.id == id)
    }

    fn trail(&self, id: TrailId) -> Option<&Trail> {
        self.position(id).map(|at| &self.trails[at])
    }
}

impl Trail {
    /// Whether somebody went on it: who opens files at random meets what was expected now and then.
    fn is_walked(&self) -> bool {
        self.in_turn >= FOLLOWED_AFTER
    }

    fn pace(&mut self, least: u32, most: usize, was_ahead: bool) {
        if self.wasted > PATIENCE && self.wasted > self.used {
            // Wrong more often than right: it has to be walked anew.
            (self.in_turn, self.depth) = (0, 0);
            (self.used, self.wasted) = (0, 0);
        } else if self.in_turn < least {
            self.depth = 0;
        } else if self.depth == 0 {
            self.depth = FIRST_DEPTH.min(most);
        } else if was_ahead {
            // One more for each: double for each time that all of them were opened.
            self.depth = (self.depth + 1).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        depth: 16,
        bytes: 1000,
        file: 100,
    };

    /// A tree of so many files, each 10 bytes long, all of them far.
    struct Walk {
        trails: Trails,
        files: u64,
        fetched: Vec<u64>,
        /// How often it was looked up what comes next.
        looks: u64,
    }

    impl Walk {
        fn new(files: u64) -> Walk {
            Walk {
                trails: Trails::new(BOUNDS),
                files,
                fetched: Vec::new(),
                looks: 0,
            }
        }

        fn open(&mut self, n: u64) -> bool {
            let step = self.trails.opened(NodeId(n));
            let Some(trail) = step.trail else {
                return step.was_ahead;
            };
            if let Some((after, count)) = self.trails.wants(trail) {
                self.looks += 1;
                let end = (after.0 + count as u64).min(self.files - 1);
                let more = (after.0 + 1..=end).map(|n| Expected {
                    id: NodeId(n),
                    size: 10,
                    is_far: true,
                });
                self.trails.expect(trail, more.collect::<Vec<_>>());
            }
            while let Some(id) = self.trails.next(trail) {
                self.fetched.push(id.0);
            }
            step.was_ahead
        }
    }

    #[test]
    fn who_walks_in_order_finds_nearly_everything_there() {
        let mut walk = Walk::new(1000);
        let found = (0..1000).filter(|n| walk.open(*n)).count();
        assert!(found >= 990, "{found}");
        assert_eq!(walk.trails.wasted, 0);
        let mut once = walk.fetched.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), walk.fetched.len());
    }

    #[test]
    fn who_goes_a_little_out_of_order_is_followed_too() {
        let mut walk = Walk::new(1000);
        // Four threads share a list: of each four, any comes first.
        let found = (0..1000).map(|n| (n / 4) * 4 + [2, 0, 3, 1][n as usize % 4]);
        let found = found.filter(|n| walk.open(*n)).count();
        assert!(found >= 950, "{found}");
    }

    #[test]
    fn who_opens_two_in_a_row_and_goes_elsewhere_is_left_alone() {
        let mut walk = Walk::new(100_000);
        for n in 0..500 {
            walk.open(n * 100);
            walk.open(n * 100 + 1);
        }
        assert!(walk.fetched.is_empty(), "{:?}", walk.fetched);
    }

    #[test]
    fn who_goes_nowhere_in_order_costs_few_looks_and_is_followed_when_he_does() {
        let mut walk = Walk::new(1_000_000);
        let opened = (0..10_000).map(|n| walk.open(1000 + n * 7919 % 100_000 * 9));
        assert_eq!(opened.filter(|was_ahead| *was_ahead).count(), 0);
        assert!(
            walk.fetched.is_empty() && walk.looks < 1000,
            "{}",
            walk.looks
        );
        let found = (0..1000).filter(|n| walk.open(*n)).count();
        assert!(found >= 960, "{found}");
    }

    #[test]
    fn who_meets_what_was_expected_by_chance_costs_few_looks_too() {
        let mut walk = Walk::new(20_000);
        for n in 0..20_000 {
            // A prime that is no divisor of their number: each once, in no order.
            walk.open(n * 7919 % 20_000);
            // Every twentieth time the next one as well.
            if n % 20 == 0 {
                walk.open(n * 7919 % 20_000 + 1);
            }
        }
        assert!(walk.looks < 2 * 20_000 / RARE, "{}", walk.looks);
    }

    #[test]
    fn who_always_stops_soon_costs_little() {
        let mut walk = Walk::new(100_000);
        // Five in turn, then elsewhere: each time the first few ahead are for nothing.
        for n in 0..400 {
            for k in 0..5 {
                walk.open(n * 200 + k);
            }
        }
        assert!(walk.fetched.len() <= 400, "{}", walk.fetched.len());
    }

    #[test]
    fn what_could_not_be_fetched_is_not_fetched_again_and_the_trail_rests() {
        let mut walk = Walk::new(1000);
        for n in 0..4 {
            walk.open(n);
        }
        let last = *walk.fetched.last().unwrap();
        walk.trails.failed(NodeId(last));
        let before = walk.fetched.len();
        walk.open(4);
        assert_eq!(walk.fetched.len(), before);
        for n in 5..20 {
            walk.open(n);
        }
        assert!(walk.fetched.len() > before);
        assert_eq!(walk.fetched.iter().filter(|n| **n == last).count(), 1);
    }

    proptest! {
        #[test]
        fn whatever_is_opened_the_bounds_hold(
            opens in prop::collection::vec((0u64..300, 1u64..12), 1..120)
        ) {
            let mut walk = Walk::new(300);
            for (start, run) in opens {
                for n in start..(start + run).min(300) {
                    walk.open(n);
                    let ahead = walk.trails.trails.iter().flat_map(|t| &t.queue);
                    let ahead: u64 = ahead.filter(|e| e.1 == State::Fetched).map(|e| e.0.size).sum();
                    prop_assert_eq!(ahead, walk.trails.bytes);
                    prop_assert!(ahead <= BOUNDS.bytes);
                    prop_assert!(walk.trails.trails.len() <= TRAILS);
                    let known: usize = walk.trails.trails.iter().map(|t| t.queue.len()).sum();
                    prop_assert_eq!(known, walk.trails.by_file.len());
                    prop_assert!(known <= TRAILS * (GRACE + BOUNDS.depth * 2 + EXPECTED));
                }
            }
            walk.trails.clear();
            prop_assert_eq!(walk.trails.bytes, 0);
            prop_assert!(walk.trails.by_file.is_empty());
        }
    }
}
