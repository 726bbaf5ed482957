//! One mount over a directory, a remote in memory, and what must be true of them.
//!
//! Every content has a length of its own, so that `stat` tells which one it is; its bytes follow
//! from the length.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use larder::backends::memory::{Fault, Memory, Op};
use larder::backends::remote::{Remote, Remotes};
use larder::beneath::Dir;
use larder::clock::Clock;
use larder::config::{Offline, Patterns};
use larder::error::{Error, Kind, Result};
use larder::index::{EVENTS, Event, Index, NodeId, NodeKind, Operation, OutboxRow, ROOT, outbox};
use larder::metrics::Metrics;
use larder::overlay::read::Access;
use larder::overlay::rename::RenameMode;
use larder::overlay::tree::Changes;
use larder::overlay::{Attr, Caller, Overlay, Parts, Settings};
use larder::path::{Name, RelPath};
use larder::store::Store;
use larder::sync::feed::Feed;
use larder::sync::pace::Pace;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, Hold};

const ME: Caller = Caller { uid: 0, gid: 0 };
const PATIENCE: Duration = Duration::from_secs(20);

type P = &'static str;

#[derive(Debug, Clone)]
pub enum Step {
    /// Writes a file anew, as most programs do.
    Write(P),
    /// Changes a file in place.
    Patch(P),
    /// Opens a file to write it anew, and stays there.
    Begin(P),
    /// Closes what was begun.
    Finish,
    Read(P),
    Unlink(P),
    Rename(P, P),
    RenameDir(P, P),
    MakeDir(P),
    RemoveDir(P),
    Touch(P),
    RemotePut(P),
    RemoteDelete(P),
    /// Another client puts the bytes that are here.
    RemoteSame(P),
    Sync,
    /// Every waiting upload is tried once.
    Push,
    /// The same, but those under this name, or all, hang on their way there (`true`) or back.
    PushBut(Option<P>, bool),
    /// What hangs goes on.
    Answer,
    /// The next upload's answer is lost.
    LosePut,
    Online(bool),
    EvictAll,
    Tidy,
    Restore,
    /// The daemon ends, cleanly or not, and starts again.
    Reopen(bool),
    /// The same, and meanwhile somebody writes into the plain folder.
    PlainWrite(P, Between),
    PlainDelete(P, Between),
    /// Everything is brought up to date; both sides must agree.
    Settle,
}

/// An end and a start, with the plain folder in between.
#[derive(Debug, Clone, Copy, Default)]
pub struct Between {
    /// The daemon was killed.
    pub killed: bool,
    /// The start hears of the remote before the folder is compared.
    pub hears_first: bool,
}

/// What a check found.
pub type Check = std::result::Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

pub fn bytes_of(n: usize) -> Vec<u8> {
    (0..n).map(|i| (n * 31 + i * 7) as u8).collect()
}

fn key(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

/// A running daemon's inside.
pub struct Mount {
    pub overlay: Arc<Overlay>,
    pub remote: Arc<Remote>,
    clock: Clock,
    open: Option<Begun>,
}

/// Uploads under way, some of which hang.
struct Hanging {
    running: JoinHandle<()>,
    stop: CancellationToken,
}

struct Begun {
    fh: u64,
    content: usize,
    path: Option<String>,
}

pub struct World {
    pub runtime: Arc<Runtime>,
    pub dir: tempfile::TempDir,
    pub memory: Memory,
    gate: Gate,
    hanging: Option<Hanging>,
    hand: Arc<AtomicI64>,
    clock: Clock,
    propagate: bool,
    online: bool,
    pub mount: Option<Mount>,
    contents: usize,
    /// Acknowledged here, not seen at the remote yet: where it must be.
    protected: BTreeMap<usize, String>,
    uploaded: HashSet<usize>,
    others: HashSet<usize>,
    /// Which of the others' contents were to be seen here under which name.
    seen: HashMap<String, HashSet<usize>>,
    /// What was known of a name when a content got it here.
    known: HashMap<(String, usize), HashSet<usize>>,
    /// Names that were taken away here.
    gone: HashSet<String>,
    /// What is here, where nobody else is.
    mine: Option<BTreeMap<String, usize>>,
}

/// What may go up: not what is being written.
fn ready(overlay: &Overlay, now_ms: i64) -> Result<Vec<OutboxRow>> {
    let mut rows = overlay.index.read(|c| outbox::ready(c, now_ms, 0, 100))?;
    rows.retain(|row| match row.operation {
        Operation::Put(id) => !overlay.is_being_written(id),
        Operation::Delete(_) => true,
    });
    Ok(rows)
}

fn lab_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

pub fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(2).enable_all().build().unwrap())
}

impl World {
    pub fn new(propagate: bool) -> World {
        World::beside(runtime(), Memory::new(), propagate)
    }

    pub fn beside(runtime: Arc<Runtime>, memory: Memory, propagate: bool) -> World {
        let (clock, hand) = Clock::manual(Clock::System.now_ns());
        let mut world = World {
            runtime,
            dir: lab_dir(),
            gate: Gate::new(memory.clone()),
            memory,
            hanging: None,
            hand,
            clock,
            propagate,
            online: true,
            mount: None,
            contents: 0,
            protected: BTreeMap::new(),
            uploaded: HashSet::new(),
            others: HashSet::new(),
            seen: HashMap::new(),
            known: HashMap::new(),
            gone: HashSet::new(),
            mine: None,
        };
        world.start();
        world.sync().unwrap();
        world
    }

    fn start(&mut self) {
        let store = Arc::new(self.open_store());
        let (sender, events) = sync_channel::<Event>(EVENTS);
        drop(events);
        let (index, _) = Index::open(&store.larder_path().join("index.db"), sender).unwrap();
        let index = Arc::new(index);
        let rows = index
            .edit(|w| w.set_remotes(&[("http://memory".into(), true)]))
            .unwrap();
        let remote = Arc::new(Remote::new(
            rows[0].id,
            "http://memory".into(),
            true,
            Arc::new(self.gate.clone()),
            rows[0].listed_ms.is_some(),
            self.clock.clone(),
        ));
        let overlay = Overlay::new(Parts {
            store,
            index,
            remotes: Remotes([remote.clone()].into()),
            metrics: Arc::new(Metrics::default()),
            settings: Settings {
                offline: Offline::Hide,
                read_only: false,
                stream: false,
                propagate_deletes: self.propagate,
                local_wins: false,
                excludes: Patterns::new(&["*.tmp"]).unwrap(),
                publish_last: Patterns::new::<&str>(&[]).unwrap(),
            },
            clock: self.clock.clone(),
            runtime: self.runtime.handle().clone(),
            lanes: (4, 4),
            prefetch: 4,
            refresh: std::time::Duration::from_secs(30),
        });
        overlay.recover().unwrap();
        self.mount = Some(Mount {
            overlay,
            remote,
            clock: self.clock.clone(),
            open: None,
        });
        self.set_online(self.online);
    }

    /// The last life's tasks may hold the store for a moment.
    fn open_store(&self) -> Store {
        let began = Instant::now();
        loop {
            let dir = Dir::open_ambient(self.dir.path()).unwrap();
            match Store::open(dir, "/model") {
                Err(error) if error.kind() == Kind::Busy && began.elapsed() < PATIENCE => {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn stop(&mut self, clean: bool) {
        if self.mine.is_some()
            && let Some(mount) = &self.mount
        {
            // One that ended before that would be told of a version that nobody may have seen.
            mount.overlay.reconcile_all(&|| false).unwrap();
        }
        if let Some(hanging) = self.hanging.take() {
            hanging.stop.cancel();
            self.runtime.block_on(hanging.running).unwrap();
            self.no_uploads().unwrap();
            self.gate.set(None);
        }
        let Some(mut mount) = self.mount.take() else {
            return;
        };
        if let (true, Some(begun)) = (clean, &mount.open) {
            mount.overlay.flush(begun.fh, || true).unwrap();
            mount.overlay.release(begun.fh).unwrap();
            // Its name shows what the remote made meanwhile, before anything else can happen to it.
            self.mount = Some(mount);
            self.see(&self.view().unwrap());
            mount = self.mount.take().unwrap();
        }
        mount.overlay.index.close();
    }

    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// Nobody else writes, and names are seen at all times: they show what was done here.
    pub fn is_alone(&mut self) {
        self.mine = Some(BTreeMap::new());
    }

    fn content(&mut self) -> usize {
        self.contents += 1;
        self.contents
    }

    /// Contents made here are numbered from here on.
    pub fn number_from(&mut self, n: usize) {
        self.contents = n;
    }

    /// What is at the remote and was not made here is another's.
    pub fn others_are(&mut self, remote: &BTreeMap<String, usize>, other: &World) {
        let made = self.made();
        self.others
            .extend(remote.values().filter(|n| !made.contains(n)));
        self.others.extend(&other.uploaded);
        self.others.retain(|n| !made.contains(n));
    }

    fn made(&self) -> std::ops::Range<usize> {
        let first = self.contents / 10_000 * 10_000;
        first..first + 10_000
    }

    /// What the other brought up has been there, whoever replaced it since.
    pub fn saw_uploaded(&mut self, other: &World) {
        self.uploaded.extend(&other.uploaded);
    }

    /// Does one step and checks everything.
    pub fn take(&mut self, step: &Step) -> Check {
        let before = self.at_remote();
        self.act(step)
            .map_err(|error| format!("failed: {error} ({:?})", error.kind()))?;
        if matches!(step, Step::Push | Step::Settle) {
            self.check_remote(&before)?;
        }
        self.check()?;
        match step {
            Step::Settle => self.check_agreement(),
            _ => Ok(()),
        }
    }

    fn is_open(&self, path: &str) -> bool {
        let open = self.mount().open.as_ref();
        open.is_some_and(|o| o.path.as_deref() == Some(path))
    }

    fn act(&mut self, step: &Step) -> Result<()> {
        match *step {
            Step::Write(p) if !self.is_open(p) => self.write(p, true),
            Step::Patch(p) if !self.is_open(p) => self.write(p, false),
            Step::Begin(p) => self.begin(p),
            Step::Finish => self.finish(),
            Step::Read(p) => self.read(p),
            Step::Unlink(p) => self.unlink(p),
            Step::Rename(a, b) if a != b => self.rename(a, b),
            Step::RenameDir(a, b) if a != b => self.rename(a, b),
            Step::MakeDir(p) => self.make_dir(p),
            Step::RemoveDir(p) => self.remove_dir(p),
            Step::Touch(p) if !self.is_open(p) => self.touch(p),
            Step::RemotePut(p) => {
                let n = self.content();
                self.others.insert(n);
                self.memory.set_object(&key(p), &bytes_of(n), n as i64);
                Ok(())
            }
            Step::RemoteDelete(p) => {
                self.memory.remove_object(&key(p));
                Ok(())
            }
            Step::RemoteSame(p) => {
                if let Some(n) = self.view()?.get(p) {
                    self.memory.set_object(&key(p), &bytes_of(*n), 5);
                }
                Ok(())
            }
            Step::Sync => self.sync(),
            Step::Push => self.push(false),
            Step::PushBut(p, before) => self.push_but(p, before),
            Step::Answer => self.answer(),
            Step::LosePut => {
                let fault = Fault::LoseAnswer(Kind::TimedOut);
                self.memory.script(Op::Put, 1, fault.clone());
                self.memory.script(Op::Copy, 1, fault);
                Ok(())
            }
            Step::Online(online) => {
                self.set_online(online);
                Ok(())
            }
            Step::EvictAll => self.mount().overlay.evict_under(&RelPath::root()).map(drop),
            Step::Tidy => self
                .mount()
                .overlay
                .tidy_now(&larder::store::Limits::default()),
            Step::Restore => {
                let now = self.clock.now_ns();
                let restored = self
                    .mount()
                    .overlay
                    .index
                    .edit(move |w| w.restore(&RelPath::root(), now));
                restored.map(drop)
            }
            Step::Reopen(clean) => {
                self.stop(clean);
                self.start();
                Ok(())
            }
            Step::PlainWrite(p, between) => self.plain_write(p, between),
            Step::PlainDelete(p, between) => self.plain_delete(p, between),
            Step::Settle => self.settle(),
            _ => Ok(()),
        }
    }

    // What other clients and the network do.

    fn set_online(&mut self, online: bool) {
        self.online = online;
        self.memory.set_online(online);
        let remote = &self.mount().remote;
        match online {
            true => remote.is_here(),
            false => remote.went_away(&Error::new(Kind::Offline, "the model says so")),
        }
    }

    pub fn sync(&mut self) -> Result<()> {
        let mount = self.mount();
        if mount.remote.is_away() {
            return Ok(());
        }
        let (feed, bell) = Feed::new(
            mount.remote.clone(),
            mount.overlay.index.clone(),
            mount.clock.clone(),
            Pace {
                refresh: Duration::from_secs(3600),
                budget: None,
            },
            Arc::new(|| {}),
        );
        let stop = CancellationToken::new();
        self.runtime.block_on(async {
            let feeding = tokio::spawn(feed.run(stop.clone()));
            let rung = tokio::time::timeout(PATIENCE, bell.ring()).await;
            stop.cancel();
            feeding.await.unwrap();
            rung.unwrap_or_else(|_| Err(Error::new(Kind::TimedOut, "the feed hangs")))
        })
    }

    /// Runs the uploads until each row has been tried that does not hang.
    fn push_but(&mut self, path: Option<P>, before: bool) -> Result<()> {
        self.answer()?;
        self.pass(600);
        self.gate.set(Some(Hold {
            key: path.map(key),
            before,
        }));
        let overlay = self.mount().overlay.clone();
        let stop = CancellationToken::new();
        let running = overlay.uploads.clone().run(stop.clone());
        let running = self.runtime.spawn(running);
        self.hanging = Some(Hanging { running, stop });
        let began = Instant::now();
        loop {
            let now = self.clock.now_ms();
            let left = ready(&overlay, now)?;
            let hanging = self.gate.waiting();
            if left.len() <= hanging && overlay.uploads.active() == hanging {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let why = format!("{left:?} left, {hanging} hang");
                return Err(Error::new(Kind::TimedOut, why));
            }
            overlay.uploads.kick();
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// What hangs comes to its end.
    fn answer(&mut self) -> Result<()> {
        let Some(hanging) = self.hanging.take() else {
            return Ok(());
        };
        self.gate.set(None);
        self.no_uploads()?;
        hanging.stop.cancel();
        self.runtime.block_on(hanging.running).unwrap();
        self.no_uploads()
    }

    /// Waits until none is under way.
    fn no_uploads(&self) -> Result<()> {
        let began = Instant::now();
        while self.mount().overlay.uploads.active() > 0 {
            if began.elapsed() > PATIENCE {
                return Err(Error::new(Kind::TimedOut, "an upload does not end"));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    }

    /// Runs the uploads until each row has been tried; `all`: until none is left.
    fn push(&mut self, all: bool) -> Result<()> {
        self.answer()?;
        self.pass(600);
        let overlay = self.mount().overlay.clone();
        if self.mount().remote.is_away() {
            return Ok(());
        }
        let stop = CancellationToken::new();
        let (hand, clock) = (self.hand.clone(), self.clock.clone());
        self.runtime.block_on(async {
            let running = tokio::spawn(overlay.uploads.clone().run(stop.clone()));
            let began = Instant::now();
            let done = loop {
                if all {
                    hand.fetch_add(100_000_000_000, Ordering::SeqCst);
                }
                let now = clock.now_ms();
                let left = ready(&overlay, now)?;
                if left.is_empty() && overlay.uploads.active() == 0 {
                    break Ok(());
                }
                if began.elapsed() > PATIENCE {
                    let oldest = overlay.index.read(outbox::oldest)?;
                    break Err(Error::new(
                        Kind::TimedOut,
                        format!("not drained: {oldest:?}"),
                    ));
                }
                overlay.uploads.kick();
                tokio::time::sleep(Duration::from_micros(300)).await;
            };
            stop.cancel();
            running.await.unwrap();
            done
        })
    }

    fn pass(&self, seconds: i64) {
        self.hand
            .fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    }

    pub fn settle(&mut self) -> Result<()> {
        self.finish()?;
        self.set_online(true);
        self.memory.clear_script();
        self.mount().overlay.reconcile_all(&|| false)?;
        for _ in 0..3 {
            self.sync()?;
            self.push(true)?;
        }
        self.sync()
    }

    // What local programs do.

    pub fn look_up(&self, path: &str) -> Result<Option<Attr>> {
        let overlay = &self.mount().overlay;
        let mut at = overlay.attr(ROOT)?;
        for part in path.split('/') {
            let name = Name::new(part.as_bytes())?;
            match self.runtime.block_on(overlay.lookup(at.id, &name).get())? {
                Some(attr) => at = attr,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn parent(&self, path: &str) -> Result<(NodeId, Name)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = Name::new(name.as_bytes())?;
        if dir.is_empty() {
            return Ok((ROOT, name));
        }
        if let Some(attr) = self.look_up(dir)? {
            return Ok((attr.id, name));
        }
        let dir = Name::new(dir.as_bytes())?;
        let made = self.mount().overlay.make_dir(ROOT, &dir, 0o755, ME)?;
        Ok((made.id, name))
    }

    /// Does it with the node of the path; once more if that was replaced, as the kernel does.
    fn with<T>(&self, path: &str, work: impl Fn(NodeId) -> Result<T>) -> Result<Option<T>> {
        for _ in 0..5 {
            let Some(attr) = self.look_up(path)? else {
                return Ok(None);
            };
            match work(attr.id) {
                Err(error) if error.kind() == Kind::Stale => {}
                done => return done.map(Some),
            }
        }
        Err(Error::new(Kind::Stale, "stale again and again"))
    }

    pub fn open(&self, path: &str, write: bool, truncate: bool) -> Result<Option<u64>> {
        let overlay = &self.mount().overlay;
        let access = Access { write, truncate };
        self.with(path, |id| {
            let opened = overlay.open(id, access).get();
            Ok(self.runtime.block_on(opened)?.fh)
        })
    }

    fn open_or_create(&self, path: &str) -> Result<Option<u64>> {
        if let Some(fh) = self.open(path, true, true)? {
            return Ok(Some(fh));
        }
        let (parent, name) = self.parent(path)?;
        match self.mount().overlay.create(parent, &name, 0o644, ME) {
            // Hidden, for its remote is away.
            Err(error) if error.kind() == Kind::Exists => Ok(None),
            made => Ok(Some(made?.1.fh)),
        }
    }

    fn write(&mut self, path: P, anew: bool) -> Result<()> {
        let opened = match anew {
            true => self.open_or_create(path)?,
            false => match self.open(path, true, false) {
                // Its bytes cannot be had now.
                Err(error) if self.may_fail(&error) => None,
                done => done?,
            },
        };
        let Some(fh) = opened else { return Ok(()) };
        let n = self.content();
        let overlay = self.mount().overlay.clone();
        overlay.write(fh, 0, &bytes_of(n))?;
        if let Some(attr) = self.look_up(path)? {
            let cut = Changes {
                size: Some(n as u64),
                ..Changes::default()
            };
            self.runtime
                .block_on(overlay.set_attr(attr.id, cut).get())?;
        }
        overlay.flush(fh, || false)?;
        overlay.release(fh)?;
        self.acknowledged(path, n);
        Ok(())
    }

    fn may_fail(&self, error: &Error) -> bool {
        error.kind().is_away()
            || error.kind() == Kind::NotFound
            // The remote has another version now, and nobody has told us yet.
            || error.kind() == Kind::Stale
    }

    fn acknowledged(&mut self, path: &str, n: usize) {
        self.protected.retain(|_, at| at != path);
        self.protected.insert(n, path.to_owned());
        if let Some(mine) = &mut self.mine {
            mine.insert(path.to_owned(), n);
        }
        self.know(path, n);
    }

    fn know(&mut self, path: &str, n: usize) {
        let seen = self.seen.get(path).cloned().unwrap_or_default();
        self.known.insert((path.to_owned(), n), seen);
    }

    fn begin(&mut self, path: P) -> Result<()> {
        if self.mount().open.is_some() {
            return Ok(());
        }
        let Some(fh) = self.open_or_create(path)? else {
            return Ok(());
        };
        let content = self.content();
        self.mount().overlay.write(fh, 0, &bytes_of(content))?;
        // What it replaces is what was here when it began.
        self.know(path, content);
        self.mount.as_mut().unwrap().open = Some(Begun {
            fh,
            content,
            path: Some(path.into()),
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let Some(begun) = self.mount.as_mut().unwrap().open.take() else {
            return Ok(());
        };
        let overlay = &self.mount().overlay;
        overlay.flush(begun.fh, || false)?;
        overlay.release(begun.fh)?;
        if let Some(path) = begun.path {
            let known = self.known.get(&(path.clone(), begun.content)).cloned();
            self.acknowledged(&path, begun.content);
            if let Some(known) = known {
                self.known.insert((path, begun.content), known);
            }
        }
        Ok(())
    }

    fn read(&mut self, path: P) -> Result<()> {
        let fh = match self.open(path, false, false) {
            Err(error) if self.may_fail(&error) => return Ok(()),
            done => done?,
        };
        let Some(fh) = fh else { return Ok(()) };
        let overlay = &self.mount().overlay;
        let bytes = self.runtime.block_on(overlay.read(fh, 0, 1 << 20).get());
        overlay.release(fh)?;
        let bytes = bytes?;
        if bytes != bytes_of(bytes.len()) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{path}: wrong bytes shown"),
            ));
        }
        Ok(())
    }

    fn unlink(&mut self, path: P) -> Result<()> {
        if self.look_up(path)?.is_none() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        self.mount().overlay.unlink(parent, &name)?;
        self.protected.retain(|_, at| at != path);
        self.gone.insert(path.into());
        if let Some(mine) = &mut self.mine {
            mine.remove(path);
        }
        self.move_open(path, None);
        Ok(())
    }

    fn move_open(&mut self, from: &str, to: Option<&str>) {
        if let Some(open) = &mut self.mount.as_mut().unwrap().open
            && open.path.as_deref() == Some(from)
        {
            open.path = to.map(str::to_owned);
        }
    }

    /// Renames a file, or a directory with all that is in it.
    fn rename(&mut self, from: P, to: P) -> Result<()> {
        let before = self.view()?;
        let hidden = self.hidden();
        if self.look_up(from)?.is_none() || hidden {
            return Ok(());
        }
        let (old_parent, old) = self.parent(from)?;
        let (parent, name) = self.parent(to)?;
        let renamed =
            self.mount()
                .overlay
                .rename((old_parent, &old), (parent, &name), RenameMode::Replace);
        match renamed {
            Err(error) if error.kind() == Kind::NotEmpty => return Ok(()),
            done => done?,
        }
        let moved: Vec<String> = before
            .keys()
            .filter(|p| *p == from || p.starts_with(&format!("{from}/")))
            .cloned()
            .collect();
        self.protected.retain(|_, at| at != to);
        self.move_open(to, None);
        for path in moved {
            let target = format!("{to}{}", &path[from.len()..]);
            self.move_open(&path, Some(&target));
            for at in self.protected.values_mut().filter(|at| **at == path) {
                *at = target.clone();
            }
            if let Some(mine) = &mut self.mine {
                // One that is not finished yet has replaced what was there all the same.
                match mine.remove(&path) {
                    Some(n) => mine.insert(target.clone(), n),
                    None => mine.remove(&target),
                };
            }
            self.know(&target, before[&path]);
            if let Some(open) = &self.mount().open
                && open.path.as_deref() == Some(&target)
            {
                let content = open.content;
                self.know(&target, content);
            }
            self.gone.insert(path);
            // Its own file was replaced here, and does not come back if the new one is not finished.
            self.gone.insert(target);
        }
        Ok(())
    }

    /// Whether some names cannot be seen now.
    fn hidden(&self) -> bool {
        self.mount().remote.is_away()
    }

    fn make_dir(&mut self, path: P) -> Result<()> {
        if self.look_up(path)?.is_none() {
            let (parent, name) = self.parent(path)?;
            match self.mount().overlay.make_dir(parent, &name, 0o755, ME) {
                Err(error) if error.kind() == Kind::Exists && self.hidden() => {}
                done => drop(done?),
            }
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: P) -> Result<()> {
        if self.look_up(path)?.is_none() {
            return Ok(());
        }
        let empty = !self
            .view()?
            .keys()
            .any(|p| p.starts_with(&format!("{path}/")));
        let (parent, name) = self.parent(path)?;
        match self.mount().overlay.remove_dir(parent, &name) {
            Err(error) if error.kind() == Kind::NotEmpty && (!empty || self.hidden()) => Ok(()),
            done => done,
        }
    }

    fn touch(&mut self, path: P) -> Result<()> {
        let overlay = self.mount().overlay.clone();
        let stamp = Changes {
            mtime_ns: Some(self.content() as i64 * 1000),
            ..Changes::default()
        };
        self.with(path, |id| {
            self.runtime.block_on(overlay.set_attr(id, stamp).get())
        })?;
        Ok(())
    }

    // What people do in the plain folder.

    fn plain_write(&mut self, path: P, between: Between) -> Result<()> {
        self.stop(!between.killed);
        let n = self.content();
        let at = self.dir.path().join(path);
        std::fs::create_dir_all(at.parent().unwrap())?;
        std::fs::write(at, bytes_of(n))?;
        self.acknowledged(path, n);
        self.start_again(between)
    }

    fn plain_delete(&mut self, path: P, between: Between) -> Result<()> {
        self.stop(!between.killed);
        if std::fs::remove_file(self.dir.path().join(path)).is_ok() {
            self.protected.retain(|_, at| at != path);
        }
        self.start_again(between)
    }

    fn start_again(&mut self, between: Between) -> Result<()> {
        self.start();
        match between.hears_first {
            true => self.sync(),
            false => Ok(()),
        }
    }

    // What must be true.

    /// What the mount shows: every file, and which content it is.
    pub fn view(&self) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        let mut work = vec![(ROOT, String::new())];
        let overlay = &self.mount().overlay;
        while let Some((dir, at)) = work.pop() {
            let fh = self.runtime.block_on(overlay.open_dir(dir).get())?;
            let read = overlay.read_dir(fh, 0, &mut |entry| {
                let path = format!("{at}{}", entry.name);
                match entry.attr.kind {
                    NodeKind::Dir => work.push((entry.attr.id, format!("{path}/"))),
                    _ => drop(found.insert(path, entry.attr.size as usize)),
                }
                true
            });
            overlay.close_dir(fh);
            read?;
        }
        Ok(found)
    }

    pub fn at_remote(&self) -> BTreeMap<String, usize> {
        let keys = self.memory.keys();
        keys.into_iter()
            .filter_map(|key| {
                let (meta, _) = self.memory.object(&key)?;
                Some((key.to_string(), meta.size as usize))
            })
            .collect()
    }

    /// Contents that were set aside.
    pub fn aside(&self) -> HashSet<usize> {
        let files = std::fs::read_dir(self.dir.path().join(".larder/conflicts")).unwrap();
        files
            .map(|f| f.unwrap().metadata().unwrap().len() as usize)
            .collect()
    }

    /// Whoever changes a name knows what it shows.
    fn see(&mut self, view: &BTreeMap<String, usize>) {
        for (path, n) in view.iter().filter(|(_, n)| self.others.contains(n)) {
            self.seen.entry(path.clone()).or_default().insert(*n);
        }
    }

    fn check(&mut self) -> Check {
        let view = self.view().map_err(|e| format!("cannot be listed: {e}"))?;
        self.see(&view);
        let remote = self.at_remote();
        self.gone
            .retain(|p| !view.contains_key(p) || view.get(p) != remote.get(p));
        self.uploaded.extend(remote.values());
        self.check_tree()?;
        self.check_mine(&view)?;
        self.protected.retain(|n, _| !self.uploaded.contains(n));
        let aside = self.aside();
        for (n, path) in &self.protected {
            // Being written anew: it comes back if that is not finished.
            if aside.contains(n) || self.is_open(path) {
                continue;
            }
            ensure!(
                view.get(path) == Some(n),
                "the write {n} of {path} is lost: {:?} is there",
                view.get(path)
            );
            let stored = std::fs::read(self.dir.path().join(path));
            ensure!(
                stored.as_ref().is_ok_and(|b| *b == bytes_of(*n)),
                "the write {n} of {path} is not in the folder"
            );
        }
        Ok(())
    }

    /// Where nobody else is, names show what was done here, and nothing is a conflict.
    fn check_mine(&self, view: &BTreeMap<String, usize>) -> Check {
        let Some(mine) = &self.mine else {
            return Ok(());
        };
        // One that is being written shows that.
        let shut = |files: &BTreeMap<String, usize>| -> BTreeMap<String, usize> {
            let files = files.iter().filter(|(path, _)| !self.is_open(path));
            files.map(|(path, n)| (path.clone(), *n)).collect()
        };
        let (view, mine) = (shut(view), shut(mine));
        ensure!(view == mine, "{view:?} is shown, and not {mine:?}");
        let aside = self.aside();
        ensure!(
            aside.is_empty(),
            "{aside:?} set aside, and nobody else is there"
        );
        Ok(())
    }

    /// A name in the store is a whole file.
    fn check_tree(&self) -> Check {
        let mut work = vec![self.dir.path().to_owned()];
        while let Some(dir) = work.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
                if entry.file_name() == ".larder" {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    work.push(entry.path());
                    continue;
                }
                let bytes = std::fs::read(entry.path()).unwrap();
                let whole = bytes == bytes_of(bytes.len()) && !bytes.is_empty();
                ensure!(whole, "{:?} is not a whole file", entry.path());
            }
        }
        Ok(())
    }

    /// Nothing of others was replaced or deleted that was not seen here first.
    fn check_remote(&self, before: &BTreeMap<String, usize>) -> Check {
        let after = self.at_remote();
        let view = self.view().map_err(|e| format!("cannot be listed: {e}"))?;
        for (path, theirs) in before.iter().filter(|(_, n)| self.others.contains(n)) {
            match after.get(path) {
                Some(now) if now == theirs => {}
                // Renamed here: it is under its new name.
                _ if after.values().chain(view.values()).any(|n| n == theirs) => {}
                Some(now) => {
                    let known = match self.known.get(&(path.clone(), *now)) {
                        Some(known) => known.contains(theirs),
                        // Never read here, it followed its old name after it got this one.
                        None => (self.known.iter())
                            .any(|((at, _), known)| at == path && known.contains(theirs)),
                    };
                    ensure!(
                        known,
                        "{now} replaced {theirs} of another at {path}, which was not seen here"
                    );
                }
                None => {
                    let seen = self.seen.get(path).is_some_and(|s| s.contains(theirs));
                    ensure!(
                        self.propagate && seen,
                        "{theirs} of another was deleted at {path}"
                    );
                }
            }
        }
        Ok(())
    }

    fn check_agreement(&self) -> Check {
        let view = self.view().map_err(|e| format!("cannot be listed: {e}"))?;
        let remote = self.at_remote();
        for (path, n) in view.iter().filter(|(path, _)| !path.ends_with(".tmp")) {
            ensure!(
                remote.get(path) == Some(n),
                "{path}: {n} here, {:?} at the remote",
                remote.get(path)
            );
        }
        for (path, n) in remote.iter().filter(|(p, _)| !view.contains_key(*p)) {
            ensure!(
                self.gone.contains(path),
                "{path}: {n} at the remote is not shown"
            );
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop(false);
    }
}
