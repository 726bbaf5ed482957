//! P4: what speaks of other files goes up after them, whatever happens on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::common::{Lab, Mount, eventually, put};
use super::proxy::Proxy;

/// A reader of the server's directory who compares all the time.
struct Reader {
    looks: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
}

/// The number in a file of these tests; 0 if there is none.
fn version(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().unwrap().parse().unwrap_or_default()
}

impl Reader {
    /// Of each pair, the sidecar and a file that it speaks of.
    fn of(root: &Path, pairs: &[(&str, &str)]) -> Reader {
        let (looks, end) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let pairs: Vec<(PathBuf, PathBuf)> = pairs
            .iter()
            .map(|(sidecar, data)| (root.join(sidecar), root.join(data)))
            .collect();
        let (counted, ended) = (looks.clone(), end.clone());
        let thread = thread::spawn(move || {
            let mut wrong = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                for (sidecar, data) in &pairs {
                    // In this order: the file may be newer by the time it is read, not older.
                    let (said, there) = (version(sidecar), version(data));
                    if there < said {
                        wrong.push(format!("{}: {there} < {said}", data.display()));
                    }
                }
                counted.fetch_add(1, Ordering::SeqCst);
            }
            wrong
        });
        Reader { looks, end, thread }
    }

    fn ends_content(self) {
        let looks = self.looks.load(Ordering::SeqCst);
        eventually("it has looked once more", || {
            self.looks.load(Ordering::SeqCst) > looks + 1
        });
        self.end.store(true, Ordering::SeqCst);
        let wrong = self.thread.join().unwrap();
        assert!(wrong.is_empty(), "{:?}", &wrong[..wrong.len().min(5)]);
    }
}

fn behind(mount: &Mount<'_>) -> (String, String) {
    let outbox = &mount.status()["outbox"];
    let text = |field: &str| outbox[field].as_str().unwrap_or_default().to_owned();
    (text("behind_path"), text("behind_for"))
}

fn write(mount: &Mount<'_>, version: u64, names: &[&str]) {
    for name in names {
        put(&mount.path(name), format!("{version} {name}").as_bytes());
    }
}

#[test]
fn p4_no_reader_sees_a_new_sidecar_beside_old_data() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let args = ["--remote", &wire.url, "--upload"];
    let mount = lab.mount("mnt", &args);
    let names = [
        "run/deep/part-0",
        "pairs/x.parquet",
        "pairs/x.parquet.meta.json",
        "run/manifest.json",
    ];
    write(&mount, 1, &names);
    mount.flush();
    let reader = Reader::of(
        &server.root,
        &[
            ("run/manifest.json", "run/deep/part-0"),
            ("pairs/x.parquet.meta.json", "pairs/x.parquet"),
        ],
    );
    wire.hold("part-0");
    write(&mount, 2, &names);
    // What came later does not wait for them, and does not hold them up.
    write(&mount, 2, &["run/later", "elsewhere/manifest.json"]);
    let there = |name: &str| version(&server.root.join(name));
    eventually("the others are up", || {
        [
            "pairs/x.parquet.meta.json",
            "run/later",
            "elsewhere/manifest.json",
        ]
        .iter()
        .all(|name| there(name) == 2)
    });
    eventually("status says who waits for whom", || {
        behind(&mount) == ("run/manifest.json".into(), "run/deep/part-0".into())
    });
    assert_eq!(there("run/manifest.json"), 1);
    // A killed daemon, and what it had on the way, change nothing in that.
    mount.kill();
    wire.cut();
    wire.open();
    let mount = lab.mount("mnt", &args);
    put(&mount.path("run/manifest.json"), b"2 again");
    write(&mount, 3, &["after"]);
    eventually("something went up", || there("after") == 3);
    eventually("it still waits", || !behind(&mount).1.is_empty());
    assert_eq!(there("run/manifest.json"), 1);
    wire.release();
    mount.flush();
    assert_eq!(
        (there("run/deep/part-0"), there("run/manifest.json")),
        (2, 2)
    );
    assert_eq!(behind(&mount).0, "");
    for n in 4..40 {
        write(&mount, n, &names);
    }
    mount.flush();
    reader.ends_content();
    assert_eq!(there("run/manifest.json"), 39);
}

#[test]
fn p4_a_directory_that_is_renamed_goes_up_in_order() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let mount = lab.mount("mnt", &["--remote", &wire.url, "--upload"]);
    wire.hold("part-1");
    write(
        &mount,
        1,
        &["run.tmp/_SUCCESS", "run.tmp/a/part-0", "run.tmp/a/part-1"],
    );
    fs::rename(mount.path("run.tmp"), mount.path("run")).unwrap();
    let there = |name: &str| server.root.join(name).exists();
    eventually("the first part is up", || there("run/a/part-0"));
    eventually("status says who waits for whom", || {
        behind(&mount) == ("run/_SUCCESS".into(), "run/a/part-1".into())
    });
    assert!(!there("run/_SUCCESS"));
    wire.release();
    mount.flush();
    assert!(there("run/_SUCCESS") && there("run/a/part-1"));
}

#[test]
fn p4_what_was_put_into_the_folder_while_unmounted_goes_up_in_order() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    wire.hold("part-1");
    for name in [
        "_SUCCESS",
        "run/manifest.json",
        "run/a/part-0",
        "run/a/part-1",
    ] {
        put(&lab.dir("mnt").join(name), b"1 made by hand");
    }
    let mount = lab.mount("mnt", &["--remote", &wire.url, "--upload"]);
    let there = |name: &str| server.root.join(name).exists();
    eventually("the first part is up", || there("run/a/part-0"));
    eventually("both wait", || {
        mount.status()["outbox"]["behind"] == 2 && behind(&mount).1 == "run/a/part-1"
    });
    assert!(!there("_SUCCESS") && !there("run/manifest.json"));
    wire.release();
    mount.flush();
    assert!(there("_SUCCESS") && there("run/manifest.json"));
}

#[test]
fn p4_what_goes_up_last_is_for_the_user_to_say() {
    let lab = Lab::new();
    let server = lab.serve("srv", &[]);
    let wire = Proxy::to(&server.url);
    let args = [
        "--remote",
        &wire.url,
        "--upload",
        "--publish-last",
        "*.done",
    ];
    let mount = lab.mount("mnt", &args);
    wire.hold("part-0");
    write(&mount, 1, &["part-0", "run.done", "manifest.json"]);
    let there = |name: &str| server.root.join(name).exists();
    eventually("that is an ordinary file now", || there("manifest.json"));
    eventually("the other waits", || behind(&mount).0 == "run.done");
    assert!(!there("run.done"));
    wire.release();
    mount.flush();
    assert!(there("run.done"));
}
