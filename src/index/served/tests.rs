//! The index of served files: its order, its memory, its promises about versions.

use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;

use super::*;

fn key(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

fn seen(size: u64, mtime_ns: i64, ctime_ns: i64) -> Seen {
    Seen {
        size,
        mtime_ns,
        ctime_ns,
        ino: 7,
    }
}

fn saw(name: &str, seen: Seen, sha256: Option<Sha256>) -> Note {
    Note::Saw {
        key: key(name),
        seen,
        sha256,
        knew: Knew::Anything,
    }
}

fn missing(name: &str) -> Note {
    Note::Missing {
        key: key(name),
        knew: Knew::Anything,
    }
}

struct Place {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
            clock: Clock::System,
        }
    }

    fn open(&self) -> Result<Index> {
        let path = self.dir.path().canonicalize().unwrap().join("serve.db");
        Index::open(&path, self.clock.clone())
    }
}

fn one(index: &Index, note: Note) -> Option<Row> {
    index.write(vec![note]).unwrap().pop().unwrap()
}

fn told(index: &Index, since: u64) -> Vec<(u64, RelPath, bool)> {
    let since = Cursor {
        seq: since,
        ..index.cursor()
    };
    let mut all = Vec::new();
    let end = index.changes(&since, |seq, key, what| {
        all.push((seq, key, matches!(what, Changed::Put(_))));
        true
    });
    assert_eq!(end.unwrap(), Some(index.cursor()));
    all
}

#[test]
fn p8_changes_come_in_order_and_once_a_path() {
    let place = Place::new();
    let index = place.open().unwrap();
    let start = index.cursor().seq;
    one(&index, saw("b", seen(1, 1, 1), None));
    one(&index, saw("a", seen(2, 1, 1), None));
    one(&index, saw("b", seen(3, 2, 2), None));
    one(&index, missing("a"));
    assert_eq!(index.totals(), (1, 3));
    let changes = told(&index, start);
    let expected = [(start + 3, key("b"), true), (start + 4, key("a"), false)];
    assert_eq!(changes, expected);
    one(&index, saw("a", seen(2, 1, 9), None));
    assert_eq!(told(&index, start + 3), [(start + 5, key("a"), true)]);
    // Nothing new: nothing is told.
    one(&index, saw("a", seen(2, 1, 9), None));
    assert_eq!(index.cursor().seq, start + 5);
}

#[test]
fn p5_a_row_that_changed_meanwhile_is_left_alone() {
    let place = Place::new();
    let index = place.open().unwrap();
    let first = one(&index, saw("a", seen(1, 1, 1), None)).unwrap();
    let second = one(&index, saw("a", seen(2, 2, 2), None)).unwrap();
    let knew = Knew::Seq(Some(first.seq));
    let late = Note::Missing {
        key: key("a"),
        knew,
    };
    assert_eq!(one(&index, late).as_ref(), Some(&second));
    let late = Note::Saw {
        key: key("a"),
        seen: seen(9, 9, 9),
        sha256: None,
        knew: Knew::Seq(None),
    };
    assert_eq!(one(&index, late).as_ref(), Some(&second));
}

#[test]
fn p5_only_what_can_be_the_same_bytes_keeps_its_version() {
    let hash = |n| Some(Sha256([n; 32]));
    let row = |sha256| Row {
        seen: seen(4, 10, 100),
        bump: 0,
        sha256,
        seq: 1,
    };
    let stays = |sha256, found: Seen, found_sha256| {
        let row = row(sha256);
        let next = row.followed_by(&found, found_sha256, 2);
        assert_eq!(next.seen, found);
        next.version().unwrap() == row.version().unwrap() && next.seq == row.seq
    };
    let moved = Seen {
        ino: 8,
        ..seen(4, 10, 100)
    };
    assert!(stays(None, moved, None), "the disk was mounted anew");
    assert!(!stays(None, moved, hash(1)), "an upload");
    assert!(stays(hash(1), moved, hash(1)), "the same upload again");
    assert!(
        !stays(hash(1), moved, hash(2)),
        "an upload in the same tick"
    );
    assert!(
        !stays(hash(1), seen(4, 10, 100), hash(2)),
        "and on the same inode"
    );
    assert!(stays(hash(1), seen(4, 10, 101), hash(1)), "a chmod");
    assert!(!stays(None, seen(4, 10, 101), None), "nobody knows");
    assert!(
        !stays(hash(1), seen(4, 11, 101), hash(1)),
        "a new time is a new version"
    );
}

#[test]
fn p8_a_restart_keeps_the_epoch_and_never_repeats_a_number() {
    let place = Place::new();
    let index = place.open().unwrap();
    let row = one(&index, saw("a", seen(1, 1, 1), None)).unwrap();
    let cursor = index.cursor();
    drop(index);
    let index = place.open().unwrap();
    assert_eq!(index.cursor().epoch, cursor.epoch);
    assert!(index.cursor().seq > cursor.seq);
    assert_eq!(index.get(&key("a")).unwrap(), Some(row));
    assert_eq!(index.totals(), (1, 1));
    assert!(told(&index, cursor.seq).is_empty());
}

#[test]
fn p9_old_deletions_are_forgotten_and_cursors_before_them_refused() {
    let (clock, hand) = Clock::manual(1_000_000_000_000_000_000);
    let place = Place {
        clock,
        ..Place::new()
    };
    let index = place.open().unwrap();
    let start = index.cursor();
    one(&index, saw("a", seen(1, 1, 1), None));
    one(&index, missing("a"));
    one(&index, Note::Prune);
    assert_eq!(told(&index, start.seq).len(), 1);
    hand.fetch_add(8 * 24 * 3600 * 1_000_000_000, Ordering::SeqCst);
    one(&index, Note::Prune);
    let error = index.changes(&start, |_, _, _| true).unwrap_err();
    assert_eq!(error.kind(), Kind::Stale);
    assert!(told(&index, index.cursor().seq).is_empty());
}

#[test]
fn a_newer_index_is_refused_and_a_damaged_one_set_aside() {
    let place = Place::new();
    drop(place.open().unwrap());
    let path = place.dir.path().join("serve.db");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let error = place.open().err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("made by a newer larder"));

    fs::write(&path, vec![0x55; 10_000]).unwrap();
    let index = place.open().unwrap();
    assert!(index.take_report().unwrap().contains("damaged"));
    assert!(index.take_report().is_none());
    let kept = fs::read_dir(place.dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("serve.db.corrupt-")
    });
    assert_eq!(kept.count(), 1);
}

#[test]
fn rows_beneath_a_directory_come_in_pages() {
    let place = Place::new();
    let index = place.open().unwrap();
    let names = ["d", "d.x", "d/a", "d/b/c", "d/z", "d0", "e"];
    let notes = names.map(|name| saw(name, seen(1, 1, 1), None)).to_vec();
    index.write(notes).unwrap();
    let page = |after: Option<&str>| -> Vec<String> {
        let after = after.map(key);
        let rows = index.beneath(&key("d"), after.as_ref(), 2).unwrap();
        rows.iter().map(|(key, _)| key.to_string()).collect()
    };
    assert_eq!(page(None), ["d/a", "d/b/c"]);
    assert_eq!(page(Some("d/b/c")), ["d/z"]);
    let all = index.beneath(&RelPath::root(), None, 100).unwrap();
    assert_eq!(all.len(), names.len());
}

#[test]
fn a_version_survives_the_loss_of_the_index() {
    let (first, second) = (Place::new(), Place::new());
    let row = |place: &Place| one(&place.open().unwrap(), saw("a", seen(5, -3, 1), None)).unwrap();
    let version = row(&first).version().unwrap();
    assert_eq!(version, row(&second).version().unwrap());
    assert_eq!(version.as_str(), "5-fffffffffffffffd");
}

/// What somebody does to one file: its content, its time, whether its hash is known.
fn deeds() -> impl Strategy<Value = Vec<Option<(u8, i64, bool)>>> {
    let deed = (0u8..3, 0i64..3, any::<bool>());
    proptest::collection::vec(proptest::option::of(deed), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn p5_no_version_ever_stands_for_two_contents(deeds in deeds()) {
        let place = Place::new();
        let index = place.open().unwrap();
        let mut contents: HashMap<Version, u8> = HashMap::new();
        for (ctime_ns, deed) in (100..).zip(deeds) {
            let Some((content, mtime_ns, is_hashed)) = deed else {
                one(&index, missing("a"));
                continue;
            };
            let sha256 = is_hashed.then_some(Sha256([content; 32]));
            let row = one(&index, saw("a", seen(4, mtime_ns, ctime_ns), sha256)).unwrap();
            let before = contents.insert(row.version().unwrap(), content);
            prop_assert!(before.is_none_or(|before| before == content));
        }
    }
}

#[test]
fn p8_a_row_that_was_written_is_the_row_that_is_read_also_by_many_at_once() {
    let place = Place::new();
    let index = place.open().unwrap();
    let names: Vec<RelPath> = (0..8).map(|n| key(&format!("f{n}"))).collect();
    std::thread::scope(|threads| {
        // Readers keep every row warm while the writers change them.
        for _ in 0..3 {
            threads.spawn(|| {
                for _ in 0..2000 {
                    names
                        .iter()
                        .for_each(|name| assert!(index.get(name).is_ok()));
                }
            });
        }
        for (name, first) in names.iter().zip(1i64..).take(4) {
            let index = &index;
            threads.spawn(move || {
                for turn in 0..60 {
                    let seen = seen(1, first + turn, first + turn);
                    let note = match turn % 3 {
                        2 => missing(&name.to_string()),
                        _ => saw(&name.to_string(), seen, None),
                    };
                    let answered = one(index, note);
                    assert_eq!(index.get(name).unwrap(), answered);
                }
            });
        }
    });
}
