//! Which bytes of a big file to fetch, from what its readers ask for; pure.
//!
//! What is asked for is fetched and no more, until reading goes forward: then a window ahead of it
//! grows with what was read. The columns of a table are taken as what they are: who begins one gets
//! all of it in one piece, and what the kernel reads ahead at its end does not begin the next one.
//! A file that was read mostly is wanted whole.

use crate::object::ByteRange;
use crate::store::RangeSet;

/// A file at most this long is fetched whole, in one request: several would cost more.
pub const WHOLE: u64 = 8 << 20;
/// Most bytes of one request.
pub const BLOCK: u64 = 8 << 20;
/// Requests at a time for what lies ahead of readers,
const AHEAD_LANES: usize = 8;
/// for what they wait for, beside those,
const ASKED_LANES: usize = 16;
/// and for what nobody asked for of a file that is wanted whole.
const FILL_LANES: usize = 4;
/// The window ahead of a reader, when it begins and at most.
const WINDOW: u64 = 1 << 20;
const WINDOW_MOST: u64 = 64 << 20;
/// A reader that leaves out so much still goes forward.
const NEAR: u64 = 1 << 20;
/// The kernel reads so far beyond what it was asked for.
const KERNEL_AHEAD: u64 = 256 << 10;
/// in requests of this length or more.
const KERNEL_PIECE: u64 = 128 << 10;
/// Readers of one file that are told apart.
const RUNS: usize = 16;
/// Who read so many parts one after the other reads the next one, too.
const PARTS_IN_ORDER: usize = 3;
/// What the first answer brings, at least and at most: the end where the table of contents is
/// there, else the beginning.
const FIRST: u64 = 64 << 10;
const FIRST_MOST: u64 = 256 << 10;
/// Which part of the file it is between the two.
const FIRST_PART: u64 = 512;
const PAGE: u64 = 4 << 10;
/// Once fewer bytes than these are missing, nothing more is shown until the whole was verified,
/// where a hash is known.
const HOLD_BACK: u64 = 64 << 10;
/// A file at most this long that is wanted whole is finished, whether somebody still reads it or not.
const FINISHED: u64 = 64 << 20;
/// Files that are read from their end.
const ENDS_FIRST: [&str; 8] = [
    "parquet", "pqt", "pq", "orc", "feather", "arrow", "zip", "npz",
];

/// What the request that proves that the version is there asks for.
pub fn first_ask(name: &[u8], size: u64) -> ByteRange {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    match ending.is_some_and(|ending| ENDS_FIRST.contains(&ending)) {
        // The kernel asks for whole pages.
        true => {
            let length = (size / FIRST_PART).clamp(FIRST, FIRST_MOST);
            size.saturating_sub(length) / PAGE * PAGE..size
        }
        false => 0..size.min(2 * FIRST),
    }
}

/// Whether so few bytes are `missing` that whoever read all others would have the file.
pub fn is_held_back(missing: u64) -> bool {
    missing < HOLD_BACK
}

/// Whether a file that was wanted whole, and that nobody reads any more, should go on coming.
pub fn worth_finishing(size: u64, have: u64) -> bool {
    size <= FINISHED || have >= size / 4
}

/// Somebody who reads forward.
#[derive(Debug, Clone)]
struct Run {
    begin: u64,
    /// What was asked for last ended here,
    next: u64,
    /// and it is fetched up to here.
    until: u64,
    /// Where the part ends that was begun.
    part_end: Option<u64>,
    /// The most that was asked for at once.
    stride: u64,
}

/// What is known of where a file's parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// Its end has not been seen yet.
    Unknown,
    /// It is no table.
    None,
    /// In order, and apart.
    Known(Box<[ByteRange]>),
}

/// See the module.
#[derive(Debug)]
pub struct Reading {
    size: u64,
    parts: Parts,
    /// The one that read last at the end.
    runs: Vec<Run>,
    asked: RangeSet,
    asked_bytes: u64,
    /// What readers wait for, and how far it may be fetched in the same request.
    urgent: Vec<(ByteRange, u64)>,
    under_way: Vec<ByteRange>,
    /// Bytes a second that came lately.
    pace: Option<u64>,
    whole: bool,
    /// Whether a file that was read mostly is wanted whole.
    keeps: bool,
}

impl Reading {
    /// Of a file of `size` bytes, of which readers before had `asked`.
    pub fn new(size: u64, asked: RangeSet, keeps: bool) -> Reading {
        Reading {
            size,
            parts: Parts::Unknown,
            runs: Vec::new(),
            asked_bytes: asked.covered(),
            asked,
            urgent: Vec::new(),
            under_way: Vec::new(),
            pace: None,
            whole: false,
            keeps,
        }
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn set_parts(&mut self, parts: Parts) {
        self.parts = parts;
    }

    /// Somebody needs all of it.
    pub fn want_whole(&mut self) {
        self.whole = true;
    }

    pub fn is_whole_wanted(&self) -> bool {
        self.whole
    }

    /// So many bytes a second came lately: what lies ahead is about a second's worth.
    pub fn set_pace(&mut self, bytes: u64) {
        self.pace = Some(bytes);
    }

    /// A reader asks for these bytes. Returns whether there may be something to fetch now that
    /// there was not before.
    pub fn ask(&mut self, want: &ByteRange, is_here: bool) -> bool {
        let new: u64 = self.asked.missing(want.clone()).iter().map(len).sum();
        self.asked_bytes += new;
        self.asked.insert(want.clone());
        let begun = self.begun(want);
        let follows = |run: &Run| {
            let near = match &begun {
                // Parts may be shorter than what counts as near.
                Some(part) => want.start <= run.next || run.ends_with(want, part),
                None => want.start <= run.next.saturating_add(NEAR),
            };
            want.start >= run.begin && near
        };
        let (mut run, goes_on) = match self.runs.iter().rposition(follows) {
            Some(at) => (self.runs.remove(at), true),
            None => (Run::new(want, begun.as_ref()), false),
        };
        let before = run.until;
        if want.end > run.next || !goes_on {
            run.next = run.next.max(want.end);
            run.stride = run.stride.max(len(want));
            run.until = self.reach(&run, goes_on).min(self.size).max(run.until);
        }
        let until = run.until;
        if !is_here {
            self.urgent.push((want.clone(), until));
        }
        self.runs.push(run);
        if self.runs.len() > RUNS {
            self.runs.remove(0);
        }
        let was_whole = self.whole;
        self.whole |= self.keeps && self.is_read_mostly();
        !is_here || until > before.max(want.end) || self.whole != was_whole
    }

    /// The last part that begins in `want`.
    fn begun(&self, want: &ByteRange) -> Option<ByteRange> {
        let Parts::Known(parts) = &self.parts else {
            return None;
        };
        let before = parts.partition_point(|part| part.start < want.end);
        let part = parts[..before].last()?;
        (part.start >= want.start).then(|| part.clone())
    }

    /// How far to fetch for a reader that asked up to `run.next`.
    fn reach(&self, run: &Run, goes_on: bool) -> u64 {
        let window = self.window(run);
        let plain = match goes_on {
            false => run.next,
            // Not a little for each little that is read.
            true if run.until >= run.next.saturating_add(window / 2) => run.until,
            true => run.next.saturating_add(window),
        };
        let Parts::Known(parts) = &self.parts else {
            return plain;
        };
        if let Some(end) = run.part_end.filter(|end| run.next <= *end) {
            return end.min(run.next.saturating_add(WINDOW_MOST));
        }
        let after = parts.partition_point(|part| part.start < run.next);
        let next = parts.get(after).map_or(self.size, |part| part.start);
        let Some(part) = parts[..after].last().filter(|part| run.next <= part.end) else {
            return plain.min(next);
        };
        let entered = parts[..after]
            .iter()
            .filter(|p| p.start > run.begin)
            .count();
        let slack = KERNEL_AHEAD.max(run.stride).min(len(part) / 2);
        if entered > 0 && run.next - part.start <= slack {
            return run.next;
        }
        match entered >= PARTS_IN_ORDER {
            true => plain,
            false => plain.min(part.end),
        }
    }

    fn window(&self, run: &Run) -> u64 {
        let most = self.pace.unwrap_or(WINDOW_MOST);
        let most = most.clamp(2 * WINDOW, WINDOW_MOST);
        (2 * (run.next - run.begin)).clamp(WINDOW, most)
    }

    /// Half of it, or more than a quarter from the front on.
    fn is_read_mostly(&self) -> bool {
        let in_order = |run: &Run| run.begin == 0 && run.next > self.size / 4;
        self.asked_bytes >= self.size / 2 || self.runs.iter().any(in_order)
    }

    /// The next request, which counts as under way from here on. `holes` tells what of a range is
    /// not here; `fills` whether what nobody asked for may be fetched.
    pub fn next(
        &mut self,
        holes: &dyn Fn(ByteRange) -> Vec<ByteRange>,
        fills: bool,
    ) -> Option<ByteRange> {
        self.urgent
            .retain(|(want, _)| !holes(want.clone()).is_empty());
        let block = self.next_of(holes, fills)?;
        self.under_way.push(block.clone());
        Some(block)
    }

    fn next_of(
        &self,
        holes: &dyn Fn(ByteRange) -> Vec<ByteRange>,
        fills: bool,
    ) -> Option<ByteRange> {
        let busy = self.under_way.len();
        if busy >= AHEAD_LANES + ASKED_LANES {
            return None;
        }
        for (want, until) in &self.urgent {
            let asked = self.gap(want.clone(), holes);
            if let Some(gap) = asked {
                let end = (*until).max(want.end);
                return self.gap(gap.start..end, holes).map(cut);
            }
        }
        if busy >= AHEAD_LANES {
            return None;
        }
        for run in self.runs.iter().rev().filter(|run| run.next < run.until) {
            if let Some(gap) = self.gap(run.next..run.until, holes) {
                return Some(cut(gap));
            }
        }
        if self.whole && fills && busy < FILL_LANES {
            return self.gap(0..self.size, holes).map(cut);
        }
        None
    }

    /// The first bytes of `range` that are neither here nor under way.
    fn gap(
        &self,
        range: ByteRange,
        holes: &dyn Fn(ByteRange) -> Vec<ByteRange>,
    ) -> Option<ByteRange> {
        holes(range).into_iter().find_map(|mut hole| {
            // Those under way may come in any order.
            while let Some(other) = self
                .under_way
                .iter()
                .find(|other| other.start <= hole.start && hole.start < other.end)
            {
                hole.start = other.end;
            }
            let next = self.under_way.iter().map(|other| other.start);
            let end = next.filter(|start| *start > hole.start).min();
            hole.end = hole.end.min(end.unwrap_or(hole.end));
            (hole.start < hole.end).then_some(hole)
        })
    }

    /// A request ended, however.
    pub fn ended(&mut self, block: &ByteRange) {
        if let Some(at) = self.under_way.iter().position(|other| other == block) {
            self.under_way.swap_remove(at);
        }
    }

    /// All requests were given up.
    pub fn none_under_way(&mut self) {
        self.under_way.clear();
    }
}

impl Run {
    fn new(want: &ByteRange, begun: Option<&ByteRange>) -> Run {
        Run {
            begin: begun.map_or(want.start, |part| part.start),
            next: want.end,
            until: want.end,
            part_end: begun.map(Run::part_end),
            stride: len(want),
        }
    }

    /// Whether `want` is read ahead beyond the part that was begun, into `next`: whoever begins that
    /// one asks from its first page on. What comes before it may have been overtaken.
    fn ends_with(&self, want: &ByteRange, next: &ByteRange) -> bool {
        want.start < next.start / PAGE * PAGE && self.part_end.is_some_and(|end| want.start < end)
    }

    /// A part's last bytes are asked for with the page that they are in, and some that follow.
    fn part_end(part: &ByteRange) -> u64 {
        (part.end + KERNEL_PIECE.min(len(part) / 32)).next_multiple_of(PAGE)
    }
}

fn len(range: &ByteRange) -> u64 {
    range.end - range.start
}

/// The beginning of a gap; a rest that is not worth a request of its own goes with it.
fn cut(gap: ByteRange) -> ByteRange {
    match len(&gap) > BLOCK + BLOCK / 2 {
        true => gap.start..gap.start + BLOCK,
        false => gap,
    }
}

#[cfg(test)]
mod tests;
