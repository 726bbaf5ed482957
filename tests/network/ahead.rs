//! P14: a reader that goes through a folder in order finds the next files there already, and one
//! that does not costs nothing. P11: nothing goes for what nobody has asked for.

use std::fs;
use std::path::PathBuf;

use super::common::{Lab, Mount, Server, bytes, eventually, put};

const FILES: usize = 120;

/// As the tree has them: some directories with more files than others.
fn paths() -> Vec<PathBuf> {
    let path = |n: usize| format!("{}/{:03}.pkl", ["a", "b/x", "b/y", "c"][n / 30], n);
    (0..FILES).map(|n| path(n).into()).collect()
}

fn mounted<'a>(lab: &'a Lab, more: &[&str]) -> (Server, Mount<'a>) {
    let root = lab.dir("srv");
    for (n, path) in paths().iter().enumerate() {
        put(&root.join(path), &content(n));
    }
    let server = lab.serve("srv", &[]);
    let mount = lab.mount("mnt", &[&["--remote", server.url.as_str()], more].concat());
    eventually("all are listed", || {
        mount.status()["known"]["files"] == FILES as u64
    });
    (server, mount)
}

fn content(n: usize) -> Vec<u8> {
    bytes(n as u64, 2000 + n * 10)
}

fn read(mount: &Mount<'_>, order: impl IntoIterator<Item = usize>) {
    let paths = paths();
    for n in order {
        assert!(fs::read(mount.path(&paths[n])).unwrap() == content(n));
    }
}

fn count(mount: &Mount<'_>, name: &str) -> u64 {
    mount.status()["counts"][name].as_u64().unwrap()
}

#[test]
fn p14_who_reads_in_order_finds_the_next_files_there() {
    let lab = Lab::new();
    let (server, mount) = mounted(&lab, &[]);
    read(&mount, 0..FILES);
    let (ahead, used) = (count(&mount, "ahead"), count(&mount, "ahead_used"));
    assert!(ahead > FILES as u64 / 2, "{ahead} were fetched ahead");
    assert_eq!(used, ahead, "all of them were read");
    // Not one was fetched twice.
    eventually("all are held", || {
        mount.status()["held"]["files"] == FILES as u64
    });
    let before = server.requests();
    read(&mount, 0..FILES);
    assert_eq!(server.requests(), before, "a warm run asks for nothing");
    let down: usize = (0..FILES).map(|n| content(n).len()).sum();
    assert_eq!(count(&mount, "bytes_down"), down as u64);
}

#[test]
fn p14_for_readers_without_an_order_nothing_is_fetched_ahead() {
    let lab = Lab::new();
    let (_server, mount) = mounted(&lab, &[]);
    // Never one of the next few.
    read(&mount, (0..FILES).step_by(10));
    read(&mount, (5..FILES).step_by(10).rev());
    assert_eq!(count(&mount, "ahead"), 0);
}

#[test]
fn p11_nothing_goes_for_what_nobody_has_asked_for() {
    for limit in [["--max-files", "60"], ["--prefetch", "0"], ["--stream", ""]] {
        let limit: Vec<_> = limit.into_iter().filter(|word| !word.is_empty()).collect();
        let lab = Lab::new();
        let (_server, mount) = mounted(&lab, &limit);
        read(&mount, 0..FILES / 2);
        assert_eq!(count(&mount, "ahead"), 0, "{limit:?}");
    }
}
