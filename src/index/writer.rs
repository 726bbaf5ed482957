//! The one connection that writes, on a thread of its own.
//!
//! Edits come as closures; whatever is waiting is done in one transaction, each
//! edit in a savepoint of its own, and every caller is answered after the commit.
//! What a commit made visible or took away is then told to the subscriber, so
//! that the kernel's caches can follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::time::Duration;

use rusqlite::Connection;

use super::node::{NodeId, RemoteId};
use super::schema::sql;
use super::spare::Spare;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::path::{Name, RelPath};

/// How many edits one transaction takes at most.
const BATCH: usize = 256;
/// How soon news that did not fit is offered again, even if nothing else happens.
const OWED: Duration = Duration::from_millis(20);

/// A name in a directory whose meaning changed without the kernel's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidation {
    pub parent: NodeId,
    pub name: Name,
}

/// What a commit changed for everyone who caches.
#[derive(Debug, Clone)]
pub enum Event {
    /// These names.
    Names(Vec<Invalidation>),
    /// More than could be told one by one.
    Everything,
}

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
}

/// Given the writer, or nothing if no transaction could be begun.
type Job = Box<dyn FnOnce(Option<&mut Writer>) -> Answer + Send>;
/// Tells the caller how it went, once told whether the transaction was committed.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;

enum Message {
    Edit(Job),
    Stop,
}

/// The way to the writer's thread.
#[derive(Clone)]
pub(super) struct Queue(Sender<Message>);

impl Queue {
    /// Sends an edit; `done` is called on the writer's thread after the commit.
    pub fn send<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        let job: Job = Box::new(move |writer| {
            let result = match writer {
                Some(writer) => writer.in_savepoint(edit),
                None => Err(Error::new(Kind::Busy, "the index is locked")),
            };
            Box::new(move |committed| done(committed.and(result)))
        });
        self.0
            .send(Message::Edit(job))
            .map_err(|_| Error::new(Kind::Io, "the index is closed"))
    }

    pub fn stop(&self) {
        // Nobody to stop is as good as stopped.
        let _ = self.0.send(Message::Stop);
    }
}

/// Starts the writer's thread.
pub(super) fn start(
    mut writer: Writer,
    events: SyncSender<Event>,
) -> Result<(Queue, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("larder-index".into())
        .spawn(move || writer.run(&receiver, &events))?;
    Ok((Queue(sender), thread))
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Message>, events: &SyncSender<Event>) {
        let mut overflowed = false;
        loop {
            let first = match overflowed {
                true => inbox.recv_timeout(OWED),
                false => inbox.recv().map_err(RecvTimeoutError::from),
            };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    overflowed = tell(events, Vec::new(), true);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (batch, stop) = gather(first, inbox);
            let mut answers = Vec::with_capacity(batch.len());
            let committed = self.transact(batch, &mut answers);
            crash::point("index.committed");
            let changed = std::mem::take(&mut self.changed);
            if std::mem::take(&mut self.moved_dirs) {
                self.moves.fetch_add(1, Ordering::AcqRel);
            }
            match &committed {
                Ok(()) => {
                    overflowed = tell(events, changed, overflowed);
                    self.spare.committed();
                }
                Err(error) if error.kind() == Kind::NoSpace => self.spare.spend(&self.c),
                Err(_) => {}
            }
            for answer in answers {
                answer(committed.clone());
            }
            if stop {
                break;
            }
        }
        let _ = self
            .c
            .execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);");
    }

    fn transact(&mut self, batch: Vec<Job>, answers: &mut Vec<Answer>) -> Result<()> {
        let begun = self.say("BEGIN IMMEDIATE");
        let open = begun.is_ok();
        for job in batch {
            answers.push(job(open.then_some(&mut *self)));
        }
        begun?;
        self.say("COMMIT").inspect_err(|_| {
            // A commit that fails for want of space leaves the transaction open.
            let _ = self.say("ROLLBACK");
            self.last_parent = None;
        })
    }

    /// One of the few statements that frame every edit: they are prepared once.
    fn say(&self, statement: &str) -> Result<()> {
        let mut prepared = self.c.prepare_cached(statement).map_err(sql)?;
        prepared.execute([]).map(drop).map_err(sql)
    }

    fn in_savepoint<T>(&mut self, edit: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let told = self.changed.len();
        self.say("SAVEPOINT edit")?;
        match edit(self) {
            Ok(value) => {
                self.say("RELEASE edit")?;
                Ok(value)
            }
            Err(error) => {
                self.changed.truncate(told);
                self.last_parent = None;
                self.say("ROLLBACK TO edit")?;
                self.say("RELEASE edit")?;
                Err(error)
            }
        }
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

fn gather(first: Message, inbox: &Receiver<Message>) -> (Vec<Job>, bool) {
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Edit(job) => batch.push(job),
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

/// Passes the news on; returns whether some is still owed because the reader is behind.
fn tell(events: &SyncSender<Event>, changed: Vec<Invalidation>, owed: bool) -> bool {
    let event = match (owed, changed.is_empty()) {
        (true, _) => Event::Everything,
        (false, true) => return false,
        (false, false) => Event::Names(changed),
    };
    matches!(events.try_send(event), Err(TrySendError::Full(_)))
}
