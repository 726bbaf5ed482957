//! Every test of names runs against real directories.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt as _, symlink};

use rustix::fs::FileType;

use super::resolve::by_steps;
use super::*;

fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn tree() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    (temp, dir)
}

fn create(dir: &Dir, path: &str, bytes: &[u8]) -> File {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = dir
        .open_file(&p(path), flags, Mode::from_raw_mode(0o644))
        .unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.unwrap_err().kind()
}

#[test]
fn p10_links_are_never_followed() {
    let (temp, dir) = tree();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path(), temp.path().join("out")).unwrap();
    symlink("/etc/passwd", temp.path().join("file")).unwrap();
    symlink("/proc/self/root", temp.path().join("magic")).unwrap();
    dir.make_dir(&p("d"), 0o700).unwrap();
    symlink("../d", temp.path().join("d/again")).unwrap();
    let ro = OFlags::RDONLY;
    for path in [
        "out/secret",
        "file",
        "out",
        "magic/etc",
        "d/again/x",
        "d/again",
    ] {
        assert_eq!(
            kind(dir.open_file(&p(path), ro, Mode::empty())),
            Kind::Denied,
            "{path}"
        );
        assert_eq!(kind(dir.open_dir(&p(path))), Kind::Denied, "{path}");
        let steps = by_steps(dir.as_fd(), &p(path), ro | CAREFUL, Mode::empty());
        assert_eq!(kind(steps), Kind::Denied, "{path}");
    }
    let create = OFlags::WRONLY | OFlags::CREATE;
    assert_eq!(
        kind(dir.open_file(&p("out/new"), create, Mode::RWXU)),
        Kind::Denied
    );
    assert_eq!(kind(dir.make_dir(&p("out/new"), 0o700)), Kind::Denied);
    assert_eq!(kind(dir.make_dirs(&p("out/new/deep"))), Kind::Denied);
    assert_eq!(kind(dir.make_dirs(&p("out"))), Kind::Denied);
    assert_eq!(kind(dir.remove_file(&p("out/secret"))), Kind::Denied);
    assert_eq!(kind(dir.stat(&p("out/secret"))), Kind::Denied);
    assert_eq!(
        kind(dir.rename(&p("d"), &p("out/d"), Onto::Replace)),
        Kind::Denied
    );
    assert_eq!(kind(dir.set_mode(&p("file"), 0o700)), Kind::Unsupported);
    assert_eq!(kind(dir.xattr(&p("file"), b"user.x")), Kind::Unsupported);
    assert_eq!(kind(dir.xattr(&p("out/secret"), b"user.x")), Kind::Denied);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn links_are_told_made_and_touched_as_themselves() {
    let (_temp, dir) = tree();
    dir.symlink(b"nowhere\xff", &p("link")).unwrap();
    assert_eq!(dir.stat(&p("link")).unwrap().kind, FileKind::Symlink);
    assert_eq!(dir.read_link(&p("link")).unwrap(), b"nowhere\xff");
    dir.set_times(&p("link"), None, Some(5)).unwrap();
    assert_eq!(dir.stat(&p("link")).unwrap().mtime_ns, 5);
    assert_eq!(kind(dir.read_link(&p("gone"))), Kind::NotFound);
    dir.remove_file(&p("link")).unwrap();
    assert_eq!(kind(dir.stat(&p("link"))), Kind::NotFound);
}

#[test]
fn p10_nothing_runs_as_its_owner() {
    let (_temp, dir) = tree();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = dir
        .open_file(&p("f"), flags, Mode::from_raw_mode(0o6755))
        .unwrap();
    let mode = || dir.stat(&p("f")).unwrap().mode & !0o022;
    assert_eq!(mode(), 0o755);
    dir.set_mode(&p("f"), 0o6755).unwrap();
    assert_eq!(mode(), 0o755);
    set_mode_of(&file, 0o7755).unwrap();
    assert_eq!(mode(), 0o1755);
    dir.make_dir(&p("d"), 0o6700).unwrap();
    assert_eq!(dir.stat(&p("d")).unwrap().mode & SET_ID, 0);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let (_temp, dir) = tree();
    sys::mknodat(dir.as_fd(), "pipe", FileType::Fifo, Mode::RWXU, 0).unwrap();
    dir.make_dir(&p("d"), 0o700).unwrap();
    let open = |path: &str| dir.open_file(&p(path), OFlags::RDONLY, Mode::empty());
    assert_eq!(kind(open("pipe")), Kind::Denied);
    assert_eq!(dir.stat(&p("pipe")).unwrap().kind, FileKind::Other);
    assert_eq!(kind(open("d")), Kind::IsADirectory);
    assert_eq!(kind(open("gone")), Kind::NotFound);
    create(&dir, "f", b"");
    assert_eq!(kind(open("f/x")), Kind::NotADirectory);
    assert_eq!(kind(dir.make_dirs(&p("f/x"))), Kind::NotADirectory);
    assert_eq!(kind(dir.make_dirs(&p("f"))), Kind::NotADirectory);
}

#[test]
fn both_ways_of_resolving_agree() {
    let (_temp, dir) = tree();
    dir.make_dirs(&p("a/b/c")).unwrap();
    let file = create(&dir, "a/b/c/f", b"deep");
    let flags = OFlags::RDONLY | CAREFUL;
    let other = File::from(by_steps(dir.as_fd(), &p("a/b/c/f"), flags, Mode::empty()).unwrap());
    assert_eq!(facts_of(&other).unwrap(), facts_of(&file).unwrap());
    assert_eq!(dir.stat(&p("a/b/c/f")).unwrap(), facts_of(&file).unwrap());
    let root = by_steps(dir.as_fd(), &RelPath::root(), PASS | CAREFUL, Mode::empty()).unwrap();
    assert_eq!(Dir::from(root).facts().unwrap(), dir.facts().unwrap());
    assert_eq!(dir.stat(&RelPath::root()).unwrap(), dir.facts().unwrap());
    for missing in ["a/x", "x/y/z"] {
        let error = by_steps(dir.as_fd(), &p(missing), flags, Mode::empty());
        assert_eq!(kind(error), Kind::NotFound);
        assert_eq!(kind(dir.stat(&p(missing))), Kind::NotFound);
    }
}

#[test]
fn renames_replace_keep_or_exchange() {
    let (temp, dir) = tree();
    create(&dir, "a", b"a");
    create(&dir, "b", b"b");
    assert_eq!(
        kind(dir.rename(&p("a"), &p("b"), Onto::NoReplace)),
        Kind::Exists
    );
    dir.rename(&p("a"), &p("b"), Onto::Exchange).unwrap();
    assert_eq!(fs::read(temp.path().join("a")).unwrap(), b"b");
    dir.rename(&p("a"), &p("b"), Onto::Replace).unwrap();
    assert_eq!(fs::read(temp.path().join("b")).unwrap(), b"b");
    assert_eq!(kind(dir.stat(&p("a"))), Kind::NotFound);
    dir.make_dir(&p("d"), 0o700).unwrap();
    assert_eq!(
        kind(dir.rename(&p("b"), &p("d"), Onto::Replace)),
        Kind::IsADirectory
    );
    assert_eq!(
        kind(dir.rename(&RelPath::root(), &p("x"), Onto::Replace)),
        Kind::Invalid
    );
}

#[test]
fn p13_times_keep_their_nanoseconds_also_before_1970() {
    let (_temp, dir) = tree();
    let file = create(&dir, "f", b"x");
    for ns in [1_234_567_890_123_456_789, -1_500_000_001, 0] {
        dir.set_times(&p("f"), None, Some(ns)).unwrap();
        assert_eq!(dir.stat(&p("f")).unwrap().mtime_ns, ns);
    }
    let before = facts_of(&file).unwrap();
    set_times_of(&file, Some(7), None).unwrap();
    let after = facts_of(&file).unwrap();
    assert_eq!((after.atime_ns, after.mtime_ns), (7, before.mtime_ns));
}

#[test]
fn modes_and_owners() {
    let (_temp, dir) = tree();
    dir.make_dirs(&p("d")).unwrap();
    create(&dir, "d/f", b"x");
    for mode in [0, 0o1751, 0o644] {
        dir.set_mode(&p("d/f"), mode).unwrap();
        assert_eq!(dir.stat(&p("d/f")).unwrap().mode, mode);
    }
    dir.set_mode(&RelPath::root(), 0o750).unwrap();
    assert_eq!(dir.facts().unwrap().mode, 0o750);
    let facts = dir.stat(&p("d/f")).unwrap();
    dir.set_owner(&p("d/f"), Some(facts.uid), None).unwrap();
    // The directory itself has both, too.
    dir.set_owner(&RelPath::root(), Some(facts.uid), None)
        .unwrap();
    dir.set_times(&RelPath::root(), None, Some(5)).unwrap();
    assert_eq!(dir.facts().unwrap().mtime_ns, 5);
    assert_eq!(dir.stat(&p("d/f")).unwrap().gid, facts.gid);
}

#[test]
fn listings_leave_out_what_is_ours() {
    let (temp, dir) = tree();
    dir.reserved().unwrap();
    create(&dir, "f", b"four");
    dir.make_dirs(&p("d/e")).unwrap();
    fs::write(temp.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    let mut all = dir.read_dir(&RelPath::root()).unwrap();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = all.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [b"d".as_slice(), b"f", b"\xff"]);
    assert_eq!(all[1].facts, dir.stat(&p("f")).unwrap());
    assert_eq!(dir.read_dir(&p("d")).unwrap().len(), 1);
    assert_eq!(kind(dir.read_dir(&p("f"))), Kind::NotADirectory);
}

#[test]
fn p10_our_directory_is_private_and_no_link() {
    let (temp, dir) = tree();
    assert_eq!(dir.reserved().unwrap().facts().unwrap().mode, 0o700);
    dir.reserved().unwrap();
    fs::set_permissions(
        temp.path().join(RESERVED),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    assert_eq!(dir.reserved().unwrap().facts().unwrap().mode, 0o700);
    fs::remove_dir(temp.path().join(RESERVED)).unwrap();
    symlink("/tmp", temp.path().join(RESERVED)).unwrap();
    assert_eq!(kind(dir.reserved()), Kind::Denied);
    fs::remove_file(temp.path().join(RESERVED)).unwrap();
    fs::write(temp.path().join(RESERVED), "").unwrap();
    assert_eq!(kind(dir.reserved()), Kind::NotADirectory);
}

#[test]
fn attributes_come_back_and_go() {
    // tmpfs may be built without user attributes; the build directory is on a disk.
    let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    create(&dir, "f", b"");
    assert_eq!(kind(dir.xattr(&p("f"), b"user.a")), Kind::NoAttribute);
    dir.set_xattr(&p("f"), b"user.a", b"\0v", XattrSet::Absent)
        .unwrap();
    dir.set_xattr(&p("f"), b"user.b", b"", XattrSet::Any)
        .unwrap();
    let again = dir.set_xattr(&p("f"), b"user.a", b"w", XattrSet::Absent);
    assert_eq!(kind(again), Kind::Exists);
    assert_eq!(dir.xattr(&p("f"), b"user.a").unwrap(), b"\0v");
    let mut names = dir.xattrs(&p("f")).unwrap();
    names.retain(|name| name.starts_with(b"user."));
    names.sort();
    assert_eq!(names, [b"user.a", b"user.b"]);
    dir.remove_xattr(&p("f"), b"user.a").unwrap();
    let gone = dir.set_xattr(&p("f"), b"user.a", b"w", XattrSet::Present);
    assert_eq!(kind(gone), Kind::NoAttribute);
}

/// Which pages of a file are in memory.
fn pages_in_memory(file: &File, len: usize) -> Vec<bool> {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut pages = vec![0u8; len.div_ceil(page)];
    // SAFETY: the file is mapped where the system likes, looked at without being touched, and unmapped;
    // `pages` has room for a byte a page.
    let asked = unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        let asked = libc::mincore(at, len, pages.as_mut_ptr());
        libc::munmap(at, len);
        asked
    };
    assert_eq!(asked, 0);
    pages.into_iter().map(|page| page & 1 == 1).collect()
}

#[test]
fn small_files_that_are_not_in_memory_come_early() {
    const LEN: usize = 200 << 10;
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !done() {
            assert!(begun.elapsed().as_secs() < 20, "{what}");
            std::thread::yield_now();
        }
    };
    // A file of tmpfs is always in memory; the build directory is on a disk.
    let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    let file = create(&dir, "f", &vec![7; LEN]);
    file.sync_all().unwrap();
    let advise = |advice| sys::fadvise(&file, 0, None, advice).unwrap();
    // Nothing but what is asked for.
    advise(sys::Advice::Random);
    let forget = || {
        wait("the file is not in memory", &|| {
            advise(sys::Advice::DontNeed);
            !pages_in_memory(&file, LEN).contains(&true)
        });
    };
    forget();
    read_early(&file, LEN as u64 - 1);
    assert!(
        !pages_in_memory(&file, LEN).contains(&true),
        "it is too large"
    );
    read_early(&file, LEN as u64);
    wait("the file is in memory", &|| {
        !pages_in_memory(&file, LEN).contains(&false)
    });
}

#[test]
fn errors_say_what_they_are_about() {
    let (temp, dir) = tree();
    let error = dir.stat(&p("a/b")).unwrap_err();
    assert_eq!(error.subject(), Some("a/b"));
    assert!(
        Dir::open_ambient(&temp.path().join("no"))
            .unwrap_err()
            .to_string()
            .contains("/no: ")
    );
    let longest = RelPath::new(&[[b'x'; 255].as_slice(); 16].join(&b'/')).unwrap();
    dir.make_dirs(&longest).unwrap();
    assert_eq!(dir.stat(&longest).unwrap().kind, FileKind::Dir);
}

#[test]
fn a_clone_is_the_same_directory_and_a_removed_one_says_so() {
    let (_temp, dir) = tree();
    dir.make_dir(&p("d"), 0o700).unwrap();
    let inner = dir.open_dir(&p("d")).unwrap();
    let twin = inner.try_clone().unwrap();
    assert_ne!(twin.as_fd().as_raw_fd(), inner.as_fd().as_raw_fd());
    assert_eq!(twin.facts().unwrap(), inner.facts().unwrap());
    dir.remove_dir(&p("d")).unwrap();
    assert_eq!(inner.facts().unwrap().nlink, 0);
    dir.sync(&RelPath::root()).unwrap();
    assert!(dir.space().unwrap().total >= dir.space().unwrap().free);
    assert_eq!(dir.space().unwrap().name_max, 255);
}
