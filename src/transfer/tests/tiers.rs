//! Several remotes behind one file, one of which lists less than it knows.

use super::*;
use crate::object::Arrival;

/// What a bucket's listing tells of an object.
fn rough(meta: &Meta) -> Meta {
    let at_ns = 1_700_000_000_000_000_000;
    Meta {
        mtime_ns: at_ns,
        sha256: None,
        revision: None,
        arrival: Some(Arrival { at_ns, only: true }),
        ..meta.clone()
    }
}

impl Lab {
    /// The first remote has `first` and the second, a bucket, `second`; both were listed.
    fn in_both(&self, path: &str, first: &[u8], second: &[u8]) -> Node {
        self.listed(0, path, first);
        let meta = self.memory(1).set_object(&key(path), second, 5);
        self.told(1, path, rough(&meta));
        self.node(path)
    }

    fn replica(&self, n: usize, path: &str) -> Meta {
        let remote = self.mount.0[n].id;
        let found = self
            .commit
            .index
            .read(|c| crate::index::node::replica(c, remote, &key(path)));
        found.unwrap().unwrap().meta
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_what_the_first_remote_cannot_give_comes_from_the_second() {
    let lab = Lab::new(2);
    let bytes = bytes_of(100_000);
    let node = lab.in_both("a", &bytes, &bytes);
    lab.memory(0)
        .script(Op::Get, usize::from(u8::MAX), Fault::Fail(Kind::Offline));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a"), Some(bytes));
    // The bucket was asked what it has before its bytes were taken for the file's.
    assert_eq!(lab.memory(1).calls(Op::Head), 1);
    assert!(!lab.replica(1, "a").is_rough());
    // The name is the first remote's version still.
    assert_eq!(lab.node("a").origin, node.origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_remote_that_is_known_to_be_away_is_not_asked() {
    let lab = Lab::new(2);
    let bytes = bytes_of(100_000);
    let node = lab.in_both("a", &bytes, &bytes);
    let away = crate::error::Error::new(Kind::Offline, "gone");
    lab.mount.0[0].went_away(&away);
    assert!(lab.downloads.is_reachable(&node));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a"), Some(bytes));
    assert_eq!(lab.memory(0).calls(Op::Get), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_other_bytes_of_the_same_length_are_not_taken_for_the_file() {
    let lab = Lab::new(2);
    let (ours, others) = (bytes_of(100_000), vec![7; 100_000]);
    let node = lab.in_both("a", &ours, &others);
    let away = crate::error::Error::new(Kind::Offline, "gone");
    lab.mount.0[0].went_away(&away);
    let error = soon(lab.downloads.hydrate(node.id)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stale);
    assert_eq!(lab.stored("a"), None);
    // It is known now, and the name can be hidden without asking again.
    assert!(!lab.downloads.is_reachable(&node));
    assert_eq!(lab.memory(1).calls(Op::Get), 0);
    lab.mount.0[0].is_here();
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a"), Some(ours));
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_file_gets_its_writers_time_also_where_the_listing_had_none() {
    let lab = Lab::new(1);
    let meta = lab.memory(0).set_object(&key("a"), b"abc", 5_000_000_007);
    lab.told(0, "a", rough(&meta));
    let node = lab.node("a");
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.node("a").mtime_ns, 5_000_000_007);
    let facts = lab.commit.store.root().stat(&key("a")).unwrap();
    assert_eq!(facts.mtime_ns, 5_000_000_007);
    assert_eq!(lab.memory(0).calls(Op::Head), 0);
}
