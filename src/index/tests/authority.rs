//! Which of several remotes a file follows when an upload to a later one ended.

use super::*;
use crate::index::RemoteId;

impl Lab {
    /// The row that waits to put `path` to the remote of this number.
    fn put_row_to(&self, nth: usize, path: &str) -> OutboxRow {
        let (id, remote) = (self.id(path), self.remotes[nth]);
        let mine = |r: &OutboxRow| r.remote == remote && r.operation == Operation::Put(id);
        self.ready().into_iter().find(mine).unwrap()
    }

    /// The remote of this number has version `v` of another machine: ours was set aside.
    fn loses(&self, nth: usize, path: &str, v: u64) {
        let (id, remote) = (self.id(path), self.remotes[nth]);
        self.edit(move |w| w.conflicted(id, remote, &meta(v), NOW));
    }

    fn shown(&self, path: &str) -> (RemoteId, Version) {
        self.at(path).unwrap().origin.unwrap()
    }
}

#[test]
fn p8_what_the_first_remote_took_is_shown_though_a_later_one_has_another() {
    for heard in [false, true] {
        let lab = Lab::new(&[true, true]);
        lab.write("a", 5);
        lab.published(&lab.put_row_to(0, "a"), "a", 10);
        if heard {
            lab.apply(1, &[put("a", 2)]);
        }
        lab.loses(1, "a", 2);
        assert_eq!(lab.shown("a"), (lab.remotes[0], version(10)));
        let node = lab.at("a").unwrap();
        assert_eq!((node.size, node.held, node.dirty), (110, Held::None, 0));
        assert!(lab.ready().is_empty());
        // Whatever comes later from the second.
        lab.apply(1, &[put("a", 3)]);
        assert_eq!(lab.shown("a"), (lab.remotes[0], version(10)));
        lab.check_sums();
    }
}

#[test]
fn p8_what_the_first_remote_replaced_while_a_later_one_took_ours_is_shown() {
    let lab = Lab::new(&[true, true]);
    lab.write("a", 5);
    lab.published(&lab.put_row_to(0, "a"), "a", 10);
    let ours = lab.at("a").unwrap();
    lab.apply(0, &[put("a", 11)]);
    assert_eq!(lab.at("a").unwrap().id, ours.id);
    lab.published(&lab.put_row_to(1, "a"), "a", 20);
    let node = lab.at("a").unwrap();
    assert_eq!(node.origin, Some((lab.remotes[0], version(11))));
    assert_eq!((node.size, node.dirty), (111, 0));
    assert_ne!(node.id, ours.id);
    lab.check_sums();
}

/// The edit was not undone, it met another one.
#[test]
fn p8_what_was_edited_does_not_come_back_from_a_remote_that_takes_no_uploads() {
    for takes in [false, true] {
        let lab = Lab::new(&[takes, true]);
        lab.apply(0, &[put("a", 1)]);
        lab.apply(1, &[put("a", 1)]);
        lab.hydrate("a");
        lab.write("a", 5);
        lab.loses(1, "a", 2);
        let shown = match takes {
            true => (lab.remotes[0], version(1)),
            false => (lab.remotes[1], version(2)),
        };
        assert_eq!(lab.shown("a"), shown);
        // Until the first has another one.
        lab.apply(0, &[put("a", 3)]);
        assert_eq!(lab.shown("a"), (lab.remotes[0], version(3)));
        lab.check_sums();
    }
}

#[test]
fn p8_what_the_first_remote_takes_just_when_a_later_one_has_another_is_shown() {
    for answered in [true, false] {
        let lab = Lab::new(&[true, true]);
        lab.write("a", 5);
        let row = lab.put_row_to(0, "a");
        lab.begun(&row, "a");
        lab.loses(1, "a", 2);
        assert_eq!(lab.shown("a"), (lab.remotes[1], version(2)));
        if answered {
            lab.published(&row, "a", 10);
        } else {
            // The answer is lost, the news of it is not.
            lab.apply(0, &[put("a", 10)]);
        }
        assert_eq!(lab.shown("a"), (lab.remotes[0], version(10)));
        lab.apply(0, &[Change::Deleted(key("a"), None)]);
        assert_eq!(lab.shown("a"), (lab.remotes[1], version(2)));
        lab.check_sums();
    }
}

#[test]
fn p5_what_was_renamed_and_set_aside_leaves_its_old_name_at_every_remote() {
    let lab = Lab::new(&[true, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.apply(1, &[put("a", 1), put("b", 2)]);
    lab.hydrate("a");
    lab.unlink("b", false);
    lab.rename("a", "b", true);
    lab.loses(1, "b", 3);
    assert_eq!(lab.shown("b"), (lab.remotes[1], version(3)));
    assert!(lab.at("a").is_none());
    let waiting = lab.ready().into_iter().map(|r| (r.remote, r.operation));
    let deletion = |nth: usize| (lab.remotes[nth], Operation::Delete(key("a")));
    assert_eq!(waiting.collect::<Vec<_>>(), [deletion(0), deletion(1)]);
    lab.check_sums();
}

/// A name was deleted and taken again here; then ours met another's at the second remote.
#[test]
fn p8_what_the_first_remote_has_by_then_is_shown() {
    for news in [true, false] {
        let lab = Lab::new(&[true, true]);
        lab.apply(0, &[put("a", 1)]);
        lab.unlink("a", true);
        lab.write("a", 5);
        if news {
            lab.apply(0, &[put("a", 3)]);
        }
        lab.loses(1, "a", 2);
        let now = if news { 3 } else { 1 };
        assert_eq!(lab.shown("a"), (lab.remotes[0], version(now)));
        assert!(lab.ready().is_empty());
        lab.check_sums();
    }
}

/// The first takes no uploads: what was saved over stays hidden there until it is another.
#[test]
fn p8_what_was_saved_over_does_not_come_back_from_a_remote_that_takes_no_uploads() {
    let lab = Lab::new(&[false, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a~", 5);
    lab.rename("a~", "a", false);
    lab.loses(1, "a", 2);
    assert_eq!(lab.shown("a"), (lab.remotes[1], version(2)));
    lab.apply(1, &[Change::Deleted(key("a"), None)]);
    assert!(lab.at("a").is_none());
    lab.check_sums();
}

/// A name was saved over, the second remote has ours, and the folder has it no more.
#[test]
fn p7_what_did_not_go_up_to_the_first_remote_and_was_removed_by_hand_is_the_first_remotes() {
    let lab = Lab::new(&[true, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.write("a~", 5);
    lab.rename("a~", "a", true);
    lab.published(&lab.put_row_to(1, "a"), "a", 2);
    let id = lab.id("a");
    lab.edit(move |w| w.not_held(id, NOW));
    assert_eq!(lab.shown("a"), (lab.remotes[0], version(1)));
    assert!(lab.ready().is_empty());
    lab.check_sums();
}

/// A name was left by a file, and taken anew; then that one met another's at the second remote.
#[test]
fn p8_a_name_that_was_left_is_the_first_remotes_again_once_what_left_it_is_up() {
    let lab = Lab::new(&[true, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.apply(1, &[put("a", 1)]);
    lab.hydrate("a");
    lab.rename("a", "b", true);
    lab.write("a", 5);
    lab.loses(1, "a", 2);
    assert_eq!(lab.shown("a"), (lab.remotes[1], version(2)));
    let moved = lab.id("b");
    lab.published(&lab.put_row_to(0, "b"), "b", 10);
    assert_eq!(lab.shown("a"), (lab.remotes[0], version(1)));
    lab.published(&lab.put_row_to(1, "b"), "b", 20);
    assert_eq!((lab.id("b"), lab.ready().len()), (moved, 0));
    lab.check_sums();
}

/// Both machines renamed the same file.
#[test]
fn p12_the_old_name_goes_where_the_new_one_is_already_though_another_remote_waits() {
    let lab = Lab::new(&[true, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    lab.write("a", 5);
    lab.rename("a", "b", true);
    let ours = lab.at("b").unwrap();
    let mut like = meta(2);
    (like.size, like.mtime_ns, like.sha256) = (ours.size, ours.mtime_ns, None);
    let object = Object {
        key: key("b"),
        meta: like,
    };
    lab.apply(0, &[Change::Put(object)]);
    let waiting = lab.ready().into_iter().map(|r| (r.remote, r.operation));
    let expected = [
        (lab.remotes[0], Operation::Delete(key("a"))),
        (lab.remotes[1], Operation::Put(ours.id)),
    ];
    let mut waiting: Vec<_> = waiting.collect();
    waiting.sort_by_key(|(remote, _)| *remote);
    assert_eq!(waiting, expected);
    lab.check_sums();
}

/// The answer comes when the first remote has another's file of that name.
#[test]
fn p12_what_went_up_late_under_a_name_that_was_left_goes_there_though_another_has_the_name() {
    let lab = Lab::new(&[true, true]);
    lab.write("a", 5);
    lab.published(&lab.put_row_to(0, "a"), "a", 10);
    let late = lab.put_row_to(1, "a");
    lab.begun(&late, "a");
    lab.edit(|w| w.recall(&key("a")));
    lab.rename("a", "b", true);
    lab.published(&lab.put_row_to(0, "b"), "b", 11);
    let row = lab
        .ready()
        .into_iter()
        .find(|r| r.operation == Operation::Delete(key("a")));
    lab.edit(move |w| w.sent(&row.unwrap(), &key("a"), &Sent::Deleted, NOW));
    lab.apply(0, &[put("a", 3)]);
    assert_eq!(lab.shown("a"), (lab.remotes[0], version(3)));
    lab.published(&late, "a", 1);
    assert_eq!(lab.shown("a"), (lab.remotes[0], version(3)));
    let row = lab
        .ready()
        .into_iter()
        .find(|r| r.operation == Operation::Delete(key("a")));
    assert_eq!(row.unwrap().remote, lab.remotes[1]);
    lab.check_sums();
}
