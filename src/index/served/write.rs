//! Writing the index: one thread, which puts everything that waits into one transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::watch;

use super::read::{get, row_at};
use super::recent::Recent;
use super::{Knew, Note, Row, Seen, Totals, said, signed};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::object::Sha256;
use crate::path::RelPath;

/// Jobs that may wait; whoever comes after them waits too.
const WAITING: usize = 1024;
/// Notes that one transaction takes.
const BATCH: usize = 4096;
/// How many deletions are remembered, and for how long.
const TOMBSTONES: i64 = 200_000;
const TOMBSTONE_MS: i64 = 7 * 24 * 3600 * 1000;

type Answer = Result<Vec<Option<Row>>>;

struct Job {
    notes: Vec<Note>,
    reply: Option<SyncSender<Answer>>,
}

/// The writer's end that others hold.
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start(
        db: Connection,
        seq: watch::Sender<u64>,
        (totals, recent): (Arc<Totals>, Arc<Recent>),
        clock: Clock,
    ) -> Result<Writer> {
        let (jobs, inbox) = sync_channel(WAITING);
        let mut desk = Desk {
            db,
            seq,
            totals,
            recent,
            clock,
        };
        let thread = Builder::new()
            .name("served-index".into())
            .spawn(move || desk.run(&inbox))?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub fn write(&self, notes: Vec<Note>) -> Answer {
        let ended = || Error::new(Kind::Io, "the index of served files has been closed");
        let (reply, answer) = sync_channel(1);
        let job = Job {
            notes,
            reply: Some(reply),
        };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    pub fn offer(&self, note: Note) {
        let job = Job {
            notes: vec![note],
            reply: None,
        };
        if let Some(jobs) = &self.jobs {
            // A hash that is not kept is computed again at the next whole read.
            let _ = jobs.try_send(job);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Desk {
    db: Connection,
    seq: watch::Sender<u64>,
    totals: Arc<Totals>,
    recent: Arc<Recent>,
    clock: Clock,
}

impl Desk {
    fn run(&mut self, inbox: &Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut count = first.notes.len();
            let mut jobs = vec![first];
            while count < BATCH
                && let Ok(next) = inbox.try_recv()
            {
                count += next.notes.len();
                jobs.push(next);
            }
            let answers = self.commit(&jobs);
            for (i, job) in jobs.into_iter().enumerate() {
                let Some(reply) = job.reply else { continue };
                let answer = match &answers {
                    Ok(rows) => Ok(rows[i].clone()),
                    Err(error) => Err(error.clone()),
                };
                // The asker may have given up; the rows stand all the same.
                let _ = reply.send(answer);
            }
        }
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<Vec<Vec<Option<Row>>>> {
        let before = *self.seq.borrow();
        // At once a writer: one that begins as a reader does not wait where it becomes one, and a
        // reader that finds the log's head half written has the writers' lock for a moment.
        let begun = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let mut batch = Batch {
            change: begun.map_err(said)?,
            seq: before,
            files: 0,
            bytes: 0,
            now_ms: self.clock.now_ms(),
        };
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let rows: Result<_> = job.notes.iter().map(|note| batch.take(note)).collect();
            answers.push(rows?);
        }
        let Batch {
            change,
            seq,
            files,
            bytes,
            ..
        } = batch;
        if seq != before {
            change
                .prepare_cached("UPDATE meta SET seq = ?1")
                .and_then(|mut set| set.execute(params![signed(seq)]))
                .map_err(said)?;
        }
        if let Err(error) = change.commit() {
            self.recent.clear();
            return Err(said(error));
        }
        let notes = || jobs.iter().flat_map(|job| &job.notes);
        self.recent.forget(notes().filter_map(Note::key));
        let scanned = notes().any(|note| matches!(note, Note::Scanned));
        if scanned {
            self.totals.scanned.store(1, Ordering::Release);
        }
        // Two's complement: adding a negative difference subtracts.
        let add = |total: &std::sync::atomic::AtomicU64, by: i64| {
            total.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
        };
        add(&self.totals.files, files);
        add(&self.totals.bytes, bytes);
        if seq != before {
            self.seq.send_replace(seq);
        }
        Ok(answers)
    }
}

/// One transaction and what it changes beside the database.
struct Batch<'a> {
    change: Transaction<'a>,
    seq: u64,
    files: i64,
    bytes: i64,
    now_ms: i64,
}

impl Batch<'_> {
    fn take(&mut self, note: &Note) -> Result<Option<Row>> {
        match note {
            Note::Saw {
                key,
                seen,
                sha256,
                knew,
            } => self.saw(key, seen, *sha256, *knew),
            Note::Missing { key, knew } => self.missing(key, *knew),
            Note::Hashed { key, seen, sha256 } => self.hashed(key, seen, *sha256),
            Note::Scanned => self.run("UPDATE meta SET scanned = 1", &[]).map(|()| None),
            Note::Prune => self.prune().map(|()| None),
        }
    }

    fn saw(
        &mut self,
        key: &RelPath,
        seen: &Seen,
        sha256: Option<Sha256>,
        knew: Knew,
    ) -> Result<Option<Row>> {
        let old = get(&self.change, key)?;
        if !still(knew, old.as_ref()) {
            return Ok(old);
        }
        let next = match &old {
            Some(old) => old.followed_by(seen, sha256, self.seq + 1),
            None => self.first(key, seen, sha256)?,
        };
        if old.as_ref() == Some(&next) {
            return Ok(old);
        }
        self.seq = self.seq.max(next.seq);
        self.files += i64::from(old.is_none());
        self.bytes += signed(seen.size) - old.as_ref().map_or(0, |old| signed(old.seen.size));
        self.put(
            "INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            key,
            &next,
            &[],
        )?;
        Ok(Some(next))
    }

    /// The row of a path that has none: what was there before it was deleted still counts.
    fn first(&mut self, key: &RelPath, seen: &Seen, sha256: Option<Sha256>) -> Result<Row> {
        let buried = self
            .change
            .prepare_cached(
                "DELETE FROM tombstones WHERE path = ?1
                 RETURNING size, mtime_ns, ctime_ns, ino, bump, sha256, seq",
            )
            .and_then(|mut take| {
                take.query_row(params![key.as_bytes()], |row| row_at(row, 0))
                    .optional()
            })
            .map_err(said)?;
        let seq = self.seq + 1;
        let fresh = Row {
            seen: *seen,
            bump: 0,
            sha256,
            seq,
        };
        Ok(match buried {
            Some(past) => Row {
                seq,
                ..past.followed_by(seen, sha256, seq)
            },
            None => fresh,
        })
    }

    fn missing(&mut self, key: &RelPath, knew: Knew) -> Result<Option<Row>> {
        let Some(old) = get(&self.change, key)? else {
            return Ok(None);
        };
        if !still(knew, Some(&old)) {
            return Ok(Some(old));
        }
        self.seq += 1;
        self.files -= 1;
        self.bytes -= signed(old.seen.size);
        self.run("DELETE FROM files WHERE path = ?1", &[&key.as_bytes()])?;
        let buried = Row {
            seq: self.seq,
            ..old
        };
        let now_ms = self.now_ms;
        self.put(
            "INSERT OR REPLACE INTO tombstones VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            key,
            &buried,
            &[&now_ms],
        )?;
        Ok(None)
    }

    fn hashed(&mut self, key: &RelPath, seen: &Seen, sha256: Sha256) -> Result<Option<Row>> {
        let Some(row) = get(&self.change, key)? else {
            return Ok(None);
        };
        if row.seen != *seen || row.sha256.is_some() {
            return Ok(Some(row));
        }
        self.run(
            "UPDATE files SET sha256 = ?2 WHERE path = ?1",
            &[&key.as_bytes(), &sha256.0.as_slice()],
        )?;
        Ok(Some(Row {
            sha256: Some(sha256),
            ..row
        }))
    }

    /// Forgets deletions that are too many or too old, and notes up to where it forgot.
    fn prune(&mut self) -> Result<()> {
        let oldest = self.now_ms.saturating_sub(TOMBSTONE_MS);
        let cut: Option<i64> = self
            .change
            .query_row(
                "SELECT max(seq) FROM tombstones WHERE at_ms < ?1 OR seq <=
                   (SELECT seq FROM tombstones ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
                params![oldest, TOMBSTONES],
                |row| row.get(0),
            )
            .map_err(said)?;
        let Some(cut) = cut else { return Ok(()) };
        self.run("DELETE FROM tombstones WHERE seq <= ?1", &[&cut])?;
        self.run("UPDATE meta SET floor = max(floor, ?1)", &[&cut])
    }

    fn put(
        &self,
        sql: &str,
        key: &RelPath,
        row: &Row,
        more: &[&dyn rusqlite::ToSql],
    ) -> Result<()> {
        let path = key.as_bytes();
        let hash = row.sha256.as_ref().map(|hash| hash.0.as_slice());
        let Seen {
            size,
            mtime_ns,
            ctime_ns,
            ino,
        } = row.seen;
        let (size, ino, bump, seq) = (signed(size), signed(ino), signed(row.bump), signed(row.seq));
        let mut values: Vec<&dyn rusqlite::ToSql> =
            vec![&path, &size, &mtime_ns, &ctime_ns, &ino, &bump, &hash, &seq];
        values.extend_from_slice(more);
        self.run(sql, &values)
    }

    fn run(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
        let mut ask = self.change.prepare_cached(sql).map_err(said)?;
        ask.execute(values).map(drop).map_err(said)
    }
}

/// Whether the row is still the one that the caller knew.
fn still(knew: Knew, row: Option<&Row>) -> bool {
    match knew {
        Knew::Anything => true,
        Knew::Seq(seq) => seq == row.map(|row| row.seq),
    }
}
