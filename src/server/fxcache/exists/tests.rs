//! What is answered of files before and after everything was seen.

use super::*;
use crate::clock::Clock;
use crate::index::served::{Index, LEGACY_NAME, Note};
use crate::server::root::Root;

fn tree(dir: &std::path::Path) -> Tree {
    let root = Root::open(dir).unwrap();
    let index = Index::open(&root.path().join("serve.db"), Clock::System).unwrap();
    Tree::new(root, index, Clock::System)
}

fn named(path: &str) -> Vec<Named> {
    vec![Named::new(path).unwrap()]
}

/// An index of another server that says of `TB/old.pkl` that it has 5 bytes.
fn left(dir: &std::path::Path) -> Option<Legacy> {
    let db = rusqlite::Connection::open(dir.join(LEGACY_NAME)).unwrap();
    db.execute_batch(
        "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime REAL NOT NULL);
         INSERT INTO files VALUES ('TB/old.pkl', 5, 1.5), ('TB/gone.pkl', 5, 1.5);",
    )
    .unwrap();
    drop(db);
    Legacy::open(dir).unwrap()
}

#[test]
fn p2_before_the_first_scan_the_disk_answers_and_hearsay_where_it_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, legacy) = (tree(dir.path()), left(dir.path()));
    std::fs::create_dir(dir.path().join("TB")).unwrap();
    std::fs::write(dir.path().join("TB/old.pkl"), vec![0; 17]).unwrap();
    let ask = |path, looking| {
        let answers = from_all(&tree, legacy.as_ref(), named(path), looking).unwrap();
        answers[0].1.map(|known| known.size)
    };
    // No time to look: what the other server knew, right or not.
    assert_eq!(ask("TB/old.pkl", Duration::ZERO), Some(5));
    assert_eq!(ask("TB/gone.pkl", Duration::ZERO), Some(5));
    assert_eq!(ask("TB/new.pkl", Duration::ZERO), None);
    // With time, the truth; and what was seen once is known from then on.
    assert_eq!(ask("TB/old.pkl", LOOKING), Some(17));
    assert_eq!(ask("TB/gone.pkl", LOOKING), None);
    assert_eq!(ask("TB/old.pkl", Duration::ZERO), Some(17));
    assert_eq!(ask(LEGACY_NAME, LOOKING), None);
    assert_eq!(ask(".", LOOKING), None);
}

#[test]
fn p2_hearsay_makes_no_version_and_nothing_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, legacy) = (tree(dir.path()), left(dir.path()));
    from_all(&tree, legacy.as_ref(), named("TB/old.pkl"), Duration::ZERO).unwrap();
    assert_eq!(tree.index.totals(), (0, 0));
    tree.index.write(vec![Note::Scanned]).unwrap();
    assert_eq!(from_index(&tree, named("TB/old.pkl")).unwrap()[0].1, None);
}

fn batch(body: &str) -> Result<usize, (u16, String)> {
    let headers = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    let headers = headers.map(|(name, value)| (name, value.parse().unwrap()));
    let said = |refusal: Refusal| (refusal.status().as_u16(), refusal.said().to_owned());
    names(&headers.into_iter().collect(), body.as_bytes())
        .map(|names| names.len())
        .map_err(said)
}

#[test]
fn odd_batches_are_refused_in_the_words_of_the_original() {
    let missing = Err((400, "Missing paths field".to_owned()));
    for body in ["", "{}", "[]", "nonsense", "{\"path\": []}", "7", "null"] {
        assert_eq!(batch(body), missing, "{body}");
    }
    let list = Err((400, "paths must be a list of max 500 items".to_owned()));
    let many = serde_json::json!({ "paths": vec!["a"; 501] }).to_string();
    for body in ["{\"paths\": \"a\"}", "{\"paths\": null}", &many] {
        assert_eq!(batch(body), list);
    }
    assert_eq!(batch("{\"paths\": [], \"more\": 1}"), Ok(0));
    assert_eq!(
        batch("{\"paths\": [\"a\", \"../x\"]}"),
        Err((400, "Invalid path: ../x".to_owned()))
    );
    for body in ["{\"paths\": [1]}", "[\"a\"]"] {
        assert_eq!(batch(body).unwrap_err().0, 500);
    }
    assert!(names(&HeaderMap::new(), b"{\"paths\": []}").is_err());
}
