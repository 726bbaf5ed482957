//! What is in memory of rows, against the rows.

use super::*;
use crate::index::rows::{Changed, Look, Rows};

impl Lab {
    /// Every node that there is or was, as memory and as the rows have it.
    fn check_rows(&self, last: u64) {
        for id in (1..=last).map(NodeId) {
            let stored = self.index.read(|c| node::node(c, id)).unwrap();
            assert_eq!(self.index.node(id).unwrap(), stored, "{id:?}");
            let kept = match self.index.rows.node(id) {
                Look::Known(node) => Some(node),
                Look::Unknown(_) => None,
            };
            assert_eq!(kept, stored, "{id:?}: in memory by now");
        }
    }
}

fn is_kept(rows: &Rows, id: u64) -> bool {
    matches!(rows.node(NodeId(id)), Look::Known(_))
}

/// What somebody who asks for a node that is not here is told to come back with.
fn unknown(rows: &Rows, id: u64) -> u64 {
    match rows.node(NodeId(id)) {
        Look::Unknown(commits) => commits,
        Look::Known(node) => panic!("{node:?} is known"),
    }
}

fn changed(ids: impl Iterator<Item = u64>) -> Changed {
    let changed = Changed::default();
    changed.lock().unwrap().extend(ids.map(NodeId));
    changed
}

#[test]
fn p2_a_row_that_changes_while_it_is_read_is_not_kept() {
    let (rows, node) = (Rows::new(), Node::sample(NodeId(7)));
    let before = unknown(&rows, 7);
    rows.changing(&changed([7].into_iter()));
    let meanwhile = unknown(&rows, 7);
    rows.learn(&node, before);
    rows.learn(&node, meanwhile);
    assert!(
        !is_kept(&rows, 7),
        "the commit may come after the row was read"
    );
    rows.changed();
    rows.learn(&node, before);
    rows.learn(&node, meanwhile);
    assert!(!is_kept(&rows, 7), "it may be the row from before");
    rows.learn(&node, unknown(&rows, 7));
    assert!(is_kept(&rows, 7));
    rows.changing(&changed([8].into_iter()));
    assert!(is_kept(&rows, 7), "another one changes");
}

#[test]
fn p2_a_commit_that_changes_very_much_has_all_rows_forgotten() {
    let rows = Rows::new();
    for id in 1..=8 {
        rows.learn(&Node::sample(NodeId(id)), unknown(&rows, id));
    }
    assert!((1..=8).all(|id| is_kept(&rows, id)));
    rows.changing(&changed(100..5000));
    rows.changed();
    assert!((1..=8).all(|id| !is_kept(&rows, id)));
}

#[test]
fn p2_rows_that_nobody_asked_for_longest_go_first() {
    let (rows, node) = (Rows::new(), Node::sample(NodeId(1)));
    for id in 1..=30_000 {
        let id = NodeId(id);
        rows.learn(&Node { id, ..node.clone() }, 0);
        assert!(is_kept(&rows, 1), "asked for all the time");
    }
    let kept = (1..=30_000).filter(|id| is_kept(&rows, *id)).count();
    assert_eq!(kept, 8_192);
    assert!(is_kept(&rows, 30_000) && !is_kept(&rows, 2));
}

#[test]
fn p2_whoever_was_answered_reads_the_edited_row_while_others_read_it() {
    let lab = Lab::new(&[]);
    let id = lab.write("a", 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    lab.index.node(id).unwrap();
                }
            });
        }
        for turn in 0..1000 {
            let attrs = Attrs {
                mtime_ns: Some(turn),
                ..Attrs::default()
            };
            lab.edit(move |w| w.set_attrs(id, attrs, true, NOW));
            let now = lab.index.node(id).unwrap().unwrap();
            assert_eq!(now.mtime_ns, turn);
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn p11_the_use_of_a_file_has_no_row_read_anew() {
    let lab = Lab::new(&[]);
    let id = lab.write("a", 1);
    lab.index.node(id).unwrap();
    assert!(is_kept(&lab.index.rows, id.0));
    lab.edit(move |w| w.used(&[(id, NOW)]));
    assert!(is_kept(&lab.index.rows, id.0));
}

#[test]
fn p2_a_failed_edit_changes_no_row() {
    let lab = Lab::new(&[]);
    let id = lab.write("a", 1);
    lab.check_rows(id.0 + 2);
    let failed = lab.index.edit(move |w| {
        w.set_writing(id, Writing::Open, NOW)?;
        w.create(&new(ROOT, "a", NodeKind::File), NOW)
    });
    assert!(failed.is_err());
    lab.check_rows(id.0 + 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn p2_rows_in_memory_are_the_rows(steps in proptest::collection::vec(step(), 1..40)) {
        let lab = Lab::new(&[true, true]);
        for step in &steps {
            lab.walk(step);
            lab.check_rows(80);
        }
    }
}
