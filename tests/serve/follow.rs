//! Following the directory: what others do to it behind the server's back.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant, UNIX_EPOCH};

use larder::object::Change;
use reqwest::{Method, StatusCode};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn p8_changes_behind_its_back_are_told_at_once() {
    let site = Site::with(&[("d/a", b"1"), ("d/b", b"2")]).await;
    let seq = site.info().await.seq;
    let start = Instant::now();
    write(&site.path("d/new"), b"fresh");
    let seq = site.wait_change(seq, is_put("d/new")).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "told after {took:?}");

    write(&site.path("d/a"), b"changed");
    let seq = site.wait_change(seq, is_put("d/a")).await;
    assert_eq!(site.bytes("d/a").await, b"changed");

    fs::rename(site.path("d/b"), site.path("d/c")).unwrap();
    let from = site.wait_change(seq, is_put("d/c")).await;
    let to = site.wait_change(seq, is_deleted("d/b")).await;

    fs::remove_file(site.path("d/c")).unwrap();
    let seq = site.wait_change(from.max(to), is_deleted("d/c")).await;

    // An old time on new bytes of the same length.
    let before = header(&site.get("d/new").await, "etag");
    write(&site.path("d/new"), b"FRESH");
    let old = File::options()
        .write(true)
        .open(site.path("d/new"))
        .unwrap();
    old.set_modified(UNIX_EPOCH + Duration::from_secs(1_577_836_800))
        .unwrap();
    drop(old);
    site.wait_change(seq, is_put("d/new")).await;
    let response = site.get("d/new").await;
    assert_ne!(header(&response, "etag"), before);
    assert_eq!(response.bytes().await.unwrap(), "FRESH");
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_whole_directories_come_go_and_move() {
    let outside = tempfile::tempdir().unwrap();
    for n in 0..50 {
        write(&outside.path().join(format!("tree/{n}/f")), b"x");
    }
    let site = Site::with(&[("first", b"1")]).await;
    fs::rename(outside.path().join("tree"), site.path("tree")).unwrap();
    eventually("the tree came", async || site.info().await.files == 51).await;
    fs::rename(site.path("tree"), site.path("moved")).unwrap();
    eventually("the tree moved", async || {
        let (listed, _) = site.index().await;
        listed.len() == 51 && listed.iter().any(|(name, _)| name == b"moved/49/f")
    })
    .await;
    fs::remove_dir_all(site.path("moved")).unwrap();
    eventually("the tree went", async || site.info().await.files == 1).await;
    // Directories made one in the other faster than they can be watched.
    write(&site.path("n/e/s/t/e/d/file"), b"deep");
    eventually("the deep file came", async || site.info().await.files == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_file_that_is_being_written_is_not_shown() {
    let site = Site::with(&[("other", b"1")]).await;
    let info = site.info().await;
    let mut file = File::create(site.path("growing")).unwrap();
    file.write_all(b"half").unwrap();
    // Something else is published meanwhile; the growing file is not.
    write(&site.path("marker"), b"m");
    site.wait_change(info.seq, is_put("marker")).await;
    let (changes, _) = site.changes(&info.epoch, info.seq, 0).await;
    assert!(!changes.iter().any(is_put("growing")), "{changes:?}");
    let early = site.get("growing").await;
    assert_eq!(early.status(), StatusCode::LOCKED);
    assert_eq!(header(&early, "retry-after"), "1");
    let versioned = site
        .file(Method::GET, "growing")
        .header("if-match", "\"x\"");
    assert_eq!(
        versioned.send().await.unwrap().status(),
        StatusCode::PRECONDITION_FAILED
    );

    file.write_all(b" and half").unwrap();
    let closed = Instant::now();
    drop(file);
    site.wait_change(info.seq, is_put("growing")).await;
    let took = closed.elapsed();
    assert!(took < Duration::from_secs(1), "told after {took:?}");
    assert_eq!(site.bytes("growing").await, b"half and half");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_read_waits_for_a_writer_that_is_about_to_finish() {
    let site = Site::with(&[("x", b"old")]).await;
    let mut file = File::create(site.path("x")).unwrap();
    file.write_all(b"new ").unwrap();
    let read = tokio::spawn(site.file(Method::GET, "x").send());
    eventually("the read has arrived", async || {
        site.server.stats().get == 1
    })
    .await;
    file.write_all(b"version").unwrap();
    drop(file);
    let response = read.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.bytes().await.unwrap(), "new version");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chmod_makes_no_new_version_of_hashed_bytes() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::with(&[("x", b"same")]).await;
    let before = header(&site.get("x").await, "etag");
    eventually("the hash is known", async || {
        let head = site.file(Method::HEAD, "x").send().await.unwrap();
        !header(&head, "repr-digest").is_empty()
    })
    .await;
    fs::set_permissions(site.path("x"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(header(&site.get("x").await, "etag"), before);
    // The same bytes, put back by somebody with their time.
    let mtime = fs::metadata(site.path("x")).unwrap().modified().unwrap();
    write(&site.path("copy"), b"same");
    let copy = File::options().write(true).open(site.path("copy")).unwrap();
    copy.set_modified(mtime).unwrap();
    drop(copy);
    fs::rename(site.path("copy"), site.path("x")).unwrap();
    assert_eq!(header(&site.get("x").await, "etag"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_knows_what_was_and_finds_what_changed() {
    let site = Site::with(&[("stays", b"1"), ("goes", b"2"), ("changes", b"3")]).await;
    let info = site.info().await;
    let etag = header(&site.get("stays").await, "etag");
    let Site { dir, server, .. } = site;
    server.stop().await;
    fs::remove_file(dir.path().join("goes")).unwrap();
    write(&dir.path().join("changes"), b"other");
    write(&dir.path().join("comes"), b"4");
    let site = Site::over(dir, |_| {}).await;
    let again = site.info().await;
    assert_eq!(again.epoch, info.epoch);
    let (changes, _) = site.changes(&info.epoch, info.seq, 0).await;
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(changes.iter().any(is_deleted("goes")));
    assert!(changes.iter().any(is_put("changes")));
    assert!(changes.iter().any(is_put("comes")));
    assert_eq!(header(&site.get("stays").await, "etag"), etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_set_aside_and_versions_stay() {
    let site = Site::with(&[("a", b"1")]).await;
    let epoch = site.info().await.epoch;
    let etag = header(&site.get("a").await, "etag");
    let Site { dir, server, .. } = site;
    server.stop().await;
    fs::write(
        dir.path().join(".larder/serve.db"),
        b"no database at all, but long enough",
    )
    .unwrap();
    let site = Site::over(dir, |_| {}).await;
    assert!(site.server.notes()[0].contains("damaged"));
    assert_ne!(site.info().await.epoch, epoch);
    assert_eq!(header(&site.get("a").await, "etag"), etag);
    let stale = format!("/v1/changes?epoch={epoch}&since=0");
    let response = site.ask(Method::GET, &stale).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::GONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_changes_wait_and_unknown_cursors_are_gone() {
    let site = Site::with(&[("a", b"1")]).await;
    let info = site.info().await;
    for (epoch, since) in [("other", info.seq), (&*info.epoch, info.seq + 1000)] {
        let path = format!("/v1/changes?epoch={epoch}&since={since}&wait=5");
        let response = site.ask(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::GONE);
    }
    let bad = site.ask(Method::GET, "/v1/changes?since=x").send().await;
    assert_eq!(bad.unwrap().status(), StatusCode::BAD_REQUEST);

    let start = Instant::now();
    let (none, seq) = site.changes(&info.epoch, info.seq, 1).await;
    assert!(none.is_empty() && seq == info.seq);
    assert!(start.elapsed() >= Duration::from_millis(900));

    let told = site.changes(&info.epoch, info.seq, 15);
    let act = async {
        eventually("the question waits", async || {
            site.server.stats().changes == 5
        })
        .await;
        site.put("b", b"2").await
    };
    let ((changes, _), _) = tokio::join!(told, act);
    let [Change::Put(object)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!(object.key, key("b"));
    assert_eq!(object.meta.sha256, Some(sha256(b"2")));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_directory_that_went_away_is_not_a_deletion() {
    let parent = tempfile::tempdir().unwrap();
    let (here, away) = (parent.path().join("served"), parent.path().join("away"));
    write(&here.join("d/a"), b"1");
    let mut config = config(&here);
    config.sweep = Duration::from_millis(50);
    let server = larder::server::start(config).await.unwrap();
    server.wait_scanned().await;
    let client = client();
    let base = format!("http://{}/v1", server.addr());
    let status = async |path: &str| {
        let answer = client.get(format!("{base}/{path}")).send().await.unwrap();
        answer.status()
    };
    assert_eq!(status("files/d/a").await, StatusCode::OK);
    for empty_in_its_place in [false, true] {
        fs::rename(&here, &away).unwrap();
        if empty_in_its_place {
            fs::create_dir(&here).unwrap();
        }
        for path in [
            "files/d/a",
            "files/none",
            "index",
            "info",
            "changes?epoch=x&since=0",
        ] {
            assert_eq!(
                status(path).await,
                StatusCode::SERVICE_UNAVAILABLE,
                "{path}"
            );
        }
        server.sweep();
        if empty_in_its_place {
            fs::remove_dir(&here).unwrap();
        }
        assert_eq!(server.totals().0, 1);
        fs::rename(&away, &here).unwrap();
        assert_eq!(status("files/d/a").await, StatusCode::OK);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_read_finds_out_by_itself() {
    let site = Site::with(&[("goes", b"1"), ("changes", b"22")]).await;
    for round in 0..50 {
        // Without a pause for the watcher: the read has to look.
        let bytes = format!("{round:02}");
        write(&site.path("changes"), bytes.as_bytes());
        assert_eq!(site.bytes("changes").await, bytes.as_bytes());
    }
    fs::remove_file(site.path("goes")).unwrap();
    assert_eq!(site.get("goes").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(site.index().await.0, [(b"changes".to_vec(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_sweeps_and_uploads_at_once_end_in_agreement() {
    let site = Site::new().await;
    let uploads = (0..40).map(|n| {
        let site = &site;
        async move {
            for round in 0..5u8 {
                let name = format!("d{}/f{n}", n % 7);
                let status = site.put(&name, &[round]).await.status();
                assert!(status.is_success());
                site.server.sweep();
                if round == 2 {
                    site.file(Method::DELETE, &name).send().await.unwrap();
                }
            }
        }
    });
    let start = site.info().await;
    futures_util::future::join_all(uploads).await;
    let (listed, end) = site.index().await;
    assert_eq!(listed.len(), 40);
    assert_eq!(site.info().await.files, 40);
    // The feed and the listing tell the same.
    let (changes, seq) = site.changes(&start.epoch, start.seq, 0).await;
    assert_eq!((changes.len(), Some(seq)), (40, end.seq));
    for change in changes {
        let Change::Put(object) = change else {
            panic!("{change:?}");
        };
        let response = site.get(&object.key.encode()).await;
        assert_eq!(header(&response, "etag"), object.meta.version.to_etag());
        assert_eq!(response.bytes().await.unwrap(), &[4u8][..]);
    }
}
