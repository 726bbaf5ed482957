//! What is in memory of directories, against the rows.

use super::*;
use crate::index::names::{Look, Names};

impl Lab {
    /// Every directory, and every name of every test here, as memory and as the rows have it.
    fn check_names(&self) {
        let rows = |dir| {
            self.index
                .read(|c| node::entries(c, dir, b"", 1000))
                .unwrap()
        };
        let dirs = self
            .index
            .read(|c| node::dirs_after(c, NodeId(0), 1000))
            .unwrap();
        let mut names: Vec<Name> = ["nobody", "a", "b"].into_iter().map(name).collect();
        names.extend(dirs.iter().flat_map(|dir| rows(*dir)).map(|(name, _)| name));
        for dir in dirs {
            for name in &names {
                let stored = self.index.read(|c| node::entry(c, dir, name)).unwrap();
                assert_eq!(
                    self.index.entry(dir, name).unwrap(),
                    stored,
                    "{name:?} in {dir:?}"
                );
            }
            assert_eq!(self.index.entries(dir, b"", 1000).unwrap(), rows(dir));
            let known = self.index.names.page(dir, b"", 1000);
            assert_eq!(known, Some(rows(dir)), "{dir:?} is in memory by now");
        }
    }

    fn make(&self, dir: NodeId, path: &str, kind: NodeKind) -> NodeId {
        let new = new(dir, path, kind);
        self.index.edit(move |w| w.create(&new, NOW)).unwrap().id
    }
}

#[test]
fn p2_a_directory_is_in_memory_once_enough_of_its_names_were_asked_for() {
    let lab = Lab::new(&[]);
    for n in 0..100 {
        lab.make(ROOT, &format!("f{n:03}"), NodeKind::File);
    }
    assert!(lab.index.names.page(ROOT, b"", 1).is_none());
    for n in 0..8 {
        assert_eq!(
            lab.index.entry(ROOT, &name(&format!("no{n}"))).unwrap(),
            None
        );
    }
    let page = lab.index.names.page(ROOT, b"f010", 5).unwrap();
    let names: Vec<_> = page.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["f011", "f012", "f013", "f014", "f015"].map(name));
    assert_eq!(lab.index.names.child(ROOT, &name("no")), Look::Known(None));
}

#[test]
fn p2_a_directory_that_changes_while_it_is_read_is_not_kept() {
    let lab = Lab::new(&[]);
    lab.make(ROOT, "a", NodeKind::File);
    let names = Names::new();
    let changed = crate::index::names::Changed::default();
    let found = lab.index.read(|c| {
        let tick = names.begin(ROOT).unwrap();
        assert!(names.begin(ROOT).is_none(), "one reads it at a time");
        let read = node::entries(c, ROOT, b"", 10)?;
        changed.lock().unwrap().push((ROOT, b"b".to_vec()));
        names.committed(&changed);
        names.end(ROOT, tick, read);
        Ok(names.page(ROOT, b"", 10))
    });
    assert_eq!(found.unwrap(), None);
}

#[test]
fn p2_what_is_kept_of_directories_is_bounded() {
    let made = |n: u64| (name(&format!("{n:08}")), entry());
    // The numbers of directories that were listed after one another: each after the files of the last.
    for distance in [1, 4, 701, 1004] {
        let names = Names::new();
        let dirs: Vec<NodeId> = (1..=60).map(|n| NodeId(n * distance)).collect();
        for dir in &dirs {
            let tick = names.begin(*dir).unwrap();
            names.end(*dir, tick, (0..10_000).map(made).collect());
        }
        let kept: Vec<_> = dirs
            .iter()
            .map(|dir| names.page(*dir, b"", 1).is_some())
            .collect();
        let count = kept.iter().filter(|kept| **kept).count();
        assert_eq!(count, 12, "three in each of four parts: {distance}");
        assert!(kept[59] && !kept[0], "the last ones: {distance}");
    }
}

#[test]
fn p2_whoever_was_answered_sees_the_edit_while_others_read_the_directory() {
    let lab = Lab::new(&[]);
    let dir = lab.make(ROOT, "dir", NodeKind::Dir);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    lab.index.entries(dir, b"", 1000).unwrap();
                    lab.index.entry(dir, &name("f1")).unwrap();
                }
            });
        }
        for turn in 0..300 {
            let path = name(&format!("f{}", turn % 7));
            let before = lab.index.entry(dir, &path).unwrap();
            match before {
                Some(entry) => lab
                    .index
                    .edit(move |w| w.unlink(entry.id, false, NOW))
                    .unwrap(),
                None => drop(lab.make(dir, &format!("f{}", turn % 7), NodeKind::File)),
            }
            let after = lab.index.entry(dir, &path).unwrap();
            assert_eq!(after.is_some(), before.is_none(), "turn {turn}");
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    lab.check_names();
}

#[test]
fn p2_a_failed_edit_changes_no_name() {
    let lab = Lab::new(&[]);
    lab.make(ROOT, "a", NodeKind::File);
    lab.check_names();
    let twice = lab.index.edit(|w| {
        w.create(&new(ROOT, "b", NodeKind::File), NOW)?;
        w.create(&new(ROOT, "a", NodeKind::File), NOW)
    });
    assert!(twice.is_err());
    lab.check_names();
    assert_eq!(lab.index.entry(ROOT, &name("b")).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn p2_memory_says_what_the_rows_say(steps in proptest::collection::vec(step(), 1..40)) {
        let lab = Lab::new(&[true, true]);
        for step in &steps {
            lab.walk(step);
            lab.check_names();
        }
    }
}
