//! Listings of any bytes (promise P10).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::{Lab, bytes, eventually};
use crate::liar::{Liar, honest, line};
use crate::{SECOND, shown, state};

fn names(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap();
    names
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn p10_hostile_names_are_left_out_one_by_one() {
    let lab = Lab::new();
    let liar = Liar::new();
    let long = "n".repeat(300);
    let good = bytes(1, 3000);
    let hostile = [
        "",
        ".",
        "..",
        "../up",
        "a/../../up",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "a/",
        ".larder/x",
        ".larder",
        "nul\0byte",
        &long,
        "d/.larder/x",
    ];
    let mut lines: Vec<String> = hostile
        .iter()
        .map(|name| line(name, "v", b"evil"))
        .collect();
    // A file and a directory of one name; bytes that are not UTF-8 are a name as any.
    lines.push(line("good.bin", "v1", &good));
    lines.push(line("twice", "v1", b"file"));
    lines.push(line("twice/within", "v1", b"file"));
    lines.push("{\"path_b64\":\"//9h\",\"size\":1,\"mtime_ns\":1,\"etag\":\"v\"}\n".into());
    liar.lists(lines.concat());
    liar.says("good.bin", honest("v1", &good));
    let mount = lab.mount("mnt", &["--remote", &liar.url]);
    eventually("the good one is listed", || mount.path("good.bin").exists());
    assert_eq!(fs::read(mount.path("good.bin")).unwrap(), good);
    // It could be asked for before the listing had come to its end.
    eventually("each of the others is refused", || {
        mount.status()["remotes"][0]["refused_names"].as_u64() >= Some(14)
    });
    assert!(
        shown(&mount).contains("names there cannot be files here and are left out"),
        "{}",
        shown(&mount)
    );
    let seen = names(&mount.at);
    assert!(seen.is_superset(&set(&["good.bin", "twice"])), "{seen:?}");
    for name in &seen {
        assert!(
            ["good.bin", "twice", "d", "\u{fffd}\u{fffd}a"].contains(&name.as_str()),
            "{name}"
        );
    }
    let at = mount.unmount();
    assert!(!lab.path("up").exists() && !at.join(".larder/x").exists());
    assert_eq!(names(&at), set(&[".larder", "good.bin"]));
}

#[test]
fn p10_a_listing_that_is_no_listing_changes_nothing() {
    let lab = Lab::new();
    let liar = Liar::new();
    let (a, b) = (bytes(1, 3000), bytes(2, 3000));
    let good = line("a.bin", "v1", &a) + &line("b.bin", "v1", &b);
    liar.lists(&good);
    liar.says("a.bin", honest("v1", &a));
    liar.says("b.bin", honest("v1", &b));
    let mount = lab.mount("mnt", &["--remote", &liar.url, "--offline", "error"]);
    eventually("all is listed", || mount.path("b.bin").exists());
    assert_eq!(fs::read(mount.path("a.bin")).unwrap(), a);
    let giant = format!("{{\"path\":\"{}\"}}\n", "x".repeat(1 << 20));
    let cut = good[..good.len() / 2].to_owned();
    for (what, bad) in [
        ("without its end", line("a.bin", "v1", &a)),
        ("cut", cut),
        ("with a giant line", giant.clone()),
        ("one line without an end", giant.trim_end().to_owned()),
        (
            "a page",
            "<html><body>Welcome to the hotel</body></html>\n".to_owned(),
        ),
        ("nothing", String::new()),
        (
            "no name",
            "{\"path_b64\":\"!!!\",\"size\":1,\"mtime_ns\":1,\"etag\":\"v\"}\n".to_owned(),
        ),
        (
            "noise",
            String::from_utf8_lossy(&bytes(9, 5000)).into_owned(),
        ),
    ] {
        liar.lists_only(bad);
        let synced = mount.verb(&["sync"]);
        assert!(!synced.status.success(), "{what}");
        let said = String::from_utf8(synced.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        assert_eq!(names(&mount.at), set(&["a.bin", "b.bin"]), "{what}");
        assert_eq!(fs::read(mount.path("a.bin")).unwrap(), a, "{what}");
    }
    assert!(shown(&mount).contains("away for"), "{}", shown(&mount));
    liar.lists(good + &line("c.bin", "v1", b"c"));
    liar.says("c.bin", honest("v1", b"c"));
    mount.verb(&["sync"]);
    eventually("it is online again", || state(&mount) == "online");
    assert_eq!(fs::read(mount.path("c.bin")).unwrap(), b"c");
    assert_eq!(fs::read(mount.path("b.bin")).unwrap(), b);
}

#[test]
fn p10_names_out_of_order_delete_nothing_for_good() {
    let lab = Lab::new();
    let liar = Liar::new();
    let files: Vec<_> = (0..20u64)
        .map(|n| (format!("f{n:02}.bin"), bytes(n, 500)))
        .collect();
    let sorted: Vec<String> = files.iter().map(|(name, b)| line(name, "v1", b)).collect();
    for (name, content) in &files {
        liar.says(name, honest("v1", content));
    }
    liar.lists(sorted.concat());
    let mount = lab.mount("mnt", &["--remote", &liar.url]);
    eventually("all is listed", || mount.path("f19.bin").exists());
    for (name, content) in &files {
        assert_eq!(fs::read(mount.path(name)).unwrap(), *content);
    }
    let mut backwards = sorted.clone();
    backwards.reverse();
    liar.lists(backwards.concat());
    mount.verb(&["sync"]);
    liar.lists(sorted.concat());
    mount.verb(&["sync"]);
    eventually("all are back", || {
        files
            .iter()
            .all(|(name, content)| fs::read(mount.path(name)).is_ok_and(|b| b == *content))
    });
    let begun = std::time::Instant::now();
    mount.unmount();
    assert!(begun.elapsed() < 10 * SECOND);
}
