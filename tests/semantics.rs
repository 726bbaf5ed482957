//! `SEMANTICS.md` against the tests: every promise has some, the page names all of those on
//! real mounts and servers, and it names none that does not exist.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names like `p4_…` that `text` has behind `before`.
fn promise_names(text: &str, before: &str) -> BTreeSet<String> {
    text.match_indices(before)
        .map(|(at, found)| &text[at + found.len()..])
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default()
        })
        .filter(|name| number(name).is_some())
        .map(str::to_owned)
        .collect()
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix('p')?.split_once('_')?.0.parse().ok()
}

fn sources(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

fn tests_in(dir: &str) -> BTreeSet<String> {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut texts);
    texts
        .iter()
        .flat_map(|text| promise_names(text, "fn "))
        .collect()
}

#[test]
fn the_page_names_the_tests_that_exist() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SEMANTICS.md")).unwrap();
    let named = promise_names(&page, "`");
    let (outer, inner) = (tests_in("tests"), tests_in("src"));
    let all: BTreeSet<_> = outer.union(&inner).cloned().collect();
    let invented: Vec<_> = named.difference(&all).collect();
    assert!(
        invented.is_empty(),
        "named, but there is no such test: {invented:?}"
    );
    let missing: Vec<_> = outer.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "tests that the page does not name: {missing:?}"
    );
    for promise in 1..=14 {
        let proved = named.iter().any(|name| number(name) == Some(promise));
        assert!(proved, "P{promise} has no test");
    }
}
