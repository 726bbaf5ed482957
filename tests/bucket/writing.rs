//! What goes up: conditions, and large files in parts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use larder::backends::{Backend as _, Conditions, Options};
use larder::error::Kind;
use larder::object::{Precondition, Version};

use crate::s3::{Habits, Op, S3Server};
use crate::support::{LARGE, MTIME, at, below, bytes, eventually, p, read, upload};

fn uploading() -> Options {
    Options {
        upload: true,
        ..Options::default()
    }
}

fn garage() -> Habits {
    Habits {
        conditions: false,
        delete_conditions: false,
        ..Habits::default()
    }
}

#[tokio::test]
async fn p5_whether_conditions_count_is_tried_once_and_leaves_nothing() {
    for (habits, expected, puts) in [(Habits::default(), true, 3), (garage(), false, 2)] {
        let store = S3Server::start(habits);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let options = Options {
            conditions: Conditions {
                known: None,
                learned: Some(Arc::new(move |heeds| tell.lock().unwrap().push(heeds))),
            },
            ..uploading()
        };
        let s3 = below(&store, &options);
        for _ in 0..2 {
            let can = s3.capabilities().await.unwrap();
            assert_eq!((can.put, can.conditional_put), (true, expected));
        }
        assert_eq!(*told.lock().unwrap(), [expected]);
        assert_eq!((store.count(Op::Put), store.keys()), (puts, vec![]));
        // What is remembered is not tried again.
        let options = Options {
            conditions: Conditions {
                known: Some(expected),
                learned: None,
            },
            ..uploading()
        };
        let can = below(&store, &options).capabilities().await.unwrap();
        assert_eq!(
            (can.conditional_put, store.count(Op::Put)),
            (expected, puts)
        );
    }
}

#[tokio::test]
async fn p12_a_remote_that_nothing_goes_up_to_is_never_written_to() {
    let store = S3Server::start(Habits::default());
    store.place("p/a", "x");
    let s3 = below(&store, &Options::default());
    s3.capabilities().await.unwrap();
    read(s3.get(&p("a"), None, None).await.unwrap())
        .await
        .unwrap();
    s3.find(&p("b")).await.unwrap();
    let writes = [Op::Put, Op::Delete, Op::Copy, Op::Begin].map(|op| store.count(op));
    assert_eq!(writes, [0; 4]);
}

#[tokio::test]
async fn p5_marks_that_were_left_are_removed_and_nobody_sees_them() {
    let store = S3Server::start(Habits::default());
    let day = Duration::from_secs(24 * 3600);
    store.change("p/.larder/probe-old", "x", |o| {
        o.modified = SystemTime::now() - day
    });
    store.place("p/.larder/probe-young", "x");
    let s3 = below(&store, &uploading());
    assert!(s3.capabilities().await.unwrap().conditional_put);
    assert_eq!(store.keys(), ["p/.larder/probe-young"]);
    assert_eq!(crate::listing::all(&s3).await, [""; 0]);
}

#[tokio::test]
async fn keys_that_may_not_write_are_found_out() {
    let store = S3Server::start(Habits::default());
    store.fail(Op::Put, 1, "AccessDenied");
    let s3 = below(&store, &uploading());
    let can = s3.capabilities().await.unwrap();
    assert!(!can.put && can.listing);
    // They may later.
    assert!(s3.capabilities().await.unwrap().put);
}

#[tokio::test]
async fn p5_where_conditions_do_not_count_versions_are_compared() {
    let store = S3Server::start(garage());
    let s3 = below(&store, &uploading());
    let key = p("a");
    let first = s3
        .put(&key, upload(b"1"), Precondition::Absent)
        .await
        .unwrap();
    let other = Precondition::Matches(Version::new("other").unwrap());
    for only in [Precondition::Absent, other] {
        let put = s3.put(&key, upload(b"2"), only).await;
        assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
    }
    let wrong = s3.delete(&key, Some(&Version::new("other").unwrap())).await;
    assert_eq!(wrong.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.object("p/a").unwrap().bytes, "1");
    let only = Precondition::Matches(first.version);
    let second = s3.put(&key, upload(b"2"), only).await.unwrap();
    s3.delete(&key, Some(&second.version)).await.unwrap();
    assert_eq!(store.keys(), [""; 0]);
}

#[tokio::test]
async fn p5_a_store_that_takes_no_conditional_deletes_is_asked_without() {
    let store = S3Server::start(Habits::default());
    let s3 = below(&store, &uploading());
    let meta = s3
        .put(&p("a"), upload(b"1"), Precondition::Absent)
        .await
        .unwrap();
    store.fail(Op::Delete, 1, "NotImplemented");
    s3.delete(&p("a"), Some(&meta.version)).await.unwrap();
    assert_eq!(store.keys(), [""; 0]);
}

#[tokio::test]
async fn p13_what_is_put_carries_its_time_its_hash_and_its_kind() {
    let store = S3Server::start(Habits::default());
    let url = format!("{}&storage-class=standard_ia&sse=aws:kms", store.url("p"));
    let s3 = at(&url, &uploading());
    let sent = upload(b"{}");
    let put = s3
        .put(&p("d/a.json"), sent.clone(), Precondition::Absent)
        .await
        .unwrap();
    assert_eq!((put.arrival, put.sha256), (None, Some(sent.sha256)));
    let stored = store.object("p/d/a.json").unwrap();
    assert_eq!(stored.metadata["mtime"], "1234567890.123456789");
    assert_eq!(stored.metadata["larder-sha256"], sent.sha256.to_hex());
    assert_eq!(stored.content_type.as_deref(), Some("application/json"));
    assert_eq!(stored.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(stored.encryption.as_deref(), Some("aws:kms"));
    let head = s3.head(&p("d/a.json")).await.unwrap().unwrap();
    assert_eq!((head.mtime_ns, head.sha256), (MTIME, Some(sent.sha256)));
    assert!(!head.arrival.unwrap().only);
    // As rclone leaves it, and as a tool does that says nothing.
    let kept = [("mtime".to_owned(), "12.5".to_owned())];
    store.change("p/rclone", "x", |o| o.metadata = kept.into());
    store.place("p/plain", "x");
    let rclone = s3.head(&p("rclone")).await.unwrap().unwrap();
    assert_eq!((rclone.mtime_ns, rclone.sha256), (12_500_000_000, None));
    let plain = s3.head(&p("plain")).await.unwrap().unwrap();
    assert_eq!(plain.mtime_ns, plain.arrival.unwrap().at_ns);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_large_file_goes_up_in_parts_and_on_condition() {
    let store = S3Server::start(Habits::default());
    let s3 = below(&store, &uploading());
    let sent = upload(&bytes(LARGE));
    let key = p("large.bin");
    let put = s3
        .put(&key, sent.clone(), Precondition::Absent)
        .await
        .unwrap();
    assert_eq!((store.count(Op::Begin), store.count(Op::Part)), (1, 6));
    let stored = store.object("p/large.bin").unwrap();
    assert!(stored.bytes == bytes(LARGE), "other bytes");
    assert_eq!(stored.metadata["mtime"], "1234567890.123456789");
    let head = s3.head(&key).await.unwrap().unwrap();
    assert_eq!(
        (head.version, head.sha256),
        (put.version, Some(sent.sha256))
    );
    // What is known to be in vain is not begun.
    let again = s3.put(&key, sent.clone(), Precondition::Absent).await;
    assert_eq!(again.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.count(Op::Begin), 1);
    // Somebody else is there first.
    let other = p("other.bin");
    store.set(|habits| habits.delay = Duration::from_millis(50));
    let (put, ()) = tokio::join!(s3.put(&other, sent, Precondition::Absent), async {
        eventually("a part is on its way", || store.count(Op::Part) > 6).await;
        store.place("p/other.bin", "theirs");
    });
    assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.object("p/other.bin").unwrap().bytes, "theirs");
    assert_eq!(store.unfinished(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_large_file_that_is_not_what_was_promised_is_not_published() {
    let store = S3Server::start(Habits::default());
    let s3 = below(&store, &uploading());
    let mut wrong = upload(&bytes(LARGE));
    wrong.sha256.0[3] ^= 1;
    let mut short = upload(&bytes(LARGE));
    short.size += 1;
    for sent in [wrong, short] {
        let put = s3.put(&p("a"), sent, Precondition::None).await;
        assert_eq!(put.unwrap_err().kind(), Kind::Corrupt);
        assert_eq!((store.keys(), store.unfinished()), (vec![], vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_parts_of_an_upload_that_failed_or_was_dropped_are_given_up() {
    let store = S3Server::start(Habits::default());
    let s3 = Arc::new(below(&store, &uploading()));
    store.fail(Op::Part, 1, "InternalError");
    let put = s3
        .put(&p("a"), upload(&bytes(LARGE)), Precondition::None)
        .await;
    assert_eq!(put.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(store.unfinished(), [""; 0]);
    store.set(|habits| habits.delay = Duration::from_millis(100));
    let put = tokio::spawn({
        let s3 = s3.clone();
        async move {
            s3.put(&p("a"), upload(&bytes(LARGE)), Precondition::None)
                .await
        }
    });
    eventually("a part is on its way", || store.count(Op::Part) > 6).await;
    put.abort();
    eventually("it was given up", || store.unfinished().is_empty()).await;
    assert_eq!(store.keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_what_a_killed_process_began_is_removed_a_day_later() {
    let store = S3Server::start(Habits::default());
    let day = Duration::from_secs(25 * 3600);
    store.abandon("p/a", day);
    store.abandon("p/a", Duration::ZERO);
    store.abandon("p/a2", day);
    let s3 = below(&store, &uploading());
    s3.put(&p("a"), upload(&bytes(LARGE)), Precondition::None)
        .await
        .unwrap();
    assert_eq!(store.unfinished(), ["p/a", "p/a2"]);
}
