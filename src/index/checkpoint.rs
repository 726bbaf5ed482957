//! Moving what was committed from the log into the index file, beside the writer.
//!
//! SQLite would do it within a commit, which then waits for the disk. Here a thread with a
//! connection of its own does it every so many commits. What it does not come to (no thread,
//! a reader in the way) is done by the writer's own connection once the log is long.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::schema;

/// Commits between two.
const EVERY: u32 = 256;

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
        // It takes what it can and is in nobody's way.
        if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE);") {
            tracing::debug!(%error, "the index's log could not be taken into it");
        }
    }
}
