//! Moving what was committed from the log into the index file, beside the writer.
//!
//! SQLite would do it within a commit, which then waits for the disk. Here a thread with a
//! connection of its own does it every so many commits. What it does not come to (no thread,
//! a reader in the way) is done by the writer's own connection once the log is long.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use super::schema;

/// Commits between two.
const EVERY: u32 = 256;
/// How often one that met a commit is tried, and how long it waits before each but the first.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// Asks for them. Its end waits for the one that is under way.
pub(super) struct Checkpoints {
    index: PathBuf,
    commits: u32,
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Checkpoints {
    /// Of the index at `path`.
    pub fn of(path: &Path) -> Checkpoints {
        Checkpoints {
            index: path.to_owned(),
            commits: 0,
            thread: None,
        }
    }

    /// A commit went well.
    pub fn committed(&mut self) {
        self.commits += 1;
        if self.commits < EVERY {
            return;
        }
        self.commits = 0;
        if self.thread.is_none() {
            self.thread = self.start();
        }
        if let Some((ask, _)) = &self.thread {
            // Full: it is at it, and will be asked again.
            let _ = ask.try_send(());
        }
    }

    fn start(&self) -> Option<(SyncSender<()>, JoinHandle<()>)> {
        let (ask, asked) = sync_channel(1);
        let index = self.index.clone();
        let thread = Builder::new()
            .name("larder-log".into())
            .spawn(move || run(&index, &asked));
        thread.ok().map(|thread| (ask, thread))
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Some((ask, thread)) = self.thread.take() {
            drop(ask);
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn run(index: &Path, asked: &Receiver<()>) {
    let connection = match schema::open_beside(index) {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%error, "the index's log is left to its writer"),
    };
    while asked.recv().is_ok() {
        if let Err(error) = take_in(&connection) {
            tracing::debug!(%error, "the index's log could not be taken into it");
        }
    }
}

/// Takes what it can of the log into the file, and is in nobody's way.
///
/// A commit that is just being noted at the head of the log passes for somebody else at this work
/// (SQLite's `walIndexReadHdr`), and nothing is taken in then: it is over in a moment, or once a
/// writer that lost its core has one again. Returns false if somebody else is at it all the time.
fn take_in(connection: &Connection) -> rusqlite::Result<bool> {
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let pragma = "PRAGMA wal_checkpoint(PASSIVE)";
        let is_busy: bool = connection.query_row(pragma, [], |row| row.get(0))?;
        if !is_busy {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn p9_the_log_is_taken_in_whatever_the_writer_is_just_doing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let (writer, _) = schema::open(&path).unwrap();
        // The writer at this work would rightly pass for somebody else.
        writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let done = &done;
            threads.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    writer
                        .execute_batch("UPDATE meta SET value = value + 1")
                        .unwrap();
                }
            });
            let beside = schema::open_beside(&path).unwrap();
            // One in 500 meets a commit.
            let taken = (0..5_000).all(|_| take_in(&beside).is_ok_and(|taken| taken));
            done.store(true, Ordering::SeqCst);
            assert!(taken);
        });
    }
}
