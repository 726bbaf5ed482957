//! Following the directory: what the system says of changes, sweeps for what it does not say.
//!
//! Two threads. The follower takes events, waits a moment for more, and looks at the paths;
//! it also asks again after files that somebody was writing. The [sweeper](super::sweeper) compares
//! the whole directory at the start, from time to time, when it is asked to, and whenever events
//! were lost. Neither decides anything: both only make [`Tree`] look.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, MetadataKind, ModifyKind};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use crate::error::Result;
use crate::path::RelPath;

use super::refresh::Refresh;
use super::sweep::sweep;
use super::sweeper::Sweeper;
use super::tree::{Look, Tree};

/// Events that may wait; when there are more, a sweep finds what they would have told.
const EVENTS: usize = 65_536;
/// How long the follower gathers events before it looks.
const GATHER: Duration = Duration::from_millis(20);
/// How often it asks after files that are being written; less often when they are so many that
/// asking would fill more than a twentieth of the time.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const ASK_SHARE: u32 = 20;
/// A new directory is gone through once more after this: files may have come into it
/// before the system began to tell of them.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// What the system said.
enum Word {
    Path {
        key: RelPath,
        hint: Hint,
    },
    /// No more will be heard: the system's limit on watched directories is reached.
    Blind,
    Stop,
}

/// What is known of a changed path, beside that it changed.
#[derive(Debug, Clone, Copy, Default)]
struct Hint {
    closed: bool,
    /// It came, went or was renamed; it may be a directory with much beneath it.
    whole: bool,
}

/// The two threads. Dropping it ends them.
pub struct Watch {
    words: SyncSender<Word>,
    sweeps: SyncSender<()>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch, and to sweep every `period`. `scanned` becomes true after the first
    /// complete sweep of this run.
    pub fn start(
        tree: &Arc<Tree>,
        period: Duration,
        refresh: &Arc<Refresh>,
        scanned: watch::Sender<bool>,
    ) -> Result<Watch> {
        let stop = Arc::new(AtomicBool::new(false));
        let (words, heard) = sync_channel(EVENTS);
        let (sweeps, asked) = sync_channel(1);
        let mut sweeper = Sweeper {
            tree: tree.clone(),
            period,
            refresh: refresh.clone(),
            stop: stop.clone(),
            asked,
            scanned,
            failing: false,
        };
        let mut follower = Follower {
            tree: tree.clone(),
            stop: stop.clone(),
            sweeps: sweeps.clone(),
            refresh: refresh.clone(),
            again: VecDeque::new(),
        };
        let (root, ear, need) = (tree.root.path().to_owned(), words.clone(), sweeps.clone());
        let follow = move || {
            let watcher = hear(&root, ear, need);
            follower.note_watcher(watcher.is_some());
            follower.run(&heard);
            drop(watcher);
        };
        Ok(Watch {
            words,
            sweeps,
            stop,
            threads: vec![
                Builder::new().name("serve-follow".into()).spawn(follow)?,
                Builder::new()
                    .name("serve-sweep".into())
                    .spawn(move || sweeper.run())?,
            ],
        })
    }

    /// What asks for sweeps.
    pub fn sweeps(&self) -> Sweeps {
        Sweeps(self.sweeps.clone())
    }
}

/// Asks for sweeps.
#[derive(Debug, Clone)]
pub struct Sweeps(SyncSender<()>);

impl Sweeps {
    /// A sweep that begins after this; one that waits already is enough.
    pub fn ask(&self) {
        let _ = self.0.try_send(());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.words.try_send(Word::Stop);
        let _ = self.sweeps.try_send(());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Starts the system's watcher; none where it cannot watch everything.
fn hear(
    root: &Path,
    words: SyncSender<Word>,
    sweeps: SyncSender<()>,
) -> Option<RecommendedWatcher> {
    let base = root.to_owned();
    let handler = move |event: notify::Result<Event>| {
        let lost = match event {
            Ok(event) if event.need_rescan() => true,
            Ok(event) => !tell(&base, event, &words),
            Err(error) if is_limit(&error) => {
                let _ = words.try_send(Word::Blind);
                true
            }
            Err(_) => true,
        };
        if lost {
            let _ = sweeps.try_send(());
        }
    };
    let config = Config::default().with_follow_symlinks(false);
    let watched = RecommendedWatcher::new(handler, config).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(mut watcher) => {
            // Our own directory is busy, and of no interest. Not every system lets it be left out.
            let _ = watcher.unwatch(&root.join(crate::path::RESERVED));
            Some(watcher)
        }
        Err(error) => {
            complain(&error);
            None
        }
    }
}

fn is_limit(error: &notify::Error) -> bool {
    matches!(error.kind, notify::ErrorKind::MaxFilesWatch)
}

fn complain(error: &notify::Error) {
    match is_limit(error) {
        true => complain_of_limit(),
        false => {
            tracing::warn!(%error, "the directory cannot be watched, so it is swept every minute instead");
        }
    }
}

fn complain_of_limit() {
    tracing::warn!(
        "the directory has more subdirectories than the system lets us watch, so it is swept \
         every minute instead; raise the limit: sysctl fs.inotify.max_user_watches=1048576"
    );
}

/// Passes an event on; false when there was no room for it.
fn tell(root: &Path, event: Event, words: &SyncSender<Word>) -> bool {
    let hint = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint {
            closed: true,
            whole: false,
        },
        // Most of these are our own reads.
        EventKind::Access(_)
        | EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime)) => {
            return true;
        }
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => Hint::default(),
        EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Modify(_)
        | EventKind::Any
        | EventKind::Other => Hint {
            closed: false,
            whole: true,
        },
    };
    event.paths.into_iter().all(|path| {
        let Some(key) = key_of(root, &path) else {
            return true;
        };
        !matches!(
            words.try_send(Word::Path { key, hint }),
            Err(TrySendError::Full(_))
        )
    })
}

/// The path beneath the root; none for what is not served, `.larder` above all.
fn key_of(root: &Path, path: &Path) -> Option<RelPath> {
    let rest = path.strip_prefix(root).ok()?;
    RelPath::new(rest.as_os_str().as_encoded_bytes()).ok()
}

/// The thread that looks where events point.
struct Follower {
    tree: Arc<Tree>,
    stop: Arc<AtomicBool>,
    sweeps: SyncSender<()>,
    refresh: Arc<Refresh>,
    again: VecDeque<(Instant, RelPath)>,
}

impl Follower {
    fn note_watcher(&self, works: bool) {
        self.refresh.set_blind(!works);
        // The sweeper waits for the watcher, so that nothing falls between the two.
        let _ = self.sweeps.try_send(());
    }

    fn run(&mut self, heard: &Receiver<Word>) {
        let mut ask = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let paths = match heard.recv_timeout(ASK_AGAIN) {
                Ok(first) => self.gather(first, heard),
                Err(RecvTimeoutError::Timeout) => HashMap::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.look(paths);
            self.second_looks();
            if Instant::now() >= ask {
                let start = Instant::now();
                let waiting = self.tree.in_motion();
                self.report(self.tree.look(&waiting, false).map(drop));
                ask = Instant::now() + ASK_AGAIN.max(start.elapsed() * ASK_SHARE);
            }
        }
    }

    /// Takes what comes within a moment, so that a path is looked at once for many events.
    fn gather(&mut self, first: Word, heard: &Receiver<Word>) -> HashMap<RelPath, Hint> {
        let until = Instant::now() + GATHER;
        let mut paths = HashMap::new();
        let mut word = Ok(first);
        while let Ok(said) = word {
            match said {
                Word::Path { key, hint } => {
                    let entry: &mut Hint = paths.entry(key).or_default();
                    // Written again after it was closed: no longer closed.
                    entry.closed = hint.closed;
                    entry.whole |= hint.whole;
                }
                Word::Blind => {
                    if !self.refresh.set_blind(true) {
                        complain_of_limit();
                    }
                }
                Word::Stop => break,
            }
            if paths.len() >= EVENTS {
                break;
            }
            word = heard.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
        paths
    }

    fn look(&mut self, paths: HashMap<RelPath, Hint>) {
        let (closed, open): (Vec<_>, Vec<_>) = paths.into_iter().partition(|(_, hint)| hint.closed);
        for (paths, closed) in [(closed, true), (open, false)] {
            let (keys, hints): (Vec<_>, Vec<_>) = paths.into_iter().unzip();
            match self.tree.look(&keys, closed) {
                Ok(looks) => {
                    for ((key, hint), look) in keys.into_iter().zip(hints).zip(looks) {
                        if hint.whole && matches!(look, Look::Dir | Look::Gone) {
                            self.sweep_under(key, look == Look::Dir);
                        }
                    }
                }
                Err(error) => {
                    self.report(Err(error));
                    let _ = self.sweeps.try_send(());
                }
            }
        }
    }

    fn sweep_under(&mut self, key: RelPath, is_dir: bool) {
        self.report(sweep(&self.tree, &key, &self.stop, |_| {}).map(drop));
        if is_dir {
            self.again.push_back((Instant::now() + SECOND_LOOK, key));
        }
    }

    fn second_looks(&mut self) {
        while let Some((due, _)) = self.again.front()
            && *due <= Instant::now()
        {
            if let Some((_, key)) = self.again.pop_front() {
                self.report(sweep(&self.tree, &key, &self.stop, |_| {}).map(drop));
            }
        }
        if self.again.len() > EVENTS {
            self.again.clear();
            let _ = self.sweeps.try_send(());
        }
    }

    fn report(&self, done: Result<()>) {
        if let Err(error) = done {
            tracing::debug!(%error, "following the served directory");
        }
    }
}
