//! Whose a remote's version is, when a file leaves its name and comes back, and another has the
//! name in between.

use super::*;

fn known(lab: &Lab, path: &str) {
    let (row, path) = (lab.put_row(path), key(path));
    lab.edit(move |w| w.sent(&row, &path, &Sent::Known, NOW));
}

fn owner(lab: &Lab, path: &str) -> Option<NodeId> {
    let remote = lab.remotes[0];
    let replica = lab.index.read(|c| node::replica(c, remote, &key(path)));
    replica.unwrap().unwrap().node
}

/// `a` went up, was renamed, and went up as `b`.
fn moved() -> (Lab, NodeId) {
    let lab = Lab::new(&[true]);
    let id = lab.write("a", 1);
    lab.published(&lab.put_row("a"), "a", 1);
    lab.rename("a", "b", false);
    (lab, id)
}

#[test]
fn p3_what_a_remote_has_already_belongs_to_the_file_that_came_back() {
    let (lab, id) = moved();
    lab.published(&lab.put_row("b"), "b", 2);
    lab.rename("b", "a", false);
    known(&lab, "a");
    assert_eq!((owner(&lab, "a"), owner(&lab, "b")), (Some(id), None));
    let node = lab.at("a").unwrap();
    assert_eq!(
        (node.dirty, node.origin),
        (0, Some((lab.remotes[0], version(1))))
    );
    // Another file under the name that it had meanwhile takes nothing of it.
    lab.write("b", 3);
    lab.published(&lab.put_row("b"), "b", 3);
    assert_eq!(lab.id("a"), id);
    assert!(lab.at("a").unwrap().held == Held::Whole);
}

#[test]
fn p5_what_was_known_to_be_there_and_is_there_no_more_is_sent() {
    let (lab, _) = moved();
    lab.published(&lab.put_row("b"), "b", 2);
    lab.rename("b", "a", false);
    let row = lab.put_row("a");
    lab.apply(0, &[put("a", 9)]);
    lab.edit(move |w| w.sent(&row, &key("a"), &Sent::Known, NOW));
    assert_eq!(lab.put_row("a").base, Some(version(1)));
}

#[test]
fn p3_a_file_that_came_back_is_not_what_was_sent_under_its_name_meanwhile() {
    for answered in [false, true] {
        let (lab, id) = moved();
        lab.write("a", 2);
        let row = lab.put_row("a");
        let (sending, hash) = (row.clone(), meta(2).sha256.unwrap());
        assert!(lab.edit(move |w| w.attempt(&sending, &key("a"), hash)));
        lab.rename("b", "a", false);
        match answered {
            true => lab.published(&row, "a", 2),
            false => drop(lab.apply(0, &[put("a", 2)])),
        }
        assert_eq!(lab.id("a"), id);
        assert_ne!(lab.at("a").unwrap().dirty, 0);
        // What it replaces is what it was, or what turned out to be there.
        let base = version(if answered { 2 } else { 1 });
        assert_eq!(lab.put_row("a").base, Some(base));
    }
}

#[test]
fn p5_what_was_sent_late_under_a_name_that_was_left_is_replaced_by_its_next_file() {
    for open in [false, true] {
        let lab = Lab::new(&[true]);
        lab.write("a", 1);
        lab.published(&lab.put_row("a"), "a", 1);
        lab.write("a", 2);
        let row = lab.put_row("a");
        lab.write("a", 3);
        lab.rename("a", "b", false);
        // Being written, or written already, when the answer comes.
        match open {
            true => drop(lab.edit(|w| w.create(&new(ROOT, "a", NodeKind::File), NOW))),
            false => drop(lab.write("a", 4)),
        }
        lab.published(&row, "a", 2);
        lab.write("a", 4);
        assert_eq!(lab.put_row("a").base, Some(version(2)));
        assert_ne!(owner(&lab, "a"), Some(lab.id("b")));
    }
}

#[test]
fn p5_what_another_made_of_it_before_the_answer_came_was_not_seen() {
    let lab = Lab::new(&[true]);
    let remote = lab.remotes[0];
    let cursor = |seq| Cursor {
        epoch: "e".into(),
        seq,
    };
    let at = |v: u64| Meta {
        revision: Some(crate::object::Revision {
            epoch: "e".into(),
            seq: v,
        }),
        ..meta(v)
    };
    lab.edit(move |w| w.listing_ends(remote, &cursor(0), NOW_MS));
    lab.write("a", 1);
    lab.published(&lab.put_row("a"), "a", 1);
    lab.write("a", 2);
    let row = lab.put_row("a");
    lab.rename("a", "b", false);
    lab.edit(|w| w.create(&new(ROOT, "a", NodeKind::File), NOW));
    let theirs = Change::Put(Object {
        key: key("a"),
        meta: at(9),
    });
    lab.apply(0, &[theirs]);
    let ours = at(2);
    lab.edit(move |w| w.sent(&row, &key("a"), &Sent::Published(ours), NOW));
    lab.write("a", 4);
    assert_eq!(lab.put_row("a").base, Some(version(2)));
}

#[test]
fn p3_a_file_renamed_to_a_name_that_stays_here_outlives_its_old_one() {
    for deleted in [false, true] {
        let lab = Lab::new(&[true]);
        let id = lab.write("a", 1);
        lab.published(&lab.put_row("a"), "a", 1);
        lab.edit(move |w| {
            w.rename(id, ROOT, &name("b.tmp"), None, NOW)?;
            w.requeue_moved(id, &key("a"), false, &|_| true, NOW_MS)
        });
        match deleted {
            true => drop(lab.apply(0, &[Change::Deleted(key("a"), None)])),
            false => {
                lab.write("a", 2);
                lab.published(&lab.put_row("a"), "a", 2);
            }
        }
        let node = lab.at("b.tmp").unwrap();
        assert!(node.id == id && node.dirty != 0 && node.origin.is_none());
    }
}

#[test]
fn p5_what_was_sent_last_is_ours_also_when_what_was_sent_before_turns_up_first() {
    let lab = Lab::new(&[true]);
    for n in [1, 2] {
        lab.write("a", n);
        let (row, hash) = (lab.put_row("a"), meta(n).sha256.unwrap());
        assert!(lab.edit(move |w| w.attempt(&row, &key("a"), hash)));
    }
    lab.rename("a", "b", false);
    lab.apply(0, &[put("a", 1)]);
    let (remote, hash) = (lab.remotes[0], |n| meta(n).sha256.unwrap());
    let is_ours = |n| {
        lab.index
            .read(|c| outbox::was_attempted(c, remote, &key("a"), hash(n)))
            .unwrap()
    };
    assert!(is_ours(2) && !is_ours(1));
    lab.write("a", 3);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
}
