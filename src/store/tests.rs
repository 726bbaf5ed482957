//! Stores in real directories. What needs a file system of its own runs in a mount
//! namespace of its own, so that nothing is left behind whatever happens.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::object::Version;

fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn open(at: &Path) -> Result<Store> {
    let (clock, _) = Clock::manual(1_700_000_000_123_000_000);
    Store::open_with(
        Dir::open_ambient(at)?,
        "/mnt/cache",
        clock,
        Chance::seeded(1),
    )
}

fn new() -> (tempfile::TempDir, Store) {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).unwrap();
    (temp, store)
}

fn stage(store: &Store, bytes: &[u8]) -> StagedId {
    let staged = store.stage(0o644).unwrap();
    staged.file.write_all_at(bytes, 0).unwrap();
    staged.id
}

fn id(text: &str) -> PartialId {
    PartialId::new("http://lan", &p(text), &Version::new("v1").unwrap())
}

fn given(mtime_ns: i64, mode: u32) -> Given {
    Given {
        mtime_ns,
        mode,
        owner: None,
    }
}

/// Everything from the last byte to the name.
fn publish(store: &Store, partial: &Partial, to: &str, given: Given) -> Facts {
    partial.settle(&given).unwrap();
    partial.sync().unwrap();
    partial.place(store, &p(to)).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.unwrap_err().kind()
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Runs the named test again in a mount namespace of its own; inside it, gives a directory to
/// mount on. Outside, gives nothing when the inner run passed.
fn on_a_file_system_of_its_own(test: &str) -> Option<PathBuf> {
    const INSIDE: &str = "LARDER_TEST_INSIDE";
    if let Some(place) = std::env::var_os(INSIDE) {
        return Some(place.into());
    }
    let place = tempfile::tempdir().unwrap();
    let flags = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-Urm"
    };
    let inner = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::tests::{test}"), "--nocapture"])
        .env(INSIDE, place.path())
        .output()
        .expect("this test needs `unshare` (util-linux)");
    let said = String::from_utf8_lossy(&inner.stdout);
    let passed = inner.status.success() && said.contains("1 passed");
    assert!(passed, "{said}{}", String::from_utf8_lossy(&inner.stderr));
    None
}

fn mount_tmpfs(at: &Path, options: &str) {
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "larder-test"])
        .arg(at)
        .status();
    assert!(done.unwrap().success(), "this test needs to mount a tmpfs");
}

#[test]
fn stores_and_downloads_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<Partial>();
}

#[test]
fn a_store_is_laid_out_private_and_reached_by_its_descriptor() {
    let (temp, store) = new();
    let larder = temp.path().join(".larder");
    for name in [
        "",
        "partial",
        "staged",
        "orphans",
        "conflicts",
        "removing",
        "graveyard",
    ] {
        let mode = fs::metadata(larder.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700, "{name}");
    }
    fs::write(store.larder_path().join("index.db"), "x").unwrap();
    assert_eq!(fs::read(larder.join("index.db")).unwrap(), b"x");
    assert!(store.root().read_dir(&RelPath::root()).unwrap().is_empty());
}

#[test]
fn a_second_owner_is_refused_and_told_who_the_first_is() {
    let (temp, store) = new();
    let error = open(temp.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    let first = format!("in use by pid {} mounted at /mnt/cache", std::process::id());
    assert!(error.message().contains(&first), "{error}");
    drop(store);
    open(temp.path()).unwrap();
}

#[test]
fn p10_a_layout_with_links_in_it_is_refused() {
    for name in [".larder", ".larder/staged", ".larder/lock"] {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        if name != ".larder" {
            fs::create_dir(temp.path().join(".larder")).unwrap();
        }
        symlink(outside.path(), temp.path().join(name)).unwrap();
        let error = open(temp.path()).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (Kind::Denied, Some(name)));
        assert_eq!(count(outside.path()), 0);
    }
}

#[test]
fn another_file_system_inside_the_layout_is_refused() {
    let test = "another_file_system_inside_the_layout_is_refused";
    let Some(place) = on_a_file_system_of_its_own(test) else {
        return;
    };
    drop(open(&place).unwrap());
    mount_tmpfs(&place.join(".larder/staged"), "size=1m");
    let error = open(&place).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Denied, Some(".larder/staged"))
    );
    mount_tmpfs(&place.join(".larder"), "size=1m");
    let error = open(&place).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Denied, Some(".larder"))
    );
    assert!(error.message().contains("another file system"), "{error}");
}

#[test]
fn a_file_system_mounted_in_the_tree_is_read_but_nothing_is_published_into_it() {
    let test = "a_file_system_mounted_in_the_tree_is_read_but_nothing_is_published_into_it";
    let Some(place) = on_a_file_system_of_its_own(test) else {
        return;
    };
    let store = open(&place).unwrap();
    store.root().make_dirs(&p("other")).unwrap();
    mount_tmpfs(&place.join("other"), "size=1m");
    fs::write(place.join("other/f"), "x").unwrap();
    assert_eq!(store.root().stat(&p("other/f")).unwrap().size, 1);
    let leaving = store.begin_removal(&p("other/f"), 1).unwrap();
    assert_eq!(leaving, Leaving::Elsewhere);
    assert!(place.join("other/f").exists());
    let error = store
        .publish(stage(&store, b""), &p("other/f"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "other/f: another file system is in the way"
    );
    assert_eq!(kind(store.bury(&p("other/f"))), Kind::Denied);
    assert_eq!(store.staged().unwrap().len(), 1);
}

#[test]
fn a_read_only_store_is_refused_also_when_it_is_laid_out() {
    let test = "a_read_only_store_is_refused_also_when_it_is_laid_out";
    let Some(place) = on_a_file_system_of_its_own(test) else {
        return;
    };
    mount_tmpfs(&place, "size=1m");
    mount_tmpfs(&place, "remount,ro");
    assert_eq!(kind(open(&place)), Kind::ReadOnly);
    mount_tmpfs(&place, "remount,rw");
    drop(open(&place).unwrap());
    mount_tmpfs(&place, "remount,ro");
    assert_eq!(kind(open(&place)), Kind::ReadOnly);
}

#[test]
fn p11_a_full_disk_says_so_and_publishes_nothing() {
    let test = "p11_a_full_disk_says_so_and_publishes_nothing";
    let Some(place) = on_a_file_system_of_its_own(test) else {
        return;
    };
    mount_tmpfs(&place, "size=1m");
    let store = open(&place).unwrap();
    let partial = store.partial(&id("big"), 4 << 20).unwrap();
    let chunk = vec![7; 256 << 10];
    let failed = (0..16).find_map(|n| partial.write_at(n * chunk.len() as u64, &chunk).err());
    assert_eq!(failed.unwrap().kind(), Kind::NoSpace);
    assert_eq!(kind(partial.settle(&given(0, 0o644))), Kind::Corrupt);
    let staged = store.stage(0o644).unwrap();
    let full = staged.file.write_all_at(&chunk, 0).about("staged");
    assert_eq!(kind(full), Kind::NoSpace);
    assert!(store.root().read_dir(&RelPath::root()).unwrap().is_empty());
    // What came before is still good, and room can be made of it.
    assert!(partial.have().covered() >= 512 << 10);
    drop(partial);
    assert!(store.prune_partials(&|_| false, 0).unwrap() >= 512 << 10);
    assert!(store.space().unwrap().free >= 512 << 10);
}

#[test]
fn p1_a_reader_sees_the_old_file_or_the_new_one_whole() {
    let (temp, store) = new();
    store.publish(stage(&store, &[0; 4096]), &p("f")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let bytes = fs::read(temp.path().join("f")).unwrap();
                assert_eq!(bytes.len(), 4096);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            }
        });
        for round in 0..200u8 {
            store
                .publish(stage(&store, &[round; 4096]), &p("f"))
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(store.staged().unwrap(), []);
}

#[test]
fn publishing_makes_the_directories_and_replaces_what_is_no_directory() {
    let (temp, store) = new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let facts = store.publish(stage(&store, b"one"), &p("a/b/c")).unwrap();
    assert_eq!(store.root().stat(&p("a/b/c")).unwrap(), facts);
    assert_eq!(
        kind(store.publish(stage(&store, b""), &p("a/b"))),
        Kind::IsADirectory
    );
    assert_eq!(
        kind(store.publish(stage(&store, b""), &p("a/b/c/d"))),
        Kind::NotADirectory
    );
    symlink(outside.path(), temp.path().join("link")).unwrap();
    store.publish(stage(&store, b"two"), &p("link")).unwrap();
    assert_eq!(fs::read(temp.path().join("link")).unwrap(), b"two");
    assert_eq!(fs::metadata(outside.path()).unwrap().size(), 0);
    assert_eq!(store.staged().unwrap().len(), 2);
}

#[test]
fn p3_staged_files_keep_their_number_bytes_and_mode_over_a_restart() {
    let (temp, store) = new();
    let staged = store.stage(0o420).unwrap();
    staged.file.write_all_at(b"kept", 0).unwrap();
    store.sync_staged().unwrap();
    drop(store);
    fs::write(temp.path().join(".larder/staged/README"), "not ours").unwrap();
    let store = open(temp.path()).unwrap();
    let all = store.staged().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].0, all[0].1.size, all[0].1.mode),
        (staged.id, 4, 0o420)
    );
    // The same seed as before the restart: a number in use is not given again.
    assert_ne!(store.stage(0o600).unwrap().id, staged.id);
    let mut again = String::new();
    let mut file = store.open_staged(staged.id).unwrap();
    file.read_to_string(&mut again).unwrap();
    assert_eq!(again, "kept");
    let facts = store.publish(staged.id, &p("f")).unwrap();
    assert_eq!((facts.mode & 0o777, facts.size), (0o420, 4));
    assert_eq!(kind(store.open_staged(staged.id)), Kind::NotFound);
    store.drop_staged(staged.id).unwrap();
}

#[test]
fn p4_orphans_are_named_by_time_number_and_what_they_were() {
    let (_temp, store) = new();
    let one = stage(&store, b"half");
    let name = store.orphan(one, &p("dir/fit\n.bin")).unwrap();
    assert_eq!(name, format!("1700000000123-{one}-fit\\n.bin"));
    let long = RelPath::new("é".repeat(127).as_bytes()).unwrap();
    let long = store.orphan(stage(&store, b""), &long).unwrap();
    assert_eq!(store.orphans().unwrap().len(), 2);
    let mut text = String::new();
    store
        .open_orphan(&name)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "half");
    store.drop_orphan(&long).unwrap();
    store.drop_orphan(&name).unwrap();
    assert_eq!(store.orphans().unwrap(), []);
    assert_eq!(store.staged().unwrap(), []);
}

#[test]
fn p5_a_file_set_aside_is_kept_until_it_is_asked_for() {
    let (_temp, store) = new();
    store.publish(stage(&store, b"ours"), &p("d/f")).unwrap();
    let name = store.set_aside(&p("d/f"), 255).unwrap();
    assert_eq!(name, "00000000000000ff-f");
    assert_eq!(kind(store.root().stat(&p("d/f"))), Kind::NotFound);
    store.publish(stage(&store, b"theirs"), &p("d/f")).unwrap();
    // Never one over the other.
    assert_eq!(kind(store.set_aside(&p("d/f"), 255)), Kind::Exists);
    assert_eq!(kind(store.set_aside(&p("d"), 1)), Kind::IsADirectory);
    assert_eq!(store.aside().unwrap().len(), 1);
    assert_eq!(
        store.open_aside(&name).unwrap().metadata().unwrap().size(),
        4
    );
    let id = store.staged_id();
    store.stage_aside(&name, id).unwrap();
    assert_eq!(kind(store.stage_aside(&name, id)), Kind::NotFound);
    store.unstage_aside(id, &name).unwrap();
    store.stage_aside(&name, id).unwrap();
    assert_eq!(store.publish(id, &p("back/f")).unwrap().size, 4);
    let name = store.set_aside(&p("back/f"), 255).unwrap();
    store.drop_aside(&name).unwrap();
    assert_eq!(store.aside().unwrap(), []);
    // What nobody knows the path of any more is kept where it is listed.
    store
        .publish(stage(&store, b"whose?"), &p("back/f"))
        .unwrap();
    let name = store.set_aside(&p("back/f"), 7).unwrap();
    let kept = store.orphan_aside(&name).unwrap();
    assert_eq!(store.aside().unwrap(), []);
    assert!(kept.ends_with(&name) && store.open_orphan(&kept).is_ok());
}

#[test]
fn p10_names_from_outside_do_not_leave_our_directories() {
    let (temp, store) = new();
    fs::write(temp.path().join("f"), "").unwrap();
    for name in ["../../f", "..", "", "a/b", ".larder"] {
        assert_eq!(kind(store.open_aside(name)), Kind::Invalid, "{name}");
        assert_eq!(kind(store.drop_aside(name)), Kind::Invalid, "{name}");
        let id = store.staged_id();
        assert_eq!(kind(store.stage_aside(name, id)), Kind::Invalid, "{name}");
        assert_eq!(kind(store.orphan_aside(name)), Kind::Invalid, "{name}");
        assert_eq!(kind(store.open_orphan(name)), Kind::Invalid, "{name}");
    }
}

#[test]
fn p11_buried_files_are_gone_at_once_and_unlinked_later() {
    let (temp, store) = new();
    let path = temp.path().join("d/f");
    store.publish(stage(&store, b"x"), &p("d/f")).unwrap();
    let open = fs::File::open(&path).unwrap();
    store.bury(&p("d/f")).unwrap();
    store.bury(&p("d/f")).unwrap();
    store.bury(&p("gone/f")).unwrap();
    assert!(!path.exists());
    assert_eq!(kind(store.bury(&p("d"))), Kind::IsADirectory);
    assert_eq!(open.metadata().unwrap().nlink(), 1);
    assert_eq!(store.empty_graveyard().unwrap(), 1);
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(store.empty_graveyard().unwrap(), 0);
}

#[test]
fn p3_a_removal_is_undone_or_ended() {
    let (temp, store) = new();
    let path = temp.path().join("d/f");
    let publish = |bytes: &[u8]| store.publish(stage(&store, bytes), &p("d/f")).unwrap();
    publish(b"x");
    assert_eq!(store.begin_removal(&p("d/f"), 7).unwrap(), Leaving::Aside);
    assert_eq!(store.begin_removal(&p("d/f"), 8).unwrap(), Leaving::Missing);
    assert_eq!(kind(store.begin_removal(&p("d"), 9)), Kind::IsADirectory);
    assert!(!path.exists());
    assert_eq!(store.removals().unwrap(), [7]);
    assert!(store.is_removing(7).unwrap() && !store.is_removing(8).unwrap());
    assert!(store.undo_removal(7, &p("d/f")).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"x");
    // What has the name by now keeps it.
    store.begin_removal(&p("d/f"), 7).unwrap();
    publish(b"newer");
    assert!(!store.undo_removal(7, &p("d/f")).unwrap());
    assert!(!store.undo_removal(7, &p("gone/f")).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    store.end_removal(7).unwrap();
    assert!(store.removals().unwrap().is_empty());
}

#[test]
fn a_download_goes_on_with_what_was_saved_and_only_that() {
    let (temp, store) = new();
    let partial = store.partial(&id("f"), 100).unwrap();
    partial.write_at(0, &[1; 30]).unwrap();
    partial.write_at(60, &[2; 10]).unwrap();
    partial.checkpoint().unwrap();
    partial.write_at(80, &[3; 10]).unwrap();
    assert_eq!(partial.holes(0..100), [30..60, 70..80, 90..100]);
    drop((partial, store));
    let store = open(temp.path()).unwrap();
    let partial = store.partial(&id("f"), 100).unwrap();
    assert_eq!(partial.holes(0..100), [30..60, 70..100]);
    assert_eq!(partial.read(&(0..30)).unwrap(), [1; 30].as_slice());
    assert_eq!(kind(partial.write_at(95, &[0; 6])), Kind::Range);
    assert_eq!(kind(partial.write_at(u64::MAX, &[0])), Kind::Range);
    partial.discard().unwrap();
    partial.discard().unwrap();
    assert_eq!(count(&temp.path().join(".larder/partial")), 0);
}

#[test]
fn p1_p13_a_whole_download_is_published_with_its_time_and_mode() {
    let (temp, store) = new();
    let partial = store.partial(&id("f"), 6).unwrap();
    partial.write_at(3, b"def").unwrap();
    partial.checkpoint().unwrap();
    assert_eq!(kind(partial.settle(&given(1, 0o644))), Kind::Corrupt);
    assert!(!temp.path().join("d").exists());
    partial.write_at(0, b"abc").unwrap();
    assert!(partial.is_complete());
    let facts = publish(&store, &partial, "d/f", given(1_234_567_891, 0o440));
    assert_eq!(
        (facts.mtime_ns, facts.mode, facts.size),
        (1_234_567_891, 0o440, 6)
    );
    assert_eq!(fs::read(temp.path().join("d/f")).unwrap(), b"abcdef");
    assert_eq!(count(&temp.path().join(".larder/partial")), 0);
    let empty = store.partial(&id("empty"), 0).unwrap();
    assert_eq!(publish(&store, &empty, "empty", given(7, 0o644)).size, 0);
}

#[test]
fn p1_a_download_in_memory_reaches_the_disk_when_it_is_whole() {
    let (temp, store) = new();
    let own = temp.path().join(".larder/partial");
    // What an earlier one left must neither be in the way nor count.
    let left = store.partial(&id("f"), 6).unwrap();
    left.write_at(0, b"??????").unwrap();
    left.checkpoint().unwrap();
    let partial = store.partial_in_memory(&id("f"), 6).unwrap().unwrap();
    assert_eq!((partial.covered(), partial.file().is_none()), (0, true));
    partial.write_at(3, b"def").unwrap();
    partial.checkpoint().unwrap();
    assert_eq!(partial.read(&(3..6)).unwrap(), b"def".as_slice());
    assert_eq!(kind(partial.settle(&given(1, 0o644))), Kind::Corrupt);
    partial.start_over().unwrap();
    assert_eq!(partial.covered(), 0);
    partial.write_at(0, b"abc").unwrap();
    partial.write_at(3, b"def").unwrap();
    let all = partial.read(&(0..6)).unwrap();
    assert_eq!(kind(partial.write_at(5, b"gh")), Kind::Range);
    let facts = publish(&store, &partial, "d/f", given(1_234_567_891, 0o440));
    assert!(partial.file().is_some());
    assert_eq!(
        (facts.mtime_ns, facts.mode, facts.size),
        (1_234_567_891, 0o440, 6)
    );
    assert_eq!(fs::read(temp.path().join("d/f")).unwrap(), b"abcdef");
    assert_eq!(
        (all, partial.read(&(2..4)).unwrap()),
        (b"abcdef".as_slice().into(), b"cd".as_slice().into())
    );
    assert_eq!(count(&own), 0);
}

#[test]
fn p1_several_are_synced_together_but_for_those_that_could_not_be_settled() {
    let (_temp, store) = new();
    let partials: Vec<_> = (0..6u8)
        .map(|n| {
            let id = id(&n.to_string());
            let partial = store.partial_in_memory(&id, 3).unwrap().unwrap();
            partial
                .write_at(0, &[n; 3][..if n == 2 { 2 } else { 3 }])
                .unwrap();
            partial
        })
        .collect();
    let settle = |partial: &Partial| partial.settle(&given(1, 0o644));
    for together in [&partials[..2], &partials[1..]] {
        let settled = together.iter().map(|one| settle(one).map(|()| one));
        let synced: Vec<_> = store.sync(settled.collect());
        let bad = |n: usize| synced.get(n).is_some_and(|done| done.is_err());
        let unsettled: Vec<_> = (0..together.len()).filter(|n| bad(*n)).collect();
        assert_eq!(
            unsettled,
            if together.len() == 2 { vec![] } else { vec![1] }
        );
    }
}

#[test]
fn what_lies_in_memory_is_bounded_and_freed() {
    let (temp, store) = new();
    let take = |name: &str| store.partial_in_memory(&id(name), 1 << 20).unwrap();
    let held: Vec<_> = (0..64).map(|n| take(&n.to_string()).unwrap()).collect();
    assert!(take("one more").is_none());
    // On the disk it counts no more.
    held[0].write_at(0, &vec![1; 1 << 20]).unwrap();
    held[0].settle(&given(1, 0o644)).unwrap();
    let more = take("one more");
    assert!(more.is_some() && take("and one").is_none());
    drop((held, more));
    let again: Vec<_> = (0..64).filter_map(|n| take(&n.to_string())).collect();
    assert_eq!(again.len(), 64);
    assert_eq!(count(&temp.path().join(".larder/partial")), 1);
}

#[test]
fn p1_a_saved_set_that_does_not_fit_its_file_counts_for_nothing() {
    let (temp, store) = new();
    let own = temp.path().join(".larder/partial");
    let data = own.join(id("f").to_string());
    let have = own.join(format!("{}.have", id("f")));
    let covered = |size| store.partial(&id("f"), size).unwrap().have().covered();
    let save = || {
        let partial = store.partial(&id("f"), 100).unwrap();
        partial.write_at(0, &[1; 50]).unwrap();
        partial.checkpoint().unwrap();
        assert_eq!(covered(100), 50);
    };
    save();
    let good = fs::read_to_string(&have).unwrap();
    for bad in [
        "",
        "end\n",
        &good[..good.len() - 4],
        &good.replace("0 50", "0 500"),
    ] {
        fs::write(&have, bad).unwrap();
        assert_eq!(covered(100), 0, "{bad:?}");
    }
    // Another length, and then the first one again.
    fs::write(&have, &good).unwrap();
    assert_eq!(covered(99), 0);
    assert_eq!(covered(100), 0);
    // Another file, which may well get the same inode number.
    fs::write(&have, &good).unwrap();
    fs::remove_file(&data).unwrap();
    assert_eq!(covered(100), 0);
    assert_eq!(covered(100), 0);
    save();
}

#[test]
fn p1_a_set_saved_amid_writes_never_claims_more_than_was_written() {
    let (_temp, store) = new();
    let size = 64 * 1024;
    let partial = store.partial(&id("f"), size).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                partial.checkpoint().unwrap();
                let again = store.partial(&id("f"), size).unwrap();
                for range in again.have().iter() {
                    assert!(again.read(range).unwrap().iter().all(|byte| *byte == 9));
                }
            }
        });
        std::thread::scope(|scope| {
            for lane in 0..2 {
                let partial = &partial;
                scope.spawn(move || {
                    for n in (lane..256).step_by(2) {
                        partial.write_at(n * 256, &[9; 256]).unwrap();
                    }
                });
            }
        });
        done.store(true, Ordering::Relaxed);
        saver.join().unwrap();
    });
    partial.checkpoint().unwrap();
    assert!(store.partial(&id("f"), size).unwrap().is_complete());
}

#[test]
fn pruning_takes_the_oldest_downloads_and_none_that_is_wanted() {
    let (temp, store) = new();
    let own = temp.path().join(".larder/partial");
    let names = ["wanted", "old", "new"];
    for (age, name) in (1..).zip(names) {
        let partial = store.partial(&id(name), 4096).unwrap();
        partial.write_at(0, &[1; 4096]).unwrap();
        partial.checkpoint().unwrap();
        for suffix in ["", ".have"] {
            let file = fs::File::open(own.join(format!("{}{suffix}", id(name)))).unwrap();
            crate::beneath::set_times_of(&file, None, Some(age)).unwrap();
        }
    }
    fs::write(own.join("litter"), "x").unwrap();
    fs::write(own.join(format!("{}.have", id("no data"))), "x").unwrap();
    let wanted = |it: &PartialId| *it == id("wanted");
    store.prune_partials(&wanted, u64::MAX).unwrap();
    assert_eq!(count(&own), 6, "only litter goes while there is room");
    assert!(store.prune_partials(&wanted, 10_000).unwrap() >= 4096);
    let is_whole = |name| own.join(format!("{}.have", id(name))).exists();
    assert_eq!(names.map(is_whole), [true, false, true]);
    store.prune_partials(&wanted, 0).unwrap();
    assert_eq!(names.map(is_whole), [true, false, false]);
    assert_eq!(count(&own), 2);
}

#[test]
fn one_download_has_one_name_and_no_two_share_it() {
    let version = |text| Version::new(text).unwrap();
    let one = PartialId::new("http://a", &p("b"), &version("c"));
    assert_eq!(one, PartialId::new("http://a", &p("b"), &version("c")));
    assert_ne!(
        one,
        PartialId::new("http://ab", &RelPath::root(), &version("c"))
    );
    assert_ne!(one, PartialId::new("http://a", &p("b"), &version("d")));
}
