//! What takes bytes from outside, and what must hold for any bytes. Shared by `tests/hostile.rs`
//! and the targets in `fuzz/`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use larder::backends::Changes;
use larder::backends::fxcache::foreign;
use larder::backends::http::content_range;
use larder::backends::http::lines::Lines;
use larder::backends::http::listing::{collect, delta};
use larder::backends::url::{Place, RemoteUrl};
use larder::config::{ConfigFile, Environment, Flags, resolve_mount, resolve_serve};
use larder::error::Error;
use larder::index::served::Seen;
use larder::legacy::LegacyIndex;
use larder::object::{Change, Cursor, Listed, Object, Version};
use larder::path::{NAME_MAX, Name, PATH_MAX, RelPath};
use larder::server::conditions::{Verdict, Wanted, precondition};
use larder::store::partial;
use larder::transfer::footer;
use larder::wire::{self, LINE_MAX, Line};
use tokio::sync::mpsc;

/// Texts for people must neither break their line nor drive a terminal, nor grow without end.
fn fits_a_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() < 40_000, "{} bytes of text", text.len());
}

fn fails_in_a_line(error: &Error) {
    fits_a_line(&error.to_string());
}

/// Whoever holds a path needs no further check: this is what they rely on.
fn is_inside(path: &RelPath) {
    assert!(path.as_bytes().len() <= PATH_MAX);
    for part in path.components() {
        assert!(!part.is_empty() && part.len() <= NAME_MAX);
        assert!(part != b"." && part != b".." && part != b".larder");
        assert!(!part.contains(&0) && !part.contains(&b'/'));
    }
    let root = Path::new("/root/of/all");
    assert!(root.join(path.as_os_str()).starts_with(root));
    let mut at = path.clone();
    let mut depth = path.components().count();
    while let Some(parent) = at.parent() {
        let name = at.file_name().expect("what has a parent has a name");
        assert_eq!(parent.join(&name).expect("it fitted before"), at);
        assert!(path.is_under(&parent));
        depth -= 1;
        at = parent;
    }
    assert_eq!(depth, 0);
    fits_a_line(&path.to_string());
}

/// Bytes as a path, as a name, and as a path in a URL.
pub fn path(data: &[u8]) {
    if let Ok(path) = RelPath::new(data) {
        assert_eq!(path.as_bytes(), data);
        is_inside(&path);
        let text = path.encode();
        assert!(text.is_ascii());
        assert_eq!(RelPath::decode(&text).expect("we wrote it"), path);
    }
    if let Ok(path) = RelPath::decode(&String::from_utf8_lossy(data)) {
        is_inside(&path);
    }
    if let Ok(name) = Name::new(data) {
        let path = RelPath::new(data).expect("a name is a path of one");
        assert_eq!(path.file_name(), Some(name));
    }
}

/// An object that is believed must be one that we could tell others of.
fn is_sound(object: &Object, epoch: Option<&Arc<str>>) {
    is_inside(&object.key);
    assert!(!object.key.is_root());
    assert!(i64::try_from(object.meta.size).is_ok());
    let seq = object.meta.revision.as_ref().map(|revision| revision.seq);
    let text = serde_json::to_string(&Line::object(seq, object)).expect("it can be written");
    assert!(text.len() < LINE_MAX, "a line of {} bytes", text.len());
    let back: Line = serde_json::from_str(&text).expect("we wrote it");
    let back = back.into_change(epoch).expect("we wrote it");
    assert_eq!(back, Change::Put(object.clone()));
}

fn lines(data: &[u8]) -> Lines {
    // In pieces, as it comes from a network.
    let pieces: Vec<_> = data
        .chunks(97)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    Lines::new(stream::iter(pieces), Duration::from_secs(60))
}

/// A listing of a LAN server, and what changed there.
pub fn listing(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let (batches, mut taken) = mpsc::channel(1024);
    let listed = collect(lines(data), batches)
        .now_or_never()
        .expect("nothing is waited for");
    let mut last: Option<RelPath> = None;
    while let Ok(batch) = taken.try_recv() {
        for line in batch {
            match line {
                Listed::Object(object) => {
                    is_sound(&object, None);
                    assert!(last.as_ref().is_none_or(|last| *last < object.key));
                    last = Some(object.key);
                }
                Listed::Refused { shown, why } => {
                    fits_a_line(&shown);
                    fits_a_line(&why);
                }
            }
        }
    }
    match listed {
        Ok(cursor) => assert!((1..=128).contains(&cursor.epoch.len())),
        Err(error) => fails_in_a_line(&error),
    }
    let since = Cursor {
        epoch: "e".into(),
        seq: 3,
    };
    let changed = delta(lines(data), &since)
        .now_or_never()
        .expect("nothing is waited for");
    match changed {
        Ok(Changes::Delta { changes, cursor }) => {
            assert!(cursor.epoch == since.epoch && cursor.seq >= since.seq);
            for change in &changes {
                match change {
                    Change::Put(object) => is_sound(object, Some(&"e".into())),
                    Change::Deleted(key, _) => is_inside(key),
                    Change::Refused { shown, why } => {
                        fits_a_line(shown);
                        fits_a_line(why);
                    }
                }
            }
        }
        Ok(Changes::Relist) => {}
        Err(error) => fails_in_a_line(&error),
    }
}

/// Values of headers that we take from either side.
pub fn header(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Version::from_etag(&text) {
        Ok(version) => {
            assert_eq!(Version::from_etag(&version.to_etag()).unwrap(), version);
            fits_a_line(version.as_str());
        }
        Err(error) => fails_in_a_line(&error),
    }
    match wire::parse_digest(&text) {
        Ok(Some(hash)) => {
            let header = wire::digest_header(&hash);
            assert_eq!(wire::parse_digest(&header).unwrap(), Some(hash));
        }
        Ok(None) => {}
        Err(error) => fails_in_a_line(&error),
    }
    if let Some(revision) = wire::parse_revision(&text) {
        let header = wire::revision_header(&revision.epoch, revision.seq);
        assert_eq!(wire::parse_revision(&header), Some(revision));
    }
    if let Some(mtime_ns) = wire::times::read(&text) {
        let shown = wire::times::show(mtime_ns);
        assert_eq!(wire::times::read(&shown), Some(mtime_ns));
    }
}

/// A request for a part of a file, its first line the file's length; and an answer's range.
pub fn range(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((range, size)) = content_range(&text) {
        assert!(range.start < range.end && range.end <= size);
        let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        assert_eq!(content_range(&shown), Some((range, size)));
    }
    let mut lines = data.split(|b| *b == b'\n');
    let size = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let size: u64 = size.and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut headers = HeaderMap::new();
    let names: [HeaderName; 6] = [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ];
    for (line, name) in lines.zip(names.iter().cycle()).take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let version = Version::new("v1").unwrap();
    let seen = Seen {
        size,
        mtime_ns: 1_792_567_680_500_000_000,
        ctime_ns: 0,
        ino: 0,
    };
    let wanted = Wanted::new(&headers, false)
        .with_dates(&headers)
        .with_limits(&headers);
    if let Verdict::Part(part) = wanted.judge(&version, &seen) {
        assert!(part.start < part.end && part.end <= size);
    }
    assert!(!matches!(
        Wanted::new(&headers, true).judge(&version, &seen),
        Verdict::Part(_) | Verdict::OutOfRange
    ));
    if let Err(error) = precondition(&headers) {
        fails_in_a_line(&error);
    }
}

/// The end of a Parquet file.
pub fn footer(data: &[u8]) {
    let end = data.len() as u64 * 50;
    if let Some(columns) = footer::columns(data, end) {
        assert!(columns.iter().all(|c| c.start < c.end && c.end <= end));
        assert!(columns.windows(2).all(|two| two[0].end <= two[1].start));
        assert!(columns.len() <= data.len());
    }
    if let Some(tail) = data.last_chunk::<{ footer::TAIL }>() {
        for size in [0, 7, 8, data.len() as u64, u64::MAX] {
            if let Some(place) = footer::place(*tail, size) {
                assert!(place.start <= place.end && place.end + footer::TAIL as u64 == size);
            }
        }
    }
}

/// What is left of a download.
pub fn partial(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (ino, size) in [(7, 1000), (7, u64::MAX)] {
        let Some(have) = partial::parse(&text, ino, size) else {
            continue;
        };
        assert!(have.covered() <= size);
        assert!(have.iter().all(|held| held.end <= size));
        let again = partial::text_of(ino, size, &have);
        assert_eq!(partial::parse(&again, ino, size), Some(have));
    }
}

thread_local! {
    /// Where index files lie while they are looked at.
    static PLACE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

fn place() -> PathBuf {
    PLACE.with_borrow_mut(|place| {
        let dir = place.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            }
            .expect("a directory")
        });
        dir.path().to_owned()
    })
}

/// The index file of an FXCACHE server, which is a database of somebody else's.
pub fn index_file(data: &[u8]) {
    let path = place().join("index.db");
    fs::write(&path, data).expect("written");
    match LegacyIndex::open(&path) {
        Err(error) => fails_in_a_line(&error),
        Ok(index) => {
            let mut rows = 0;
            let all = index.rows(|name, said| {
                rows += 1;
                assert!(rows <= data.len(), "more rows than bytes");
                match foreign::listed(name, said) {
                    Listed::Object(object) => is_sound(&object, None),
                    Listed::Refused { shown, why } => {
                        fits_a_line(&shown);
                        fits_a_line(&why);
                    }
                }
                Ok(())
            });
            for error in [all.err(), index.get("a").err(), index.files().err()] {
                error.iter().for_each(fails_in_a_line);
            }
        }
    }
    let names = fs::read_dir(place()).expect("listed");
    assert_eq!(names.count(), 1, "something was written beside it");
    assert_eq!(fs::read(&path).expect("read"), data, "it was written to");
}

/// A `larder.toml`, all the way to a mount's and a server's settings.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = match ConfigFile::parse(&text, Path::new("/l.toml"), Some("/home/u".into())) {
        Ok(file) => file,
        Err(error) => return fails_in_a_line(&error),
    };
    assert!(file.mountpoints().all(Path::is_absolute));
    let (env, flags) = (Environment::default(), Flags::default());
    match resolve_mount(Path::new("/mnt/a"), &file, &env, &flags) {
        Ok(mount) => {
            assert!(mount.config.mountpoint.is_absolute());
            mount.notes.iter().for_each(|note| fits_a_line(note));
        }
        Err(error) => fails_in_a_line(&error),
    }
    if let Err(error) = resolve_serve(&file, &env, &flags) {
        fails_in_a_line(&error);
    }
}

/// Whether `hunter2` stands in a URL's credentials and nowhere else.
fn is_secret(text: &str) -> bool {
    let open = text.rsplit_once('@').map(|(_, open)| open);
    open.is_some_and(|open| !open.contains("hunter2"))
}

/// A remote's URL. What is shown of it parses to the same place, and has no password.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match RemoteUrl::parse(&text) {
        Err(error) => {
            fails_in_a_line(&error);
            assert!(
                !is_secret(&text) || !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
        Ok(url) => {
            fits_a_line(url.shown());
            let is_http = matches!(url.place(), Place::Http { .. });
            let shows = url.shown().contains("hunter2");
            assert!(!(is_http && shows && is_secret(&text)), "{}", url.shown());
            let again = RemoteUrl::parse(url.shown()).expect("it is shown as it may be given");
            assert_eq!(again.shown(), url.shown());
        }
    }
}
