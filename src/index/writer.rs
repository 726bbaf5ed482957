//! The one connection that writes, and whose turn it is.
//!
//! Edits come as closures. Where nobody else is at it, the caller does his edit himself, in a
//! transaction of its own: handing it over would cost more than most edits do. What has to
//! wait goes to a thread, which does whatever is waiting in one transaction, each edit in a
//! savepoint of its own. Every caller is answered after the commit, and nobody comes before
//! those who wait. What a commit made visible or took away is then told to the subscriber,
//! so that the kernel's caches can follow.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use rusqlite::Connection;

use super::checkpoint::Checkpoints;
use super::names::{self, Names};
use super::node::{NodeId, RemoteId};
use super::rows::{self, Rows};
use super::schema::sql;
use super::spare::Spare;
use super::told::{Invalidation, Told};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::path::{Name, RelPath};

/// How many edits one transaction takes at most.
const BATCH: usize = 256;
/// How soon news that did not fit is offered again, even if nothing else happens.
const OWED: Duration = Duration::from_millis(20);

/// The writing side of the index; edits are methods on it, by subject, in the files beside this one.
pub struct Writer {
    pub(super) c: Connection,
    pub(super) next_id: u64,
    pub(super) next_generation: u64,
    /// The mount's remotes in order, and whether they take uploads.
    pub(super) remotes: Vec<(RemoteId, bool)>,
    pub(super) changed: Vec<Invalidation>,
    /// The directory that the last listed key was in; listings come sorted.
    pub(super) last_parent: Option<(RelPath, NodeId)>,
    /// Directories that a remote without a listing may have; parents before what is in them.
    pub(super) guessed: Vec<NodeId>,
    /// Whether this transaction moved or removed a directory.
    pub(super) moved_dirs: bool,
    /// Counts such transactions: paths read before are not to be trusted.
    pub(super) moves: Arc<AtomicU64>,
    pub(super) spare: Spare,
    pub(super) checkpoints: Checkpoints,
    /// Directories and rows in memory, and what the edits of this transaction changed of them.
    pub(super) names: Arc<Names>,
    pub(super) rows: Arc<Rows>,
    pub(super) changed_names: names::Changed,
    pub(super) changed_rows: rows::Changed,
    pub(super) told: Told,
    /// How the transaction under way is framed.
    pub(super) frame: Frame,
}

/// How an edit that fails is undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Frame {
    /// By a savepoint, for others share its transaction.
    #[default]
    Shared,
    /// With its transaction, which it has for itself.
    Alone,
    /// It failed.
    Failed,
}

/// Given the writer, or nothing if no transaction could be begun.
type Job = Box<dyn FnOnce(Option<&mut Writer>) -> Answer + Send>;
/// Tells the caller how it went, once told whether the transaction was committed.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;

enum Message {
    Edit(Job),
    /// News is owed: the thread is to offer it again.
    Owed,
    Stop,
}

/// What the callers and the thread share.
struct Desk {
    /// Who holds it edits. None once the index is closed; poisoned if an edit panicked half-way.
    writer: Mutex<Option<Writer>>,
    /// Edits that were sent and not begun. Counted down by who holds the writer: who finds none
    /// waiting, and the writer free, comes after all that were sent before.
    waiting: AtomicUsize,
    /// Who looks at the rows through the writer's connection, and holds it for a moment only.
    glances: AtomicUsize,
}

/// The way to the writer.
#[derive(Clone)]
pub(super) struct Queue {
    desk: Arc<Desk>,
    sender: Sender<Message>,
}

impl Queue {
    /// Does an edit on the caller's thread if nobody is before it; else gives it back.
    pub fn at_once<T, E>(&self, edit: E) -> std::result::Result<Result<T>, E>
    where
        E: FnOnce(&mut Writer) -> Result<T>,
    {
        if self.desk.waiting.load(Ordering::Acquire) > 0 {
            return Err(edit);
        }
        let mut held = self.desk.take();
        let Some(writer) = held.as_mut().and_then(|held| held.as_mut()) else {
            return Err(edit);
        };
        let was_owed = writer.told.is_owed();
        let (result, committed) = writer.transact(1, |writer| writer.map(|w| w.framed(edit)));
        writer.concluded(&committed);
        if writer.told.is_owed() && !was_owed {
            // Its receiver lives as long as the writer is here.
            let _ = self.sender.send(Message::Owed);
        }
        // An edit that was not begun has the reason in `committed`.
        Ok(committed.and_then(|()| result.unwrap_or_else(|| Err(locked()))))
    }

    /// Reads through the writer's connection, which knows its own commits and need not read what
    /// they changed, if nobody is at it; else gives it back.
    pub fn glance<T, R>(&self, read: R) -> std::result::Result<Result<T>, R>
    where
        R: FnOnce(&Connection) -> Result<T>,
    {
        if self.desk.waiting.load(Ordering::Acquire) > 0 {
            return Err(read);
        }
        self.desk.glances.fetch_add(1, Ordering::AcqRel);
        let held = self.desk.writer.try_lock().ok();
        let done = match held.as_ref().and_then(|held| held.as_ref()) {
            Some(writer) => Ok(read(&writer.c)),
            None => Err(read),
        };
        drop(held);
        self.desk.glances.fetch_sub(1, Ordering::AcqRel);
        done
    }

    /// Sends an edit; `done` is called on the writer's thread after the commit.
    pub fn send<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        let job: Job = Box::new(move |writer| {
            let result = match writer {
                Some(writer) => writer.framed(edit),
                None => Err(locked()),
            };
            Box::new(move |committed| done(committed.and(result)))
        });
        self.desk.waiting.fetch_add(1, Ordering::AcqRel);
        self.sender.send(Message::Edit(job)).map_err(|_| {
            self.desk.waiting.fetch_sub(1, Ordering::AcqRel);
            Error::new(Kind::Io, "the index is closed")
        })
    }

    /// From here on every edit waits for the thread.
    #[cfg(test)]
    pub fn nothing_at_once(&self) {
        self.desk.waiting.fetch_add(1, Ordering::AcqRel);
    }

    pub fn stop(&self) {
        // Nobody to stop is as good as stopped.
        let _ = self.sender.send(Message::Stop);
    }
}

fn locked() -> Error {
    Error::new(Kind::Busy, "the index is locked")
}

/// Starts the writer's thread.
pub(super) fn start(writer: Writer) -> Result<(Queue, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let desk = Arc::new(Desk {
        writer: Mutex::new(Some(writer)),
        waiting: AtomicUsize::new(0),
        glances: AtomicUsize::new(0),
    });
    let queue = Queue {
        desk: desk.clone(),
        sender,
    };
    let thread = std::thread::Builder::new()
        .name("larder-index".into())
        .spawn(move || desk.run(&receiver))?;
    Ok((queue, thread))
}

impl Desk {
    /// The writer, unless somebody edits.
    fn take(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        match self.writer.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::WouldBlock) if self.glances.load(Ordering::Acquire) > 0 => {
                self.writer.lock().ok()
            }
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => None,
        }
    }

    /// Does what is sent until it is told to stop, and closes the index.
    fn run(&self, inbox: &Receiver<Message>) {
        let mut is_owed = false;
        loop {
            let first = match is_owed {
                true => inbox.recv_timeout(OWED),
                false => inbox.recv().map_err(RecvTimeoutError::from),
            };
            let first = match first {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match self.turn(first, inbox, &mut is_owed) {
                Some(false) => {}
                Some(true) | None => break,
            }
        }
        let (mut held, is_whole) = match self.writer.lock() {
            Ok(held) => (held, true),
            Err(poisoned) => (poisoned.into_inner(), false),
        };
        // What is half done is not gone on with: it goes with its transaction.
        if let Some(writer) = held.take().filter(|_| is_whole) {
            drop(writer.checkpoints);
            let end = "PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);";
            let _ = writer.c.execute_batch(end);
        }
    }

    /// Does what waits, `first` before all; returns whether that was the last. None: an edit panicked.
    fn turn(
        &self,
        first: Option<Message>,
        inbox: &Receiver<Message>,
        is_owed: &mut bool,
    ) -> Option<bool> {
        let mut held = self.writer.lock().ok()?;
        let writer = held.as_mut()?;
        let (batch, stop) = gather(first, inbox);
        let edits = batch.len();
        self.waiting.fetch_sub(edits, Ordering::AcqRel);
        let (mut answers, mut committed) = (Vec::with_capacity(edits), Ok(()));
        if !batch.is_empty() {
            let all = |mut writer: Option<&mut Writer>| {
                for job in batch {
                    answers.push(job(writer.as_deref_mut()));
                }
            };
            ((), committed) = writer.transact(edits, all);
            writer.concluded(&committed);
        } else if writer.told.is_owed() {
            writer.told.tell(Vec::new());
        }
        *is_owed = writer.told.is_owed();
        // Who is answered may have the next edit.
        drop(held);
        for answer in answers {
            answer(committed.clone());
        }
        Some(stop)
    }
}

impl Writer {
    /// Runs `work`, which is so many edits, in one transaction.
    fn transact<T>(
        &mut self,
        edits: usize,
        work: impl FnOnce(Option<&mut Writer>) -> T,
    ) -> (T, Result<()>) {
        self.frame = match edits {
            1 => Frame::Alone,
            _ => Frame::Shared,
        };
        match self.say("BEGIN IMMEDIATE") {
            Ok(()) => {
                let made = work(Some(self));
                (made, self.end())
            }
            Err(error) => (work(None), Err(error)),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.rows.changing(&self.changed_rows);
        let committed = match self.frame {
            Frame::Failed => Ok(()),
            Frame::Alone | Frame::Shared => self.say("COMMIT"),
        };
        if self.frame != Frame::Failed && committed.is_ok() {
            return Ok(());
        }
        self.last_parent = None;
        // A commit that fails for want of space leaves the transaction open; other failures end it.
        let undone = match self.c.is_autocommit() {
            true => Ok(()),
            false => self.say("ROLLBACK"),
        };
        committed.and(undone)
    }

    /// What comes after a transaction and before its callers are answered.
    fn concluded(&mut self, committed: &Result<()>) {
        crash::point("index.committed");
        self.names.committed(&self.changed_names);
        self.rows.changed();
        let changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.moved_dirs) {
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        match committed {
            Ok(()) => {
                self.told.tell(changed);
                self.spare.committed();
                self.checkpoints.committed();
            }
            Err(error) if error.kind() == Kind::NoSpace => self.spare.spend(&self.c),
            Err(_) => {}
        }
    }

    /// One of the few statements that frame every edit: they are prepared once.
    fn say(&self, statement: &str) -> Result<()> {
        let mut prepared = self.c.prepare_cached(statement).map_err(sql)?;
        prepared.execute([]).map(drop).map_err(sql)
    }

    /// One edit: all of it or nothing.
    fn framed<T>(&mut self, edit: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let (told, alone) = (self.changed.len(), self.frame == Frame::Alone);
        if !alone {
            self.say("SAVEPOINT edit")?;
        }
        let result = edit(self);
        if result.is_err() {
            self.changed.truncate(told);
            self.last_parent = None;
        }
        match (alone, &result) {
            (true, Ok(_)) => {}
            (true, Err(_)) => self.frame = Frame::Failed,
            (false, Ok(_)) => self.say("RELEASE edit")?,
            (false, Err(_)) => {
                self.say("ROLLBACK TO edit")?;
                self.say("RELEASE edit")?;
            }
        }
        result
    }

    /// A number that no node had in this life of the index.
    pub(super) fn fresh_id(&mut self) -> NodeId {
        self.next_id += 1;
        NodeId(self.next_id)
    }

    /// A number above every generation given so far.
    pub(super) fn fresh_generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    pub(super) fn tell(&mut self, parent: NodeId, name: &Name) {
        self.changed.push(Invalidation {
            parent,
            name: name.clone(),
        });
    }
}

/// The edits that wait, and whether nothing comes after them.
fn gather(first: Option<Message>, inbox: &Receiver<Message>) -> (Vec<Job>, bool) {
    let mut batch = Vec::new();
    let mut next = first;
    while let Some(message) = next {
        match message {
            Message::Edit(job) => batch.push(job),
            Message::Owed => {}
            Message::Stop => return (batch, true),
        }
        next = if batch.len() < BATCH {
            inbox.try_recv().ok()
        } else {
            None
        };
    }
    (batch, false)
}
