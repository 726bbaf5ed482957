//! What a bucket's listing leaves out, and how it is learned.

use super::*;
use crate::index::learn::rough;
use crate::object::Arrival;

const SECOND: i64 = 1_000_000_000;

/// `a` in version `v` as a listing tells it: it arrived at `at` seconds.
fn listed(v: u64, at: i64) -> Meta {
    told(v, at, at * SECOND, true)
}

fn told(v: u64, at: i64, mtime_ns: i64, only: bool) -> Meta {
    Meta {
        mtime_ns,
        sha256: None,
        arrival: Some(Arrival {
            at_ns: at * SECOND,
            only,
        }),
        ..meta(v)
    }
}

impl Lab {
    fn apply_meta(&self, remote: usize, meta: Meta) {
        let object = Object {
            key: key("a"),
            meta,
        };
        self.apply(remote, &[Change::Put(object)]);
    }

    fn rough(&self, remote: usize) -> usize {
        let id = self.remotes[remote];
        self.index.read(|c| rough(c, id, 10)).unwrap().len()
    }
}

#[test]
fn p13_the_writers_time_is_learned_once_and_told() {
    let lab = Lab::new(&[false]);
    lab.apply_meta(0, listed(1, 50));
    let id = lab.id("a");
    assert_eq!(
        (lab.at("a").unwrap().mtime_ns, lab.rough(0)),
        (50 * SECOND, 1)
    );
    lab.told();
    // The object tells its arrival to the second; a listing may be finer.
    lab.apply_meta(0, told(1, 50, 7, false));
    assert_eq!((lab.at("a").unwrap().mtime_ns, lab.rough(0)), (7, 0));
    assert_eq!(lab.told(), ["a"]);
    assert_eq!(lab.id("a"), id);
    lab.apply_meta(0, listed(1, 50));
    assert_eq!((lab.at("a").unwrap().mtime_ns, lab.rough(0)), (7, 0));
    let lab = lab.reopened(&[false]);
    assert_eq!((lab.at("a").unwrap().mtime_ns, lab.rough(0)), (7, 0));
}

#[test]
fn p13_equal_bytes_that_came_again_may_have_another_time() {
    let lab = Lab::new(&[false]);
    lab.apply_meta(0, told(1, 50, 7, false));
    lab.hydrate("a");
    let id = lab.id("a");
    lab.apply_meta(0, listed(1, 60));
    // Until it is learned the last known time stands.
    assert_eq!((lab.at("a").unwrap().mtime_ns, lab.rough(0)), (7, 1));
    lab.apply_meta(0, told(1, 60, 8, false));
    let node = lab.at("a").unwrap();
    assert_eq!((node.mtime_ns, lab.rough(0)), (8, 0));
    assert_eq!((node.id, node.held), (id, Held::Whole));
}

#[test]
fn p13_what_went_up_from_here_need_not_be_asked_for() {
    let lab = Lab::new(&[true]);
    lab.write("a", 5);
    lab.published(&lab.put_row("a"), "a", 3);
    let before = lab.at("a").unwrap();
    lab.apply_meta(0, listed(3, 60));
    let after = lab.at("a").unwrap();
    assert_eq!((after.mtime_ns, after.id), (before.mtime_ns, before.id));
    assert_eq!(lab.rough(0), 0);
}

#[test]
fn p8_a_file_waits_for_what_its_first_remote_has_to_be_learned() {
    let lab = Lab::new(&[false, false]);
    let lan = Meta {
        mtime_ns: 7,
        sha256: None,
        ..meta(1)
    };
    lab.apply_meta(1, lan);
    lab.hydrate("a");
    let id = lab.id("a");
    let bucket = |mtime_ns, only| Meta {
        version: version(9),
        ..told(1, 50, mtime_ns, only)
    };
    // The first remote lists a file of the same length: it may be the same, and is not fetched again.
    lab.apply_meta(0, bucket(50 * SECOND, true));
    assert_eq!((lab.id("a"), lab.at("a").unwrap().held), (id, Held::Whole));
    lab.apply_meta(0, bucket(7, false));
    let node = lab.at("a").unwrap();
    assert_eq!((node.id, node.held), (id, Held::Whole));
    assert_eq!(node.origin, Some((lab.remotes[0], version(9))));
    // Another length is another file, whatever its time; so is a new version of the same remote.
    lab.apply_meta(0, listed(2, 70));
    assert_ne!(lab.id("a"), id);
}

#[test]
fn p8_a_new_version_of_the_same_remote_does_not_wait() {
    let lab = Lab::new(&[false]);
    lab.apply_meta(0, told(1, 50, 7, false));
    let id = lab.id("a");
    let next = Meta {
        version: version(2),
        ..listed(1, 60)
    };
    lab.apply_meta(0, next);
    assert_ne!(lab.id("a"), id);
    assert_eq!(
        lab.at("a").unwrap().origin,
        Some((lab.remotes[0], version(2)))
    );
}
