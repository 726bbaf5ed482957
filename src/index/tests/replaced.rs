//! What becomes of the version that a local write was to replace, when the file is deleted or gets
//! another name before it went up.

use super::*;

/// What is to be deleted, and in which version; waiting for something or not.
fn deletes(lab: &Lab) -> Vec<(String, Option<Version>)> {
    let rows = |row: &rusqlite::Row<'_>| {
        let (key, base): (Vec<u8>, Option<String>) = (row.get(0).unwrap(), row.get(1).unwrap());
        let base = base.map(|base| Version::new(&base).unwrap());
        Ok((String::from_utf8(key).unwrap(), base))
    };
    let query = "SELECT key, base FROM outbox WHERE key IS NOT NULL ORDER BY key";
    lab.index.read(|c| node::rows(c, query, [], rows)).unwrap()
}

/// A version that was seen is written anew beside itself, and takes its name.
fn saved(lab: &Lab) {
    lab.apply(0, &[put("a", 1)]);
    lab.write("a~", 5);
    lab.rename("a~", "a", true);
}

fn deletion(name: &str, v: u64) -> (String, Option<Version>) {
    (name.to_owned(), Some(version(v)))
}

#[test]
fn p12_a_file_that_was_saved_over_another_is_deleted_there_if_told_to() {
    let lab = Lab::new(&[true]);
    saved(&lab);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.unlink("a", true);
    assert_eq!(deletes(&lab), [deletion("a", 1)]);
    lab.check_sums();
    // It does not hide what came meanwhile.
    let row = lab.ready().remove(0);
    lab.apply(0, &[put("a", 2)]);
    assert!(lab.at("a").is_none());
    assert!(lab.edit(move |w| w.deletion_lost(&row, &key("a"), NOW)));
    assert!(lab.at("a").is_some());
}

#[test]
fn p12_a_file_that_was_saved_over_another_takes_its_old_name_along() {
    let lab = Lab::new(&[true]);
    saved(&lab);
    lab.rename("a", "b", true);
    assert_eq!(deletes(&lab), [deletion("a", 1)]);
    // Whoever takes the name replaces it after all.
    lab.write("a", 6);
    assert_eq!(deletes(&lab), []);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.check_sums();
}

#[test]
fn p12_in_a_directory_that_is_renamed_what_was_saved_takes_its_old_name_along() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("d/a", 1), put("d/b", 2)]);
    let (dir, id) = (lab.id("d"), lab.write("new", 5));
    lab.edit(move |w| {
        w.rename(id, dir, &name("a"), None, NOW)?;
        w.requeue_moved(id, &key("new"), true, &|_| false, NOW_MS)
    });
    lab.rename("d", "e", true);
    assert_eq!(deletes(&lab), [deletion("d/a", 1), deletion("d/b", 2)]);
    lab.check_sums();
}

#[test]
fn p12_what_replaced_one_file_and_came_from_another_deletes_both() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1), put("b", 2)]);
    lab.rename("a", "b", true);
    lab.unlink("b", true);
    assert_eq!(deletes(&lab), [deletion("a", 1), deletion("b", 2)]);
}

#[test]
fn p12_a_new_file_under_a_name_that_another_left_is_deleted_and_so_is_what_it_left() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.rename("a", "b", true);
    lab.write("a", 5);
    assert_eq!(deletes(&lab), []);
    lab.unlink("a", true);
    // Not before the other is up, for its bytes are there.
    assert_eq!(deletes(&lab), [deletion("a", 1)]);
    assert!(lab.ready().iter().all(|row| row.base != Some(version(1))));
}

#[test]
fn p12_names_that_change_places_leave_nothing_to_delete() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1), put("b", 2)]);
    let (a, b) = (lab.id("a"), lab.id("b"));
    lab.edit(move |w| {
        w.exchange(a, b, NOW)?;
        w.requeue_moved(a, &key("a"), true, &|_| false, NOW_MS)?;
        w.requeue_moved(b, &key("b"), true, &|_| false, NOW_MS)
    });
    assert_eq!(deletes(&lab), []);
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    assert_eq!(lab.put_row("b").base, Some(version(2)));
}

#[test]
fn p7_what_was_to_be_replaced_is_shown_again_if_the_folder_has_it_no_more() {
    for uploads in [true, false] {
        let lab = Lab::new(&[uploads]);
        saved(&lab);
        let id = lab.id("a");
        lab.edit(move |w| w.not_held(id, NOW));
        assert_eq!(lab.at("a").unwrap().origin.unwrap().1, version(1));
        assert_eq!(deletes(&lab), []);
        lab.check_sums();
    }
}

#[test]
fn p7_what_was_edited_and_renamed_is_under_its_old_name_if_the_folder_has_it_no_more() {
    for propagate in [true, false] {
        let lab = Lab::new(&[true]);
        lab.apply(0, &[put("a", 1), put("b", 2)]);
        lab.hydrate("a");
        lab.write("a", 5);
        lab.rename("a", "b", propagate);
        let id = lab.id("b");
        lab.edit(move |w| w.not_held(id, NOW));
        let shown = |name| lab.at(name).unwrap().origin.unwrap().1;
        assert_eq!((shown("a"), shown("b")), (version(1), version(2)));
        assert_eq!((deletes(&lab), lab.ready().len()), (vec![], 0));
        lab.check_sums();
    }
}

#[test]
fn p7_a_file_made_anew_under_the_old_name_of_one_that_is_gone_goes_up() {
    let lab = Lab::new(&[true]);
    lab.apply(0, &[put("a", 1)]);
    lab.hydrate("a");
    lab.write("a", 5);
    lab.rename("a", "b", true);
    lab.write("a", 6);
    let id = lab.id("b");
    lab.edit(move |w| w.not_held(id, NOW));
    assert!(lab.at("b").is_none());
    assert_eq!(lab.put_row("a").base, Some(version(1)));
    lab.published(&lab.put_row("a"), "a", 2);
    assert_eq!((deletes(&lab), lab.ready().len()), (vec![], 0));
    assert_eq!(lab.at("a").unwrap().origin.unwrap().1, version(2));
    lab.check_sums();
}

#[test]
fn p7_what_one_remote_has_under_the_new_name_and_one_under_the_old_is_shown_under_both() {
    let lab = Lab::new(&[true, true]);
    lab.apply(0, &[put("a", 1)]);
    lab.apply(1, &[put("a", 1)]);
    lab.hydrate("a");
    lab.rename("a", "b", true);
    lab.published(&lab.put_row("b"), "b", 3);
    let is_delete = |r: &OutboxRow| r.operation == Operation::Delete(key("a"));
    let gone = lab.ready().into_iter().find(is_delete).unwrap();
    lab.edit(move |w| w.sent(&gone, &key("a"), &Sent::Deleted, NOW));
    let id = lab.write("b", 6);
    lab.edit(move |w| w.not_held(id, NOW));
    let shown = |name| lab.at(name).unwrap().origin.unwrap();
    assert_eq!(shown("b"), (lab.remotes[0], version(3)));
    assert_eq!(shown("a").0, lab.remotes[1]);
    assert_eq!((deletes(&lab), lab.ready().len()), (vec![], 0));
    lab.check_sums();
}
