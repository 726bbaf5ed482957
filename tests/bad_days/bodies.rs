//! Bodies that are not the file (promise P1).

use std::fs::{self, File};
use std::process::Command;
use std::time::Instant;

use crate::common::{Lab, bytes, eventually};
use crate::liar::{Liar, answer, honest, line, plain};
use crate::{DEADLINE, cat, ends};

/// Everything that a body can be but the file.
fn lies(content: &[u8], other: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let len = content.len();
    let long = [content, b"more"].concat();
    let page = "<html><body>Please log in</body></html>";
    vec![
        (
            "short",
            answer("200 OK", "v1", len, "", &content[..len - 7]),
        ),
        (
            "shorter than listed",
            answer("200 OK", "v1", len - 7, "", &content[..len - 7]),
        ),
        (
            "longer than listed",
            answer("200 OK", "v1", long.len(), "", &long),
        ),
        ("empty", answer("200 OK", "v1", 0, "", b"")),
        (
            "another version's bytes",
            answer("200 OK", "v1", len, "", other),
        ),
        ("a page", plain("200 OK", "text/html", page)),
        (
            "a page with the tag",
            answer(
                "200 OK",
                "v1",
                page.len(),
                "content-type: text/html\r\n",
                page.as_bytes(),
            ),
        ),
        (
            "500",
            plain("500 Internal Server Error", "text/plain", "oh"),
        ),
        ("503", plain("503 Service Unavailable", "text/plain", "oh")),
        (
            "502 from a proxy",
            plain("502 Bad Gateway", "text/html", page),
        ),
        (
            "404 of another server",
            plain("404 Not Found", "text/html", page),
        ),
        (
            "a redirect",
            plain(
                "302 Found\r\nlocation: http://127.0.0.1:9/",
                "text/html",
                page,
            ),
        ),
        ("noise", bytes(77, 2000)),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn p1_a_small_body_that_is_not_the_file_is_never_shown() {
    all_lies(60_000);
}

#[test]
fn p1_a_big_body_that_is_not_the_file_is_never_read_to_its_end() {
    all_lies(3 << 20);
}

/// News of it are on their way, or lost: the answer that brings the bytes is believed.
#[test]
fn p8_a_version_newer_than_the_listing_is_asked_for_and_read() {
    for len in [60_000, 3 << 20] {
        let lab = Lab::new();
        let liar = Liar::new();
        let (listed, there) = (bytes(1, len), bytes(2, len + 5));
        liar.lists(line("a.bin", "v1", &listed));
        liar.says("a.bin", honest("v2", &there));
        let mount = lab.mount("mnt", &["--remote", &liar.url, "--offline", "error"]);
        eventually("it is listed", || mount.path("a.bin").exists());
        // Its listing may come again in between, and says the old length.
        eventually("what is there is read, and has its length", || {
            let path = mount.path("a.bin");
            fs::read(&path).is_ok_and(|found| found == there)
                && fs::metadata(&path).is_ok_and(|facts| facts.len() == there.len() as u64)
        });
    }
}

fn all_lies(len: usize) {
    let lab = Lab::new();
    let liar = Liar::new();
    let (content, other) = (bytes(1, len), bytes(2, len));
    let lies = lies(&content, &other);
    let name = |n: usize| format!("f{n:02}.bin");
    let lines: Vec<String> = (0..lies.len())
        .map(|n| line(&name(n), "v1", &content))
        .collect();
    liar.lists(lines.concat());
    for (n, (_, said)) in lies.iter().enumerate() {
        liar.says(&name(n), said.clone());
    }
    let mount = lab.mount("mnt", &["--remote", &liar.url, "--offline", "error"]);
    // Asked for by name before, the file would have no hash.
    eventually("all is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    for (n, (what, _)) in lies.iter().enumerate() {
        let begun = Instant::now();
        let path = mount.path(name(n));
        let (came, said) = cat(&path);
        assert!(!said.is_empty(), "{what}: read whole");
        assert!(begun.elapsed() < DEADLINE, "{what}: {:?}", begun.elapsed());
        // Of a big one with a known hash, all but the last part may come before it is known to be wrong.
        assert!(
            came.len() + (64 << 10) <= len || came.is_empty(),
            "{what}: {}",
            came.len()
        );
        let allowed = content.starts_with(&came) || other.starts_with(&came);
        assert!(allowed, "{what}");
        assert!(
            said.contains("Input/output error") || said.contains("Stale"),
            "{what}: {said}"
        );
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            len as u64,
            "{what}: it stays listed"
        );
    }
    mount.nothing_waits();
    let asked = liar.gets();
    assert!(asked < 40 * lies.len() as u64, "tries have an end: {asked}");
    for n in 0..lies.len() {
        liar.says(&name(n), honest("v1", &content));
    }
    for (n, (what, _)) in lies.iter().enumerate() {
        eventually(&format!("{what}: it can be read"), || {
            fs::read(mount.path(name(n))).is_ok_and(|b| b == content)
        });
    }
    let at = mount.unmount();
    for n in 0..lies.len() {
        assert!(fs::read(at.join(name(n))).unwrap() == content);
    }
}

#[test]
fn p6_a_body_that_stops_ends_within_the_deadline() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    fs::write(server.root.join("a.bin"), bytes(1, 50_000)).unwrap();
    let mount = lab.mount("mnt", &["--remote", &server.url, "--offline", "error"]);
    eventually("it is listed", || mount.path("a.bin").exists());
    server.signal("-STOP");
    let begun = Instant::now();
    let copied = ends(
        Command::new("cp")
            .arg(mount.path("a.bin"))
            .arg(lab.path("copy.bin")),
    );
    assert!(!copied.status.success() && begun.elapsed() < DEADLINE);
    server.signal("-CONT");
    eventually("it can be read", || {
        File::open(mount.path("a.bin")).is_ok()
            && fs::read(mount.path("a.bin")).is_ok_and(|b| b == bytes(1, 50_000))
    });
}
