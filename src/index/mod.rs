//! Facts: what the namespace is, what every remote has, what the store holds, what
//! must go up. All SQL lives here.
//!
//! One at a time writes ([`Index::edit`]), those who have to wait in batches; whoever reads does so on a
//! read-only connection of its own thread ([`Index::read`]) and sees every edit
//! that was answered. An answered edit survives the death of the process; after
//! [`Index::sync`] it survives a power cut.

pub mod arriving;
mod checkpoint;
mod copied;
pub mod edit;
mod follow;
pub mod habits;
pub mod holding;
pub mod learn;
mod moved;
pub mod moving;
mod names;
pub mod node;
pub mod outbox;
pub mod parting;
pub mod place;
pub mod remote;
mod rename;
mod rows;
pub mod runs;
mod schema;
mod sent;
pub mod served;
mod spare;
mod told;
mod vfs;
pub mod walk;
mod whiteout;

#[cfg(test)]
mod tests;
mod writer;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use lru::LruCache;
use rusqlite::Connection;

use crate::beneath::{Dir, Space};
use crate::error::{About as _, Error, Kind, Result};
use crate::locks;
use crate::path::{Name, RelPath};

pub use edit::{Attrs, NewNode};
pub use holding::{ConflictRow, Doomed, StagedRow, Totals};
pub use moving::Move;
use names::{Look, Names};
pub use node::{
    Entry, Held, Node, NodeId, NodeKind, ROOT, RemoteId, Replica, Seen, Writing, same_bytes,
};
pub use outbox::{Operation, OutboxRow, OutboxTotals};
pub use remote::{Applied, RemoteRow};
use rows::Rows;
pub use runs::Runs;
pub use sent::Sent;
pub use told::{Event, Invalidation};
pub use writer::Writer;

/// How many commits' news may wait before the reader is told "everything" instead.
pub const EVENTS: usize = 4096;
/// Generations are given from blocks, so that none is ever given twice without a write each.
const GENERATION_BLOCK: i64 = 1 << 32;

/// Directories whose paths are remembered.
const REMEMBERED_DIRS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Numbers the indexes of this process, so that a thread's reader belongs to the right one.
static NEXT_INDEX: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static READERS: RefCell<Vec<(u64, Connection)>> = const { RefCell::new(Vec::new()) };
}

/// The index of one mount.
pub struct Index {
    path: PathBuf,
    number: u64,
    queue: writer::Queue,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Paths of directories, each with the number of moves that had happened when it was read.
    dirs: Mutex<LruCache<NodeId, (u64, RelPath)>>,
    /// Counts commits that moved or removed a directory.
    moves: Arc<AtomicU64>,
    names: Arc<Names>,
    rows: Arc<Rows>,
    is_damaged: AtomicBool,
}

impl Index {
    /// Opens the index file at `path`; `events` is told what commits change. The second value is
    /// where a broken file was put, until [`told_of_the_broken_one`](Index::told_of_the_broken_one).
    pub fn open(path: &Path, events: SyncSender<Event>) -> Result<(Index, Option<PathBuf>)> {
        let (c, aside, next_id, generation) = match start(path) {
            Err(error) if error.kind() == Kind::NoSpace && spare::give_up(path) => start(path)?,
            started => started?,
        };
        let (names, rows) = (Arc::new(Names::new()), Arc::new(Rows::new()));
        let writer = Writer {
            changed_names: names::watch(&c)?,
            changed_rows: rows::watch(&c)?,
            names: names.clone(),
            rows: rows.clone(),
            c,
            next_id: next_id as u64,
            next_generation: generation as u64,
            remotes: Vec::new(),
            changed: Vec::new(),
            last_parent: None,
            guessed: Vec::new(),
            moved_dirs: false,
            moves: Arc::default(),
            spare: spare::Spare::beside(path),
            checkpoints: checkpoint::Checkpoints::of(path),
            told: told::Told::to(events),
            frame: writer::Frame::default(),
        };
        let moves = writer.moves.clone();
        let (queue, thread) = writer::start(writer)?;
        let index = Index {
            path: path.to_owned(),
            number: NEXT_INDEX.fetch_add(1, Ordering::Relaxed),
            queue,
            thread: Mutex::new(Some(thread)),
            dirs: Mutex::new(LruCache::new(REMEMBERED_DIRS)),
            moves,
            names,
            rows,
            is_damaged: AtomicBool::new(false),
        };
        Ok((index, aside))
    }

    /// That a broken file was put somewhere else was said, and is not said again.
    pub fn told_of_the_broken_one(&self) -> Result<()> {
        schema::reported(&self.path)
    }

    /// Whether a part of the file was met that makes no sense: the next start sets it aside.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.kind() == Kind::Corrupt
            && !self.is_damaged.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the index is damaged; the next start rebuilds it");
            schema::condemn(&self.path);
        }
        result
    }

    /// Edits, on this thread if nobody else is at it, and returns after the commit. Not for tasks:
    /// see [`edit_later`](Index::edit_later).
    pub fn edit<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let edit = match self.queue.at_once(edit) {
            Ok(done) => return self.checked(done),
            Err(edit) => edit,
        };
        let (sender, receiver) = sync_channel(1);
        self.queue.send(edit, move |result| {
            // The caller may have given up waiting.
            let _ = sender.send(result);
        })?;
        self.checked(receiver.recv().unwrap_or_else(|_| Err(closed())))
    }

    /// Edits; the future ends after the commit.
    pub async fn edit_later<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.queue.send(edit, move |result| {
            let _ = sender.send(result);
        })?;
        self.checked(receiver.await.unwrap_or_else(|_| Err(closed())))
    }

    /// Reads on this thread's own connection.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        READERS.with(|readers| {
            let mut readers = readers.borrow_mut();
            let at = match readers
                .iter()
                .position(|(number, _)| *number == self.number)
            {
                Some(at) => at,
                None => {
                    if readers.len() >= 4 {
                        // Only tests have more than one index in a process's life.
                        readers.remove(0);
                    }
                    readers.push((self.number, schema::open_reader(&self.path)?));
                    readers.len() - 1
                }
            };
            self.checked(read(&readers[at].1))
        })
    }

    /// Reads a row or two, for whoever is about to edit, or did: that is faster on the writer's
    /// connection, if nobody is at it. Not for more, for editors wait.
    pub fn glance<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        match self.queue.glance(read) {
            Ok(done) => self.checked(done),
            Err(read) => self.read(read),
        }
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> Result<Option<Node>> {
        let commits = match self.rows.node(id) {
            rows::Look::Known(node) => return Ok(Some(node)),
            rows::Look::Unknown(commits) => commits,
        };
        let node = self.glance(|c| node::node(c, id))?;
        if let Some(node) = &node {
            self.rows.learn(node, commits);
        }
        Ok(node)
    }

    /// What a listing shows of `name` in `parent`.
    pub fn entry(&self, parent: NodeId, name: &Name) -> Result<Option<Entry>> {
        match self.names.child(parent, name) {
            Look::Known(found) => Ok(found),
            Look::Marked(tick) => {
                let found = self.glance(|c| node::entry(c, parent, name))?;
                self.names.learn(parent, name, tick, found);
                Ok(found)
            }
            Look::Unknown(0) => self.glance(|c| node::entry(c, parent, name)),
            Look::Unknown(worth) => self.read(|c| {
                self.names.take_in(c, parent, worth)?;
                node::entry(c, parent, name)
            }),
        }
    }

    /// The same of up to `limit` names of `parent` after the name `after`, in byte order.
    pub fn entries(
        &self,
        parent: NodeId,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Name, Entry)>> {
        if let Some(page) = self.names.page(parent, after, limit) {
            return Ok(page);
        }
        self.read(|c| {
            if after.is_empty() {
                // Whoever begins a listing wants all of it.
                self.names.take_in(c, parent, usize::MAX)?;
            }
            match self.names.page(parent, after, limit) {
                Some(page) => Ok(page),
                None => node::entries(c, parent, after, limit),
            }
        })
    }

    /// The path of the node `id`.
    pub fn path_of(&self, id: NodeId) -> Result<Option<RelPath>> {
        match self.node(id)? {
            Some(node) => self.path_of_node(&node),
            None => Ok(None),
        }
    }

    /// The path of a node that was just read.
    pub fn path_of_node(&self, node: &Node) -> Result<Option<RelPath>> {
        let Some(name) = &node.name else {
            return Ok(Some(RelPath::root()));
        };
        match self.path_of_dir(node.parent)? {
            Some(dir) => dir.join(name).map(Some),
            None => Ok(None),
        }
    }

    /// The path of the node `id`, which is a directory: read once, as long as none moves.
    pub fn path_of_dir(&self, id: NodeId) -> Result<Option<RelPath>> {
        // Read before the rows: a move that comes between makes the path remembered below a stale one.
        let moves = self.moves.load(Ordering::Acquire);
        let remembered = self.lock_dirs().get(&id).cloned();
        if let Some((then, path)) = remembered
            && then == moves
        {
            return Ok(Some(path));
        }
        let path = self.glance(|c| node::path(c, id))?;
        if let Some(path) = &path {
            self.lock_dirs().put(id, (moves, path.clone()));
        }
        Ok(path)
    }

    fn lock_dirs(&self) -> std::sync::MutexGuard<'_, LruCache<NodeId, (u64, RelPath)>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full the disk is that the index is on.
    pub fn space(&self) -> Result<Space> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        Dir::open_ambient(dir)?.space()
    }

    /// Makes every answered edit survive a power cut.
    pub fn sync(&self) -> Result<()> {
        let mut wal = self.path.as_os_str().to_owned();
        wal.push("-wal");
        for path in [Path::new(&wal), &self.path] {
            match std::fs::File::open(path) {
                Ok(file) => file.sync_data().about(path.display())?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::from(error).about(path.display())),
            }
        }
        Ok(())
    }

    /// Ends the writer's thread after what is queued; later edits fail.
    pub fn close(&self) {
        self.queue.stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer's connection, where a broken file was put, and the first free numbers.
fn start(path: &Path) -> Result<(Connection, Option<PathBuf>, i64, i64)> {
    let (c, aside) = schema::open(path)?;
    let next_id = c
        .query_row("SELECT max(id) FROM nodes", [], |row| row.get(0))
        .map_err(schema::sql)?;
    let generation = c
        .query_row(
            "UPDATE meta SET value = value + ?1 WHERE key = 'generation' RETURNING value",
            [GENERATION_BLOCK],
            |row| row.get(0),
        )
        .map_err(schema::sql)?;
    Ok((c, aside, next_id, generation))
}

fn closed() -> Error {
    Error::new(Kind::Io, "the index is closed")
}
