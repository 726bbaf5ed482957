//! Remotes that the mount has no more: a wrong address takes nothing away that is here.

use super::super::parting::{Parting, is_parting};
use super::*;

/// The mount has this remote now, and no other.
fn moved_to(lab: &mut Lab, url: &str, upload: bool) {
    let wanted = [(url.to_owned(), upload)];
    let rows = lab.edit(move |w| w.set_remotes(&wanted));
    lab.remotes = rows.iter().map(|row| row.id).collect();
}

fn part(lab: &Lab, are_listed: bool) -> Parting {
    lab.edit(move |w| w.part_with_some(100, are_listed, &|_| false, NOW))
}

fn is_left(lab: &Lab) -> bool {
    lab.index.read(is_parting).unwrap()
}

fn evictable(lab: &Lab) -> usize {
    let rows = lab.index.read(|c| holding::evictable(c, 100, 0));
    rows.unwrap().len()
}

#[test]
fn p12_names_of_a_remote_that_is_no_more_go_in_steps() {
    let mut lab = Lab::new(&[false, false]);
    lab.apply(0, &[put("a", 1), put("b", 1), put("c", 1)]);
    lab.apply(1, &[put("c", 1)]);
    moved_to(&mut lab, "http://r1", false);
    let part = |lab: &Lab| lab.edit(|w| w.part_with_some(2, true, &|_| false, NOW));
    assert!(part(&lab).more);
    lab.check_sums();
    assert!(!part(&lab).more);
    assert!(lab.at("a").is_none() && lab.at("b").is_none() && lab.at("c").is_some());
    assert_eq!(lab.index.read(remote::remotes).unwrap().len(), 1);
    assert!(!is_left(&lab));
    lab.check_sums();
}

#[test]
fn p3_what_is_held_of_a_remote_that_is_no_more_stays() {
    let mut lab = Lab::new(&[false]);
    lab.apply(
        0,
        &[
            put("far", 1),
            put("only", 1),
            put("both", 1),
            put("newer", 1),
        ],
    );
    for path in ["only", "both", "newer"] {
        lab.hydrate(path);
    }
    moved_to(&mut lab, "http://elsewhere", true);
    // It was not listed: what is only a name goes, and nothing else.
    assert_eq!(part(&lab, false), Parting::default());
    assert!(lab.at("far").is_none() && is_left(&lab));
    for path in ["only", "both", "newer"] {
        let node = lab.at(path).unwrap();
        assert_eq!((node.held, node.dirty), (Held::Whole, 0), "{path}");
    }
    // Nobody could bring it back.
    assert_eq!(evictable(&lab), 0);
    lab.apply(0, &[put("both", 1), put("newer", 2)]);
    assert_eq!(part(&lab, true).kept, 1);
    assert!(!is_left(&lab));
    lab.check_sums();
    let only = lab.at("only").unwrap();
    assert!(only.held == Held::Whole && only.dirty != 0 && only.origin.is_none());
    let row = lab.put_row("only");
    assert_eq!(
        (row.remote, row.base, row.generation),
        (lab.remotes[0], None, only.dirty)
    );
    let both = lab.at("both").unwrap();
    assert_eq!((both.held, both.dirty), (Held::Whole, 0));
    assert_eq!(both.origin.unwrap().0, lab.remotes[0]);
    assert_eq!(lab.at("newer").unwrap().held, Held::Stale);
    assert_eq!(lab.ready().len(), 1);
    let doomed = lab.index.read(|c| holding::doomed(c, 100)).unwrap();
    assert!(doomed.is_empty());
}

#[test]
fn p3_a_remote_that_comes_back_has_its_files_back() {
    let mut lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    moved_to(&mut lab, "http://typo", true);
    part(&lab, false);
    moved_to(&mut lab, "http://r0", true);
    assert_eq!(part(&lab, true), Parting::default());
    let node = lab.at("a").unwrap();
    assert_eq!(
        (node.held, node.dirty, lab.ready().len()),
        (Held::Whole, 0, 0)
    );
}

#[test]
fn p3_what_waits_for_a_remote_that_is_no_more_goes_to_those_that_there_are() {
    for was_upload in [true, false] {
        for is_upload in [true, false] {
            let mut lab = Lab::new(&[was_upload]);
            lab.write("a", 1);
            lab.write("left.tmp", 2);
            moved_to(&mut lab, "http://elsewhere", is_upload);
            let local_only = |path: &RelPath| path.to_string().ends_with(".tmp");
            lab.edit(move |w| w.part_with_some(100, true, &local_only, NOW));
            assert!(!is_left(&lab));
            // And to one that takes uploads only later.
            moved_to(&mut lab, "http://elsewhere", true);
            let rows = lab.ready();
            assert_eq!(rows.len(), 1, "{was_upload} {is_upload}");
            assert_eq!(rows[0].remote, lab.remotes[0]);
            assert_eq!(rows[0].generation, lab.at("a").unwrap().dirty);
        }
    }
}

#[test]
fn p3_what_was_written_without_uploads_goes_to_a_second_remote_that_takes_them() {
    let mut lab = Lab::new(&[false]);
    lab.write("a", 1);
    lab.set_remotes(&[false, true]);
    part(&lab, true);
    let rows = lab.ready();
    assert_eq!((rows.len(), rows[0].remote), (1, lab.remotes[1]));
    assert_eq!(rows[0].generation, lab.at("a").unwrap().dirty);
    lab.published(&rows[0], "a", 1);
    part(&lab, true);
    assert_eq!((lab.at("a").unwrap().dirty, lab.ready().len()), (0, 0));
}
