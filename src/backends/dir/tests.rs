//! A directory as a remote, on real directories. What all backends share is in
//! `tests/conformance.rs`.

use std::fs;
use std::os::unix::fs::symlink;

use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::backends::memory::upload_of;
use crate::backends::rate::Pace;

fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn directory() -> (TempDir, Directory) {
    let temp = tempfile::tempdir().unwrap();
    let times = Timeouts {
        answer: Duration::from_secs(2),
        ..Timeouts::default()
    };
    let directory = Directory::new(&temp.path().join("remote"), times);
    fs::create_dir(temp.path().join("remote")).unwrap();
    (temp, directory)
}

async fn put(directory: &Directory, key: &str, upload: Upload) -> Result<Meta> {
    directory.put(&p(key), upload, Precondition::None).await
}

async fn listed(directory: &Directory) -> Result<Vec<String>> {
    let (batches, mut taken) = mpsc::channel(100);
    directory.list(batches).await?;
    let mut names = Vec::new();
    while let Some(batch) = taken.recv().await {
        for listed in batch {
            match listed {
                Listed::Object(object) => names.push(object.key.to_string()),
                Listed::Refused { shown, .. } => names.push(format!("!{shown}")),
            }
        }
    }
    Ok(names)
}

#[tokio::test]
async fn a_tree_is_listed_in_the_order_of_whole_paths() {
    let (temp, directory) = directory();
    let root = temp.path().join("remote");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join(".larder/partial")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for name in ["a-b", "a.c", "a/z", "a/b/c", "b", ".larder/x"] {
        fs::write(root.join(name), name).unwrap();
    }
    symlink("b", root.join("link")).unwrap();
    symlink("/etc", root.join("a/etc")).unwrap();
    let names = listed(&directory).await.unwrap();
    assert_eq!(names, ["a-b", "a.c", "a/b/c", "a/z", "b"]);
}

#[tokio::test]
async fn p10_links_are_not_followed() {
    let (temp, directory) = directory();
    let root = temp.path().join("remote");
    fs::write(temp.path().join("secret"), "x").unwrap();
    symlink("../secret", root.join("file")).unwrap();
    symlink("..", root.join("up")).unwrap();
    assert_eq!(directory.head(&p("file")).await.unwrap(), None);
    assert!(directory.get(&p("file"), None, None).await.is_err());
    assert!(directory.get(&p("up/secret"), None, None).await.is_err());
    for key in ["up/new", "file"] {
        let sent = put(&directory, key, upload_of(b"x", 1)).await;
        assert_eq!(sent.unwrap_err().kind(), Kind::Denied, "{key}");
    }
    assert!(!temp.path().join("new").exists());
    assert_eq!(fs::read(temp.path().join("secret")).unwrap(), b"x");
}

#[tokio::test]
async fn p6_a_directory_that_went_away_is_offline_and_never_empty() {
    let (temp, directory) = directory();
    let root = temp.path().join("remote");
    fs::write(root.join("a"), "x").unwrap();
    assert_eq!(listed(&directory).await.unwrap(), ["a"]);
    let moved = temp.path().join("moved");
    fs::rename(&root, &moved).unwrap();
    // Gone, or an empty one in its place, as after an unmount.
    for _ in 0..2 {
        let offline = |error: Error| assert_eq!(error.kind(), Kind::Offline, "{error}");
        offline(listed(&directory).await.unwrap_err());
        offline(directory.head(&p("a")).await.unwrap_err());
        offline(directory.capabilities().await.unwrap_err());
        offline(directory.delete(&p("a"), None).await.unwrap_err());
        let sent = put(&directory, "b", upload_of(b"x", 1)).await;
        offline(sent.unwrap_err());
        let _ = fs::create_dir(&root);
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    fs::remove_dir(&root).unwrap();
    fs::rename(&moved, &root).unwrap();
    assert_eq!(listed(&directory).await.unwrap(), ["a"]);
    // Another one that holds something is what the user wants now.
    fs::rename(&root, &moved).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("b"), "y").unwrap();
    assert_eq!(listed(&directory).await.unwrap(), ["b"]);
}

#[tokio::test]
async fn p8_a_file_that_changes_while_it_is_read_is_stale() {
    let (temp, directory) = directory();
    let path = temp.path().join("remote/a");
    fs::write(&path, vec![1; 2 * body::CHUNK]).unwrap();
    let mut got = directory.get(&p("a"), None, None).await.unwrap();
    got.body.next().await.unwrap().unwrap();
    fs::write(&path, vec![2; 3 * body::CHUNK]).unwrap();
    let error = got.body.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Stale);
    assert!(got.body.next().await.is_none());
}

#[tokio::test]
async fn an_upload_keeps_its_rate_and_ends_with_whoever_wants_it() {
    let (temp, directory) = directory();
    let slow = |size: usize, rate| Upload {
        pace: Pace::new(rate),
        ..upload_of(&vec![1; size], 1)
    };
    let begun = std::time::Instant::now();
    let mib = 1 << 20;
    put(&directory, "a", slow(2 * mib, 4 * mib as u64))
        .await
        .unwrap();
    // Half a second, but for the burst of a quarter.
    assert!(begun.elapsed() >= Duration::from_millis(249));
    // A quarter of an hour, if somebody waited for it.
    let sent = put(&directory, "b", slow(mib, 1200));
    let given_up = tokio::time::timeout(Duration::from_millis(50), sent).await;
    assert!(given_up.is_err());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let partial = temp.path().join("remote/.larder/partial");
    while fs::read_dir(&partial).unwrap().count() > 0 {
        assert!(std::time::Instant::now() < deadline, "it goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!temp.path().join("remote/b").exists());
}

#[tokio::test]
async fn p5_a_writer_that_never_gets_its_turn_gives_up() {
    let (temp, directory) = directory();
    let ours = temp.path().join("remote/.larder");
    fs::create_dir(&ours).unwrap();
    let lock = fs::File::create(ours.join("put.lock")).unwrap();
    lock.lock().unwrap();
    let sent = put(&directory, "a", upload_of(b"x", 1)).await;
    assert_eq!(sent.unwrap_err().kind(), Kind::TimedOut);
    lock.unlock().unwrap();
    let sent = put(&directory, "a", upload_of(b"x", 1)).await;
    sent.unwrap();
    // The first one's thread may still be on its way back.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while fs::read_dir(ours.join("partial")).unwrap().count() > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "a temporary file is left"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn p1_a_file_that_is_not_what_was_promised_is_not_published() {
    let (temp, directory) = directory();
    let mut upload = upload_of(b"abc", 1);
    upload.sha256.0[0] ^= 1;
    let sent = put(&directory, "d/a", upload).await;
    assert_eq!(sent.unwrap_err().kind(), Kind::Corrupt);
    let mut upload = upload_of(b"abc", 1);
    upload.size = 4;
    let sent = put(&directory, "d/a", upload).await;
    assert_eq!(sent.unwrap_err().kind(), Kind::Corrupt);
    let root = temp.path().join("remote");
    assert!(!root.join("d").exists());
    assert_eq!(
        fs::read_dir(root.join(".larder/partial")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_delete_takes_the_directories_that_it_empties() {
    let (temp, directory) = directory();
    let root = temp.path().join("remote");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/c/d"), "x").unwrap();
    fs::write(root.join("a/e"), "x").unwrap();
    directory.delete(&p("a/b/c/d"), None).await.unwrap();
    assert!(root.join("a").exists() && !root.join("a/b").exists());
    directory.delete(&p("a/e"), None).await.unwrap();
    assert!(root.exists() && !root.join("a").exists());
}
