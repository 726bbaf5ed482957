//! Directories in memory and the news of commits under a scheduler: the same source, in one order of
//! its threads after another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{entry, name};
use crate::index::{Entry, Node, NodeId, ROOT, node, schema};
use crate::locks::scheduled as locks;
use crate::path::Name;
use locks::{Mutex, in_every_order, mpsc, thread};

#[path = "../names.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod names;
#[path = "../rows.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod rows;
#[path = "../told.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod told;

use names::{Changed, Look, Names};
use rows::Rows;
use told::{Event, Invalidation, Told};

/// A directory with one name, which is there in odd versions and says which; and what is in memory.
struct Directory {
    names: Names,
    version: Mutex<u64>,
    /// The version that somebody was told of.
    told: AtomicU64,
}

impl Directory {
    fn row(&self) -> Option<Entry> {
        let size = *self.version.lock().unwrap();
        (size % 2 == 1).then(|| Entry { size, ..entry() })
    }

    fn commit(&self, version: u64) {
        *self.version.lock().unwrap() = version;
        let changed = Changed::default();
        changed.lock().unwrap().push((ROOT, b"a".to_vec()));
        self.names.committed(&changed);
        self.told.store(version, Ordering::SeqCst);
    }

    fn take_in(&self) {
        if let Some(tick) = self.names.begin(ROOT) {
            let rows = self.row().map(|row| (name("a"), row));
            self.names.end(ROOT, tick, rows.into_iter().collect());
        }
    }

    /// Asks for the name as the index does, and looks at the answer.
    fn ask(&self) {
        let told = self.told.load(Ordering::SeqCst);
        let found = match self.names.child(ROOT, &name("a")) {
            Look::Known(found) => found,
            Look::Marked(tick) => {
                let found = self.row();
                self.names.learn(ROOT, &name("a"), tick, found);
                found
            }
            Look::Unknown(_) => self.row(),
        };
        let last = *self.version.lock().unwrap();
        let is_right = match found {
            Some(found) => (told..=last).contains(&found.size),
            None => (told..=last).any(|version| version % 2 == 0),
        };
        assert!(is_right, "{found:?} after {told} and before {last}");
    }
}

#[test]
fn p2_memory_says_what_was_committed_last() {
    in_every_order(|| {
        let directory = Arc::new(Directory {
            names: Names::new(),
            version: Mutex::new(0),
            told: AtomicU64::new(0),
        });
        let reader = |others: fn(&Directory)| {
            let directory = directory.clone();
            thread::spawn(move || {
                others(&directory);
                directory.ask();
                directory.ask();
            })
        };
        let readers = [
            reader(Directory::take_in),
            reader(Directory::take_in),
            reader(Directory::ask),
        ];
        for version in 1..=3 {
            directory.commit(version);
            directory.ask();
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        directory.take_in();
        directory.ask();
    });
}

/// A node whose size is its version, and what is in memory of it.
struct Row {
    rows: Rows,
    node: Node,
    version: Mutex<u64>,
}

impl Row {
    fn commit(&self, version: u64) {
        let changed = rows::Changed::default();
        changed.lock().unwrap().push(self.node.id);
        self.rows.changing(&changed);
        *self.version.lock().unwrap() = version;
        self.rows.changed();
    }

    /// Asks for the row as the index does, and looks at the answer.
    fn ask(&self) {
        let first = *self.version.lock().unwrap();
        let found = match self.rows.node(self.node.id) {
            rows::Look::Known(node) => node.size,
            rows::Look::Unknown(commits) => {
                let size = *self.version.lock().unwrap();
                let node = self.node.clone();
                self.rows.learn(&Node { size, ..node }, commits);
                size
            }
        };
        let last = *self.version.lock().unwrap();
        let is_right = (first..=last).contains(&found);
        assert!(is_right, "{found} after {first} and before {last}");
    }
}

#[test]
fn p2_a_row_in_memory_is_the_one_that_was_committed_last() {
    in_every_order(|| {
        let row = Arc::new(Row {
            rows: Rows::new(),
            node: Node::sample(NodeId(7)),
            version: Mutex::new(0),
        });
        let reader = || {
            let row = row.clone();
            thread::spawn(move || (0..3).for_each(|_| row.ask()))
        };
        let readers = [reader(), reader()];
        for version in 1..=3 {
            row.commit(version);
            row.ask();
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        row.ask();
    });
}

/// The writer, with what its rows say of two names.
struct Writer {
    told: Told,
    rows: [u64; 2],
}

impl Writer {
    fn commit(&mut self, version: u64) {
        let which = version as usize % 2;
        self.rows[which] = version;
        self.told.tell(vec![Invalidation {
            parent: ROOT,
            name: Name::new([b"a", b"b"][which]).unwrap(),
        }]);
    }
}

/// The kernel has somebody who wants to change its cache wait for a lookup under way, and that waits for
/// the writer: who therefore waits for neither.
#[test]
fn p8_whoever_caches_is_told_of_every_change_and_the_writer_waits_for_nobody() {
    in_every_order(|| {
        let (sender, events) = mpsc::sync_channel(1);
        let writer = Arc::new(Mutex::new(Writer {
            told: Told::to(sender),
            rows: [0; 2],
        }));
        let cache = Arc::new(Mutex::new([None; 2]));
        let notifier = {
            let cache = cache.clone();
            thread::spawn(move || {
                while let Ok(event) = events.recv() {
                    match event {
                        Event::Names(changed) => changed.iter().for_each(|changed| {
                            let which = usize::from(changed.name.as_bytes() == b"b");
                            cache.lock().unwrap()[which] = None;
                        }),
                        Event::Everything => *cache.lock().unwrap() = [None; 2],
                    }
                }
            })
        };
        let kernel = {
            let (cache, writer) = (cache.clone(), writer.clone());
            thread::spawn(move || {
                for which in [0, 1, 0, 1] {
                    let mut known = cache.lock().unwrap();
                    known[which].get_or_insert_with(|| writer.lock().unwrap().rows[which]);
                }
            })
        };
        for version in 1..=4 {
            writer.lock().unwrap().commit(version);
        }
        while writer.lock().unwrap().told.is_owed() {
            thread::yield_now();
            writer.lock().unwrap().told.tell(Vec::new());
        }
        kernel.join().unwrap();
        let rows = writer.lock().unwrap().rows;
        drop(writer);
        notifier.join().unwrap();
        let known = *cache.lock().unwrap();
        for (known, row) in known.into_iter().zip(rows) {
            assert!(known.is_none_or(|known| known == row), "{known:?}");
        }
    });
}
