//! The end of copies that the remote made of what nobody here has read.

use super::*;

/// Version `v` in another object: its own name for the same bytes, whose hash nobody knows.
fn copy_of(v: u64, called: u64) -> Meta {
    Meta {
        version: version(called),
        sha256: None,
        ..meta(v)
    }
}

fn foreign(path: &str, v: u64) -> Change {
    Change::Put(Object {
        key: key(path),
        meta: copy_of(v, v),
    })
}

/// `a`, never read, was renamed to `b`, and its copy was asked for.
fn asked(uploads: &[bool], propagate: bool) -> (Lab, OutboxRow) {
    let lab = Lab::new(uploads);
    lab.apply(0, &[foreign("a", 1)]);
    lab.rename("a", "b", propagate);
    let id = lab.id("b");
    let is_ours = |r: &OutboxRow| r.operation == Operation::Put(id) && r.remote == lab.remotes[0];
    let row = lab.ready().into_iter().find(is_ours).unwrap();
    let (sent, looks) = (row.clone(), Sha256::stand_in(&version(1), meta(1).size));
    assert!(lab.edit(move |w| w.attempt(&sent, &key("b"), looks)));
    (lab, row)
}

impl Lab {
    fn copied(&self, row: &OutboxRow, v: u64, called: u64) {
        let (row, sent) = (row.clone(), Sent::Copied(copy_of(v, called), version(v)));
        self.edit(move |w| w.sent(&row, &key("b"), &sent, NOW));
    }

    fn replica(&self, path: &str) -> Option<Replica> {
        let found = self
            .index
            .read(|c| node::replica(c, self.remotes[0], &key(path)));
        found.unwrap()
    }
}

#[test]
fn p14_a_copy_makes_an_unread_file_clean_under_its_new_name() {
    for called in [1, 7] {
        let (lab, row) = asked(&[true], true);
        let id = lab.id("b");
        lab.copied(&row, 1, called);
        let node = lab.at("b").unwrap();
        assert_eq!((node.id, node.held, node.dirty), (id, Held::None, 0));
        assert_eq!(node.origin, Some((lab.remotes[0], version(called))));
        // What is left to do is to delete the old name.
        let left: Vec<_> = lab.ready().into_iter().map(|r| r.operation).collect();
        assert_eq!(left, [Operation::Delete(key("a"))]);
        // The next listing has nothing new.
        lab.apply(0, &[foreign("a", 1)]);
        assert_eq!(lab.at("b").unwrap().id, id);
        assert!(lab.at("a").is_none());
        lab.check_sums();
    }
}

#[test]
fn p8_a_version_that_came_while_an_older_one_was_copied_is_shown_and_goes_up() {
    let (lab, row) = asked(&[true], false);
    lab.apply(0, &[foreign("a", 2)]);
    lab.copied(&row, 1, 1);
    let node = lab.at("b").unwrap();
    assert_eq!(node.origin, Some((lab.remotes[0], version(2))));
    assert_eq!(node.size, meta(2).size);
    // It is still where it was, and goes up over the older copy.
    assert_eq!(lab.replica("a").unwrap().node, Some(node.id));
    assert_eq!(lab.put_row("b").base, Some(version(1)));
    let row = lab.put_row("b");
    lab.copied(&row, 2, 2);
    assert_eq!(lab.ready(), []);
    assert_eq!(
        lab.at("b").unwrap().origin,
        Some((lab.remotes[0], version(2)))
    );
    assert_eq!(lab.replica("a").unwrap().node, None);
    lab.check_sums();
}

#[test]
fn p12_a_copy_of_what_was_deleted_here_meanwhile_is_hidden_and_deleted_if_told_to() {
    for called in [1, 7] {
        for propagate in [false, true] {
            let (lab, row) = asked(&[true], propagate);
            lab.unlink("b", propagate);
            lab.copied(&row, 1, called);
            assert!(lab.at("b").is_none());
            assert_eq!(lab.replica("b").unwrap().node, None);
            let deleted = lab.ready().into_iter().map(|r| r.operation);
            let deletes_b = deleted
                .into_iter()
                .any(|o| o == Operation::Delete(key("b")));
            assert_eq!(deletes_b, propagate);
            lab.check_sums();
        }
    }
}

#[test]
fn p12_a_copy_whose_source_was_deleted_there_meanwhile_is_shown() {
    // The answer comes.
    let (lab, row) = asked(&[true], false);
    lab.apply(0, &[Change::Deleted(key("a"), None)]);
    assert!(lab.at("b").is_none());
    lab.copied(&row, 1, 7);
    assert_eq!(
        lab.at("b").unwrap().origin,
        Some((lab.remotes[0], version(7)))
    );
    lab.check_sums();
    // It is lost, and a listing has both.
    let (lab, _) = asked(&[true], false);
    lab.apply(0, &[Change::Deleted(key("a"), None), foreign("b", 1)]);
    assert!(lab.at("b").is_some());
    lab.check_sums();
}

#[test]
fn p3_a_copy_at_one_remote_leaves_the_other_waiting() {
    let (lab, row) = asked(&[true, true], false);
    let id = lab.id("b");
    lab.copied(&row, 1, 7);
    let node = lab.at("b").unwrap();
    assert_eq!(node.id, id);
    assert_eq!(node.origin, Some((lab.remotes[0], version(7))));
    lab.apply(
        0,
        &[Change::Put(Object {
            key: key("b"),
            meta: copy_of(1, 7),
        })],
    );
    assert_eq!(lab.at("b").unwrap().id, id);
    assert_eq!(lab.put_row("b").remote, lab.remotes[1]);
    lab.check_sums();
}
