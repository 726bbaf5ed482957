//! The rules of the edits, one by one, and the sums after any of them.

use std::sync::mpsc::{Receiver, sync_channel};

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::object::{Change, Cursor, Meta, Object, Sha256, Version};
use crate::path::Name;

const NOW: i64 = 1_700_000_000_000_000_000;
const NOW_MS: i64 = NOW / 1_000_000;

mod authority;
mod copied;
mod learn;
mod moved;
mod names;
mod order;
mod orders;
mod parting;
mod replaced;
mod rows;
mod turns;

struct Lab {
    dir: tempfile::TempDir,
    index: Index,
    events: Receiver<Event>,
    remotes: Vec<RemoteId>,
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

/// What a listing shows of an empty file.
fn entry() -> Entry {
    Entry {
        id: NodeId(7),
        kind: NodeKind::File,
        held: Held::None,
        size: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        mode: 0o644,
        uid: None,
        gid: None,
    }
}

impl Node {
    /// An empty file `a` at the top that nobody has written, and that is not here.
    pub fn sample(id: NodeId) -> Node {
        Node {
            id,
            parent: ROOT,
            name: Some(name("a")),
            kind: NodeKind::File,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            mode: 0o644,
            uid: None,
            gid: None,
            sha256: None,
            origin: None,
            held: Held::None,
            seen: None,
            dirty: 0,
            writing: Writing::No,
            touched: false,
            pinned: false,
        }
    }
}

fn version(v: u64) -> Version {
    Version::numbered(v)
}

/// Versions with equal numbers hold equal bytes.
fn meta(v: u64) -> Meta {
    Meta {
        size: 100 + v,
        mtime_ns: v as i64,
        version: version(v),
        sha256: Some(Sha256([v as u8; 32])),
        revision: None,
        arrival: None,
    }
}

fn put(path: &str, v: u64) -> Change {
    Change::Put(Object {
        key: key(path),
        meta: meta(v),
    })
}

fn seen(n: u64) -> Seen {
    Seen {
        size: n,
        mtime_ns: n as i64 * 10,
        ino: 1000 + n,
        ctime_ns: n as i64 * 10,
    }
}

fn new(parent: NodeId, path: &str, kind: NodeKind) -> NewNode {
    NewNode {
        parent,
        name: name(path),
        kind,
        mode: 0o644,
        uid: None,
        gid: None,
        size: 0,
        mtime_ns: 0,
    }
}

impl Lab {
    fn new(uploads: &[bool]) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = sync_channel(EVENTS);
        let (index, _) = Index::open(&dir.path().join("index.db"), sender).unwrap();
        let mut lab = Lab {
            dir,
            index,
            events,
            remotes: Vec::new(),
        };
        lab.set_remotes(uploads);
        lab
    }

    fn set_remotes(&mut self, uploads: &[bool]) {
        let wanted: Vec<_> = uploads
            .iter()
            .enumerate()
            .map(|(i, upload)| (format!("http://r{i}"), *upload))
            .collect();
        let rows = self.index.edit(move |w| w.set_remotes(&wanted)).unwrap();
        self.remotes = rows.iter().map(|r| r.id).collect();
    }

    fn reopened(self, uploads: &[bool]) -> Lab {
        self.index.close();
        let (sender, events) = sync_channel(EVENTS);
        let (index, _) = Index::open(&self.dir.path().join("index.db"), sender).unwrap();
        let mut lab = Lab {
            dir: self.dir,
            index,
            events,
            remotes: Vec::new(),
        };
        lab.set_remotes(uploads);
        lab
    }

    fn edit<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> T {
        self.index.edit(edit).unwrap()
    }

    fn apply(&self, remote: usize, changes: &[Change]) -> Applied {
        let (remote, changes) = (self.remotes[remote], changes.to_vec());
        self.edit(move |w| w.apply(remote, &changes, None, NOW))
    }

    fn at(&self, path: &str) -> Option<Node> {
        self.index.read(|c| node::resolve(c, &key(path))).unwrap()
    }

    fn id(&self, path: &str) -> NodeId {
        self.at(path).unwrap_or_else(|| panic!("no {path}")).id
    }

    /// A local file as a writer leaves it.
    fn write(&self, path: &str, n: u64) -> NodeId {
        let path = path.to_owned();
        match self.at(&path) {
            Some(node) => {
                self.edit(move |w| w.written(node.id, None, seen(n), true, NOW_MS));
                node.id
            }
            None => self.edit(move |w| {
                let node = w.create(&new(ROOT, &path, NodeKind::File), NOW)?;
                w.written(node.id, None, seen(n), true, NOW_MS)?;
                Ok(node.id)
            }),
        }
    }

    fn hydrate(&self, path: &str) {
        let node = self.at(path).unwrap();
        let (origin, n) = (node.origin.unwrap(), node.size);
        assert!(self.edit(move |w| w.hydrated(node.id, &origin, seen(n), None, NOW_MS)));
    }

    fn rename(&self, from: &str, to: &str, propagate: bool) {
        let (id, old, to) = (self.id(from), key(from), name(to));
        self.edit(move |w| {
            w.rename(id, ROOT, &to, None, NOW)?;
            w.requeue_moved(id, &old, propagate, &|_| false, NOW_MS)
        });
    }

    fn unlink(&self, path: &str, propagate: bool) {
        let id = self.id(path);
        self.edit(move |w| w.unlink(id, propagate, NOW));
    }

    /// Rows that may go now, settled ones.
    fn ready(&self) -> Vec<OutboxRow> {
        self.index
            .read(|c| outbox::ready(c, i64::MAX, 0, 1000))
            .unwrap()
    }

    fn put_row(&self, path: &str) -> OutboxRow {
        let id = self.id(path);
        self.ready()
            .into_iter()
            .find(|r| r.operation == Operation::Put(id))
            .unwrap_or_else(|| panic!("{path} is not queued"))
    }

    /// These bytes are about to be sent, as is noted of each upload before it begins.
    fn begun(&self, row: &OutboxRow, path: &str) {
        let (row, path) = (row.clone(), key(path));
        assert!(self.edit(move |w| w.attempt(&row, &path, Sha256([1; 32]))));
    }

    fn published(&self, row: &OutboxRow, path: &str, v: u64) {
        let (row, path) = (row.clone(), key(path));
        self.edit(move |w| w.sent(&row, &path, &Sent::Published(meta(v)), NOW));
    }

    fn told(&self) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Names(changed) = event {
                names.extend(changed.into_iter().map(|i| i.name.to_string()));
            }
        }
        names
    }

    fn check_sums(&self) {
        self.index
            .read(|c| {
                check_sums(c);
                Ok(())
            })
            .unwrap();
    }
}

/// The sums kept by triggers are those that counting gives.
fn check_sums(c: &Connection) {
    let count = |query: &str| -> i64 { c.query_row(query, [], |r| r.get(0)).unwrap() };
    let kept = holding::totals(c).unwrap();
    let files = "FROM nodes WHERE kind = 0";
    let counted = Totals {
        files: count(&format!("SELECT count(*) {files}")) as u64,
        bytes: count(&format!("SELECT coalesce(sum(size),0) {files}")) as u64,
        held_files: count(&format!("SELECT count(*) {files} AND held <> 0")) as u64,
        held_bytes: count(&format!(
            "SELECT coalesce(sum(seen_size),0) {files} AND held <> 0"
        )) as u64,
        dirty_files: count(&format!("SELECT count(*) {files} AND dirty <> 0")) as u64,
        dirty_bytes: count(&format!(
            "SELECT coalesce(sum(size),0) {files} AND dirty <> 0"
        )) as u64,
    };
    assert_eq!(kept, counted);
    for row in remote::remotes(c).unwrap() {
        let of = |what: &str| {
            count(&format!(
                "SELECT {what} FROM replicas WHERE remote = {}",
                row.id.0
            )) as u64
        };
        assert_eq!(row.files, of("count(*)"));
        assert_eq!(row.bytes, of("coalesce(sum(size),0)"));
        assert_eq!(row.hidden, of("coalesce(sum(node IS NULL),0)"));
    }
    let strays = count(
        "SELECT count(*) FROM nodes WHERE parent <> 0 AND parent NOT IN (SELECT id FROM nodes)",
    );
    assert_eq!(strays, 0, "nodes without a directory");
    let lost = count("SELECT count(*) FROM replicas WHERE node NOT IN (SELECT id FROM nodes)");
    assert_eq!(lost, 0, "replicas of no node");
    let lost = count("SELECT count(*) FROM outbox WHERE node NOT IN (SELECT id FROM nodes)");
    assert_eq!(lost, 0, "outbox rows of no node");
}

#[test]
fn p8_a_new_version_is_another_inode_and_the_kernel_is_told() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("d/a", 1)]);
    let old = lab.id("d/a");
    lab.hydrate("d/a");
    lab.told();
    lab.apply(0, &[put("d/a", 2)]);
    let node = lab.at("d/a").unwrap();
    assert_ne!(node.id, old);
    assert_eq!((node.size, node.held), (102, Held::Stale));
    assert_eq!(lab.told(), ["a"]);
    assert!(lab.index.node(old).unwrap().is_none());
    lab.check_sums();
}

#[test]
fn p8_the_same_bytes_in_another_version_keep_the_inode() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    let old = lab.id("a");
    let mut other = meta(1);
    other.version = version(9);
    lab.apply(
        0,
        &[Change::Put(Object {
            key: key("a"),
            meta: other,
        })],
    );
    let node = lab.at("a").unwrap();
    assert_eq!((node.id, node.held), (old, Held::Whole));
    assert_eq!(node.origin.unwrap().1, version(9));
}

#[test]
fn p1_a_hash_that_was_read_here_goes_with_the_bytes() {
    let lab = Lab::new(&[false]);
    let mut bare = meta(1);
    bare.sha256 = None;
    let object = Object {
        key: key("a"),
        meta: bare,
    };
    lab.apply(0, &[Change::Put(object)]);
    let id = lab.id("a");
    let read = Sha256([7; 32]);
    let note = |n| lab.edit(move |w| w.note_hash(id, seen(n), read));
    // Nothing is held, or not what was read.
    note(1);
    assert_eq!(lab.at("a").unwrap().sha256, None);
    lab.edit(move |w| w.adopt_clean(id, seen(1)));
    note(2);
    assert_eq!(lab.at("a").unwrap().sha256, None);
    note(1);
    assert_eq!(lab.at("a").unwrap().sha256, Some(read));
    // What comes from the remote is not held against it.
    lab.edit(move |w| w.not_held(id, NOW));
    assert_eq!(lab.at("a").unwrap().sha256, None);
    // A hash that the remote told stays.
    lab.apply(0, &[put("b", 2)]);
    lab.hydrate("b");
    let b = lab.id("b");
    lab.edit(move |w| w.not_held(b, NOW));
    assert_eq!(lab.at("b").unwrap().sha256, meta(2).sha256);
}

#[test]
fn p1_a_hash_that_is_learned_later_verifies_what_is_fetched() {
    let lab = Lab::new(&[false]);
    let mut bare = meta(1);
    bare.sha256 = None;
    let object = Object {
        key: key("a"),
        meta: bare,
    };
    lab.apply(0, &[Change::Put(object)]);
    assert_eq!(lab.at("a").unwrap().sha256, None);
    lab.apply(0, &[put("a", 1)]);
    assert_eq!(lab.at("a").unwrap().sha256, meta(1).sha256);
}

#[test]
fn p8_the_first_remote_is_the_authority_and_the_next_takes_over() {
    let lab = Lab::new(&[false, false]);
    lab.apply(1, &[put("a", 2)]);
    assert_eq!(lab.at("a").unwrap().size, 102);
    lab.apply(0, &[put("a", 1)]);
    assert_eq!(lab.at("a").unwrap().size, 101);
    lab.apply(1, &[put("a", 3)]);
    assert_eq!(lab.at("a").unwrap().size, 101);
    lab.apply(0, &[Change::Deleted(key("a"), None)]);
    assert_eq!(lab.at("a").unwrap().size, 103);
    lab.apply(1, &[Change::Deleted(key("a"), None)]);
    assert!(lab.at("a").is_none());
    lab.check_sums();
}

#[test]
fn p8_what_a_remote_deleted_is_doomed_with_its_empty_directories() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("d/e/a", 1), put("d/b", 1)]);
    lab.hydrate("d/e/a");
    lab.apply(0, &[Change::Deleted(key("d/e/a"), None)]);
    assert!(lab.at("d/e").is_none() && lab.at("d/b").is_some());
    let doomed = lab.index.read(|c| holding::doomed(c, 10)).unwrap();
    assert_eq!(doomed.len(), 1);
    assert_eq!(doomed[0].path, key("d/e/a"));
    let under = |p: &str| {
        lab.index
            .read(|c| holding::doomed_under(c, &key(p), 10))
            .unwrap()
            .len()
    };
    assert_eq!(
        (under("d"), under("d/e/a"), under("d/b"), under("")),
        (1, 1, 0, 1)
    );
    lab.edit(|w| w.doom_done(&key("d/e/a")));
    assert_eq!(under("d"), 0);
}

#[test]
fn p8_a_clean_file_that_is_open_for_writing_keeps_its_version_until_it_is_closed() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    let id = lab.id("a");
    lab.edit(move |w| w.set_writing(id, Writing::Open, NOW));
    lab.apply(0, &[put("a", 2)]);
    assert_eq!(lab.at("a").unwrap().size, 101);
    // Closed unchanged: it catches up.
    lab.edit(move |w| w.set_writing(id, Writing::No, NOW));
    assert_eq!(lab.at("a").unwrap().size, 102);
    // Being written beside the tree, the same.
    let id = lab.id("a");
    lab.edit(move |w| w.stage(7, id));
    lab.apply(0, &[put("a", 3)]);
    assert_eq!(lab.id("a"), id);
    lab.edit(move |w| w.abandon_staged(7, NOW));
    assert_eq!(lab.at("a").unwrap().size, 103);
}

#[test]
fn p8_a_writer_of_a_node_that_was_just_replaced_is_told_so() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    let old = lab.id("a");
    lab.apply(0, &[put("a", 2)]);
    let staged = lab.index.edit(move |w| w.stage(7, old)).unwrap_err();
    let opened = lab
        .index
        .edit(move |w| w.set_writing(old, Writing::Open, NOW))
        .unwrap_err();
    assert_eq!((staged.kind(), opened.kind()), (Kind::Stale, Kind::Stale));
}

#[test]
fn p5_a_write_is_based_on_the_version_that_was_here_when_it_began() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    let id = lab.id("a");
    lab.edit(move |w| w.stage(7, id));
    lab.apply(0, &[put("a", 2)]);
    lab.edit(move |w| w.close_staged(7, id, seen(5), true, NOW_MS));
    lab.edit(move |w| w.written(id, Some(7), seen(5), true, NOW_MS));
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    // Written once more: still the first base.
    lab.write("a", 6);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.check_sums();
}

#[test]
fn p13_taking_its_name_does_not_change_a_closed_file() {
    let lab = Lab::new(&[true]);
    let node = lab.edit(|w| w.create(&new(ROOT, "a", NodeKind::File), 0));
    let (id, closed) = (node.id, seen(5));
    lab.edit(move |w| w.stage(7, id));
    lab.edit(move |w| w.close_staged(7, id, closed, true, NOW_MS));
    // The disk's own time of change is that of the rename.
    let renamed = Seen {
        ctime_ns: closed.ctime_ns + 1000,
        ..closed
    };
    lab.edit(move |w| w.written(id, Some(7), renamed, true, NOW_MS));
    let node = lab.index.node(id).unwrap().unwrap();
    assert_eq!(node.ctime_ns, closed.ctime_ns);
    assert_eq!(node.seen, Some(renamed));
}

#[test]
fn p5_a_name_deleted_here_remembers_which_version_it_had() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.unlink("a", false);
    // Somebody makes a new version of what is hidden here; then the name is used here again.
    lab.apply(0, &[put("a", 2)]);
    assert!(lab.at("a").is_none());
    lab.write("a", 5);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
}

#[test]
fn p5_what_went_up_while_a_file_was_written_again_counts_as_seen() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a", 5);
    let row = lab.put_row("a");
    lab.write("a", 6);
    lab.published(&row, "a", 2);
    // Deleted and made anew: what is replaced is what went up, and no other's version.
    lab.unlink("a", false);
    lab.write("a", 7);
    assert_eq!(lab.put_row("a").base, Some(version(2)));
    // The same for a rename over it.
    let row = lab.put_row("a");
    lab.write("a", 8);
    lab.published(&row, "a", 3);
    lab.write("tmp", 9);
    lab.rename("tmp", "a", false);
    assert_eq!(lab.put_row("a").base, Some(version(3)));
    lab.check_sums();
}

#[test]
fn p5_a_file_renamed_over_a_dirty_one_takes_its_base() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a", 5);
    lab.apply(0, &[put("a", 2)]);
    lab.write("tmp", 6);
    lab.rename("tmp", "a", false);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    // The same where there was nothing at first.
    lab.write("b", 5);
    lab.apply(0, &[put("b", 2)]);
    lab.write("tmp", 6);
    lab.rename("tmp", "b", false);
    assert_eq!(lab.put_row("b").base, None);
    lab.check_sums();
}

#[test]
fn p5_a_rename_does_not_take_a_version_along_that_nobody_here_saw() {
    let lab = Lab::new(&[true]);
    lab.write("a", 5);
    lab.apply(0, &[put("a", 2)]);
    lab.rename("a", "b", true);
    assert!(
        lab.ready()
            .iter()
            .all(|r| r.operation == Operation::Put(lab.id("b")))
    );
    lab.write("a", 6);
    assert_eq!(lab.put_row("a").base, None);
}

#[test]
fn p5_deleting_deletes_only_the_version_that_was_seen() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a", 5);
    lab.apply(0, &[put("a", 2)]);
    lab.unlink("a", true);
    let row = &lab.ready()[0];
    assert_eq!(
        (&row.operation, &row.base),
        (&Operation::Delete(key("a")), &Some(version(1)))
    );
    // Never seen at all: hidden, not deleted.
    lab.write("b", 5);
    lab.apply(0, &[put("b", 2)]);
    lab.unlink("b", true);
    assert_eq!(lab.ready().len(), 1);
    lab.check_sums();
}

#[test]
fn p5_equal_bytes_are_adopted_and_others_stay_a_conflict_to_come() {
    let lab = Lab::new(&[true]);
    lab.write("same", 101);
    lab.write("other", 50);
    let mut like = meta(1);
    (like.size, like.mtime_ns) = (101, 1010);
    let object = Object {
        key: key("same"),
        meta: like,
    };
    lab.apply(0, &[Change::Put(object), put("other", 1)]);
    let (same, other) = (lab.at("same").unwrap(), lab.at("other").unwrap());
    assert_eq!((same.dirty, same.origin.unwrap().1), (0, version(1)));
    assert_ne!(other.dirty, 0);
    assert_eq!(lab.put_row("other").base, None);
    assert_eq!(lab.ready().len(), 1);
}

#[test]
fn p5_an_upload_that_ends_late_does_not_touch_anothers_row() {
    let lab = Lab::new(&[true]);
    lab.write("a", 5);
    let late = lab.put_row("a");
    lab.begun(&late, "a");
    lab.unlink("a", false);
    lab.write("b", 6);
    let row = lab.put_row("b");
    assert_ne!(row.id, late.id);
    lab.published(&late, "a", 1);
    assert_eq!(lab.put_row("b"), row);
    // What went up late is a whiteout: it was deleted here.
    assert!(lab.at("a").is_none());
    lab.check_sums();
}

#[test]
fn p5_a_file_changed_while_it_went_up_replaces_what_went_up() {
    let lab = Lab::new(&[true]);
    lab.write("a", 5);
    let row = lab.put_row("a");
    lab.write("a", 6);
    lab.published(&row, "a", 1);
    let node = lab.at("a").unwrap();
    assert_ne!(node.dirty, 0);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.rename("a", "b", false);
    lab.rename("b", "a", false);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.published(&lab.put_row("a"), "a", 2);
    assert_eq!(lab.at("a").unwrap().dirty, 0);
    assert!(lab.ready().is_empty());
}

#[test]
fn p3_a_file_that_may_not_leave_any_more_stays_dirty() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a", 5);
    let row = lab.put_row("a");
    lab.edit(move |w| w.sent(&row, &key("a"), &Sent::Moot, NOW));
    assert_ne!(lab.at("a").unwrap().dirty, 0, "else it could be evicted");
    assert!(
        lab.index
            .read(|c| holding::evictable(c, 10, 0))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn p5_a_file_renamed_over_one_that_went_up_meanwhile_replaces_what_went_up() {
    let lab = Lab::new(&[true]);
    lab.write("a", 1);
    let going = lab.put_row("a");
    lab.write("next", 2);
    lab.rename("next", "a", false);
    lab.published(&going, "a", 7);
    assert_eq!(lab.put_row("a").base, Some(version(7)));
}

#[test]
fn p5_what_was_sent_and_not_answered_is_ours_when_it_turns_up() {
    let lab = Lab::new(&[true]);
    let remote = lab.remotes[0];
    lab.write("a", 5);
    let hash = Sha256([1; 32]);
    let (row, mut stale) = (lab.put_row("a"), lab.put_row("a"));
    assert!(lab.edit(move |w| w.attempt(&row, &key("a"), hash)));
    // Not of a row that another upload's end has changed since it was read.
    stale.base = Some(version(8));
    assert!(!lab.edit(move |w| w.attempt(&stale, &key("a"), Sha256([2; 32]))));
    let tried = |hash| {
        lab.index
            .read(|c| outbox::was_attempted(c, remote, &key("a"), hash))
            .unwrap()
    };
    assert!(tried(hash) && !tried(Sha256([2; 32])));
    // Deleted here, and then it shows up: it stays deleted, and goes there too.
    lab.unlink("a", true);
    lab.apply(0, &[put("a", 1)]);
    assert!(lab.at("a").is_none());
    let row = &lab.ready()[0];
    assert_eq!(
        (&row.operation, &row.base),
        (&Operation::Delete(key("a")), &Some(version(1)))
    );
    // Somebody else's file of that name is another matter.
    lab.apply(0, &[Change::Deleted(key("a"), None)]);
    lab.apply(0, &[put("a", 3)]);
    assert!(lab.at("a").is_some());
    lab.check_sums();
}

/// The news of our own upload may come before its answer.
#[test]
fn p5_a_renamed_file_that_turns_up_at_the_remote_keeps_its_new_bytes() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    lab.write("a", 5);
    lab.rename("a", "b", true);
    let row = lab.put_row("b");
    let mut sent = meta(2);
    (sent.size, sent.mtime_ns) = (seen(5).size, seen(5).mtime_ns);
    let (id, object) = (lab.id("b"), (key("b"), sent.clone()));
    let (key_b, meta_b) = object.clone();
    let news = Change::Put(Object {
        key: key_b,
        meta: meta_b,
    });
    lab.apply(0, &[news]);
    let node = lab.at("b").unwrap();
    assert_eq!((node.id, node.size, node.held), (id, 5, Held::Whole));
    assert_eq!(node.origin, Some((lab.remotes[0], version(2))));
    // The old name goes there, and nothing of it comes back.
    assert!(lab.at("a").is_none());
    lab.edit(move |w| w.sent(&row, &object.0, &Sent::Published(object.1), NOW));
    assert_eq!(lab.at("b").unwrap(), node);
    let operations: Vec<_> = lab.ready().into_iter().map(|r| r.operation).collect();
    assert_eq!(operations, [Operation::Delete(key("a"))]);
    lab.check_sums();
}

/// The stored file was taken away by hand while it went up.
#[test]
fn p7_what_went_up_of_a_file_that_was_taken_away_is_seen() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    let id = lab.write("a", 5);
    let row = lab.put_row("a");
    lab.edit(move |w| w.not_held(id, NOW));
    assert_eq!(lab.at("a").unwrap().origin.unwrap().1, version(1));
    lab.published(&row, "a", 2);
    let node = lab.at("a").unwrap();
    assert_eq!((node.size, node.held), (102, Held::None));
    assert_eq!(node.origin.unwrap().1, version(2));
    lab.check_sums();
}

/// The first remote takes no uploads, the second has the edit: the first's version that was
/// edited here does not come back over it.
#[test]
fn p5_an_edit_that_the_second_remote_has_outlives_the_version_of_the_first() {
    let lab = Lab::new(&[false, true]);
    lab.apply(0, &[put("a", 1), put("b", 1)]);
    lab.hydrate("a");
    lab.write("a", 5);
    lab.published(&lab.put_row("a"), "a", 2);
    let node = lab.at("a").unwrap();
    assert_eq!(node.origin, Some((lab.remotes[1], version(2))));
    assert_eq!(node.dirty, 0);
    let same = |what: &str| {
        let now = lab.at("a").unwrap();
        assert_eq!(
            (now.id, now.size, now.held),
            (node.id, 5, Held::Whole),
            "{what}"
        );
    };
    // Whatever makes it look at its remotes again.
    lab.edit(move |w| w.set_writing(node.id, Writing::No, NOW));
    same("looked at again");
    let mut renamed = meta(1);
    renamed.version = version(7);
    lab.apply(
        0,
        &[Change::Put(Object {
            key: key("a"),
            meta: renamed,
        })],
    );
    same("the same bytes under another version");
    let mut touched = meta(2);
    touched.version = version(8);
    lab.apply(
        1,
        &[Change::Put(Object {
            key: key("a"),
            meta: touched,
        })],
    );
    assert_eq!(lab.at("a").unwrap().origin.unwrap().1, version(8));
    // What the first makes of it since is news.
    lab.apply(0, &[put("a", 3)]);
    assert_eq!(lab.at("a").unwrap().size, 103);
    // And where only the first has it left, it has what that has.
    lab.write("b", 5);
    lab.published(&lab.put_row("b"), "b", 2);
    lab.apply(1, &[Change::Deleted(key("b"), None)]);
    assert_eq!(lab.at("b").unwrap().size, 101);
    lab.check_sums();
}

/// While it was being edited the first remote made another version: that was not seen.
#[test]
fn p5_a_version_of_the_first_remote_that_was_not_seen_is_news() {
    let lab = Lab::new(&[false, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    let id = lab.id("a");
    lab.edit(move |w| w.set_writing(id, Writing::Open, NOW));
    lab.apply(0, &[put("a", 3)]);
    lab.write("a", 5);
    lab.edit(move |w| w.set_writing(id, Writing::No, NOW));
    lab.published(&lab.put_row("a"), "a", 2);
    lab.edit(move |w| w.set_writing(id, Writing::No, NOW));
    assert_eq!(lab.at("a").unwrap().size, 103);
    lab.check_sums();
}

#[test]
fn p12_a_whiteout_hides_until_it_is_restored() {
    let lab = Lab::new(&[false, false]);
    lab.apply(0, &[put("d/a", 1), put("d/b", 1)]);
    lab.apply(1, &[put("d/a", 2)]);
    lab.unlink("d/a", false);
    assert!(lab.at("d/a").is_none());
    lab.apply(0, &[put("d/a", 3)]);
    assert!(lab.at("d/a").is_none());
    lab.check_sums();
    let lab = lab.reopened(&[false, false]);
    assert!(lab.at("d/a").is_none());
    assert_eq!(lab.edit(|w| w.restore(&key("d"), NOW)), 2);
    let node = lab.at("d/a").unwrap();
    assert_eq!(node.size, 103);
    assert_eq!(
        lab.index
            .read(|c| node::replicas(c, node.id))
            .unwrap()
            .len(),
        2
    );
    lab.check_sums();
}

/// Deleted here unseen is not the same as hidden behind another kind of thing, which comes back
/// by itself.
#[test]
fn p12_what_was_deleted_unseen_stays_deleted_when_its_directory_empties() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("d/b", 1)]);
    let dir = lab.id("d");
    lab.edit(move |w| {
        let node = w.create(&new(dir, "a", NodeKind::File), NOW)?;
        w.written(node.id, None, seen(5), true, NOW_MS)
    });
    lab.apply(0, &[put("d/a", 2)]);
    lab.unlink("d/a", false);
    lab.apply(0, &[Change::Deleted(key("d/b"), None)]);
    assert!(lab.at("d/a").is_none());
    lab.check_sums();
}

#[test]
fn p12_a_deletion_that_found_its_version_is_not_lost_to_it() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    lab.write("a", 5);
    let row = lab.put_row("a");
    let hash = meta(2).sha256.unwrap();
    lab.edit(move |w| w.attempt(&row, &key("a"), hash));
    lab.unlink("a", true);
    let before = lab.ready().remove(0);
    // The remote refuses it, for it has what was sent; and that is heard of before the refusal is dealt with.
    lab.apply(0, &[put("a", 2)]);
    let lost = lab.edit(move |w| w.deletion_lost(&before, &key("a"), NOW));
    assert!(!lost && lab.at("a").is_none());
    let now = lab.ready().remove(0);
    assert_eq!(now.operation, Operation::Delete(key("a")));
    assert_eq!(now.base, Some(version(2)));
    // Another's version is shown.
    let lost = lab.edit(move |w| w.deletion_lost(&now, &key("a"), NOW));
    assert!(lost && lab.at("a").is_some() && lab.ready().is_empty());
    lab.check_sums();
}

#[test]
fn p12_restore_passes_over_names_that_are_in_use() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("a", 1), put("d/b", 1)]);
    lab.unlink("a", false);
    lab.unlink("d/b", false);
    let dir = lab.id("d");
    lab.edit(move |w| w.remove_dir(dir, NOW));
    lab.write("a", 5);
    lab.write("d", 5);
    assert_eq!(lab.edit(|w| w.restore(&RelPath::root(), NOW)), 0);
    assert_eq!(lab.at("a").unwrap().size, 5);
    lab.check_sums();
}

#[test]
fn p12_without_propagation_the_old_name_stays_at_the_remote_and_hidden_here() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.rename("a", "b", false);
    lab.published(&lab.put_row("b"), "b", 2);
    assert!(lab.at("a").is_none() && lab.ready().is_empty());
    lab.apply(0, &[put("a", 3)]);
    assert!(lab.at("a").is_none());
    assert_eq!(lab.at("b").unwrap().size, 101);
    lab.check_sums();
}

#[test]
fn p5_the_old_name_is_deleted_only_after_the_new_one_is_up() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.rename("a", "b", true);
    let id = lab.id("b");
    let ready = lab.ready();
    assert_eq!(ready.len(), 1, "{ready:?}");
    assert_eq!(ready[0].operation, Operation::Put(id));
    lab.published(&ready[0], "b", 2);
    let ready = lab.ready();
    assert_eq!(ready.len(), 1);
    assert_eq!(ready[0].operation, Operation::Delete(key("a")));
    let row = ready[0].clone();
    lab.edit(move |w| w.sent(&row, &key("a"), &Sent::Deleted, NOW));
    lab.apply(0, &[Change::Deleted(key("a"), None)]);
    assert!(lab.at("b").is_some());
    lab.check_sums();
}

#[test]
fn p5_a_renamed_file_outlives_its_old_name_at_the_remote() {
    for uploads in [true, false] {
        let lab = Lab::new(&[uploads]);
        lab.apply(0, &[put("a", 1)]);
        lab.hydrate("a");
        lab.rename("a", "b", false);
        lab.apply(0, &[Change::Deleted(key("a"), None)]);
        let node = lab.at("b").unwrap();
        assert_ne!(node.dirty, 0);
        assert_eq!((node.held, node.origin), (Held::Whole, None));
        lab.check_sums();
    }
}

#[test]
fn p5_what_a_remote_has_under_the_new_name_is_a_conflict_and_not_the_file() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("z", 1)]);
    lab.hydrate("z");
    lab.rename("z", "b", true);
    lab.apply(0, &[put("b", 2)]);
    let node = lab.at("b").unwrap();
    assert_eq!((node.size, node.held), (101, Held::Whole));
    let row = lab.put_row("b");
    assert_eq!(row.base, None);
    // Ours is set aside: theirs has the name, and the old name is hidden and may go.
    let remote = lab.remotes[0];
    lab.edit(move |w| w.conflicted(node.id, remote, &meta(2), NOW));
    let node = lab.at("b").unwrap();
    assert_eq!((node.size, node.held), (102, Held::None));
    assert!(lab.at("z").is_none());
    lab.apply(0, &[Change::Deleted(key("z"), None)]);
    assert_eq!(lab.at("b").unwrap().id, node.id);
    lab.check_sums();
}

#[test]
fn p12_renaming_a_directory_requeues_what_is_in_it() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("d/a", 1), put("d/e/b", 1)]);
    lab.rename("d", "x", false);
    assert_eq!(lab.ready().len(), 2);
    assert!(lab.at("d").is_none());
    assert_eq!(lab.at("x/e/b").unwrap().size, 101);
    assert!(lab.ready().iter().all(|r| r.base.is_none()));
    lab.rename("x", "d", false);
    assert!(lab.ready().iter().all(|r| r.base == Some(version(1))));
    lab.check_sums();
}

#[test]
fn p10_a_file_where_a_directory_has_the_name_and_the_other_way_about() {
    let lab = Lab::new(&[false]);
    lab.edit(|w| w.create(&new(ROOT, "d", NodeKind::Dir), NOW));
    lab.write("f", 5);
    let applied = lab.apply(0, &[put("d", 1), put("f/x", 1), put("ok", 1)]);
    assert_eq!(applied.refused, 0);
    assert_eq!(lab.at("d").unwrap().kind, NodeKind::Dir);
    assert!(lab.at("ok").is_some());
    let row = &lab.index.read(remote::remotes).unwrap()[0];
    assert_eq!((row.refused, row.hidden), (0, 2));
    // A file that takes the name replaces nothing that was seen.
    let dir = lab.id("d");
    lab.edit(move |w| w.remove_dir(dir, NOW));
    lab.write("d", 6);
    let id = lab.id("d").0 as i64;
    let base = lab
        .index
        .read(|c| {
            c.query_row("SELECT base FROM outbox WHERE node = ?1", [id], |r| {
                r.get::<_, Option<String>>(0)
            })
            .map_err(schema::sql)
        })
        .unwrap();
    assert_eq!(base, None);
    lab.check_sums();
}

/// A listing names what is new before what is gone.
#[test]
fn p8_a_name_that_becomes_another_kind_at_the_remote_is_followed() {
    let lab = Lab::new(&[false]);
    lab.apply(0, &[put("f", 1), put("d/e/a", 1), put("d/b", 1)]);
    lab.hydrate("f");
    lab.apply(0, &[put("d", 2), put("f/x/y", 2), put("f/z", 2)]);
    assert_eq!(lab.at("d").unwrap().kind, NodeKind::Dir);
    let gone = ["d/b", "d/e/a", "f"].map(|path| Change::Deleted(key(path), None));
    lab.apply(0, &gone);
    let kinds = ["d", "f", "f/x/y", "f/z"].map(|path| lab.at(path).map(|n| n.kind));
    let (file, dir) = (Some(NodeKind::File), Some(NodeKind::Dir));
    assert_eq!(kinds, [file, dir, file, file]);
    assert_eq!(lab.index.read(remote::remotes).unwrap()[0].hidden, 0);
    lab.check_sums();
}

#[test]
fn p8_a_listing_does_not_undo_what_went_up_since_it_began() {
    let lab = Lab::new(&[true]);
    let remote = lab.remotes[0];
    let begun = lab.edit(move |w| w.listing_begins(remote));
    lab.write("a", 5);
    lab.published(&lab.put_row("a"), "a", 1);
    lab.edit(move |w| w.apply_listing(remote, &[Change::Deleted(key("a"), None)], begun, NOW));
    assert!(lab.at("a").is_some());
    let begun = lab.edit(move |w| w.listing_begins(remote));
    lab.edit(move |w| w.apply_listing(remote, &[Change::Deleted(key("a"), None)], begun, NOW));
    assert!(lab.at("a").is_none());
}

#[test]
fn p3_generations_and_ids_go_on_after_a_restart() {
    let lab = Lab::new(&[true]);
    let id = lab.write("a", 5);
    let generation = lab.at("a").unwrap().dirty;
    let lab = lab.reopened(&[true]);
    let other = lab.write("b", 5);
    assert!(other > id && lab.at("b").unwrap().dirty > generation);
}

#[test]
fn p5_what_a_remote_makes_of_conditions_is_remembered() {
    let lab = Lab::new(&[true]);
    let known = |lab: &Lab, url: &'static str| {
        let read = lab.index.read(|c| habits::heeds_conditions(c, url));
        read.unwrap()
    };
    assert_eq!(known(&lab, "s3://a"), None);
    for heeds in [true, false] {
        let edited = lab
            .index
            .edit(move |w| w.set_heeds_conditions("s3://a", heeds));
        edited.unwrap();
        assert_eq!(known(&lab, "s3://a"), Some(heeds));
    }
    let lab = lab.reopened(&[true]);
    assert_eq!(
        (known(&lab, "s3://a"), known(&lab, "s3://b")),
        (Some(false), None)
    );
}

#[test]
fn p3_an_edit_that_fails_does_not_undo_its_neighbours() {
    let lab = Lab::new(&[false]);
    let index = &lab.index;
    std::thread::scope(|scope| {
        for n in 0..64 {
            scope.spawn(move || {
                let made = index.edit(move |w| {
                    w.create(&new(ROOT, &format!("f{n}"), NodeKind::Dir), NOW)?;
                    match n % 2 {
                        0 => Ok(()),
                        _ => Err(Error::new(Kind::Busy, "on purpose")),
                    }
                });
                assert_eq!(made.is_ok(), n % 2 == 0);
            });
        }
    });
    let found = lab
        .index
        .read(|c| node::children(c, ROOT, b"", 100))
        .unwrap();
    assert_eq!(found.len(), 32);
}

#[test]
fn p3_a_commit_that_fails_is_an_error_for_everyone_in_it() {
    let lab = Lab::new(&[false]);
    let blocker = Connection::open(lab.dir.path().join("index.db")).unwrap();
    lab.edit(|w| {
        w.c.execute_batch("PRAGMA busy_timeout = 20")
            .map_err(schema::sql)
    });
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failed = lab
        .index
        .edit(|w| w.create(&new(ROOT, "a", NodeKind::Dir), NOW));
    assert_eq!(failed.unwrap_err().kind(), Kind::Busy);
    blocker.execute_batch("ROLLBACK").unwrap();
    assert!(lab.at("a").is_none());
    lab.edit(|w| w.create(&new(ROOT, "a", NodeKind::Dir), NOW));
    assert!(lab.at("a").is_some());
}

#[test]
fn p8_a_cursor_is_kept_with_its_facts() {
    let lab = Lab::new(&[false]);
    let remote = lab.remotes[0];
    let cursor = Cursor {
        epoch: "e".into(),
        seq: 7,
    };
    let kept = cursor.clone();
    lab.edit(move |w| w.apply(remote, &[put("a", 1)], Some(&kept), NOW));
    let lab = lab.reopened(&[false]);
    assert_eq!(
        lab.index.read(remote::remotes).unwrap()[0].cursor,
        Some(cursor)
    );
}

#[test]
fn p13_a_time_set_on_purpose_travels_and_a_newer_file_settles_it() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    let id = lab.id("a");
    let attrs = Attrs {
        mtime_ns: Some(77),
        ..Attrs::default()
    };
    let node = lab.edit(move |w| w.set_attrs(id, attrs, true, NOW));
    assert!(node.touched && node.dirty == 0 && node.mtime_ns == 77);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.apply(0, &[put("a", 2)]);
    assert!(lab.ready().is_empty());
    assert!(!lab.at("a").unwrap().touched);
}

/// One step of the random walk: who does what to which of few names.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize, u64),
    Gone(usize, usize),
    Write(usize, u64),
    Unlink(usize, bool),
    Rename(usize, usize, bool),
    Hydrate(usize),
    Evict(usize),
    Send(usize, u64),
    Touch(usize),
    Conflict(usize, u64),
    Restore,
    Forget,
}

const PATHS: [&str; 6] = ["a", "b", "c", "d/x", "d/y", "e/z"];

fn step() -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    let top = 0..3usize;
    prop_oneof![
        4 => (0..2usize, path.clone(), 1..9u64).prop_map(|(r, p, v)| Step::Put(r, p, v)),
        2 => (0..2usize, path.clone()).prop_map(|(r, p)| Step::Gone(r, p)),
        4 => (top.clone(), 1..9u64).prop_map(|(p, n)| Step::Write(p, n)),
        2 => (path.clone(), any::<bool>()).prop_map(|(p, d)| Step::Unlink(p, d)),
        3 => (path.clone(), top, any::<bool>()).prop_map(|(p, t, d)| Step::Rename(p, t, d)),
        3 => path.clone().prop_map(Step::Hydrate),
        2 => path.clone().prop_map(Step::Evict),
        4 => (0..4usize, 10..19u64).prop_map(|(r, v)| Step::Send(r, v)),
        1 => path.clone().prop_map(Step::Touch),
        1 => (path, 20..29u64).prop_map(|(p, v)| Step::Conflict(p, v)),
        1 => Just(Step::Restore),
        1 => Just(Step::Forget),
    ]
}

impl Lab {
    fn walk(&self, step: &Step) {
        let at = |p: &usize| self.at(PATHS[*p]).filter(|n| n.kind == NodeKind::File);
        match step {
            Step::Put(r, p, v) => drop(self.apply(*r, &[put(PATHS[*p], *v)])),
            Step::Gone(r, p) => drop(self.apply(*r, &[Change::Deleted(key(PATHS[*p]), None)])),
            Step::Write(p, n) => drop(self.write(PATHS[*p], *n)),
            Step::Unlink(p, d) if at(p).is_some() => self.unlink(PATHS[*p], *d),
            Step::Rename(p, t, d) if at(p).is_some() => self.rename(PATHS[*p], PATHS[*t], *d),
            Step::Hydrate(p) if at(p).is_some_and(|n| n.dirty == 0 && n.origin.is_some()) => {
                self.hydrate(PATHS[*p]);
            }
            Step::Evict(p) => {
                let id = at(p).map(|n| n.id);
                let may = self.index.read(|c| holding::evictable(c, 100, 0)).unwrap();
                if let Some(node) = may.into_iter().find(|n| Some(n.id) == id) {
                    assert_eq!(node.dirty, 0);
                    self.edit(move |w| w.not_held(node.id, NOW));
                }
            }
            Step::Send(n, v) => {
                if let Some(row) = self.ready().get(*n).cloned() {
                    let (path, how) = match &row.operation {
                        Operation::Put(id) => (
                            self.index.path_of(*id).unwrap().unwrap(),
                            Sent::Published(meta(*v)),
                        ),
                        Operation::Delete(key) => (key.clone(), Sent::Deleted),
                    };
                    self.edit(move |w| w.sent(&row, &path, &how, NOW));
                }
            }
            Step::Touch(p) => {
                if let Some(node) = at(p) {
                    let attrs = Attrs {
                        mtime_ns: Some(node.mtime_ns + 1),
                        ..Attrs::default()
                    };
                    self.edit(move |w| w.set_attrs(node.id, attrs, true, NOW));
                }
            }
            Step::Conflict(p, v) => {
                if let Some(node) = at(p).filter(|n| n.dirty != 0) {
                    let (remote, theirs) = (self.remotes[0], meta(*v));
                    self.edit(move |w| w.conflicted(node.id, remote, &theirs, NOW));
                }
            }
            Step::Restore => drop(self.edit(|w| w.restore(&RelPath::root(), NOW))),
            Step::Forget => drop(self.edit(|w| w.part_with_some(10, true, &|_| false, NOW))),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn p9_sums_are_those_that_counting_gives(steps in proptest::collection::vec(step(), 1..60)) {
        let lab = Lab::new(&[true, true]);
        for step in &steps {
            lab.walk(step);
            lab.check_sums();
            // Dirty means that something waits, or that the bytes are nowhere else.
            let stuck: i64 = lab.index.read(|c| c.query_row(
                "SELECT count(*) FROM nodes n WHERE kind = 0 AND dirty = 0 AND held = 0 AND origin IS NOT NULL
                 AND NOT EXISTS(SELECT 1 FROM replicas r WHERE r.node = n.id)", [], |r| r.get(0))
                .map_err(schema::sql)).unwrap();
            prop_assert_eq!(stuck, 0, "a clean file that nobody has, after {:?}", step);
        }
    }
}
