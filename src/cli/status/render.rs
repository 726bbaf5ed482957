//! A status as a block of lines. Pure.

use crate::cli::show;
use crate::control::{Amount, ListingStatus, OutboxStatus, RemoteState, RemoteStatus, Status};

/// The whole block.
pub fn status(s: &Status) -> String {
    let mut lines = vec![head(s), row("store", &store(s))];
    for remote in &s.remotes {
        lines.push(row("remote", &self::remote(remote, s.now_ms)));
        lines.extend(trouble(remote).map(|text| row("", &text)));
    }
    if s.remotes.is_empty() {
        lines.push(row("remote", "none"));
    }
    lines.push(row("files", &files(s)));
    lines.push(row("outbox", &outbox(&s.outbox, s.now_ms, s.upload)));
    lines.push(row("reads", &reads(s)));
    if !s.conflicts.is_empty() {
        let n = show::count(
            s.conflicts.len() as u64,
            "version of yours",
            "versions of yours",
        );
        let text = format!(
            "{n} set aside; `larder conflicts {}` lists them",
            show::harmless(&s.mountpoint)
        );
        lines.push(row("conflicts", &text));
    }
    if !s.orphans.is_empty() {
        let n = show::count(
            s.orphans.len() as u64,
            "unfinished file",
            "unfinished files",
        );
        let text = format!("{n} kept in .larder/orphans");
        lines.push(row("orphans", &text));
    }
    for note in &s.notes {
        lines.push(row("note", note));
    }
    lines.join("\n")
}

fn row(label: &str, text: &str) -> String {
    format!("  {label:<10} {text}")
}

fn head(s: &Status) -> String {
    let mut how = vec![
        format!("process {}", s.pid),
        format!("larder {}", s.version),
        format!("for {}", show::span(s.now_ms - s.since_ms)),
    ];
    if s.read_only {
        how.push("read-only".into());
    }
    if s.stream {
        how.push("keeps nothing".into());
    }
    format!("{}  ({})", show::harmless(&s.mountpoint), how.join(", "))
}

fn store(s: &Status) -> String {
    let mut parts = vec![
        s.store.clone(),
        format!("{} free", show::bytes(s.free_bytes)),
    ];
    if let Some(why) = &s.store_error {
        parts.push(format!("cannot be written: {why}"));
    }
    if let Some(most) = s.limits.max_bytes {
        parts.push(format!("at most {}", show::bytes(most)));
    }
    if let Some(most) = s.limits.max_files {
        parts.push(format!("at most {}", show::count(most, "file", "files")));
    }
    if s.limits.min_free > 0 {
        parts.push(format!("leaves {} free", show::bytes(s.limits.min_free)));
    }
    parts.join(", ")
}

fn remote(r: &RemoteStatus, now_ms: i64) -> String {
    let state = match r.state {
        RemoteState::Online => "online",
        RemoteState::Away => "away",
        RemoteState::Connecting => "connecting",
    };
    let mut parts = vec![format!("{state} for {}", show::span(now_ms - r.since_ms))];
    match (r.listed, r.last_sync_ms) {
        (true, at) => {
            let files = show::count(r.files, "file", "files");
            parts.push(format!("{files}, {}", show::bytes(r.bytes)));
            parts.extend(at.map(|at| format!("synced {} ago", show::span(now_ms - at))));
        }
        (false, _) if r.cut_short.is_some() => {
            let files = show::count(r.files, "file", "files");
            parts.push(format!("{files} of its listing"));
        }
        (false, _) => parts.push("not listed yet".into()),
    }
    parts.extend(r.listing.map(listing));
    let can = |what: &str| r.capabilities.iter().any(|c| c == what);
    match (can("probe"), can("listing")) {
        (_, true) if can("bucket") => {}
        (_, false) if can("bucket") => {
            parts.push("a bucket that may not be listed: shows what was asked for".into());
        }
        (true, true) => parts.push("an FXCACHE server".into()),
        (true, false) => {
            parts.push("an FXCACHE server without an index: shows what was asked for".into())
        }
        (false, _) => {}
    }
    let refuses = !r.capabilities.is_empty() && !can("put");
    match (r.upload, refuses) {
        (true, true) => parts.push("refuses uploads: check the key".into()),
        (true, false) => parts.push("takes uploads".into()),
        (false, _) => {}
    }
    format!("{}  {}", r.url, parts.join("; "))
}

fn listing(l: ListingStatus) -> String {
    let every = show::span(i64::try_from(l.every_s.saturating_mul(1000)).unwrap_or(i64::MAX));
    let requests = show::count(l.requests, "request", "requests");
    let a_day = show::number(l.requests_a_day);
    format!("listed every {every} with {requests}, {a_day} a day")
}

fn trouble(r: &RemoteStatus) -> impl Iterator<Item = String> {
    let error = r
        .last_error
        .as_ref()
        .filter(|_| r.state != RemoteState::Online);
    let error = error.map(|error| {
        let error = show::plain(error);
        let what = error.strip_prefix(&r.url).unwrap_or(&error);
        format!("  {}", what.trim_start_matches([':', ' ']))
    });
    let cut = r
        .cut_short
        .as_ref()
        .map(|why| format!("  {}", show::plain(why)));
    let refused = (r.refused_names > 0).then(|| {
        let names = show::count(r.refused_names, "name", "names");
        format!("  {names} there cannot be files here and are left out; the log says which")
    });
    let can = |what: &str| r.capabilities.iter().any(|c| c == what);
    let is_weak = r.upload && can("bucket") && can("put") && !can("conditional-put");
    let weak = is_weak.then(|| {
        "  its store ignores conditions: versions are compared just before an upload, and what \
         others write at that very moment is overwritten"
            .to_owned()
    });
    error.into_iter().chain(cut).chain(refused).chain(weak)
}

fn amount(a: Amount, what: &str) -> String {
    format!(
        "{} {what} ({})",
        show::number(a.files),
        show::bytes(a.bytes)
    )
}

fn files(s: &Status) -> String {
    let mut parts = vec![amount(s.known, "known"), amount(s.held, "held here")];
    if s.dirty.files > 0 {
        parts.push(amount(s.dirty, "waiting to go up"));
    }
    if s.local_only.files > 0 {
        parts.push(amount(s.local_only, "only here"));
    }
    if s.hidden > 0 {
        parts.push(format!(
            "{} deleted here but not at the remote",
            show::number(s.hidden)
        ));
    }
    parts.join(", ")
}

fn outbox(o: &OutboxStatus, now_ms: i64, upload: bool) -> String {
    if o.pending == 0 && o.held_back == 0 && o.refused == 0 {
        return match upload {
            true => "empty: everything is up".into(),
            false => "nothing goes up (--upload, or ?upload behind one remote's URL, changes that)"
                .into(),
        };
    }
    let mut parts = vec![format!(
        "{} waiting ({}), {} under way",
        show::number(o.pending),
        show::bytes(o.bytes),
        show::number(o.uploading),
    )];
    if let Some(path) = &o.oldest_path {
        let age = o.oldest_ms.map_or(0, |at| now_ms - at);
        let mut oldest = format!("oldest {} for {}", show::path(path), show::span(age));
        if let Some(error) = &o.oldest_error {
            let tries = show::count(o.oldest_attempts, "try", "tries");
            oldest.push_str(&format!(", {tries}, last: {}", show::plain(error)));
        }
        parts.push(oldest);
    }
    if o.behind > 0 {
        let files = show::count(o.behind, "file goes", "files go");
        let mut behind = format!("{files} up after others");
        if let (Some(path), Some(other)) = (&o.behind_path, &o.behind_for) {
            let (path, other) = (show::path(path), show::path(other));
            behind.push_str(&format!(": {path} waits for {other}"));
        }
        parts.push(behind);
    }
    if o.refused > 0 {
        let why = o.refused_why.as_deref();
        let why = show::plain(why.unwrap_or("the remote takes no such files"));
        parts.push(format!("{} stay here: {why}", show::number(o.refused)));
    }
    if o.held_back > 0 {
        parts.push(format!(
            "{} held back, see the log",
            show::number(o.held_back)
        ));
    }
    parts.join("; ")
}

fn reads(s: &Status) -> String {
    let c = &s.counts;
    let asked = show::count(c.requests, "request", "requests");
    let ahead = match c.ahead {
        0 => String::new(),
        n => format!(
            ", {} fetched ahead ({} of them read)",
            show::number(n),
            show::number(c.ahead_used)
        ),
    };
    format!(
        "{}, {}{ahead}; {} down, {} up; {asked}, {} failed; by {}; offline: {}",
        show::count(c.hits, "hit", "hits"),
        show::count(c.misses, "miss", "misses"),
        show::bytes(c.bytes_down),
        show::bytes(c.bytes_up),
        show::number(c.failures),
        s.read_path,
        s.offline,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ConflictStatus, LimitsStatus};

    fn sample() -> Status {
        Status {
            pid: 7,
            version: "0.1.0".into(),
            mountpoint: "/data/FXCACHE".into(),
            store: "/data/FXCACHE".into(),
            since_ms: 0,
            now_ms: 7_200_000,
            read_path: "passthrough".into(),
            offline: "hide".into(),
            upload: true,
            remotes: vec![RemoteStatus {
                url: "http://nas:5002".into(),
                state: RemoteState::Away,
                since_ms: 7_100_000,
                last_sync_ms: Some(7_000_000),
                last_error: Some("http://nas:5002: Connection refused (os error 111)".into()),
                listed: true,
                files: 63_000,
                bytes: 6 << 30,
                ..RemoteStatus::default()
            }],
            known: Amount {
                files: 63_000,
                bytes: 6 << 30,
            },
            limits: LimitsStatus {
                max_bytes: Some(20 << 30),
                max_files: None,
                min_free: 1 << 30,
            },
            ..Status::default()
        }
    }

    #[test]
    fn p5_a_store_that_ignores_conditions_is_told_in_words() {
        let mut s = sample();
        let remote = &mut s.remotes[0];
        (remote.state, remote.upload) = (RemoteState::Online, true);
        remote.capabilities = ["put", "listing", "bucket"].map(str::to_owned).to_vec();
        assert!(status(&s).contains("its store ignores conditions"));
        s.remotes[0].capabilities.push("conditional-put".into());
        assert!(!status(&s).contains("ignores"));
    }

    #[test]
    fn p6_an_away_remote_says_since_when_and_why() {
        let text = status(&sample());
        for part in [
            "/data/FXCACHE  (process 7, larder 0.1.0, for 2 h)",
            "http://nas:5002  away for 100 s; 63,000 files, 6.0 GiB; synced 3 min ago",
            "               Connection refused\n",
            "63,000 known (6.0 GiB)",
            "at most 20.0 GiB",
            "empty: everything is up",
            "by passthrough",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn p8_a_remote_whose_listing_costs_says_how_often_and_how_much() {
        let mut s = sample();
        s.remotes[0].listing = Some(ListingStatus {
            every_s: 272,
            requests: 63,
            requests_a_day: 19_971,
        });
        let text = status(&s);
        let row = "listed every 4 min with 63 requests, 19,971 a day";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn p3_the_outbox_shows_its_oldest_and_why_it_waits() {
        let mut s = sample();
        s.outbox = OutboxStatus {
            pending: 3,
            uploading: 1,
            bytes: 2048,
            oldest_ms: Some(7_000_000),
            oldest_path: Some("TB/a%20b.pkl".into()),
            oldest_error: Some("timed out (os error 110)".into()),
            oldest_attempts: 4,
            held_back: 0,
            behind: 1,
            behind_path: Some("TB/manifest.json".into()),
            behind_for: Some("TB/a%20b.pkl".into()),
            ..OutboxStatus::default()
        };
        s.conflicts = vec![ConflictStatus::default()];
        let text = status(&s);
        let row = "3 waiting (2.0 KiB), 1 under way; oldest TB/a b.pkl for 3 min, 4 tries, last: timed out; \
                   1 file goes up after others: TB/manifest.json waits for TB/a b.pkl";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains("1 version of yours set aside; `larder conflicts /data/FXCACHE`"),
            "{text}"
        );
    }
}
