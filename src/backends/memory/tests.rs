//! That the scripted faults do what they say, for the tests that rely on them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::object::{Change, Object};

const WAIT: Duration = Duration::from_secs(60);

fn p(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn is_stuck<T>(future: impl Future<Output = T>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Pending)
}

async fn body(memory: &Memory, fault: Fault) -> (Vec<u8>, Option<Kind>) {
    memory.script(Op::Get, 1, fault);
    let mut got = memory.get(&p("a"), None, None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = got.body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
    (bytes, None)
}

#[tokio::test]
async fn faults_happen_in_order_and_then_no_more() {
    let memory = Memory::new();
    memory.script(Op::Head, 1, Fault::Fail(Kind::TimedOut));
    memory.script(Op::Head, 1, Fault::Stall);
    memory.script(Op::Head, 1, Fault::Delay(Duration::from_millis(1)));
    let error = memory.head(&p("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(is_stuck(memory.head(&p("a"))));
    assert_eq!(memory.head(&p("a")).await.unwrap(), None);
    assert_eq!((memory.calls(Op::Head), memory.all_calls()), (3, 3));
}

#[tokio::test]
async fn bodies_break_as_scripted() {
    let memory = Memory::new();
    memory.set_object(&p("a"), b"hello", 1);
    let (bytes, kind) = body(&memory, Fault::Truncate(2)).await;
    assert_eq!((&bytes[..], kind), (&b"he"[..], Some(Kind::Corrupt)));
    let (bytes, kind) = body(&memory, Fault::Corrupt).await;
    assert_eq!((bytes.len(), kind), (5, None));
    assert_ne!(bytes, b"hello");
    memory.script(Op::Get, 1, Fault::StallBody(2));
    let mut got = memory.get(&p("a"), None, None).await.unwrap();
    assert_eq!(&got.body.next().await.unwrap().unwrap()[..], b"he");
    assert!(is_stuck(got.body.next()));
}

#[tokio::test]
async fn who_waits_for_changes_learns_that_the_remote_went_away() {
    let memory = Memory::new();
    let cursor = memory.cursor();
    let go = async { memory.set_online(false) };
    let (changes, ()) = tokio::join!(memory.changes(&cursor, WAIT), go);
    assert_eq!(changes.unwrap_err().kind(), Kind::Offline);
    memory.set_online(true);
    let reset = async { memory.reset_epoch() };
    let (changes, ()) = tokio::join!(memory.changes(&cursor, WAIT), reset);
    assert!(matches!(changes.unwrap(), Changes::Relist));
}

#[tokio::test]
async fn the_feed_tells_the_last_change_of_each_key() {
    let memory = Memory::new();
    let cursor = memory.cursor();
    memory.set_object(&p("a"), b"1", 1);
    memory.set_object(&p("b"), b"1", 1);
    let last = memory.set_object(&p("a"), b"2", 1);
    memory.remove_object(&p("b"));
    match memory.changes(&cursor, WAIT).await.unwrap() {
        Changes::Delta { changes, cursor } => {
            let put = Change::Put(Object {
                key: p("a"),
                meta: last,
            });
            assert_eq!(
                changes,
                [
                    put,
                    Change::Deleted(p("b"), Some(memory.revision(cursor.seq)))
                ]
            );
            assert_eq!(cursor, memory.cursor());
        }
        Changes::Relist => panic!("relist"),
    }
}
