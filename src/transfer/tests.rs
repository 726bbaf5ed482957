//! Downloads and uploads against remotes in memory that do wrong on demand.

mod landing;
mod orders;
mod pieces;
mod tiers;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commit::{Commit, seen};
use super::download::Downloads;
use super::flight::{Flight, Passenger, Stage};
use super::upload::{Rules, Uploads};
use crate::backends::memory::{Fault, Memory, Op};
use crate::backends::remote::{Remote, Remotes};
use crate::backends::{Backend, Capabilities, Changes, Download, Upload};
use crate::beneath::Dir;
use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::index::{
    EVENTS, Held, Index, NewNode, Node, NodeId, NodeKind, ROOT, Seen, holding, outbox,
};
use crate::metrics::Metrics;
use crate::object::{ByteRange, Change, Cursor, Listed, Meta, Object, Precondition, Version};
use crate::path::{Name, RelPath};
use crate::store::Store;

/// The key whose bodies the backend looks at as a whole.
const PROVEN: &[u8] = b"proven";

/// A remote in memory that remembers which ranges were asked for.
#[derive(Clone)]
struct Recorder(Memory, Arc<Mutex<Vec<Option<ByteRange>>>>);

#[async_trait]
impl Backend for Recorder {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.0.capabilities().await
    }
    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.0.list(batches).await
    }
    async fn epoch(&self) -> Result<Option<String>> {
        self.0.epoch().await
    }
    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.0.changes(since, wait).await
    }
    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.0.head(key).await
    }
    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.1.lock().unwrap().push(range.clone());
        let mut got = self.0.get(key, range, version).await?;
        got.is_proven = key.as_bytes() == PROVEN;
        Ok(got)
    }
    async fn put(&self, key: &RelPath, upload: Upload, when: Precondition) -> Result<Meta> {
        self.0.put(key, upload, when).await
    }
    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.0.delete(key, version).await
    }
}

#[derive(Default)]
struct TestRules {
    /// Who is being written.
    open: Mutex<Option<NodeId>>,
    not_in_order: AtomicBool,
}

impl Rules for TestRules {
    fn is_local_only(&self, _: &RelPath) -> bool {
        false
    }
    fn is_being_written(&self, id: NodeId) -> bool {
        *self.open.lock().unwrap() == Some(id)
    }
    fn is_published_last(&self, path: &RelPath) -> bool {
        let name = path.file_name().unwrap();
        name.as_bytes().ends_with(b".meta.json") || name.as_bytes() == b"manifest.json"
    }
    fn is_in_order(&self) -> bool {
        !self.not_in_order.load(Ordering::SeqCst)
    }
    fn local_wins(&self) -> bool {
        false
    }
}

struct Lab {
    dir: tempfile::TempDir,
    remotes: Vec<Recorder>,
    mount: Remotes,
    commit: Arc<Commit>,
    downloads: Arc<Downloads>,
    uploads: Arc<Uploads>,
    rules: Arc<TestRules>,
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn new_node(parent: NodeId, name: &str, kind: NodeKind) -> NewNode {
    NewNode {
        parent,
        name: Name::new(name.as_bytes()).unwrap(),
        kind,
        mode: 0o755,
        uid: None,
        gid: None,
        size: 0,
        mtime_ns: 0,
    }
}

fn bytes_of(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it hangs")
}

async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

impl Lab {
    fn new(remotes: usize) -> Lab {
        let remotes = (0..remotes)
            .map(|_| Recorder(Memory::new(), Arc::default()))
            .collect();
        Lab::over(tempfile::tempdir().unwrap(), remotes)
    }

    fn over(dir: tempfile::TempDir, remotes: Vec<Recorder>) -> Lab {
        // The last life's tasks may hold the store for a moment.
        let began = std::time::Instant::now();
        let store = loop {
            let root = Dir::open_ambient(dir.path()).unwrap();
            match Store::open(root, "/test") {
                Err(error) if error.kind() == Kind::Busy && began.elapsed().as_secs() < 20 => {
                    std::thread::yield_now();
                }
                opened => break Arc::new(opened.unwrap()),
            }
        };
        let (events, _) = sync_channel(EVENTS);
        let (index, _) = Index::open(&store.larder_path().join("index.db"), events).unwrap();
        let wanted: Vec<_> = (0..remotes.len())
            .map(|n| (format!("http://r{n}"), true))
            .collect();
        let rows = index.edit(move |w| w.set_remotes(&wanted)).unwrap();
        let mount: Vec<_> = rows
            .iter()
            .zip(&remotes)
            .map(|(row, backend)| {
                let backend = Arc::new(backend.clone());
                let url = row.url.clone();
                Arc::new(Remote::new(row.id, url, true, backend, true, Clock::System))
            })
            .collect();
        let mount = Remotes(mount.into());
        let metrics = Arc::new(Metrics::default());
        let commit = Arc::new(Commit::new(store, Arc::new(index), Clock::System));
        let handle = tokio::runtime::Handle::current();
        let downloads = Downloads::new(
            commit.clone(),
            mount.clone(),
            metrics.clone(),
            handle,
            4,
            false,
        );
        let rules = Arc::new(TestRules::default());
        let uploads = Uploads::new(
            commit.clone(),
            downloads.clone(),
            mount.clone(),
            metrics,
            rules.clone(),
            4,
        );
        Lab {
            dir,
            remotes,
            mount,
            commit,
            downloads,
            uploads,
            rules,
        }
    }

    /// Ends this life and begins the next.
    fn reopened(self) -> Lab {
        self.commit.index.close();
        let Lab {
            dir,
            remotes,
            mount,
            commit,
            downloads,
            uploads,
            ..
        } = self;
        drop((mount, commit, downloads, uploads));
        Lab::over(dir, remotes)
    }

    fn memory(&self, n: usize) -> &Memory {
        &self.remotes[n].0
    }

    fn asked(&self, n: usize) -> Vec<Option<ByteRange>> {
        std::mem::take(&mut *self.remotes[n].1.lock().unwrap())
    }

    /// The remote has the file, and the mount knows.
    fn listed(&self, n: usize, path: &str, bytes: &[u8]) -> Node {
        let meta = self.memory(n).set_object(&key(path), bytes, 5);
        self.told(n, path, meta);
        self.node(path)
    }

    fn told(&self, n: usize, path: &str, meta: Meta) {
        let remote = self.mount.0[n].id;
        let object = Object {
            key: key(path),
            meta,
        };
        self.commit
            .index
            .edit(move |w| w.apply(remote, &[Change::Put(object)], None, 1))
            .unwrap();
    }

    fn node(&self, path: &str) -> Node {
        let index = &self.commit.index;
        index
            .read(|c| crate::index::node::resolve(c, &key(path)))
            .unwrap()
            .unwrap()
    }

    fn stored(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(path)).ok()
    }

    /// A local file, written and closed.
    fn write(&self, path: &str, bytes: &[u8]) -> NodeId {
        std::fs::write(self.dir.path().join(path), bytes).unwrap();
        let facts = seen(&self.commit.store.root().stat(&key(path)).unwrap());
        let index = &self.commit.index;
        let known = index
            .read(|c| crate::index::node::resolve(c, &key(path)))
            .unwrap();
        let (dir, name) = (key(path).parent().unwrap(), key(path).file_name().unwrap());
        let parent = index
            .read(|c| crate::index::node::resolve(c, &dir))
            .unwrap()
            .unwrap();
        let new = new_node(parent.id, &name.to_string(), NodeKind::File);
        let now = Clock::System.now_ns();
        index
            .edit(move |w| {
                let id = match known {
                    Some(node) => node.id,
                    None => w.create(&new, now)?.id,
                };
                // As if it had rested already.
                w.written(id, None, facts, true, now / 1_000_000 - outbox::SETTLE_MS)?;
                Ok(id)
            })
            .unwrap()
    }

    fn waiting(&self) -> Vec<outbox::OutboxRow> {
        let index = &self.commit.index;
        index.read(|c| outbox::ready(c, i64::MAX, 0, 10)).unwrap()
    }

    /// Runs the queue until `done`.
    async fn upload_until(&self, done: impl Fn(&Lab) -> bool) {
        let stop = CancellationToken::new();
        let running = tokio::spawn(self.uploads.clone().run(stop.clone()));
        until(|| done(self)).await;
        stop.cancel();
        soon(running).await.unwrap();
        until(|| self.uploads.active() == 0).await;
    }

    fn retry_now(&self) {
        self.commit.index.edit(|w| w.retry_now()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_many_readers_share_one_download() {
    let lab = Lab::new(1);
    let bytes = bytes_of(3 << 20);
    let node = lab.listed(0, "a", &bytes);
    let readers: Vec<_> = (0..20u64)
        .filter_map(|n| {
            let flight = match lab.downloads.board(&node) {
                // It has landed already: who comes now reads what is here.
                Err(error) if n > 0 && error.kind() == Kind::Stale => return None,
                boarded => boarded.unwrap(),
            };
            let (downloads, want) = (lab.downloads.clone(), n * 100_000..n * 100_000 + 50_000);
            Some(tokio::spawn(async move {
                let got = downloads.read(&flight, want.clone()).await.unwrap();
                (want, got)
            }))
        })
        .collect();
    for reader in readers {
        let (want, got) = soon(reader).await.unwrap();
        assert_eq!(got, bytes[want.start as usize..want.end as usize]);
    }
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    // Who read the row before it landed and comes after it makes no second download.
    match lab.downloads.board(&node) {
        Ok(flight) => assert!(matches!(flight.stage(), Stage::Landed)),
        Err(error) => assert_eq!(error.kind(), Kind::Stale),
    }
    assert_eq!(lab.memory(0).calls(Op::Get), 1);
    assert_eq!(lab.stored("a").unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_wrong_bytes_are_never_whole_and_end_in_an_error() {
    let lab = Lab::new(1);
    let bytes = bytes_of(200_000);
    let node = lab.listed(0, "a", &bytes);
    lab.memory(0).script(Op::Get, 50, Fault::Corrupt);
    let flight = lab.downloads.board(&node).unwrap();
    let tail = soon(lab.downloads.read(&flight, 150_000..200_000)).await;
    assert_eq!(tail.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(lab.stored("a"), None);
    assert_eq!(lab.node("a").held, Held::None);
    let left = lab.dir.path().join(".larder/partial");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
    // As soon as the remote does right again, so does the file.
    lab.memory(0).clear_script();
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a").unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_wrong_bytes_are_fetched_again_from_the_next_remote() {
    let lab = Lab::new(2);
    let bytes = bytes_of(200_000);
    lab.listed(0, "a", &bytes);
    let node = lab.listed(1, "a", &bytes);
    lab.memory(0).script(Op::Get, 50, Fault::Corrupt);
    let flight = lab.downloads.board(&node).unwrap();
    let tail = soon(lab.downloads.read(&flight, 150_000..200_000)).await;
    assert_eq!(tail.unwrap(), bytes[150_000..]);
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a").unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_body_that_breaks_off_goes_on_where_it_was() {
    let lab = Lab::new(1);
    let bytes = bytes_of(200_000);
    let node = lab.listed(0, "a", &bytes);
    lab.memory(0).script(Op::Get, 1, Fault::Truncate(70_000));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a").unwrap(), bytes);
    assert_eq!(lab.asked(0), [None, Some(70_000..200_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_nothing_is_kept_of_a_body_that_proved_to_be_wrong() {
    let lab = Lab::new(1);
    let bytes = bytes_of(200_000);
    let node = lab.listed(0, "proven", &bytes);
    lab.memory(0).script(Op::Get, 1, Fault::Truncate(199_000));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("proven").unwrap(), bytes);
    assert_eq!(lab.asked(0), [None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_remote_that_is_away_is_passed_over() {
    let lab = Lab::new(2);
    let bytes = bytes_of(1000);
    lab.listed(0, "a", &bytes);
    let node = lab.listed(1, "a", &bytes);
    lab.memory(0).set_online(false);
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a").unwrap(), bytes);
    assert!(lab.mount.0[0].is_away() && !lab.mount.0[1].is_away());
    // Both away: an error at once.
    lab.memory(1).set_online(false);
    lab.listed(0, "b", &bytes);
    let node = lab.listed(1, "b", &bytes);
    let failed = soon(lab.downloads.hydrate(node.id)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_version_that_is_gone_is_stale_and_nothing_else() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a", &bytes_of(1000));
    lab.memory(0).set_object(&key("a"), &bytes_of(2000), 6);
    let failed = soon(lab.downloads.hydrate(node.id)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Stale);
    assert_eq!(lab.stored("a"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_lost_answer_is_no_conflict() {
    let lab = Lab::new(1);
    lab.write("a", b"first");
    lab.memory(0)
        .script(Op::Put, 1, Fault::LoseAnswer(Kind::TimedOut));
    lab.upload_until(|lab| lab.waiting().iter().any(|r| r.attempts == 1))
        .await;
    lab.retry_now();
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(lab.node("a").dirty, 0);
    assert_eq!(lab.memory(0).object(&key("a")).unwrap().1, "first");
    assert!(lab.commit.store.aside().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_file_rewritten_after_a_lost_answer_is_no_conflict() {
    let lab = Lab::new(1);
    for restart in [false, true] {
        let name = if restart { "a" } else { "b" };
        lab.write(name, b"first");
        lab.memory(0)
            .script(Op::Put, 1, Fault::LoseAnswer(Kind::TimedOut));
        lab.upload_until(|lab| lab.waiting().iter().any(|r| r.attempts == 1))
            .await;
        // An upload between, of which nothing arrives.
        lab.write(name, b"second!");
        lab.memory(0)
            .script(Op::Put, 1, Fault::Fail(Kind::Unavailable));
        lab.upload_until(|lab| lab.waiting().iter().any(|r| r.attempts == 1))
            .await;
        lab.write(name, b"the third");
        lab.upload_until(|lab| lab.waiting().is_empty()).await;
        assert_eq!(lab.memory(0).object(&key(name)).unwrap().1, "the third");
        assert!(lab.commit.store.aside().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_changed_on_both_sides_keeps_both() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a", b"v1");
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    lab.write("a", b"ours");
    lab.memory(0).set_object(&key("a"), b"theirs", 7);
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(lab.memory(0).object(&key("a")).unwrap().1, "theirs");
    let kept = &lab.commit.index.read(|c| holding::conflicts(c, 9)).unwrap()[0];
    let aside = lab.dir.path().join(".larder/conflicts").join(&kept.file);
    assert_eq!(std::fs::read(aside).unwrap(), b"ours");
    let node = lab.node("a");
    assert_eq!((node.held, node.size, node.dirty), (Held::None, 6, 0));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("a").unwrap(), b"theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_equal_bytes_on_both_sides_are_no_conflict() {
    let lab = Lab::new(1);
    lab.write("a", b"the same");
    lab.memory(0).set_object(&key("a"), b"the same", 7);
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(lab.node("a").dirty, 0);
    assert!(lab.commit.store.aside().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_file_that_was_deleted_there_goes_up_anew() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a", b"v1");
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    lab.write("a", b"ours");
    lab.memory(0).remove_object(&key("a"));
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(lab.memory(0).object(&key("a")).unwrap().1, "ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_an_upload_is_given_up_when_its_file_is_opened_for_writing() {
    let lab = Lab::new(1);
    let id = lab.write("a", b"ours");
    lab.memory(0).script(Op::Put, 1, Fault::Stall);
    let stop = CancellationToken::new();
    let running = tokio::spawn(lab.uploads.clone().run(stop.clone()));
    until(|| lab.uploads.is_uploading(id) && lab.memory(0).calls(Op::Put) == 1).await;
    stop.cancel();
    lab.uploads.cancel(id);
    until(|| lab.uploads.active() == 0).await;
    soon(running).await.unwrap();
    let row = &lab.waiting()[0];
    assert_eq!((row.attempts, &row.last_error), (0, &None));
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_why_an_upload_failed_and_when_it_is_tried_again_outlive_a_restart() {
    let lab = Lab::new(1);
    lab.write("a", b"ours");
    lab.memory(0)
        .script(Op::Put, 1, Fault::Fail(Kind::Unavailable));
    lab.upload_until(|lab| lab.waiting().iter().any(|r| r.attempts == 1))
        .await;
    let before = lab.waiting();
    let lab = lab.reopened();
    assert_eq!(lab.waiting(), before);
    assert!(before[0].not_before_ms > before[0].queued_at_ms);
    assert!(before[0].last_error.as_ref().unwrap().contains("scripted"));
    lab.retry_now();
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_what_is_about_to_be_replaced_is_fetched_first_for_the_file_that_moved_away() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a", b"only there");
    let to = Name::new(b"b").unwrap();
    lab.commit
        .index
        .edit(move |w| {
            w.rename(node.id, ROOT, &to, None, 1)?;
            w.requeue_moved(node.id, &key("a"), true, &|_| false, 1)
        })
        .unwrap();
    lab.write("a", b"new");
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    let at = |path| lab.memory(0).object(&key(path)).unwrap().1;
    assert_eq!((&*at("a"), &*at("b")), (&b"new"[..], &b"only there"[..]));
}

/// Which puts there were, in order.
fn arrived(lab: &Lab, names: &[&str]) -> Vec<bool> {
    let is_there = |name: &&str| lab.memory(0).object(&key(name)).is_some();
    names.iter().map(is_there).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_sidecar_waits_for_a_file_that_failed_also_after_a_restart() {
    let lab = Lab::new(1);
    lab.write("a", b"data");
    lab.write("manifest.json", b"speaks of a");
    // Tried again after a minute only.
    lab.memory(0).script(Op::Put, 1, Fault::Fail(Kind::Denied));
    let waits = |lab: &Lab| {
        lab.uploads
            .held_up()
            .unwrap()
            .1
            .is_some_and(|h| h.by.is_some())
    };
    lab.upload_until(|lab| waits(lab) && lab.waiting()[0].attempts == 1)
        .await;
    let (count, first) = lab.uploads.held_up().unwrap();
    let first = first.unwrap();
    assert_eq!(
        (count, first.path, first.by),
        (1, key("manifest.json"), Some(key("a")))
    );
    let lab = lab.reopened();
    // What is queued after it does not wait with it.
    lab.write("b", b"later");
    let both = |lab: &Lab| waits(lab) && lab.memory(0).object(&key("b")).is_some();
    lab.upload_until(both).await;
    assert_eq!(
        arrived(&lab, &["a", "b", "manifest.json"]),
        [false, true, false]
    );
    lab.retry_now();
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(arrived(&lab, &["a", "manifest.json"]), [true, true]);
    assert_eq!(lab.uploads.held_up().unwrap(), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_sidecar_waits_for_its_own_file_whenever_that_is_open() {
    let lab = Lab::new(1);
    let id = lab.write("a", b"data");
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    lab.write("a.meta.json", b"speaks of a");
    lab.write("manifest.json", b"speaks of a.meta.json");
    *lab.rules.open.lock().unwrap() = Some(id);
    lab.upload_until(|lab| lab.uploads.held_up().unwrap().0 == 2)
        .await;
    let first = lab.uploads.held_up().unwrap().1.unwrap();
    assert_eq!((first.path, first.by), (key("a.meta.json"), Some(key("a"))));
    // Written after its sidecar, and no sidecar since: it is the newest there is.
    lab.write("a", b"more data");
    *lab.rules.open.lock().unwrap() = None;
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
    assert_eq!(
        arrived(&lab, &["a.meta.json", "manifest.json"]),
        [true, true]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_what_a_remote_refuses_for_good_holds_no_sidecar_up() {
    let lab = Lab::new(1);
    lab.write("a", b"data");
    lab.write("a.meta.json", b"speaks of a");
    lab.memory(0)
        .script(Op::Put, 1, Fault::Fail(Kind::Unsupported));
    lab.upload_until(|lab| lab.memory(0).object(&key("a.meta.json")).is_some())
        .await;
    assert_eq!(arrived(&lab, &["a"]), [false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_sidecars_wait_until_the_outbox_is_in_order() {
    let lab = Lab::new(1);
    lab.rules.not_in_order.store(true, Ordering::SeqCst);
    lab.write("manifest.json", b"speaks of a");
    lab.write("a", b"data");
    lab.upload_until(|lab| lab.memory(0).object(&key("a")).is_some())
        .await;
    assert_eq!(arrived(&lab, &["manifest.json"]), [false]);
    lab.rules.not_in_order.store(false, Ordering::SeqCst);
    lab.upload_until(|lab| lab.waiting().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_renamed_file_keeps_its_place_before_a_sidecar() {
    let lab = Lab::new(1);
    let id = lab.write("part", b"data");
    lab.write("manifest.json", b"speaks of a");
    let before = lab.waiting();
    let to = Name::new(b"a").unwrap();
    std::fs::rename(lab.dir.path().join("part"), lab.dir.path().join("a")).unwrap();
    lab.commit
        .index
        .edit(move |w| {
            w.rename(id, ROOT, &to, None, 1)?;
            w.requeue_moved(id, &key("part"), false, &|_| false, 1)
        })
        .unwrap();
    let after = lab.waiting();
    assert_eq!(before[0].id, after[0].id);
    assert!(after[0].generation > before[1].generation);
    lab.memory(0).script(Op::Put, 1, Fault::Fail(Kind::Denied));
    lab.upload_until(|lab| lab.uploads.held_up().unwrap().0 == 1)
        .await;
    let held = lab.uploads.held_up().unwrap().1.unwrap();
    assert_eq!(held.by, Some(key("a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_a_look_for_what_a_sidecar_waits_for_is_bounded_and_goes_on() {
    let lab = Lab::new(1);
    for dir in ["d", "e", "many"] {
        std::fs::create_dir(lab.dir.path().join(dir)).unwrap();
        let new = new_node(ROOT, dir, NodeKind::Dir);
        lab.commit.index.edit(move |w| w.create(&new, 1)).unwrap();
    }
    lab.write("d/a", b"data");
    lab.memory(0).script(Op::Put, 1, Fault::Fail(Kind::Denied));
    lab.upload_until(|lab| lab.waiting()[0].attempts == 1).await;
    let (many, far) = (lab.node("many").id, Clock::System.now_ms() + 3_600_000);
    lab.commit
        .index
        .edit(move |w| {
            for n in 0..5000 {
                let new = new_node(many, &n.to_string(), NodeKind::File);
                let id = w.create(&new, 1)?.id;
                let stored = Seen {
                    size: 0,
                    mtime_ns: 0,
                    ino: n,
                    ctime_ns: 0,
                };
                w.written(id, None, stored, true, far)?;
            }
            Ok(())
        })
        .unwrap();
    // The row that holds the one up is behind all of these, and none holds up the other.
    lab.write("d/manifest.json", b"speaks of a");
    lab.write("e/manifest.json", b"speaks of nothing");
    lab.upload_until(|lab| {
        let by = lab.uploads.held_up().unwrap().1.and_then(|h| h.by);
        by == Some(key("d/a")) && lab.memory(0).object(&key("e/manifest.json")).is_some()
    })
    .await;
    assert_eq!(arrived(&lab, &["d/manifest.json"]), [false]);
}
