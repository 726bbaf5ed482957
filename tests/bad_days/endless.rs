//! Remotes that go on naming files (promise P10): the index takes in what it was told to, and never
//! the last of the disk; what it took in is as good as ever.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::many::setting;
use crate::common::{Lab, Mount, bytes, eventually, put};
use crate::disk::Disk;
use crate::liar::{Liar, honest, line};
use crate::{SECOND, errno, shown, state};

/// Why not all that the remote names was taken in.
fn cut_short(mount: &Mount<'_>) -> Option<String> {
    let status = mount.status();
    let why = status["remotes"][0]["cut_short"].as_str();
    why.map(str::to_owned)
}

fn files(mount: &Mount<'_>) -> u64 {
    mount.status()["remotes"][0]["files"].as_u64().unwrap()
}

/// The one line of a verb that failed.
fn refused(mount: &Mount<'_>, verb: &str) -> String {
    let output = mount.verb(&[verb]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.lines().count() == 1,
        "{text}"
    );
    text
}

#[test]
fn p10_a_listing_without_end_is_cut_short_and_what_it_named_stays_usable() {
    let lab = Lab::new();
    let liar = Liar::new();
    let content = bytes(1, 3000);
    liar.lists_for_ever(&content);
    let names = ["f0000000007.bin", "f0000000011.bin", "zz.bin"];
    for name in names {
        liar.says(name, honest("v1", &content));
    }
    let store = lab.dir("store");
    let args = ["--remote", &liar.url, "--max-listed", "5000"];
    let kept = ["--store", store.to_str().unwrap()];
    let mount = lab.mount("mnt", &[&args[..], &kept].concat());
    eventually("it is cut short", || cut_short(&mount).is_some());
    assert!(cut_short(&mount).unwrap().contains("more than 5000 files"));
    assert_eq!((state(&mount).as_str(), files(&mount)), ("online", 5000));

    // Nothing waits for the end of the listing.
    let begun = Instant::now();
    assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 5000);
    assert_eq!(fs::read(mount.path(names[0])).unwrap(), content);
    let absent = errno(fs::metadata(mount.path("nowhere.bin")));
    assert_eq!(absent, libc::ENOENT);
    // What was left out is there for who asks for it.
    assert_eq!(fs::read(mount.path(names[2])).unwrap(), content);
    fs::write(mount.path("mine.bin"), b"mine").unwrap();
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());

    let text = shown(&mount);
    assert!(text.contains("5,001 files of its listing"), "{text}");
    assert!(text.contains("  names more than 5000 files"), "{text}");
    assert!(text.contains("--max-listed"), "{text}");
    let said = refused(&mount, "sync");
    assert!(
        said.contains("names more than 5000 files") && said.contains(&liar.url),
        "{said}"
    );
    // Again and again it broke off, and nothing went for it.
    assert_eq!(fs::read(mount.path(names[2])).unwrap(), content);
    mount.nothing_waits();
    let log = fs::read_to_string(store.join(".larder/larder.log")).unwrap();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("more than 5000"))
        .collect();
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:?}");

    // One that comes to an end is believed again.
    let [a, b, _] = names.map(|name| line(name, "v1", &content));
    liar.lists(a + &b);
    mount.sync();
    assert_eq!((cut_short(&mount), files(&mount)), (None, 2));
    assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 3);
    assert_eq!(fs::read(mount.path(names[1])).unwrap(), content);
    let at = mount.unmount();
    assert!(store.join(names[0]).exists() && store.join("mine.bin").exists());
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
}

#[test]
fn p10_a_listing_without_end_leaves_the_last_of_the_disk() {
    let lab = Lab::new();
    let liar = Liar::new();
    let content = bytes(1, 3000);
    liar.lists_for_ever(&content);
    liar.says("f0000000007.bin", honest("v1", &content));
    let disk = Disk::new(&lab, "disk", "16m");
    let store = disk.at.to_str().unwrap();
    let args = ["--store", store, "--remote", &liar.url];
    let unbounded = ["--max-listed", "none", "--min-free", "0"];
    let mount = lab.mount("mnt", &[&args[..], &unbounded].concat());
    eventually("it is cut short", || cut_short(&mount).is_some());
    let why = cut_short(&mount).unwrap();
    assert!(why.contains("disk") && why.contains("make room"), "{why}");
    let named = files(&mount);
    assert!(named > 4000 && state(&mount) == "online", "{named}");

    // There is room for what matters more, and for the index to note it.
    assert_eq!(fs::read(mount.path("f0000000007.bin")).unwrap(), content);
    put(&mount.path("mine.bin"), &bytes(2, 1 << 20));
    assert!(fs::read(mount.path("mine.bin")).unwrap() == bytes(2, 1 << 20));
    assert!(refused(&mount, "sync").contains("make room"));
    assert!(files(&mount) >= named);
    mount.unmount();
    assert!(fs::read(disk.at.join("mine.bin")).unwrap() == bytes(2, 1 << 20));
}

#[test]
fn p10_changes_without_end_are_cut_short_and_deletions_mend_it() {
    let lab = Lab::new();
    let path = |n: u64| lab.path(format!("srv/f{n:03}.bin"));
    for n in 0..20 {
        put(&path(n), &bytes(n, 500));
    }
    let server = lab.serve("srv", &["--sweep", "1s"]);
    let args = ["--remote", &server.url, "--max-listed", "30"];
    let mount = lab.mount("mnt", &args);
    mount.sync();
    assert_eq!((cut_short(&mount), files(&mount)), (None, 20));
    for n in 20..60 {
        put(&path(n), &bytes(n, 500));
    }
    eventually("it is cut short", || cut_short(&mount).is_some());
    assert!(files(&mount) > 30 && state(&mount) == "online");
    for n in 0..20 {
        let name = mount.path(format!("f{n:03}.bin"));
        assert_eq!(fs::read(name).unwrap(), bytes(n, 500));
    }
    for n in 25..60 {
        fs::remove_file(path(n)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    while !mount.verb(&["sync"]).status.success() || files(&mount) != 25 {
        assert!(Instant::now() < until, "{}", shown(&mount));
    }
    assert_eq!(cut_short(&mount), None);
    put(&path(99), b"another");
    eventually("changes come again", || {
        fs::read(mount.path("f099.bin")).is_ok_and(|found| found == b"another")
    });
}

/// The kernel may remember for ever that a name is not there, as long as all names are known.
#[test]
fn p10_names_that_were_absent_before_a_listing_was_cut_short_are_found_after() {
    let lab = Lab::new();
    put(&lab.path("srv/d/f000.bin"), b"known");
    let server = lab.serve("srv", &["--sweep", "1s"]);
    let mount = lab.mount("mnt", &["--remote", &server.url, "--max-listed", "30"]);
    mount.sync();
    let late = ["zz.bin", "d/zz.bin"];
    for name in late {
        assert_eq!(errno(fs::metadata(mount.path(name))), libc::ENOENT);
    }
    for n in 0..60 {
        put(&lab.path(format!("srv/a/f{n:03}.bin")), &bytes(n, 500));
    }
    eventually("it is cut short", || cut_short(&mount).is_some());
    for name in late {
        put(&server.root.join(name), name.as_bytes());
    }
    for name in late {
        eventually("it is found by who asks for it", || {
            fs::read(mount.path(name)).is_ok_and(|found| found == name.as_bytes())
        });
    }
    // Away, nothing is known to be there; back, all is asked for again.
    let port = server.port();
    server.kill();
    eventually("who asks finds that it is away", || {
        errno(fs::metadata(mount.path("asked.bin"))) == libc::ENOENT && state(&mount) == "away"
    });
    let later = ["yy.bin", "d/yy.bin"];
    for name in later {
        assert_eq!(errno(fs::metadata(mount.path(name))), libc::ENOENT);
    }
    for name in later {
        put(&lab.path("srv").join(name), name.as_bytes());
    }
    let _server = lab.serve_at("srv", &port, &["--sweep", "1s"]);
    for name in later {
        eventually("it is found when the server is back", || {
            fs::read(mount.path(name)).is_ok_and(|found| found == name.as_bytes())
        });
    }
}

/// What was left out of a first listing is not known to be absent, by the next mount either.
#[test]
fn p2_a_listing_that_was_cut_short_is_not_whole_after_a_remount() {
    let lab = Lab::new();
    let liar = Liar::new();
    let content = bytes(1, 3000);
    liar.lists_for_ever(&content);
    let (named, left_out) = ("f0000000007.bin", "zz.bin");
    for name in [named, left_out] {
        liar.says(name, honest("v1", &content));
    }
    let args = ["--remote", &liar.url, "--max-listed", "500"];
    let mount = lab.mount("mnt", &args);
    eventually("it is cut short", || cut_short(&mount).is_some());
    assert_eq!(fs::read(mount.path(named)).unwrap(), content);
    eventually("it is kept", || mount.status()["held"]["files"] == 1);
    mount.unmount();
    for _ in 0..2 {
        let mount = lab.mount("mnt", &args);
        // At once: before the remote was asked for anything.
        assert_eq!(fs::read(mount.path(left_out)).unwrap(), content);
        let absent = errno(fs::metadata(mount.path("nowhere.bin")));
        assert_eq!(absent, libc::ENOENT);
        assert!(fs::read_dir(&mount.at).unwrap().count() > 500);
        eventually("it is cut short again", || cut_short(&mount).is_some());
        assert_eq!(mount.status()["remotes"][0]["listed"], false);
        assert_eq!(fs::read(mount.path(named)).unwrap(), content);
        assert_eq!(
            (state(&mount).as_str(), files(&mount) > 499),
            ("online", true)
        );
        mount.unmount();
    }
    // Nor does anything count as deleted that it had named, when it comes to an end.
    liar.lists(line(named, "v1", &content) + &line(left_out, "v1", &content));
    let mount = lab.mount("mnt", &args);
    mount.sync();
    assert_eq!((cut_short(&mount), files(&mount)), (None, 2));
    assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 2);
}

/// The most memory that the daemon took while a directory with so many names was listed and shown.
fn memory_kb_for(names: u64) -> u64 {
    let lab = Lab::new();
    let liar = Liar::new();
    liar.lists_for_ever(b"x");
    let most = names.to_string();
    let mount = lab.mount("mnt", &["--remote", &liar.url, "--max-listed", &most]);
    let until = Instant::now() + Duration::from_secs(600);
    while cut_short(&mount).is_none() {
        assert!(Instant::now() < until, "{}", shown(&mount));
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut find = std::process::Command::new("find");
    let output = find
        .arg(&mount.at)
        .args(["-type", "f", "-printf", "x"])
        .output();
    assert_eq!(output.unwrap().stdout.len() as u64, names);
    mount.nothing_waits();
    let text = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let memory = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{names} names: {memory} KiB");
    memory
}

/// `LARDER_MANY_NAMES` asks for more: a million takes minutes.
#[test]
fn p9_memory_does_not_grow_with_the_names_of_a_directory() {
    let many = setting("LARDER_MANY_NAMES", 150_000) as u64;
    let (few, all) = (memory_kb_for(10_000), memory_kb_for(many));
    assert!(
        all < few + (40 << 10),
        "{few} KiB, and {all} KiB for {many} names"
    );
}
