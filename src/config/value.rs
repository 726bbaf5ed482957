//! Sizes, durations, switches and numbers as people write them. Pure.
//!
//! A parser answers with what is allowed when it refuses; the caller adds which
//! value it was and where it came from.

use std::time::Duration;

/// What a refused value should have been, for people.
pub type Allowed = &'static str;

const SIZE: Allowed = "a size such as 500MiB, 20GiB or 1.5TB";
const DURATION: Allowed = "a time such as 500ms, 30s, 10m or 1h30m";

/// Reads a size: a number and a unit. `K`, `KiB` and their like are powers of 1,024,
/// `KB` and its like are powers of 1,000; without a unit the number is bytes.
pub fn parse_size(text: &str) -> Result<u64, Allowed> {
    let text = text.trim();
    let cut = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(cut);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(SIZE),
    };
    let number = number.replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        let bytes = whole.checked_mul(factor).ok_or(SIZE)?;
        return i64::try_from(bytes).map(|_| bytes).map_err(|_| SIZE);
    }
    let bytes = number.parse::<f64>().map_err(|_| SIZE)? * factor as f64;
    // 2^63: everything that is stored or sent fits a signed number.
    if bytes.is_finite() && (0.0..9.2e18).contains(&bytes) {
        return Ok(bytes as u64);
    }
    Err(SIZE)
}

/// Reads a duration: numbers with units, added up.
pub fn parse_duration(text: &str) -> Result<Duration, Allowed> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DURATION);
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let cut = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DURATION)?;
        let (number, tail) = rest.split_at(cut);
        let number: u64 = number.parse().map_err(|_| DURATION)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let one = match unit.trim() {
            "ms" => Duration::from_millis(1),
            "s" | "sec" => Duration::from_secs(1),
            "m" | "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(DURATION),
        };
        let number = u32::try_from(number).map_err(|_| DURATION)?;
        sum = one
            .checked_mul(number)
            .and_then(|part| sum.checked_add(part))
            .ok_or(DURATION)?;
        rest = next.trim_start();
    }
    Ok(sum)
}

/// Reads a bucket's name, as clients of S3 accept them.
pub fn parse_bucket(text: &str) -> Result<String, Allowed> {
    let text = text.trim();
    let is_end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let fits = (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| is_end(Some(b)) || b".-".contains(b))
        && is_end(bytes.first())
        && is_end(bytes.last())
        && !text.contains("..");
    match fits {
        true => Ok(text.to_owned()),
        false => Err("3 to 63 lower-case letters, digits, dots and hyphens"),
    }
}

/// Reads a switch.
pub fn parse_switch(text: &str) -> Result<bool, Allowed> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("true or false"),
    }
}

/// Writes a duration the way [`parse_duration`] reads it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// Writes a size the way [`parse_size`] reads it, without rounding.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("20GiB", 20 << 30),
            ("20 gib", 20 << 30),
            ("20G", 20 << 30),
            ("1.5KiB", 1536),
            ("1GB", 1_000_000_000),
            ("1_000b", 1000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "-1",
            "1XB",
            "1.2.3M",
            "99999999TiB",
            "1e9",
            "ten",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10 m", 600_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in ["", "30", "s", "-1s", "1.5s", "1y", "99999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn shown_values_are_read_back(bytes in 0u64..1 << 62, ms in 0u64..1 << 40) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
            let time = Duration::from_millis(ms % (u64::from(u32::MAX)));
            prop_assert_eq!(parse_duration(&show_duration(time)), Ok(time));
        }
    }
}
