//! Facts as people read them, and the one way out to the terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::path::RelPath;

/// One line of complaint on standard error.
pub fn complain(what: &dyn Display) {
    let text = plain(&what.to_string());
    // Standard error may be closed; there is nowhere else to say it.
    let _ = writeln!(io::stderr(), "larder: {text}");
}

/// On one line, and without the numbers that the system adds to its errors.
pub fn plain(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut text = text.trim_end().replace('\n', "; ");
    while let Some(start) = text.find(NUMBER) {
        let Some(end) = text[start..].find(')') else {
            break;
        };
        text.replace_range(start..=start + end, "");
    }
    text
}

/// Lines on standard output. A reader that left ends the program, quietly.
pub fn say(text: &dyn Display) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// A line on standard output for whoever still reads it: what runs on without a reader.
pub fn tell(text: &dyn Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line of JSON on standard output.
pub fn say_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value);
    say(&text.map_err(|error| Error::new(Kind::Io, error.to_string()))?)
}

/// A number with separators: `63,000`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `63,000 files`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    let word = if n == 1 { one } else { many };
    format!("{} {word}", number(n))
}

/// `512 B`, `43.2 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        // What would be rounded to 1,024 belongs to the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// How long ago: `3 s`, `12 min`, `2 h`, `5 days`.
pub fn span(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// A moment in the user's own time zone.
pub fn time(ns: i64) -> String {
    let moment = jiff::Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
    let local = moment.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A percent-encoded path as the user knows it.
pub fn path(encoded: &str) -> String {
    match RelPath::decode(encoded) {
        Ok(path) => path.to_string(),
        // Not a path we could have made: shown as it came, which is plain ASCII.
        Err(_) => encoded.escape_default().to_string(),
    }
}

/// A line of somebody else's, which may not speak to the terminal.
pub fn harmless(line: &str) -> String {
    line.chars()
        .flat_map(|c| match c.is_control() && c != '\t' {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

/// A place on this machine as the user knows it, on one line.
pub fn place(path: &Path) -> String {
    harmless(&path.display().to_string())
}

/// Progress of a request: a bar on a terminal once it takes longer than a second,
/// plain lines now and then elsewhere.
pub struct Meter {
    bar: Option<ProgressBar>,
    since: std::time::Instant,
    last_line: Option<std::time::Instant>,
}

const BAR_AFTER: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Meter {
    /// One that has shown nothing yet.
    pub fn new() -> Meter {
        Meter {
            bar: None,
            since: std::time::Instant::now(),
            last_line: None,
        }
    }

    /// Takes what came.
    pub fn step(&mut self, step: &Progress) {
        if self.since.elapsed() < BAR_AFTER {
            return;
        }
        if io::stderr().is_terminal() {
            self.draw(step);
        } else if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.last_line = Some(std::time::Instant::now());
            let of = step
                .total
                .map_or(String::new(), |total| format!(" of {}", number(total)));
            let _ = writeln!(io::stderr(), "{}: {}{of}", named(step), number(step.done));
        }
    }

    fn draw(&mut self, step: &Progress) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len}");
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_message(named(step));
        bar.set_length(step.total.unwrap_or(step.done));
        bar.set_position(step.done);
    }
}

/// What is counted, with the bytes where they count, too.
fn named(step: &Progress) -> String {
    match step.bytes {
        Some((done, total)) => format!("{}, {} of {}", step.what, bytes(done), bytes(total)),
        None => step.what.clone(),
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(number(63_000), "63,000");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(count(1, "file", "files"), "1 file");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(span(-5), "0 s");
        assert_eq!(span(3_600_000), "60 min");
    }

    #[test]
    fn complaints_are_plain() {
        assert_eq!(plain("a: No such file (os error 2)\n"), "a: No such file");
        assert_eq!(plain("a\nb (os error 2"), "a; b (os error 2");
    }

    #[test]
    fn p10_a_path_cannot_break_its_line() {
        assert_eq!(path("a%0Ab/%FF"), "a\\nb/\\xff");
        assert_eq!(path("../x"), "../x");
    }
}
