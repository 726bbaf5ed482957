//! Reading: bodies, headers, ranges, preconditions, listings.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

use larder::object::Change;
use larder::wire::{Line, digest_header};
use reqwest::{Method, StatusCode};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_file_comes_whole_with_its_version() {
    let site = Site::with(&[("TB/a.pkl", b"hello"), ("empty.bin", b"")]).await;
    let mtime = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(site.path("TB/a.pkl"))
        .unwrap()
        .set_modified(mtime)
        .unwrap();
    let response = site.get("TB/a.pkl").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-mtime-ns"), "1600000000123456789");
    assert_eq!(
        header(&response, "last-modified"),
        "Sun, 13 Sep 2020 12:26:40 GMT"
    );
    assert_eq!(
        header(&response, "repr-digest"),
        digest_header(&sha256(b"hello"))
    );
    assert_eq!(header(&response, "content-length"), "5");
    let etag = header(&response, "etag");
    assert_eq!(response.bytes().await.unwrap(), "hello");

    let head = site.file(Method::HEAD, "TB/a.pkl").send().await.unwrap();
    assert_eq!(header(&head, "etag"), etag);
    assert_eq!(header(&head, "content-length"), "5");
    assert_eq!(site.bytes("empty.bin").await, b"");
    for missing in ["none", "TB", "TB/a.pkl/x"] {
        assert_eq!(site.get(missing).await.status(), StatusCode::NOT_FOUND);
    }
    let problem = site.get("none").await;
    assert_eq!(header(&problem, "content-type"), "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_preconditions() {
    let site = Site::with(&[("a", b"hello")]).await;
    let etag = header(&site.get("a").await, "etag");
    let get = |name: &'static str, value: &str| {
        let request = site.file(Method::GET, "a").header(name, value);
        async move { request.send().await.unwrap() }
    };
    let part = get("range", "bytes=1-2").await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&part, "content-range"), "bytes 1-2/5");
    assert_eq!(part.bytes().await.unwrap(), "el");
    assert_eq!(get("range", "bytes=-2").await.bytes().await.unwrap(), "lo");
    let beyond = get("range", "bytes=5-").await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&beyond, "content-range"), "bytes */5");
    assert_eq!(get("range", "bytes=0-0,2-2").await.status(), StatusCode::OK);

    assert_eq!(
        get("if-none-match", &etag).await.status(),
        StatusCode::NOT_MODIFIED
    );
    assert_eq!(get("if-match", &etag).await.status(), StatusCode::OK);
    let failed = get("if-match", "\"other\"").await;
    assert_eq!(failed.status(), StatusCode::PRECONDITION_FAILED);
    for (tag, status) in [
        (etag.as_str(), StatusCode::PARTIAL_CONTENT),
        ("\"other\"", StatusCode::OK),
    ] {
        let request = site.file(Method::GET, "a").header("range", "bytes=0-1");
        let response = request.header("if-range", tag).send().await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_only_regular_files_inside_are_served() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("secret"), b"secret");
    let site = Site::with(&[("real/a", b"a")]).await;
    std::os::unix::fs::symlink(outside.path(), site.path("dirlink")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), site.path("link")).unwrap();
    std::os::unix::fs::symlink("real", site.path("inner")).unwrap();
    for name in ["dirlink/secret", "link", "inner/a"] {
        assert_eq!(
            site.get(name).await.status(),
            StatusCode::NOT_FOUND,
            "{name}"
        );
    }
    for name in [
        "..%2Fsecret",
        ".larder/serve.db",
        ".larder%2Fserve.db",
        "a%00b",
        "a//b",
        "",
    ] {
        let status = site.get(name).await.status();
        assert!(
            status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND,
            "{name}: {status}"
        );
    }
    assert_eq!(
        site.put("dirlink/new", b"x").await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(site.put("link", b"x").await.status(), StatusCode::CONFLICT);
    assert!(!outside.path().join("new").exists());
    assert_eq!(site.index().await.0, [(b"real/a".to_vec(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_is_complete_sorted_and_packed_on_request() {
    let names = ["a.b", "a/b", "a-b", "a/c/d", "ab", "ü/x y"];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"12"[..])).collect();
    let site = Site::with(&files).await;
    let raw = site.dir.path().join(OsStr::from_bytes(b"bad\xff"));
    std::fs::write(raw, b"123").unwrap();
    eventually("the odd name is known", async || {
        site.info().await.files == 7
    })
    .await;
    let (listed, end) = site.index().await;
    let mut expected: Vec<(Vec<u8>, u64)> =
        names.iter().map(|n| (n.as_bytes().into(), 2)).collect();
    expected.push((b"bad\xff".to_vec(), 3));
    expected.sort();
    assert_eq!(listed, expected);
    let info = site.info().await;
    assert_eq!((info.files, info.bytes), (7, 15));
    assert_eq!(end.epoch, Some(info.epoch));
    assert_eq!(site.bytes("bad%FF").await, b"123");

    let bare = reqwest::Client::builder()
        .no_gzip()
        .no_zstd()
        .build()
        .unwrap();
    for (accept, expected) in [("zstd", "zstd"), ("gzip", "gzip"), ("identity", "")] {
        let request = bare.get(format!("{}/v1/index", site.base));
        let response = request.header("accept-encoding", accept).send().await;
        assert_eq!(header(&response.unwrap(), "content-encoding"), expected);
    }
    let file = bare.get(format!("{}/v1/files/ab", site.base));
    let file = file.header("accept-encoding", "zstd").send().await.unwrap();
    assert_eq!(header(&file, "content-encoding"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_file_that_is_replaced_while_it_is_sent_comes_whole() {
    let old = vec![1u8; 24 << 20];
    let site = Site::with(&[("big", &old)]).await;
    for replace in [true, false] {
        let mut response = site.get("big").await;
        let mut got = response.chunk().await.unwrap().unwrap().to_vec();
        match replace {
            true => drop(site.put("big", &old).await),
            false => std::fs::remove_file(site.path("big")).unwrap(),
        }
        while let Some(chunk) = response.chunk().await.unwrap() {
            got.extend_from_slice(&chunk);
        }
        assert!(got == old);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_file_that_changes_while_it_is_sent_is_cut_off() {
    let site = Site::with(&[("big", &vec![1u8; 24 << 20])]).await;
    let mut response = site.get("big").await;
    assert_eq!(response.status(), StatusCode::OK);
    response.chunk().await.unwrap().unwrap();
    let mut file = File::options().write(true).open(site.path("big")).unwrap();
    file.write_all(b"changed").unwrap();
    drop(file);
    let outcome = loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(outcome.is_err(), "a mixture of two versions was served");
    assert_eq!(site.bytes("big").await[..7], *b"changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_a_large_file_streams_in_flat_memory_and_is_hashed_on_the_way() {
    let size = 300u64 << 20;
    let site = Site::new().await;
    let sparse = File::create(site.path("large")).unwrap();
    sparse.set_len(size).unwrap();
    drop(sparse);
    let before = resident();
    let mut response = site.get("large").await;
    let mut got = 0;
    while let Some(chunk) = response.chunk().await.unwrap() {
        got += chunk.len() as u64;
    }
    assert_eq!(got, size);
    let grown = resident().saturating_sub(before);
    // Other tests run in this process; what matters is that the file does not fit in.
    assert!(grown < 200 << 20, "grew by {grown} bytes");
    eventually("the hash is known", async || {
        let head = site.file(Method::HEAD, "large").send().await.unwrap();
        !header(&head, "repr-digest").is_empty()
    })
    .await;
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted() {
    let site = Site::with(&[("a", b"1")]).await;
    site.bytes("a").await;
    site.file(Method::HEAD, "a").send().await.unwrap();
    site.put("b", b"2").await;
    site.file(Method::DELETE, "b").send().await.unwrap();
    site.index().await;
    let info = site.info().await;
    site.changes(&info.epoch, info.seq, 0).await;
    let response = site.ask(Method::GET, "/v1/stats").send().await.unwrap();
    let told: larder::server::Stats =
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(told, site.server.stats());
    assert_eq!((told.get, told.head, told.put, told.delete), (1, 1, 1, 1));
    assert_eq!((told.index, told.changes, told.info), (1, 1, 1));
    assert_eq!(
        site.ask(Method::GET, "/nothing")
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_many_small_files_come_in_one_answer_as_they_were_asked_for() {
    let long = vec![7; (256 << 10) + 1];
    let files: [(&str, &[u8]); 5] = [
        ("TB/a.pkl", b"hello"),
        ("changed", b"old"),
        ("empty", b""),
        ("gone", b"gone"),
        ("long", &long),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(&dir.path().join(name), content);
    }
    write(&dir.path().join(OsStr::from_bytes(b"odd \xff\n")), b"odd");
    let site = Site::over(dir, |_| {}).await;
    let (listed, _) = site.objects().await;
    assert_eq!(listed.len(), 6);
    let wanted = |n: usize| Line::wanted(&listed[n].key, &listed[n].meta.version);
    let question: Vec<_> = (0..listed.len()).rev().map(wanted).collect();
    write(&site.path("changed"), b"new!");
    std::fs::remove_file(site.path("gone")).unwrap();

    let (status, answer) = site.batch(&question).await;
    assert_eq!(status, StatusCode::OK);
    let mut rest = answer.as_slice();
    for object in listed.iter().rev() {
        let at = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line: Line = serde_json::from_slice(&rest[..at]).unwrap();
        rest = &rest[at + 1..];
        let name = object.key.as_bytes();
        if [&b"changed"[..], b"gone", b"long"].contains(&name) {
            assert_eq!(
                serde_json::to_string(&line).unwrap(),
                serde_json::to_string(&Line::alone(&object.key)).unwrap()
            );
            continue;
        }
        let size = usize::try_from(line.size.unwrap()).unwrap();
        let (content, behind) = rest.split_at(size);
        rest = behind;
        assert_eq!(line.sha256, Some(sha256(content).to_hex()));
        let Change::Put(told) = line.into_change(None).unwrap() else {
            panic!("{name:?}")
        };
        assert_eq!(
            (&told.key, &told.meta.version),
            (&object.key, &object.meta.version)
        );
        let path = site.dir.path().join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    assert!(rest.is_empty());
    assert_eq!((site.server.stats().batch, site.server.stats().get), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_batch_that_is_no_list_of_versions_is_refused() {
    let site = Site::with(&[("a", b"hello")]).await;
    let line = "{\"path\":\"a\",\"etag\":\"v\"}\n";
    let bodies = [
        line.repeat(65),
        "<html>".into(),
        "{\"path\":\"a\"}".into(),
        "{\"path\":\"../a\",\"etag\":\"v\"}".into(),
        "{\"path\":\".larder/x\",\"etag\":\"v\"}".into(),
        "{\"etag\":\"v\"}".into(),
        "x".repeat(2 << 20),
    ];
    for body in bodies {
        let asked = site.ask(Method::POST, "/v1/batch").body(body.clone());
        let status = asked.send().await.unwrap().status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:.60}");
    }
    assert_eq!(site.batch(&[]).await, (StatusCode::OK, Vec::new()));
}
