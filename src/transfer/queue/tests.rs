//! The rules, alone and against a model of files that are written and go up.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn waiting(row: i64, key: &str, open: bool) -> Waiting {
    Waiting {
        row,
        remote: RemoteId(1),
        key: key.as_bytes().into(),
        open,
        last: false,
    }
}

#[test]
fn p4_a_file_that_is_open_waits_and_holds_its_key() {
    let lanes = Lanes {
        width: 4,
        ..Lanes::default()
    };
    let rows = [
        waiting(1, "a", true),
        waiting(2, "b", false),
        waiting(3, "a", false),
    ];
    assert_eq!(next_ready(&rows, &lanes, |_| false), [2]);
}

#[test]
fn p6_a_remote_that_is_away_is_passed_over() {
    let lanes = Lanes {
        width: 4,
        away: [RemoteId(1)].into(),
        ..Lanes::default()
    };
    assert!(next_ready(&[waiting(1, "a", false)], &lanes, |_| false).is_empty());
}

proptest! {
    #[test]
    fn p5_one_transfer_a_key_and_width_holds(keys in proptest::collection::vec(0u8..6, 0..40), width in 1usize..5) {
        let rows: Vec<_> = keys.iter().enumerate()
            .map(|(i, k)| waiting(i as i64, &k.to_string(), false)).collect();
        let lanes = Lanes { width, ..Lanes::default() };
        let ready = next_ready(&rows, &lanes, |_| false);
        prop_assert!(ready.len() <= width);
        let started: HashSet<_> = ready.iter().map(|r| rows[*r as usize].key.clone()).collect();
        prop_assert_eq!(started.len(), ready.len());
        for row in &ready {
            // Nothing older of the same key was passed over.
            prop_assert!(rows.iter().take(*row as usize).all(|r| r.key != rows[*row as usize].key));
        }
    }

    #[test]
    fn p9_waits_grow_to_a_bound(attempts in 0u32..100, fraction in 0.0f64..1.0) {
        let wait = back_off(Kind::Offline, attempts, fraction);
        prop_assert!((250..=60_000).contains(&wait));
    }
}

#[test]
fn p4_a_sidecars_name_says_which_file_it_speaks_of() {
    let of = |path: &str| subject(&key(path)).map(|p| p.to_string());
    assert_eq!(of("d/x.parquet.meta.json").as_deref(), Some("d/x.parquet"));
    assert_eq!(of("x.meta.json").as_deref(), Some("x"));
    for none in [
        "d/manifest.json",
        "_SUCCESS",
        "d/.meta.json",
        "d/...meta.json",
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn p4_what_is_published_last_is_asked_about_only_when_it_could_start() {
    let row = |row, key, last| Waiting {
        last,
        ..waiting(row, key, false)
    };
    let rows = [row(1, "m", true), row(2, "a", false), row(3, "n", true)];
    let mut lanes = Lanes {
        width: 2,
        ..Lanes::default()
    };
    let mut asked = Vec::new();
    let ready = next_ready(&rows, &lanes, |w| {
        asked.push(w.row);
        w.row == 1
    });
    // The one that waits takes no slot.
    assert_eq!((ready, asked), (vec![2, 3], vec![1, 3]));
    lanes.away.insert(RemoteId(1));
    let nobody = |_: &Waiting| unreachable!("it could not start anyway");
    assert!(next_ready(&rows, &lanes, nobody).is_empty());
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

/// Files beside and beneath each other, and what is published last among them.
const FILES: [(&str, bool); 9] = [
    ("x", false),
    ("x.meta.json", true),
    ("manifest.json", true),
    ("manifest.json.meta.json", true),
    ("d/y", false),
    ("d/y.meta.json", true),
    ("d/manifest.json", true),
    ("d/e/_SUCCESS", true),
    ("d/e/z", false),
];

/// A mount and its remote: versions are numbers that grow.
#[derive(Default)]
struct Model {
    number: i64,
    outbox: BTreeMap<usize, Place>,
    here: [u64; FILES.len()],
    there: [u64; FILES.len()],
    /// What was here when each file was last written.
    speaks_of: [[u64; FILES.len()]; FILES.len()],
}

impl Model {
    fn next(&mut self) -> i64 {
        self.number += 1;
        self.number
    }

    fn write(&mut self, file: usize) {
        let (path, last) = FILES[file];
        let (again, fresh) = (self.next(), self.next());
        let first = self.outbox.get(&file).map_or(fresh, |p| p.first);
        let place = Place {
            path: key(path),
            first,
            again,
            last,
        };
        self.outbox.insert(file, place);
        self.here[file] += 1;
        self.speaks_of[file] = self.here;
    }

    /// As the shell asks: the file that its name says, and whatever was queued before.
    fn may_go(&self, file: usize) -> bool {
        let Some(sidecar) = self.outbox.get(&file) else {
            return false;
        };
        let own = subject(&sidecar.path).and_then(|path| {
            FILES
                .iter()
                .position(|(name, last)| key(name) == path && !last)
        });
        let waits = sidecar.last
            && (own.is_some_and(|own| self.outbox.contains_key(&own))
                || self.outbox.values().any(|other| holds_up(other, sidecar)));
        !waits
    }

    fn goes_up(&mut self, file: usize) {
        self.there[file] = self.here[file];
        self.outbox.remove(&file);
    }
}

proptest! {
    #[test]
    fn p4_no_sidecar_is_ahead_of_what_it_speaks_of_and_everything_arrives(
        steps in proptest::collection::vec((0..FILES.len(), any::<bool>()), 0..200)
    ) {
        let mut model = Model::default();
        for (file, is_write) in steps {
            match is_write {
                true => model.write(file),
                false if model.may_go(file) => model.goes_up(file),
                false => {}
            }
            for (sidecar, (path, _)) in FILES.iter().enumerate().filter(|(_, (_, last))| *last) {
                if model.there[sidecar] != model.here[sidecar] {
                    continue;
                }
                let dir = key(path).parent().unwrap();
                for (data, (name, last)) in FILES.iter().enumerate() {
                    // The version that was here when the sidecar was written, or a later one.
                    if !last && key(name).is_under(&dir) {
                        prop_assert!(model.there[data] >= model.speaks_of[sidecar][data]);
                    }
                }
            }
        }
        // Nothing waits in a circle: as long as there is anything, something may go.
        while !model.outbox.is_empty() {
            let ready: Vec<_> = (0..FILES.len()).filter(|f| model.may_go(*f)).collect();
            prop_assert!(!ready.is_empty(), "{:?}", model.outbox);
            ready.into_iter().for_each(|file| model.goes_up(file));
        }
    }

    #[test]
    fn p4_what_is_queued_after_a_sidecar_does_not_hold_it_up(later in 0usize..FILES.len()) {
        let mut model = Model::default();
        for sidecar in (0..FILES.len()).filter(|f| FILES[*f].1 && *f != later) {
            model.write(sidecar);
            let before = model.may_go(sidecar);
            model.write(later);
            let own = subject(&key(FILES[sidecar].0)) == Some(key(FILES[later].0));
            prop_assert!(!before || own || model.may_go(sidecar));
            model = Model::default();
        }
    }
}
