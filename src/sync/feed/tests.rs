//! A feed of a remote whose listing costs, with an index on disk and a remote in memory.

use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use super::*;
use crate::backends::Backend as _;
use crate::backends::memory::{Fault, Memory, Op};
use crate::index::{EVENTS, node};
use crate::object::Object;
use crate::path::RelPath;

struct Lab {
    dir: tempfile::TempDir,
    memory: Memory,
    remote: Arc<Remote>,
    index: Arc<Index>,
    bell: Bell,
    /// What the pace was whenever a listing had been taken.
    paces: Arc<Mutex<Vec<Option<Duration>>>>,
    stop: CancellationToken,
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

impl Lab {
    /// A feed that runs, and has taken its first listing of one file.
    async fn new(page: Option<u32>, refresh: Duration, budget: Option<u64>) -> Lab {
        let memory = Memory::new();
        memory.set_object(&key("a"), b"a", 1);
        let can = memory.capabilities().await.unwrap();
        memory.set_capabilities(Capabilities {
            changes: false,
            page,
            ..can
        });
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::over(dir, memory, refresh, budget);
        until("it is listed", || lab.remote.is_listed()).await;
        lab
    }

    /// The same at a remote that tells its changes, and was asked for them once.
    async fn that_tells_changes() -> Lab {
        let lab = Lab::new(None, HOUR, None).await;
        let can = lab.memory.capabilities().await.unwrap();
        lab.memory.set_capabilities(Capabilities {
            changes: true,
            ..can
        });
        lab.bell.ring().await.unwrap();
        lab
    }

    /// The next life of the mount.
    fn again(mut self, refresh: Duration, budget: Option<u64>) -> Lab {
        self.stop.cancel();
        self.index.close();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Lab::over(dir, self.memory.clone(), refresh, budget)
    }

    fn over(dir: tempfile::TempDir, memory: Memory, refresh: Duration, budget: Option<u64>) -> Lab {
        let (events, _) = sync_channel(EVENTS);
        let (index, _) = Index::open(&dir.path().join("index.db"), events).unwrap();
        let index = Arc::new(index);
        let wanted = [("s3://bucket".to_owned(), true)];
        let rows = index.edit(move |w| w.set_remotes(&wanted)).unwrap();
        let remote = Arc::new(Remote::new(
            rows[0].id,
            rows[0].url.clone(),
            true,
            Arc::new(memory.clone()),
            rows[0].listed_ms.is_some(),
            Clock::System,
        ));
        let paces = Arc::<Mutex<Vec<_>>>::default();
        let (seen, shared) = (remote.clone(), paces.clone());
        let (feed, bell) = Feed::new(
            remote.clone(),
            index.clone(),
            Clock::System,
            Pace { refresh, budget },
            Arc::new(move || shared.lock().unwrap().push(seen.listed_every())),
        );
        let stop = CancellationToken::new();
        tokio::spawn(feed.run(stop.clone()));
        Lab {
            dir,
            memory,
            remote,
            index,
            bell,
            paces,
            stop,
        }
    }

    fn listings(&self) -> u64 {
        self.memory.calls(Op::List)
    }

    fn knows(&self, path: &str) -> bool {
        let found = self.index.read(|c| node::resolve(c, &key(path)));
        found.unwrap().is_some()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_quiet_remote_is_listed_more_rarely_until_it_has_news() {
    let least = Duration::from_millis(10);
    let lab = Lab::new(Some(1000), least, None).await;
    until("eight times as rarely", || {
        lab.remote.listed_every() == Some(least * 8)
    })
    .await;
    lab.memory.set_object(&key("b"), b"b", 2);
    until("it is seen", || lab.knows("b")).await;
    let before = lab.paces.lock().unwrap().len();
    until("it was listed again", || {
        lab.paces.lock().unwrap().len() > before + 1
    })
    .await;
    let paces: Vec<_> = lab
        .paces
        .lock()
        .unwrap()
        .iter()
        .flatten()
        .copied()
        .collect();
    let slow = paces.iter().position(|p| *p == least * 8).unwrap();
    // Doubled one by one on the way there, and at the base at once after the news.
    assert_eq!(paces[..=slow], [least, least * 2, least * 4, least * 8]);
    let after = paces[slow..].iter().find(|p| **p != least * 8);
    assert_eq!(after, Some(&least));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_budget_makes_listings_rare_and_asking_lists_at_once() {
    // Two listings a day.
    let lab = Lab::new(Some(1), Duration::from_millis(1), Some(2)).await;
    until("the pace is known", || lab.remote.listed_every().is_some()).await;
    assert_eq!(lab.remote.listed_every(), Some(HOUR * 12));
    lab.memory.set_object(&key("b"), b"b", 2);
    lab.bell.ring().await.unwrap();
    assert!(lab.knows("b"));
    assert_eq!(lab.listings(), 2);
    // A listing takes two requests by now.
    assert_eq!(lab.remote.listed_every(), Some(HOUR * 24));
    // Asked again, it finds nothing new, and that does not slow it down.
    lab.bell.ring().await.unwrap();
    assert_eq!(lab.listings(), 3);
    assert_eq!(lab.remote.listed_every(), Some(HOUR * 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_what_grows_between_listings_is_listed_as_rarely_as_it_costs_by_then() {
    let least = Duration::from_secs(4);
    let lab = Lab::new(Some(1), Duration::from_millis(1), Some(86_400 / 4)).await;
    until("the pace is known", || lab.remote.listed_every().is_some()).await;
    assert_eq!(lab.remote.listed_every(), Some(least));
    let (id, meta) = (lab.remote.id, lab.memory.head(&key("a")).await.unwrap());
    let meta = meta.unwrap();
    let sent = (1..100).map(|n| {
        let key = key(&format!("sent {n}"));
        Change::Put(Object {
            key,
            meta: meta.clone(),
        })
    });
    let sent: Vec<_> = sent.collect();
    let applied = lab
        .index
        .edit(move |w| w.apply(id, &sent, None, 0))
        .unwrap();
    assert_eq!(applied.changed, 99);
    until("the pace is that of a hundred", || {
        lab.remote.listed_every() == Some(least * 100)
    })
    .await;
    assert_eq!(lab.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_listing_that_broke_off_is_not_begun_anew_at_once() {
    let lab = Lab::new(Some(1000), HOUR, None).await;
    lab.memory
        .script(Op::List, 1, Fault::Fail(Kind::Unavailable));
    lab.bell.ring().await.unwrap_err();
    until("it is there again", || !lab.remote.is_away()).await;
    lab.memory.set_object(&key("b"), b"b", 2);
    lab.bell.ring().await.unwrap();
    assert!(lab.knows("b"));
    // The first, the one that broke off, and the one that was asked for.
    assert_eq!(lab.listings(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_remote_that_is_listed_rarely_is_looked_for_at_once() {
    let lab = Lab::new(Some(1000), HOUR, None).await;
    until("the pace is known", || lab.remote.listed_every().is_some()).await;
    lab.memory.set_online(false);
    lab.remote.heard(&Error::new(Kind::Offline, "refused"));
    assert!(lab.remote.is_away());
    let asked = lab.memory.calls(Op::Capabilities);
    until("it is looked for", || {
        lab.memory.calls(Op::Capabilities) > asked + 1
    })
    .await;
    lab.memory.set_online(true);
    until("it is back", || !lab.remote.is_away()).await;
    assert_eq!(lab.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_where_listings_cost_nothing_they_come_at_every_refresh() {
    let lab = Lab::new(None, Duration::from_millis(1), Some(1)).await;
    until("it is listed again and again", || lab.listings() > 20).await;
    assert_eq!(lab.remote.listed_every(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_restart_asks_for_nothing_while_the_last_listing_is_young() {
    let lab = Lab::new(Some(1000), HOUR, None).await;
    until("the listing is on record", || {
        let can = lab.index.read(|c| habits::capabilities(c, "s3://bucket"));
        can.unwrap().is_some()
    })
    .await;
    let asked = |lab: &Lab| [Op::Capabilities, Op::List].map(|op| lab.memory.calls(op));
    let before = asked(&lab);
    let lab = lab.again(HOUR, None);
    assert!(lab.remote.is_listed() && lab.knows("a"));
    until("what it can do is known", || {
        lab.remote.pages() == Some(1000)
    })
    .await;
    // Somebody asks, and only then it is.
    tokio::task::yield_now().await;
    assert_eq!(asked(&lab), before);
    lab.memory.set_object(&key("b"), b"b", 2);
    lab.bell.ring().await.unwrap();
    assert!(lab.knows("b"));
    // Doubt ends the rest too; so does its end.
    let lab = lab.again(HOUR, None);
    let before = asked(&lab);
    lab.remote.heard(&Error::new(Kind::TimedOut, "too late"));
    until("it was looked for", || asked(&lab)[0] > before[0]).await;
    let lab = lab.again(Duration::from_millis(1), None);
    let before = asked(&lab);
    until("it is listed again", || asked(&lab)[1] > before[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_asking_brings_what_is_there_also_from_a_remote_that_is_doubted() {
    let lab = Lab::new(None, HOUR, None).await;
    // Its place is taken by feeds that find both waiting, the question and the doubt.
    lab.stop.cancel();
    let can = lab.memory.capabilities().await.unwrap();
    lab.memory.set_capabilities(Capabilities {
        changes: true,
        ..can
    });
    for n in 0..60 {
        let name = format!("f{n}");
        lab.memory.set_object(&key(&name), b"new", n);
        lab.remote.heard(&Error::new(Kind::TimedOut, "no answer"));
        let (remote, index) = (lab.remote.clone(), lab.index.clone());
        let pace = Pace {
            refresh: HOUR,
            budget: None,
        };
        let (feed, bell) = Feed::new(remote, index, Clock::System, pace, Arc::new(|| {}));
        let mut ring = std::pin::pin!(bell.ring());
        assert!(futures_util::poll!(&mut ring).is_pending());
        let stop = CancellationToken::new();
        let feeding = tokio::spawn(feed.run(stop.clone()));
        ring.await.unwrap();
        assert!(lab.knows(&name), "{name}");
        stop.cancel();
        feeding.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_something_empty_in_the_place_of_a_remote_takes_nothing_away() {
    let lab = Lab::new(None, HOUR, None).await;
    lab.memory.remove_object(&key("a"));
    lab.memory.reset_epoch();
    for _ in 0..2 {
        let error = lab.bell.ring().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Offline);
        assert!(error.to_string().contains("had 1 of"), "{error}");
        assert!(lab.knows("a"));
    }
    until("it is away", || lab.remote.is_away()).await;
    // Nothing goes up to it, which would make it look like the right one.
    lab.remote.is_here();
    assert!(lab.remote.is_away() && lab.remote.is_unsure());
    // It is another one indeed.
    lab.memory.set_object(&key("b"), b"b", 1);
    lab.bell.ring().await.unwrap();
    assert!(lab.knows("b") && !lab.knows("a"));
    assert!(!lab.remote.is_away());
    until("it is sure", || !lab.remote.is_unsure()).await;
    // Who is known can be emptied.
    lab.memory.remove_object(&key("b"));
    lab.bell.ring().await.unwrap();
    assert!(!lab.knows("b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_the_right_remote_is_back_after_something_empty_was_in_its_place() {
    let lab = Lab::that_tells_changes().await;
    let empty = || Err(Error::new(Kind::Offline, "it is empty"));
    assert!(lab.remote.recognised(empty()).is_err());
    lab.remote
        .went_away(&Error::new(Kind::Offline, "it is empty"));
    // It goes on where it was, and no listing is needed to know it by.
    let before = lab.listings();
    lab.bell.ring().await.unwrap();
    until("it is back", || !lab.remote.is_away()).await;
    assert_eq!(lab.listings(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_remote_that_was_away_takes_uploads_as_soon_as_it_is_back() {
    let lab = Lab::that_tells_changes().await;
    lab.memory.set_online(false);
    lab.bell.ring().await.unwrap_err();
    until("it is away", || lab.remote.is_away()).await;
    assert!(lab.remote.is_unsure());
    lab.memory.set_online(true);
    // Not when the next change there ends a question that hangs.
    until("it is sure", || !lab.remote.is_unsure()).await;
    assert!(!lab.remote.is_away());
}
