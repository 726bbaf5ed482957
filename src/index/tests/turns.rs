//! Whose turn it is to edit, and that it makes no difference on whose thread that is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::error::{Error, Kind};

const PATIENCE: Duration = Duration::from_secs(20);

/// All that edits made, as text.
fn dump(lab: &Lab) -> Vec<String> {
    let tables = [
        "nodes", "replicas", "outbox", "attempts", "staged", "doomed", "moving", "sums",
    ];
    let rows = |table: &str| {
        lab.index.read(|c| {
            node::rows(c, &format!("SELECT * FROM {table}"), [], |row| {
                let cells = (0..row.as_ref().column_count()).map(|at| {
                    let cell = row.get::<_, rusqlite::types::Value>(at);
                    format!("{:?}", cell.unwrap())
                });
                Ok(cells.collect::<Vec<_>>().join(" "))
            })
        })
    };
    tables.iter().flat_map(|t| rows(t).unwrap()).collect()
}

/// Makes something, and fails.
fn fails(lab: &Lab) -> Error {
    lab.index
        .edit(|w| -> Result<()> {
            let node = w.create(&new(ROOT, "half", NodeKind::File), NOW)?;
            w.written(node.id, None, seen(7), true, NOW_MS)?;
            w.give_way(node.id, NOW)?;
            w.tell(ROOT, &name("half"));
            Err(Error::new(Kind::Invalid, "on purpose"))
        })
        .unwrap_err()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn p3_an_edit_is_the_same_at_once_and_in_the_queue(steps in proptest::collection::vec(step(), 1..40)) {
        let (at_once, queued) = (Lab::new(&[true, true]), Lab::new(&[true, true]));
        queued.index.queue.nothing_at_once();
        for step in &steps {
            for lab in [&at_once, &queued] {
                lab.walk(step);
                prop_assert_eq!(fails(lab).kind(), Kind::Invalid);
                lab.check_sums();
            }
            prop_assert_eq!(at_once.told(), queued.told());
        }
        prop_assert_eq!(dump(&at_once), dump(&queued));
    }
}

#[test]
fn p3_nobody_comes_before_those_who_wait() {
    let lab = Lab::new(&[]);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (begin, begun) = channel::<()>();
    let (go_on, going) = channel::<()>();
    std::thread::scope(|scope| {
        let index = &lab.index;
        let first = scope.spawn(move || {
            index.edit(move |_| {
                begin.send(()).unwrap();
                going.recv_timeout(PATIENCE).unwrap();
                Ok(())
            })
        });
        begun.recv_timeout(PATIENCE).unwrap();
        // The writer is taken: these wait, and the one that comes after them does, too.
        let (answer, answered) = channel();
        for n in 0..3 {
            let (order, answer) = (order.clone(), answer.clone());
            let edit = move |_: &mut Writer| {
                order.lock().unwrap().push(n);
                Ok(())
            };
            let done = move |result: Result<()>| answer.send(result).unwrap();
            lab.index.queue.send(edit, done).unwrap();
        }
        go_on.send(()).unwrap();
        let last = order.clone();
        lab.index
            .edit(move |_| {
                last.lock().unwrap().push(3);
                Ok(())
            })
            .unwrap();
        for _ in 0..3 {
            answered.recv_timeout(PATIENCE).unwrap().unwrap();
        }
        first.join().unwrap().unwrap();
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn p3_many_threads_see_what_they_were_answered() {
    let lab = Lab::new(&[]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let index = &lab.index;
            scope.spawn(move || {
                for n in 0..50 {
                    let file = new(ROOT, &format!("{thread}-{n}"), NodeKind::File);
                    let name = file.name.clone();
                    let fail = n % 5 == 4;
                    let made = index.edit(move |w| {
                        let node = w.create(&file, NOW)?;
                        match fail {
                            true => Err(Error::new(Kind::Invalid, "on purpose")),
                            false => Ok(node.id),
                        }
                    });
                    let seen = index
                        .read(|c| node::child(c, ROOT, name.as_bytes()))
                        .unwrap();
                    assert_eq!(made.ok(), seen.map(|n| n.id), "{name}");
                }
            });
        }
    });
    lab.check_sums();
    let totals = lab.index.read(holding::totals).unwrap();
    assert_eq!(totals.files, 4 * 40);
}

#[test]
fn p3_an_edit_that_panics_ends_the_index_and_leaves_nothing() {
    let lab = Lab::new(&[]);
    lab.write("a", 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        lab.index.edit(|w| -> Result<()> {
            w.create(&new(ROOT, "half", NodeKind::File), NOW)?;
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err());
    assert!(lab.index.edit(|_| Ok(())).is_err());
    let lab = lab.reopened(&[]);
    assert!(lab.at("a").is_some() && lab.at("half").is_none());
}

#[test]
fn p8_news_that_did_not_fit_is_told_though_nothing_else_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, events) = sync_channel(1);
    let (index, _) = Index::open(&dir.path().join("index.db"), sender).unwrap();
    for n in 0..3 {
        index
            .edit(move |w| {
                w.tell(ROOT, &name(&n.to_string()));
                Ok(())
            })
            .unwrap();
    }
    let told = |event: Event| match event {
        Event::Names(names) => names.len(),
        Event::Everything => usize::MAX,
    };
    assert_eq!(told(events.recv_timeout(PATIENCE).unwrap()), 1);
    assert_eq!(told(events.recv_timeout(PATIENCE).unwrap()), usize::MAX);
}

#[test]
fn p9_the_log_is_taken_into_the_file_beside_the_writer() {
    let lab = Lab::new(&[]);
    let long = "x".repeat(200);
    let [file, log] = ["index.db", "index.db-wal"].map(|name| lab.dir.path().join(name));
    let len = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
    let before = len(&file);
    for n in 1..300 {
        lab.write(&format!("{long}-{n}"), n);
    }
    // The writer would take it in when it is much longer.
    assert!(len(&log) < 4096 * 4096);
    let deadline = std::time::Instant::now() + PATIENCE;
    while len(&file) == before {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    let lab = lab.reopened(&[]);
    lab.check_sums();
    assert!(lab.at(&format!("{long}-299")).is_some());
}

#[test]
fn p14_no_statement_is_prepared_for_each_use() {
    let lab = Lab::new(&[true]);
    let query =
        "SELECT r.key, m.url FROM replicas r JOIN remotes m ON m.id = r.remote WHERE r.node = ?1";
    let read = move |n: i64| move |c: &Connection| node::rows(c, query, [n], |_| Ok(()));
    let made = move |c: &Connection| {
        let statement = c.prepare_cached(query).unwrap();
        Ok(statement.get_status(rusqlite::StatementStatus::RePrepare))
    };
    for n in 0..5 {
        lab.index.read(read(n)).unwrap();
        lab.edit(move |w| read(n)(&w.c));
    }
    assert_eq!(lab.index.read(made).unwrap(), 0);
    assert_eq!(lab.edit(move |w| made(&w.c)), 0);
}
