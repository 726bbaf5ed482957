//! What a bucket says it holds.

use larder::backends::s3::S3;
use larder::backends::{Backend, Found, Options};
use larder::error::Kind;
use larder::object::Listed;
use tokio::sync::mpsc;

use crate::s3::{Habits, Op, S3Server};
use crate::support::{at, below, p};

/// Every key of a listing, in its order; a refused one with a `!`.
pub async fn all(s3: &S3) -> Vec<String> {
    let (batches, mut taken) = mpsc::channel::<Vec<Listed>>(1);
    let collect = async {
        let mut keys = Vec::new();
        while let Some(batch) = taken.recv().await {
            assert!(batch.len() <= 5000);
            keys.extend(batch.into_iter().map(|listed| match listed {
                Listed::Object(object) => object.key.to_string(),
                Listed::Refused { shown, .. } => format!("!{shown}"),
            }));
        }
        keys
    };
    let (listed, keys) = tokio::join!(s3.list(batches), collect);
    listed.unwrap();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_bad_names_are_counted_and_marks_of_directories_are_nothing() {
    let store = S3Server::start(Habits::default());
    let long = format!("p/{}", "x".repeat(256));
    for key in [
        "p/a",
        "p/a/b",
        "p/a//b",
        "p/./c",
        "p/../d",
        "p/e/.larder/f",
        &long,
        "q/no",
        "p",
    ] {
        store.place(key, "x");
    }
    for key in ["p/", "p/dir/", "p/.larder/probe-1", "p/.larder"] {
        store.place(key, "");
    }
    store.place("p/full/", "x");
    let expected = [
        "!../d",
        "!./c",
        "a",
        "!a//b",
        "a/b",
        "!e/.larder/f",
        "!full/",
    ];
    let listed = all(&below(&store, &Options::default())).await;
    assert_eq!(listed[..7], expected);
    assert_eq!(listed[7..], [format!("!{}", "x".repeat(256))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_a_large_listing_is_read_side_by_side_and_told_in_order() {
    for inside in ["", "one/", "one/two/"] {
        let store = S3Server::start(Habits::default());
        let mut keys = Vec::new();
        for dir in [
            "a", "a-b", "a.c", "b", "c", "d", "e", "f", "naïve", "z~", "z~~",
        ] {
            keys.extend((0..700).map(|n| format!("{inside}{dir}/x{n:04}")));
            keys.push(format!("{inside}{dir}"));
            keys.push(format!("{inside}{dir}.~/y"));
        }
        keys.extend((0..2500).map(|n| format!("{inside}flat-{n}")));
        for key in &keys {
            store.place(&format!("p/{key}"), "x");
        }
        store.place("p/b/", "");
        keys.sort();
        store.set(|habits| habits.delay = std::time::Duration::from_millis(10));
        let s3 = below(&store, &Options::default());
        assert!(all(&s3).await == keys, "other keys, or another order");
        assert!(store.busiest() >= 4, "{} at a time", store.busiest());
        let most = 10 + keys.len() as u64 / 1000 + 2 * 25;
        assert!(store.count(Op::List) <= most, "{}", store.count(Op::List));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_one_page_that_fails_is_asked_for_again() {
    let store = S3Server::start(Habits::default());
    for n in 0..1500 {
        store.place(&format!("p/{n:04}"), "x");
    }
    let s3 = below(&store, &Options::default());
    store.fail(Op::List, 2, "SlowDown");
    assert_eq!(all(&s3).await.len(), 1500);
    store.fail(Op::List, 9, "SlowDown");
    let (batches, _taken) = mpsc::channel(10);
    let error = s3.list(batches).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_name_that_no_listing_has_is_found() {
    let store = S3Server::start(Habits::default());
    store.place("p/dir/file", "x");
    let s3 = below(&store, &Options::default());
    assert!(!s3.capabilities().await.unwrap().probe);
    assert!(matches!(
        s3.find(&p("dir/file")).await.unwrap(),
        Found::Object(_)
    ));
    assert_eq!(s3.find(&p("dir")).await.unwrap(), Found::Directory);
    assert_eq!(s3.find(&p("di")).await.unwrap(), Found::Nothing);
    let options = Options {
        ask_on_miss: true,
        ..Options::default()
    };
    let can = below(&store, &options).capabilities().await.unwrap();
    assert!(can.probe && can.listing && !can.is_original());
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_keys_that_may_not_list_are_asked_name_by_name() {
    let store = S3Server::start(Habits {
        listing: false,
        ..Habits::default()
    });
    store.place("p/dir/a.csv", "x");
    let s3 = below(&store, &Options::default());
    let can = s3.capabilities().await.unwrap();
    assert!(!can.listing && can.probe);
    assert!(matches!(
        s3.find(&p("dir/a.csv")).await.unwrap(),
        Found::Object(_)
    ));
    assert_eq!(s3.find(&p("dir")).await.unwrap(), Found::Directory);
    assert_eq!(s3.find(&p("dir/b.csv")).await.unwrap(), Found::Nothing);
    // Amazon says as little of what is not there as of what is forbidden.
    store.fail(Op::Head, 1, "AccessDenied");
    assert_eq!(s3.find(&p("dir/c.csv")).await.unwrap(), Found::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_keeps_to_itself() {
    let store = S3Server::start(Habits::default());
    for key in ["p//q/v1/a", "p/q/v1/b", "p//q/v10/c", "p//q/v1"] {
        store.place(key, "x");
    }
    let inner = at(&store.url("p//q/v1"), &Options::default());
    assert_eq!(all(&inner).await, ["a"]);
    let whole = at(&store.url(""), &Options::default());
    assert_eq!(all(&whole).await.len(), 4);
}
