//! What every backend promises, whatever is behind it. Takes an empty remote that it may
//! write to; leaves nothing there. Asks for no more than the remote says that it can do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use larder::backends::rate::Pace;
use larder::backends::{Backend, Changes, Copying, Download, Upload};
use larder::error::{Error, Kind, Result};
use larder::object::{
    ByteRange, Change, Cursor, Listed, Meta, Object, Precondition, Sha256, Version,
};
use larder::path::RelPath;
use sha2::Digest;
use tokio::sync::mpsc;

/// A time with every digit, years before now.
const MTIME: i64 = 1_234_567_890_123_456_789;

/// Holds `remote` to all promises.
pub async fn conforms(remote: Arc<dyn Backend>) {
    let suite = Suite { remote };
    assert_eq!(suite.keys().await, [], "the remote is not empty");
    suite.what_was_put_comes_back().await;
    suite.empty_files_are_files().await;
    suite.times_survive().await;
    suite.ranges_are_cut_to_the_size().await;
    suite.nothing_is_not_found().await;
    suite.versions_change_and_old_ones_are_stale().await;
    suite.preconditions_hold().await;
    suite.one_of_many_writers_wins().await;
    suite.uploads_that_lie_are_refused().await;
    suite.a_file_and_a_directory_cannot_share_a_name().await;
    suite.any_name_travels().await;
    suite.listings_are_whole_and_in_order().await;
    suite.large_bodies_arrive_whole().await;
    suite.copies_are_conditional_on_both_sides().await;
    suite.deleting_is_conditional_and_can_be_repeated().await;
    suite.changes_are_told().await;
    assert_eq!(suite.keys().await, [], "the suite left something");
}

struct Suite {
    remote: Arc<dyn Backend>,
}

fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn upload(bytes: &[u8]) -> Upload {
    let file: File = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Upload {
        file: Arc::new(file.into()),
        size: bytes.len() as u64,
        mtime_ns: MTIME,
        sha256: Sha256(sha2::Sha256::digest(bytes).into()),
        pace: Pace::default(),
    }
}

async fn read(download: Download) -> Result<Vec<u8>> {
    let mut body = download.body;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    let length = download.range.end - download.range.start;
    assert_eq!(bytes.len() as u64, length, "a body is as long as its range");
    Ok(bytes)
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error: Error| error.kind())
}

impl Suite {
    async fn put(&self, key: &RelPath, bytes: &[u8], only: Precondition) -> Result<Meta> {
        self.remote.put(key, upload(bytes), only).await
    }

    async fn place(&self, key: &RelPath, bytes: &[u8]) -> Meta {
        self.put(key, bytes, Precondition::None).await.unwrap()
    }

    async fn get(&self, key: &RelPath, range: Option<ByteRange>) -> Vec<u8> {
        let got = self.remote.get(key, range, None).await.unwrap();
        read(got).await.unwrap()
    }

    async fn remove(&self, key: &RelPath) {
        self.remote.delete(key, None).await.unwrap();
    }

    async fn list(&self) -> (Cursor, Vec<Object>) {
        let (batches, mut taken) = mpsc::channel::<Vec<Listed>>(1);
        let collect = async {
            let mut objects = Vec::new();
            while let Some(batch) = taken.recv().await {
                assert!(batch.len() <= 5000, "a batch is too large");
                objects.extend(batch.into_iter().map(|listed| match listed {
                    Listed::Object(object) => object,
                    refused => panic!("{refused:?}"),
                }));
            }
            objects
        };
        let (cursor, objects) = tokio::join!(self.remote.list(batches), collect);
        (cursor.unwrap(), objects)
    }

    async fn keys(&self) -> Vec<RelPath> {
        let (_, objects) = self.list().await;
        objects.into_iter().map(|object| object.key).collect()
    }

    /// Whether it is a bucket: names are text, and slashes in them make no directories.
    async fn is_flat(&self) -> bool {
        self.remote.capabilities().await.unwrap().is_bucket()
    }

    async fn what_was_put_comes_back(&self) {
        let key = p("dir/sub/file.bin");
        let meta = self
            .put(&key, b"hello", Precondition::Absent)
            .await
            .unwrap();
        assert_eq!(meta.size, 5);
        let head = self.remote.head(&key).await.unwrap().unwrap();
        assert_eq!(
            (head.size, head.mtime_ns, &head.version),
            (5, meta.mtime_ns, &meta.version)
        );
        let got = self
            .remote
            .get(&key, None, Some(&meta.version))
            .await
            .unwrap();
        assert_eq!(
            (got.range.clone(), &got.meta.version),
            (0..5, &meta.version)
        );
        if let Some(sha256) = got.meta.sha256 {
            assert_eq!(sha256, upload(b"hello").sha256);
        }
        assert_eq!(read(got).await.unwrap(), b"hello");
        let (_, listed) = self.list().await;
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0].key, &listed[0].meta.version),
            (&key, &meta.version)
        );
        self.remove(&key).await;
    }

    /// P13.
    async fn empty_files_are_files(&self) {
        let key = p("empty");
        let meta = self.put(&key, b"", Precondition::Absent).await.unwrap();
        assert_eq!(meta.size, 0);
        assert_eq!(self.remote.head(&key).await.unwrap().unwrap().size, 0);
        assert_eq!(self.get(&key, None).await, b"");
        assert_eq!(self.get(&key, Some(0..10)).await, b"");
        assert_eq!(self.keys().await, std::slice::from_ref(&key));
        self.remove(&key).await;
    }

    /// P13.
    async fn times_survive(&self) {
        let key = p("time");
        for mtime_ns in [MTIME, 0, -1_500_000_001] {
            let sent = Upload {
                mtime_ns,
                ..upload(b"t")
            };
            let meta = self
                .remote
                .put(&key, sent, Precondition::None)
                .await
                .unwrap();
            assert_eq!(meta.mtime_ns, mtime_ns);
            let head = self.remote.head(&key).await.unwrap().unwrap();
            assert_eq!(head.mtime_ns, mtime_ns);
            let listed = self.list().await.1.remove(0).meta;
            let told = listed.arrival.is_none_or(|arrival| !arrival.only);
            assert!(!told || listed.mtime_ns == mtime_ns, "{listed:?}");
        }
        self.remove(&key).await;
    }

    async fn ranges_are_cut_to_the_size(&self) {
        let key = p("ranged");
        let version = self.place(&key, b"0123456789").await.version;
        let table: [(ByteRange, &[u8]); 8] = [
            (0..10, b"0123456789"),
            (0..1, b"0"),
            (3..7, b"3456"),
            (9..10, b"9"),
            (8..99, b"89"),
            (2..u64::MAX, b"23456789"),
            (10..12, b""),
            (4..4, b""),
        ];
        for (range, bytes) in table {
            let got = self
                .remote
                .get(&key, Some(range.clone()), Some(&version))
                .await
                .unwrap();
            assert_eq!((got.meta.size, &got.meta.version), (10, &version));
            let start = range.start.min(10);
            assert_eq!(got.range, start..start + bytes.len() as u64, "{range:?}");
            assert_eq!(read(got).await.unwrap(), bytes, "{range:?}");
        }
        self.remove(&key).await;
    }

    async fn nothing_is_not_found(&self) {
        self.place(&p("is/here"), b"x").await;
        // Missing, beneath what is missing, a directory, beneath a file.
        for key in ["is/not", "not/here", "is", "is/here/not"] {
            let key = p(key);
            assert_eq!(self.remote.head(&key).await.unwrap(), None, "{key}");
            let got = self.remote.get(&key, None, None).await;
            assert_eq!(kind(got), Some(Kind::NotFound), "{key}");
        }
        self.remove(&p("is/here")).await;
    }

    /// P8.
    async fn versions_change_and_old_ones_are_stale(&self) {
        let key = p("versioned");
        let old = self.place(&key, b"first").await.version;
        let new = self.place(&key, b"other").await.version;
        assert_ne!(old, new, "equal length and time, other bytes");
        for range in [None, Some(1..2), Some(2..2), Some(50..60)] {
            let got = self.remote.get(&key, range.clone(), Some(&old)).await;
            assert_eq!(kind(got), Some(Kind::Stale), "{range:?}");
        }
        assert_eq!(self.get(&key, None).await, b"other");
        self.remove(&key).await;
        let gone = kind(self.remote.get(&key, None, Some(&new)).await);
        assert!(
            matches!(gone, Some(Kind::NotFound | Kind::Stale)),
            "{gone:?}"
        );
    }

    /// P5.
    async fn preconditions_hold(&self) {
        let key = p("d/guarded");
        let other = Version::new("no-such-version").unwrap();
        let missing = self
            .put(&key, b"0", Precondition::Matches(other.clone()))
            .await;
        assert_eq!(kind(missing), Some(Kind::Conflict));
        assert_eq!(self.remote.head(&key).await.unwrap(), None);
        let first = self.put(&key, b"1", Precondition::Absent).await.unwrap();
        let again = self.put(&key, b"2", Precondition::Absent).await;
        assert_eq!(kind(again), Some(Kind::Conflict));
        let wrong = self.put(&key, b"3", Precondition::Matches(other)).await;
        assert_eq!(kind(wrong), Some(Kind::Conflict));
        assert_eq!(self.get(&key, None).await, b"1");
        let only = Precondition::Matches(first.version.clone());
        self.put(&key, b"22", only.clone()).await.unwrap();
        let twice = self.put(&key, b"333", only).await;
        assert_eq!(kind(twice), Some(Kind::Conflict));
        assert_eq!(self.get(&key, None).await, b"22");
        self.put(&key, b"4444", Precondition::None).await.unwrap();
        assert_eq!(self.get(&key, None).await, b"4444");
        self.remove(&key).await;
    }

    /// P5.
    async fn one_of_many_writers_wins(&self) {
        let key = p("race");
        // Without conditions versions are compared before the write, and several may be in between.
        let at_once = self.remote.capabilities().await.unwrap().conditional_put;
        for round in 0..4 {
            let now = self.remote.head(&key).await.unwrap();
            let only = now.map_or(Precondition::Absent, |meta| {
                Precondition::Matches(meta.version)
            });
            let bodies: Vec<_> = (0..8)
                .map(|n| format!("round {round} writer {n:03}"))
                .collect();
            let puts = bodies
                .iter()
                .map(|body| self.put(&key, body.as_bytes(), only.clone()));
            let outcomes = futures_util::future::join_all(puts).await;
            let won: Vec<_> = (outcomes.iter().zip(&bodies))
                .filter(|(o, _)| o.is_ok())
                .collect();
            assert!(
                won.len() == 1 || !won.is_empty() && !at_once,
                "{outcomes:?}"
            );
            let there = self.get(&key, None).await;
            assert!(won.iter().any(|(_, body)| body.as_bytes() == there));
            for lost in outcomes.into_iter().filter(Result::is_err) {
                assert_eq!(kind(lost), Some(Kind::Conflict));
            }
        }
        self.remove(&key).await;
    }

    /// P1.
    async fn uploads_that_lie_are_refused(&self) {
        let key = p("lie");
        let mut wrong = upload(b"abc");
        wrong.sha256.0[0] ^= 1;
        let mut short = upload(b"abc");
        short.size = 4;
        for sent in [wrong, short] {
            let put = self.remote.put(&key, sent, Precondition::None).await;
            assert_eq!(kind(put), Some(Kind::Corrupt));
            assert_eq!(self.remote.head(&key).await.unwrap(), None);
        }
    }

    async fn a_file_and_a_directory_cannot_share_a_name(&self) {
        if self.is_flat().await {
            return;
        }
        self.place(&p("both/file"), b"x").await;
        for key in ["both", "both/file/deeper"] {
            let put = kind(self.put(&p(key), b"y", Precondition::None).await);
            let clear = [Kind::Exists, Kind::IsADirectory, Kind::NotADirectory];
            assert!(
                put.is_some_and(|kind| clear.contains(&kind)),
                "{key}: {put:?}"
            );
        }
        assert_eq!(self.get(&p("both/file"), None).await, b"x");
        self.remove(&p("both/file")).await;
    }

    /// P10 from its friendly side: what is a name is carried as it is.
    async fn any_name_travels(&self) {
        let long = "x".repeat(255);
        let mut names: Vec<Vec<u8>> = [
            "space here",
            "per%cent%2F",
            "plus+",
            "a?b#c&d=e",
            "qu\"ote'",
            "back\\slash",
            "...",
            ".hidden",
            "naïve ☃",
            "new\nline",
            "tab\t",
            "colon:",
            "~",
            "[x]{y}",
            "-rf",
            long.as_str(),
        ]
        .map(|name| name.as_bytes().to_vec())
        .to_vec();
        // Some file systems take text only, and so do buckets.
        if cfg!(target_os = "linux") && !self.is_flat().await {
            names.push(b"not\xffutf8\x80".to_vec());
        }
        let keys: Vec<_> = names
            .iter()
            .map(|name| RelPath::new(&[b"names/", name.as_slice()].concat()).unwrap())
            .collect();
        for key in &keys {
            self.put(key, key.as_bytes(), Precondition::Absent)
                .await
                .unwrap();
        }
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(self.keys().await, sorted);
        for key in &keys {
            assert_eq!(self.get(key, None).await, key.as_bytes(), "{key}");
            self.remove(key).await;
            assert_eq!(self.remote.head(key).await.unwrap(), None, "{key}");
        }
    }

    async fn listings_are_whole_and_in_order(&self) {
        let mut keys: Vec<_> = [
            "a-b", "a.c", "a/b", "a/b.d/e", "a0", "a/b-", "b", "A", "a/z/y",
        ]
        .map(p)
        .to_vec();
        keys.extend((0..60).map(|n| p(&format!("many/{}/{n}", n % 7))));
        for key in &keys {
            self.place(key, key.as_bytes()).await;
        }
        keys.sort();
        let (_, listed) = self.list().await;
        let found: Vec<_> = listed.iter().map(|object| object.key.clone()).collect();
        assert_eq!(found, keys);
        for object in listed {
            assert_eq!(object.meta.size, object.key.as_bytes().len() as u64);
            let head = self.remote.head(&object.key).await.unwrap().unwrap();
            assert_eq!(head.version, object.meta.version);
            self.remove(&object.key).await;
        }
        // Who stops listening ends the listing; it does not hang.
        self.place(&p("one"), b"1").await;
        let (batches, taken) = mpsc::channel(1);
        drop(taken);
        assert_eq!(kind(self.remote.list(batches).await), Some(Kind::Cancelled));
        self.remove(&p("one")).await;
    }

    /// P1.
    async fn large_bodies_arrive_whole(&self) {
        let key = p("large");
        let bytes: Vec<u8> = (0..3_000_017u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        self.place(&key, &bytes).await;
        assert!(self.get(&key, None).await == bytes, "other bytes came back");
        let part = self.get(&key, Some(262_143..1_500_001)).await;
        assert!(part == bytes[262_143..1_500_001], "other bytes came back");
        // A reader that leaves early disturbs nobody.
        let mut left = self.remote.get(&key, None, None).await.unwrap();
        left.body.next().await.unwrap().unwrap();
        drop(left);
        assert_eq!(self.get(&key, Some(7..9)).await, &bytes[7..9]);
        self.remove(&key).await;
    }

    async fn copy(
        &self,
        from: &RelPath,
        to: &RelPath,
        meta: &Meta,
        only: Precondition,
    ) -> Result<Meta> {
        let copying = Copying {
            from: from.clone(),
            version: meta.version.clone(),
            size: meta.size,
            mtime_ns: MTIME + 1,
            sha256: meta.sha256,
        };
        self.remote.copy(to, copying, only).await
    }

    /// P5.
    async fn copies_are_conditional_on_both_sides(&self) {
        let (from, to) = (p("from/a + b%2F.bin"), p("to/ü.bin"));
        let source = self.place(&from, b"the bytes").await;
        let made = self.copy(&from, &to, &source, Precondition::Absent).await;
        if !self.remote.capabilities().await.unwrap().copy {
            assert_eq!(kind(made), Some(Kind::Unsupported));
            assert_eq!(self.keys().await, std::slice::from_ref(&from));
            return self.remove(&from).await;
        }
        let made = made.unwrap();
        assert_eq!((made.size, made.mtime_ns), (9, MTIME + 1));
        let head = self.remote.head(&to).await.unwrap().unwrap();
        assert_eq!((&head.version, head.mtime_ns), (&made.version, MTIME + 1));
        assert_eq!(self.get(&to, None).await, b"the bytes");
        assert_eq!(self.get(&from, None).await, b"the bytes");
        // What is there is replaced by who knows it, and by nobody else.
        let newer = self.place(&from, b"newer bytes").await;
        let other = Precondition::Matches(Version::new("no-such-version").unwrap());
        for only in [Precondition::Absent, other.clone()] {
            let copy = self.copy(&from, &to, &newer, only).await;
            assert_eq!(kind(copy), Some(Kind::Conflict));
        }
        let copy = self.copy(&from, &p("to/new"), &newer, other).await;
        assert_eq!(kind(copy), Some(Kind::Conflict));
        let only = Precondition::Matches(made.version);
        let again = self.copy(&from, &to, &newer, only).await.unwrap();
        assert_eq!(self.get(&to, None).await, b"newer bytes");
        // What is gone makes nothing, and neither does another version of it.
        for from in [&from, &p("from/nothing")] {
            let only = Precondition::Matches(again.version.clone());
            let copy = self.copy(from, &to, &source, only).await;
            assert_eq!(kind(copy), Some(Kind::Stale));
        }
        assert_eq!(self.get(&to, None).await, b"newer bytes");
        // Another time alone.
        let only = Precondition::Matches(newer.version.clone());
        let retimed = self.copy(&from, &from, &newer, only).await.unwrap();
        let head = self.remote.head(&from).await.unwrap().unwrap();
        assert_eq!((head.version, head.mtime_ns), (retimed.version, MTIME + 1));
        assert_eq!(self.get(&from, None).await, b"newer bytes");
        self.remove(&from).await;
        self.remove(&to).await;
    }

    async fn deleting_is_conditional_and_can_be_repeated(&self) {
        let key = p("gone/soon");
        let old = self.place(&key, b"old").await.version;
        let new = self.place(&key, b"newer").await.version;
        let deleted = self.remote.delete(&key, Some(&old)).await;
        assert_eq!(kind(deleted), Some(Kind::Conflict));
        assert_eq!(self.get(&key, None).await, b"newer");
        self.remote.delete(&key, Some(&new)).await.unwrap();
        assert_eq!(self.remote.head(&key).await.unwrap(), None);
        self.remote.delete(&key, Some(&new)).await.unwrap();
        self.remote.delete(&key, None).await.unwrap();
        // The directory is not in the way of a file of its name.
        self.place(&p("gone"), b"file").await;
        self.remove(&p("gone")).await;
    }

    /// P8.
    async fn changes_are_told(&self) {
        let key = p("news/item");
        let (cursor, _) = self.list().await;
        if !self.remote.capabilities().await.unwrap().changes {
            let changes = self.remote.changes(&cursor, Duration::ZERO).await.unwrap();
            assert!(matches!(changes, Changes::Relist));
            return;
        }
        let waiting = self.news(cursor.clone(), |change| {
            matches!(change, Change::Put(object) if object.key == key && object.meta.size == 3)
        });
        let (after, meta) = tokio::join!(waiting, self.place(&key, b"new"));
        let told = self.remote.changes(&cursor, Duration::ZERO).await.unwrap();
        match told {
            Changes::Delta { changes, .. } => assert!(changes.iter().any(
                |c| matches!(c, Change::Put(o) if o.key == key && o.meta.version == meta.version)
            )),
            Changes::Relist => panic!("a known cursor was refused"),
        }
        self.remove(&key).await;
        let end = self
            .news(
                after,
                |change| matches!(change, Change::Deleted(gone, _) if *gone == key),
            )
            .await;
        let begun = Instant::now();
        match self
            .remote
            .changes(&end, Duration::from_millis(50))
            .await
            .unwrap()
        {
            Changes::Delta { changes, cursor } => {
                assert_eq!((changes.len(), cursor), (0, end.clone()));
            }
            Changes::Relist => panic!("a known cursor was refused"),
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the wait has an end"
        );
        let other = Cursor {
            epoch: "another life".into(),
            seq: end.seq,
        };
        let other = self.remote.changes(&other, Duration::ZERO).await.unwrap();
        assert!(matches!(other, Changes::Relist));
    }

    /// Follows the feed until `wanted` was told.
    async fn news(&self, mut cursor: Cursor, wanted: impl Fn(&Change) -> bool) -> Cursor {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match self
                .remote
                .changes(&cursor, Duration::from_secs(5))
                .await
                .unwrap()
            {
                Changes::Relist => panic!("a known cursor was refused"),
                Changes::Delta {
                    changes,
                    cursor: next,
                } => {
                    assert!(next.seq >= cursor.seq && next.epoch == cursor.epoch);
                    cursor = next;
                    if changes.iter().any(&wanted) {
                        return cursor;
                    }
                }
            }
        }
        panic!("the change was not told in time");
    }
}
