//! Answers and news that overtake one another on their way from a remote.

use super::*;
use crate::object::{Cursor, Revision};

fn at(epoch: &str, seq: u64) -> Option<Revision> {
    Some(Revision {
        epoch: epoch.into(),
        seq,
    })
}

fn put_at(path: &str, v: u64, seq: u64) -> Change {
    Change::Put(Object {
        key: key(path),
        meta: meta_at(v, seq),
    })
}

fn meta_at(v: u64, seq: u64) -> Meta {
    Meta {
        revision: at("e", seq),
        arrival: None,
        ..meta(v)
    }
}

/// A remote that was listed at change 1 of the epoch `e`, and then had `a` in version 1.
fn listed() -> Lab {
    let lab = Lab::new(&[true]);
    lab.listed("e", 1);
    lab.apply(0, &[put_at("a", 1, 2)]);
    lab
}

impl Lab {
    fn listed(&self, epoch: &str, seq: u64) {
        let (remote, epoch) = (self.remotes[0], epoch.to_owned());
        self.edit(move |w| w.listing_ends(remote, &Cursor { epoch, seq }, NOW_MS));
    }

    fn published_at(&self, row: &OutboxRow, path: &str, v: u64, seq: u64) {
        let (row, path) = (row.clone(), key(path));
        self.edit(move |w| w.sent(&row, &path, &Sent::Published(meta_at(v, seq)), NOW));
    }
}

#[test]
fn p5_news_older_than_an_answer_do_not_bring_an_older_version_back() {
    let lab = listed();
    lab.write("a", 5);
    let id = lab.id("a");
    lab.published_at(&lab.put_row("a"), "a", 3, 7);
    // What the feed had on its way before the upload, another version and a deletion.
    for late in [
        put_at("a", 2, 5),
        Change::Deleted(key("a"), at("e", 6)),
        put_at("a", 1, 2),
    ] {
        let applied = lab.apply(0, &[late]);
        assert_eq!(applied, Applied::default());
    }
    let node = lab.at("a").unwrap();
    assert_eq!((node.id, node.held, node.dirty), (id, Held::Whole, 0));
    // What is written next replaces what went up.
    lab.write("a", 6);
    assert_eq!(lab.put_row("a").base, Some(version(3)));
    lab.check_sums();
}

#[test]
fn p8_an_answer_older_than_the_news_does_not_hide_the_newer_version() {
    for renamed in [false, true] {
        let lab = listed();
        if renamed {
            lab.write("tmp", 5);
            lab.rename("tmp", "a", false);
        } else {
            lab.write("a", 5);
        }
        let row = lab.put_row("a");
        // Ours went up as change 3; another mount's replaced it before we were told.
        lab.apply(0, &[put_at("a", 9, 4)]);
        lab.published_at(&row, "a", 3, 3);
        let node = lab.at("a").unwrap();
        assert_eq!(node.origin, Some((lab.remotes[0], version(9))));
        assert_eq!((node.size, node.dirty), (109, 0));
        assert_eq!(node.held, Held::Stale);
        lab.check_sums();
    }
}

#[test]
fn p5_written_again_after_anothers_version_is_a_conflict_to_come() {
    let lab = listed();
    lab.write("a", 5);
    let row = lab.put_row("a");
    lab.write("a", 6);
    lab.apply(0, &[put_at("a", 9, 4)]);
    lab.published_at(&row, "a", 3, 3);
    // Based on ours, which the remote has no more.
    assert_eq!(lab.put_row("a").base, Some(version(3)));
    assert_eq!(lab.at("a").unwrap().dirty, lab.put_row("a").generation);
}

#[test]
fn p8_numbers_of_another_life_of_the_remote_say_nothing() {
    let lab = listed();
    lab.apply(0, &[put_at("a", 2, 100)]);
    lab.listed("f", 3);
    let news = Change::Put(Object {
        key: key("a"),
        meta: Meta {
            revision: at("f", 4),
            arrival: None,
            ..meta(3)
        },
    });
    lab.apply(0, &[news]);
    assert_eq!(lab.at("a").unwrap().size, 103);
    // And an answer from a life that is not listed yet has no order, but is believed.
    lab.write("a", 5);
    let (row, answer) = (
        lab.put_row("a"),
        Meta {
            revision: at("g", 1),
            arrival: None,
            ..meta(4)
        },
    );
    lab.edit(move |w| w.sent(&row, &key("a"), &Sent::Published(answer), NOW));
    let node = lab.at("a").unwrap();
    assert_eq!(node.origin, Some((lab.remotes[0], version(4))));
}

#[test]
fn p12_an_upload_that_ends_after_its_file_was_deleted_is_deleted_too() {
    for propagate in [false, true] {
        let lab = listed();
        lab.write("a", 5);
        let (row, sending) = (lab.put_row("a"), lab.put_row("a"));
        let hash = meta(3).sha256.unwrap();
        assert!(lab.edit(move |w| w.attempt(&sending, &key("a"), hash)));
        lab.unlink("a", propagate);
        lab.published_at(&row, "a", 3, 3);
        assert!(lab.at("a").is_none());
        let asked: Vec<_> = lab.ready().into_iter().map(|r| r.base).collect();
        match propagate {
            true => assert_eq!(asked, [Some(version(3))]),
            false => assert!(asked.is_empty()),
        }
        // A file made anew replaces what went up.
        lab.write("a", 6);
        assert_eq!(lab.put_row("a").base, Some(version(3)));
        lab.check_sums();
    }
}

#[test]
fn p3_an_upload_ends_well_for_a_node_that_got_another_id_meanwhile() {
    let lab = listed();
    lab.write("a", 5);
    let (row, id) = (lab.put_row("a"), lab.id("a"));
    lab.edit(move |w| w.replace_id(id));
    lab.published_at(&row, "a", 3, 3);
    let node = lab.at("a").unwrap();
    assert_ne!(node.id, id);
    assert_eq!(node.dirty, 0);
    assert_eq!(node.origin, Some((lab.remotes[0], version(3))));
    assert!(lab.ready().is_empty());
    lab.check_sums();
}

#[test]
fn p4_of_files_that_move_together_none_was_queued_before_another() {
    let lab = Lab::new(&[true]);
    let (dir, files) = lab.edit(|w| {
        let dir = w.create(&new(ROOT, "run.tmp", NodeKind::Dir), NOW)?.id;
        let mut files = Vec::new();
        for n in 0..5 {
            let made = w
                .create(&new(dir, &format!("f{n}"), NodeKind::File), NOW)?
                .id;
            w.written(made, None, seen(n), n == 3, NOW_MS)?;
            files.push(made);
        }
        Ok((dir, files))
    });
    let queued = lab.put_row("run.tmp/f3");
    lab.rename("run.tmp", "run", false);
    let rows = lab.ready();
    assert_eq!(rows.len(), files.len());
    for row in &rows {
        assert!(rows.iter().all(|other| other.id < row.generation as i64));
        let Operation::Put(id) = row.operation else {
            panic!()
        };
        let node = lab.index.node(id).unwrap().unwrap();
        assert_eq!((node.parent, node.dirty), (dir, row.generation));
    }
    assert_eq!(lab.put_row("run/f3").id, queued.id);
}
