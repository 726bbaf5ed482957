//! Directories in memory: their names, and what a listing shows of each.
//!
//! What is kept of a directory is all of it, so it also says which names are not there. It is
//! what a reader of the last commit would read: after every commit, and before anybody is told of
//! it, the names that it changed are marked and read anew by whoever asks next; rows that were read
//! while their directory changed are not kept. A directory is taken in when so many of its
//! names were asked for that reading all of them costs no more. The number of names is bounded, and
//! the directories that nobody asked about for longest go first.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;
use std::sync::Arc;

use lru::LruCache;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::locks::atomic::{AtomicU64, Ordering};
use super::locks::{Mutex, MutexGuard, PoisonError};
use super::node::{self, Entry, NodeId};
use super::schema::sql;
use crate::error::Result;
use crate::path::Name;

const SHARDS: usize = 4;
/// Names in one shard: 131,072 in all, about 20 MB of usual names.
const EACH: usize = 32_768;
/// Questions about one directory before it is worth a look.
const FIRST: usize = 8;
/// How many names are read at once for the price of one that is asked for.
const PRICE: usize = 32;
/// With more changes than this in one commit, everything is forgotten instead.
pub(super) const FOLLOWED: usize = 4096;

/// Names that the edits since the last commit changed, with their directories.
pub(super) type Changed = Arc<Mutex<Vec<(NodeId, Vec<u8>)>>>;

/// See the module.
pub(super) struct Names {
    shards: [Mutex<Shard>; SHARDS],
    /// Numbers changes and readings.
    ticks: AtomicU64,
}

struct Shard {
    dirs: LruCache<NodeId, Dir>,
    /// Names in all of them.
    names: usize,
}

enum Dir {
    /// How many of its names were asked for.
    Asked(usize),
    /// Somebody reads it, under this number.
    Reading(u64),
    Whole(Whole),
}

#[derive(Default)]
struct Whole {
    slots: BTreeMap<Name, Slot>,
    /// Slots that are marked.
    marked: usize,
}

enum Slot {
    Known(Entry),
    /// A commit, by this number, changed the name: it may not be there any more.
    Marked(u64),
}

/// What is in memory of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Known(Option<Entry>),
    /// To be read, and told to [`learn`](Names::learn) under this number.
    Marked(u64),
    /// The directory is not here, and may be worth it if it has no more than so many names.
    Unknown(usize),
}

impl Names {
    pub fn new() -> Names {
        let shard = || {
            Mutex::new(Shard {
                dirs: LruCache::unbounded(),
                names: 0,
            })
        };
        Names {
            shards: std::array::from_fn(|_| shard()),
            ticks: AtomicU64::new(0),
        }
    }

    /// What is known of `name` in `dir`.
    pub fn child(&self, dir: NodeId, name: &Name) -> Look {
        let mut shard = self.shard(dir);
        match shard.dirs.get_mut(&dir) {
            Some(Dir::Whole(whole)) => match whole.slots.get(name) {
                Some(Slot::Known(entry)) => Look::Known(Some(*entry)),
                Some(Slot::Marked(tick)) => Look::Marked(*tick),
                None => Look::Known(None),
            },
            Some(Dir::Asked(times)) => {
                *times += 1;
                let is_worth = *times >= FIRST && times.is_power_of_two();
                Look::Unknown(if is_worth { *times * PRICE } else { 0 })
            }
            Some(Dir::Reading(_)) => Look::Unknown(0),
            None => {
                shard.put(dir, Dir::Asked(1));
                Look::Unknown(0)
            }
        }
    }

    /// Up to `limit` entries of `dir` after the name `after`, in byte order; none if not all of
    /// them are known.
    pub fn page(&self, dir: NodeId, after: &[u8], limit: usize) -> Option<Vec<(Name, Entry)>> {
        let mut shard = self.shard(dir);
        let Some(Dir::Whole(whole)) = shard.dirs.get(&dir) else {
            return None;
        };
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let slots = whole.slots.range::<[u8], _>(from).take(limit);
        slots
            .map(|(name, slot)| match slot {
                Slot::Known(entry) => Some((name.clone(), *entry)),
                Slot::Marked(_) => None,
            })
            .collect()
    }

    /// Reads `dir`, unless all of it is known, and keeps it if it has no more than `most` names.
    pub fn take_in(&self, c: &Connection, dir: NodeId, most: usize) -> Result<()> {
        let most = most.min(EACH);
        let Some(tick) = self.begin(dir) else {
            return Ok(());
        };
        match node::entries(c, dir, &[], most + 1) {
            Ok(entries) if entries.len() <= most => self.end(dir, tick, entries),
            too_many_or_failed => {
                // It has to be asked for as often again before the next look.
                self.replace(dir, tick, Dir::Asked(most / PRICE));
                too_many_or_failed?;
            }
        }
        Ok(())
    }

    /// The number of a reading that begins; none if there is no need of one.
    pub(super) fn begin(&self, dir: NodeId) -> Option<u64> {
        let mut shard = self.shard(dir);
        match shard.dirs.peek(&dir) {
            Some(Dir::Reading(_)) => return None,
            Some(Dir::Whole(whole)) if whole.marked == 0 => return None,
            _ => {}
        }
        let tick = self.tick();
        shard.put(dir, Dir::Reading(tick));
        Some(tick)
    }

    /// The directory was read under `tick`: it is kept unless it changed since.
    pub(super) fn end(&self, dir: NodeId, tick: u64, entries: Vec<(Name, Entry)>) {
        self.replace(dir, tick, Dir::Whole(Whole::of(entries)));
    }

    fn replace(&self, dir: NodeId, tick: u64, by: Dir) {
        let mut shard = self.shard(dir);
        if matches!(shard.dirs.peek(&dir), Some(Dir::Reading(now)) if *now == tick) {
            shard.put(dir, by);
        }
    }

    /// A marked name was read, after it was found marked under `tick`.
    pub fn learn(&self, dir: NodeId, name: &Name, tick: u64, found: Option<Entry>) {
        let mut shard = self.shard(dir);
        let Some(Dir::Whole(whole)) = shard.dirs.peek_mut(&dir) else {
            return;
        };
        if !matches!(whole.slots.get(name), Some(Slot::Marked(now)) if *now == tick) {
            return;
        }
        whole.marked -= 1;
        match found {
            Some(entry) => {
                whole.slots.insert(name.clone(), Slot::Known(entry));
            }
            None => {
                whole.slots.remove(name);
                shard.names -= 1;
            }
        }
    }

    /// A commit changed these. Called after it, and before anybody is told of it.
    pub fn committed(&self, changed: &Changed) {
        let changed = std::mem::take(&mut *lock(changed));
        if changed.len() > FOLLOWED {
            return self.clear();
        }
        for (dir, name) in changed {
            self.mark(dir, &name);
        }
    }

    fn mark(&self, dir: NodeId, name: &[u8]) {
        let tick = self.tick();
        let mut shard = self.shard(dir);
        match shard.dirs.peek_mut(&dir) {
            Some(Dir::Whole(whole)) => {
                // The root has no name, and is in no directory.
                let Ok(name) = Name::new(name) else { return };
                match whole.slots.insert(name, Slot::Marked(tick)) {
                    Some(Slot::Marked(_)) => {}
                    Some(Slot::Known(_)) => whole.marked += 1,
                    None => {
                        whole.marked += 1;
                        shard.names += 1;
                        shard.shrink();
                    }
                }
            }
            Some(Dir::Reading(_)) => shard.drop_dir(dir),
            Some(Dir::Asked(_)) | None => {}
        }
    }

    fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.dirs.clear();
            shard.names = 0;
        }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, dir: NodeId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(dir)])
    }
}

/// Directories that were listed one after the other may have numbers with one distance: only mixed they
/// spread.
fn shard_of(dir: NodeId) -> usize {
    let mut mixed = DefaultHasher::new();
    dir.hash(&mut mixed);
    mixed.finish() as usize % SHARDS
}

impl Shard {
    fn put(&mut self, id: NodeId, dir: Dir) {
        self.names += dir.weight();
        if let Some(before) = self.dirs.put(id, dir) {
            self.names -= before.weight();
        }
        self.shrink();
    }

    fn drop_dir(&mut self, id: NodeId) {
        if let Some(dir) = self.dirs.pop(&id) {
            self.names -= dir.weight();
        }
    }

    fn shrink(&mut self) {
        while self.names > EACH
            && let Some((_, dir)) = self.dirs.pop_lru()
        {
            self.names -= dir.weight();
        }
    }
}

impl Dir {
    fn weight(&self) -> usize {
        match self {
            Dir::Asked(_) | Dir::Reading(_) => 1,
            Dir::Whole(whole) => whole.slots.len() + 1,
        }
    }
}

impl Whole {
    fn of(entries: Vec<(Name, Entry)>) -> Whole {
        let known = |(name, entry)| (name, Slot::Known(entry));
        Whole {
            slots: entries.into_iter().map(known).collect(),
            marked: 0,
        }
    }
}

/// Has the connection that writes note the names that its statements change.
pub(super) fn watch(c: &Connection) -> Result<Changed> {
    let changed = Changed::default();
    let notes = changed.clone();
    let note = move |context: &rusqlite::functions::Context<'_>| {
        let (dir, name) = (context.get::<i64>(0)?, context.get::<Vec<u8>>(1)?);
        lock(&notes).push((NodeId(dir as u64), name));
        Ok(false)
    };
    c.create_scalar_function("name_changed", 2, FunctionFlags::SQLITE_UTF8, note)
        .map_err(sql)?;
    // What `Entry` shows. A name that moves is two names.
    c.execute_batch(
        "CREATE TEMP TRIGGER name_made AFTER INSERT ON nodes
           BEGIN SELECT name_changed(new.parent, new.name); END;
         CREATE TEMP TRIGGER name_gone AFTER DELETE ON nodes
           BEGIN SELECT name_changed(old.parent, old.name); END;
         CREATE TEMP TRIGGER name_moved AFTER UPDATE OF parent, name ON nodes
           BEGIN SELECT name_changed(old.parent, old.name); END;
         CREATE TEMP TRIGGER name_changed AFTER UPDATE OF id, parent, name, kind, size, mtime_ns,
           ctime_ns, mode, uid, gid, held ON nodes
           BEGIN SELECT name_changed(new.parent, new.name); END;",
    )
    .map_err(sql)?;
    Ok(changed)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole between any two statements, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
