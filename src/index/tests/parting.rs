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
    lab.apply(0, &[put("a", 1), put("far", 1)]);
    lab.hydrate("a");
    let id = lab.remotes[0];
    let (epoch, seq) = ("e".to_owned(), 7);
    lab.edit(move |w| w.listing_ends(id, &Cursor { epoch, seq }, 1));
    moved_to(&mut lab, "http://typo", true);
    part(&lab, false);
    moved_to(&mut lab, "http://r0", true);
    // What it had told counts for nothing by now: names of it were let go of.
    let row = &lab.index.read(remote::remotes).unwrap()[0];
    assert_eq!((row.id, row.listed_ms), (id, None));
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

#[test]
fn p3_what_is_held_stays_where_another_remote_is_in_its_place() {
    let lab = Lab::new(&[true]);
    let names = ["far", "held", "left.tmp", "newer", "sent"];
    lab.apply(0, &names.map(|name| put(name, 1)));
    for path in &names[1..] {
        lab.hydrate(path);
    }
    let (id, begun) = (lab.remotes[0], lab.edit(|w| w.listing_begins(RemoteId(1))));
    lab.write("sent", 2);
    let row = lab.put_row("sent");
    lab.published(&row, "sent", 2);
    let gone = |name: &str| Change::Deleted(key(name), None);
    let changes = [
        gone("far"),
        gone("held"),
        gone("left.tmp"),
        put("newer", 2),
        gone("sent"),
    ];
    let local_only = |path: &RelPath| path.to_string().ends_with(".tmp");
    lab.edit(move |w| w.apply_listing_of_another(id, &changes, begun, &local_only, NOW));
    lab.check_sums();
    assert!(lab.at("far").is_none());
    assert_eq!(lab.at("newer").unwrap().held, Held::Stale);
    // What went up since the listing began is at the one that is there.
    assert_eq!((lab.at("sent").unwrap().dirty, lab.ready().len()), (0, 1));
    let held = lab.at("held").unwrap();
    assert!(held.held == Held::Whole && held.origin.is_none());
    let row = lab.put_row("held");
    assert_eq!(
        (row.remote, row.base, row.generation),
        (id, None, held.dirty)
    );
    assert!(lab.at("left.tmp").unwrap().dirty != 0);
    let doomed = lab.index.read(|c| holding::doomed(c, 100)).unwrap();
    assert!(doomed.is_empty());
}

#[test]
fn p8_another_version_of_a_cache_shows_nothing_of_the_one_before() {
    let mut lab = Lab::new(&[true]);
    lab.apply(0, &[put("far", 1), put("held", 1), put("mine", 1)]);
    lab.hydrate("held");
    lab.hydrate("mine");
    lab.write("mine", 2);
    lab.write("new", 3);
    moved_to(&mut lab, "http://v2", true);
    let supersede = |url: &'static str| {
        let is_one = move |parked: &str| parked == url;
        lab.edit(move |w| w.supersede_some(2, &is_one, NOW))
    };
    assert!(!supersede("http://typo"));
    assert!(lab.at("far").is_some() && lab.at("held").is_some());
    assert!(supersede("http://r0"));
    assert!(!supersede("http://r0"));
    lab.check_sums();
    assert!(lab.at("far").is_none() && lab.at("held").is_none());
    assert_eq!(
        lab.index.read(|c| holding::doomed(c, 100)).unwrap().len(),
        1
    );
    // What was there only goes up to the new one.
    part(&lab, true);
    assert!(!is_left(&lab));
    let goes: Vec<_> = lab.ready().iter().map(|row| row.generation).collect();
    let wanted = ["mine", "new"].map(|path| lab.at(path).unwrap().dirty);
    assert_eq!((goes.len(), goes.contains(&wanted[0])), (2, true));
    assert!(goes.contains(&wanted[1]));
    lab.check_sums();
}
