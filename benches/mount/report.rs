//! Rows of figures, the goals they are held against, and the text they become.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub const LARDER: &str = "Larder";
pub const BARE: &str = "bare directory";
pub const LIMIT: &str = "FUSE limit";
/// In goals: whichever peer is the best.
pub const PEER: &str = "the best peer";

#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    PerSecond,
    BytesPerSecond,
    Seconds,
    Millis,
    Mib,
    /// So many times something else.
    Times,
    /// So many of something.
    Count,
}

impl Unit {
    fn shown(self, value: f64) -> String {
        match self {
            Unit::PerSecond if value >= 100.0 => format!("{}/s", thousands(value)),
            Unit::PerSecond => format!("{value:.1}/s"),
            Unit::BytesPerSecond if value >= 1e9 => format!("{:.1} GB/s", value / 1e9),
            Unit::BytesPerSecond => format!("{:.0} MB/s", value / 1e6),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Millis => format!("{value:.2} ms"),
            Unit::Mib => format!("{value:.0} MiB"),
            Unit::Times => format!("{value:.2} ×"),
            Unit::Count => format!("{value:.0}"),
        }
    }

    fn is_better_when_more(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::BytesPerSecond)
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

enum Goal {
    AtLeast(f64, &'static str),
    AtMost(f64, &'static str),
    /// Not a ratio: a value of the row's unit.
    Below(f64),
}

/// One piece of work, done with several file systems.
pub struct Row {
    work: String,
    unit: Unit,
    figures: Vec<(String, f64)>,
    goals: Vec<Goal>,
}

impl Row {
    pub fn new(work: impl Into<String>, unit: Unit) -> Row {
        Row {
            work: work.into(),
            unit,
            figures: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Ours over theirs has to be this much or more.
    pub fn at_least(mut self, times: f64, other: &'static str) -> Row {
        self.goals.push(Goal::AtLeast(times, other));
        self
    }

    pub fn at_most(mut self, times: f64, other: &'static str) -> Row {
        self.goals.push(Goal::AtMost(times, other));
        self
    }

    pub fn below(mut self, value: f64) -> Row {
        self.goals.push(Goal::Below(value));
        self
    }

    /// Takes a figure; of several from one, the best counts.
    pub fn add(&mut self, who: impl Into<String>, value: f64) {
        let who = who.into();
        println!("  {}: {who} {}", self.work, self.unit.shown(value));
        match self.figures.iter_mut().find(|(name, _)| *name == who) {
            Some((_, best)) if (value > *best) == self.unit.is_better_when_more() => *best = value,
            Some(_) => {}
            None => self.figures.push((who, value)),
        }
    }

    fn figure(&self, who: &str) -> Option<f64> {
        let found = self.figures.iter().find(|(name, _)| name == who);
        found.map(|(_, value)| *value)
    }

    /// The best of all whose name begins so, for rclone is run in several ways; or of all peers.
    fn best(&self, who: &str) -> Option<f64> {
        let is_meant = |name: &str| match who == PEER {
            true => ![BARE, LIMIT].contains(&name) && !name.starts_with(LARDER),
            false => name.starts_with(who),
        };
        let values = self.figures.iter().filter(|(name, _)| is_meant(name));
        let values = values.map(|(_, value)| *value);
        match self.unit.is_better_when_more() {
            true => values.reduce(f64::max),
            false => values.reduce(f64::min),
        }
    }

    fn shown(&self, who: &str) -> String {
        let figure = self.figure(who);
        figure.map_or_else(|| "–".to_owned(), |value| self.unit.shown(value))
    }

    fn others(&self) -> String {
        let ours = [LARDER, BARE, LIMIT];
        let others = self
            .figures
            .iter()
            .filter(|(n, _)| !ours.contains(&n.as_str()));
        let shown = others.map(|(name, value)| format!("{name} {}", self.unit.shown(*value)));
        let shown = shown.collect::<Vec<_>>();
        match shown.is_empty() {
            true => "–".to_owned(),
            false => shown.join("<br>"),
        }
    }

    /// What was wanted, and what came of it.
    fn judged(&self, goal: &Goal) -> (String, String) {
        let ours = self.figure(LARDER);
        let ratio = |other| Some(ours? / self.best(other)?);
        let (wanted, verdict) = match *goal {
            Goal::AtLeast(times, other) => (
                format!("≥ {times} × {other}"),
                ratio(other).map(|r| (r >= times, format!("{r:.2} ×"))),
            ),
            Goal::AtMost(times, other) => (
                format!("≤ {times} × {other}"),
                ratio(other).map(|r| (r <= times, format!("{r:.2} ×"))),
            ),
            Goal::Below(value) => (
                format!("≤ {}", self.unit.shown(value)),
                ours.map(|ours| (ours <= value, self.unit.shown(ours))),
            ),
        };
        let verdict = match verdict {
            Some((true, is)) => format!("{is}, met"),
            Some((false, is)) => format!("{is}, **missed**{}", self.out_of_reach(goal)),
            None => "not measured".to_owned(),
        };
        (wanted, verdict)
    }

    /// That the limit of the interface misses a goal as well, if it does.
    fn out_of_reach(&self, goal: &Goal) -> String {
        let against = |other| Some(self.figure(LIMIT)? / self.best(other)?);
        let limit = match *goal {
            Goal::AtLeast(times, other) => against(other).filter(|limit| *limit < times),
            Goal::AtMost(times, other) => against(other).filter(|limit| *limit > times),
            Goal::Below(_) => None,
        };
        let shown = limit.map(|limit| format!(" ({LIMIT}: {limit:.2} ×)"));
        shown.unwrap_or_default()
    }

    fn line(&self) -> String {
        let judged = self.goals.iter().map(|goal| self.judged(goal));
        let (wanted, verdicts): (Vec<_>, Vec<_>) = judged.unzip();
        let or_none = |texts: Vec<String>| match texts.is_empty() {
            true => "none".to_owned(),
            false => texts.join("<br>"),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            self.work,
            self.shown(LARDER),
            self.shown(BARE),
            self.shown(LIMIT),
            self.others(),
            or_none(wanted),
            or_none(verdicts),
        )
    }
}

/// Everything that was found.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Report {
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Does work that may break off; what was found until then stays.
    pub fn tried(&mut self, what: &str, work: impl FnOnce(&mut Report)) {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let line = text.and_then(|text| text.lines().next());
            let failure = format!("{what}: {}", line.unwrap_or("broke off"));
            if !self.failures.contains(&failure) {
                self.failures.push(failure);
            }
        }
    }

    pub fn table(&self) -> String {
        let mut text = String::from(
            "| work | Larder | bare directory | FUSE limit | others | goal | Larder against it |\n|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            writeln!(text, "{}", row.line()).unwrap();
        }
        text
    }

    /// Goals that were met, missed, and not measured.
    pub fn sums(&self) -> String {
        let verdicts = self.rows.iter().flat_map(|row| {
            let judged = row.goals.iter().map(|goal| row.judged(goal).1);
            judged.collect::<Vec<_>>()
        });
        let (mut met, mut missed, mut open) = (0, 0, 0);
        for verdict in verdicts {
            match verdict {
                v if v.ends_with("met") => met += 1,
                v if v.contains("**missed**") => missed += 1,
                _ => open += 1,
            }
        }
        format!("{met} goals met, {missed} missed, {open} not measured.")
    }

    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}
