//! The writer's modification time in an object's metadata, as rclone writes and reads it:
//! seconds since 1970 with decimals. Our backend for buckets and our server as one agree here.

const SECOND: u128 = 1_000_000_000;

/// The name of the metadata.
pub const MTIME: &str = "mtime";

/// `1.5` for 1,500,000,000.
pub fn show(mtime_ns: i64) -> String {
    let (sign, ns) = match mtime_ns < 0 {
        true => ("-", mtime_ns.unsigned_abs()),
        false => ("", mtime_ns as u64),
    };
    let (seconds, rest) = (u128::from(ns) / SECOND, u128::from(ns) % SECOND);
    let decimals = format!("{rest:09}");
    match decimals.trim_end_matches('0') {
        "" => format!("{sign}{seconds}"),
        decimals => format!("{sign}{seconds}.{decimals}"),
    }
}

/// What [`show`] wrote; none for anything else.
pub fn read(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(decimals) {
        return None;
    }
    let nine: String = decimals
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let ns = seconds.parse::<i128>().ok()?.checked_mul(SECOND as i128)?;
    let ns = ns.checked_add(nine.parse().ok()?)?;
    i64::try_from(if negative { -ns } else { ns }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p13_times_go_through_metadata_to_the_nanosecond() {
        let table = [
            (0, "0"),
            (1_500_000_000, "1.5"),
            (1_234_567_890_123_456_789, "1234567890.123456789"),
            (-1_500_000_001, "-1.500000001"),
            (-1, "-0.000000001"),
            (i64::MAX, "9223372036.854775807"),
            (i64::MIN, "-9223372036.854775808"),
        ];
        for (ns, text) in table {
            assert_eq!(show(ns), text);
            assert_eq!(read(text), Some(ns));
        }
        assert_eq!(read("12.1234567899"), Some(12_123_456_789));
        for bad in [
            "",
            ".",
            "-",
            "1e9",
            "x",
            "1.x",
            "99999999999",
            "170141183460469231731687303715.999999999",
            "1.-5",
            "--1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
