//! Downloads that are not whole yet.
//!
//! A [`Partial`] is a sparse file of the full length and the set of ranges that were
//! written to it. The set is saved beside it, and only after the bytes it speaks of
//! were synced: what a restart finds in it is really there. It promises nothing about
//! *which* bytes were written; that they belong to the version is for the caller to
//! verify before [`Partial::settle`].
//!
//! A small one may lie in memory until it is whole: whoever waits for it does not wait for the
//! disk. Of such a one a restart finds nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::memory::Parcel;
use super::{RangeSet, Store, own_path};
use crate::beneath::{
    Dir, Facts, FileKind, Mode, OFlags, Onto, facts_of, set_mode_of, set_owner_of, set_times_of,
};
use crate::error::{About, Error, Kind, Result};
use crate::object::{ByteRange, Version};
use crate::path::RelPath;

/// First word of a saved set, with the number of its format.
const FORMAT: &str = "larder-partial-1";
/// A saved set that is larger than this is not read: some download was torn to pieces.
const SAVED_MAX: u64 = 16 << 20;

/// Names the download of one version of one object of one remote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartialId(String);

impl PartialId {
    pub fn new(remote: &str, key: &RelPath, version: &Version) -> PartialId {
        let mut hash = Sha256::new();
        for part in [
            remote.as_bytes(),
            key.as_bytes(),
            version.as_str().as_bytes(),
        ] {
            // The length first, so that no two triples run together into the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        PartialId(hex::encode(hash.finalize()))
    }

    fn parse(text: &str) -> Option<PartialId> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 64 && text.bytes().all(hex)).then(|| PartialId(text.to_owned()))
    }
}

impl fmt::Display for PartialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One download. One at a time is open under an id; that is for the caller to see to.
#[derive(Debug)]
pub struct Partial {
    dir: Arc<Dir>,
    names: Names,
    data: Mutex<Data>,
    size: u64,
    have: Mutex<RangeSet>,
    /// What was saved last; held while saving.
    saved: Mutex<RangeSet>,
    /// Whether there may be a saved set on the disk, whatever it says.
    is_saved: AtomicBool,
}

/// Where the bytes are.
#[derive(Debug)]
enum Data {
    /// Of the full length, with holes, and its inode.
    File(Arc<File>, u64),
    Memory(Parcel),
}

/// What a file gets before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub mtime_ns: i64,
    pub mode: u32,
    /// User and group, where they were given to it here.
    pub owner: Option<(u32, u32)>,
}

/// The files of one download.
#[derive(Debug)]
struct Names {
    data: RelPath,
    have: RelPath,
    /// The set, while it is written.
    next: RelPath,
}

impl Names {
    fn new(id: &PartialId) -> Result<Names> {
        Ok(Names {
            data: own_path(&id.0)?,
            have: own_path(&format!("{id}.have"))?,
            next: own_path(&format!("{id}.next"))?,
        })
    }
}

impl Store {
    /// Goes on with a download of `size` bytes, or starts it.
    pub fn partial(&self, id: &PartialId, size: u64) -> Result<Partial> {
        let names = Names::new(id)?;
        let file = open_data(&self.partial, &names.data)?;
        let facts = facts_of(&file)?;
        let have = if facts.size == size {
            saved(&self.partial, &names.have, &facts)?
        } else {
            // Before the length fits: a set left by an earlier file must not come to life.
            remove(&self.partial, &names.have)?;
            if facts.size > 0 {
                file.set_len(0).about(id)?;
            }
            file.set_len(size).about(id)?;
            RangeSet::new()
        };
        Ok(Partial {
            dir: self.partial.clone(),
            names,
            data: Mutex::new(Data::File(Arc::new(file), facts.ino)),
            size,
            saved: Mutex::new(have.clone()),
            is_saved: AtomicBool::new(facts.size == size),
            have: Mutex::new(have),
        })
    }

    /// How many downloads have pieces here that are on record, and how many bytes they take.
    pub fn partials(&self) -> Result<(u64, u64)> {
        let left = leftovers(&self.partial)?.into_iter();
        let has_set = |left: &Leftover| left.names.iter().any(|n| n.as_bytes().ends_with(b".have"));
        let noted = left.filter(|left| left.has_data && has_set(left));
        Ok(noted.fold((0, 0), |(n, bytes), left| (n + 1, bytes + left.bytes)))
    }

    /// Starts a download of `size` bytes in memory, if there is room for it.
    pub fn partial_in_memory(&self, id: &PartialId, size: u64) -> Result<Option<Partial>> {
        let Some(parcel) = Parcel::new(&self.in_memory, size) else {
            return Ok(None);
        };
        Ok(Some(Partial {
            dir: self.partial.clone(),
            names: Names::new(id)?,
            data: Mutex::new(Data::Memory(parcel)),
            size,
            saved: Mutex::default(),
            is_saved: AtomicBool::new(false),
            have: Mutex::default(),
        }))
    }

    /// Removes downloads that nobody continues: never those that `keep` wants, of the others
    /// the oldest, until they take `bound` bytes of the disk at most. Returns the bytes freed.
    pub fn prune_partials(&self, keep: &dyn Fn(&PartialId) -> bool, bound: u64) -> Result<u64> {
        let mut left = leftovers(&self.partial)?;
        left.retain(|left| left.id.as_ref().is_none_or(|id| !keep(id)));
        left.sort_by_key(|left| std::cmp::Reverse(left.mtime_ns));
        let (mut kept, mut freed) = (0u64, 0u64);
        for left in left {
            let fits = kept.saturating_add(left.bytes) <= bound;
            if left.has_data && fits {
                kept += left.bytes;
                continue;
            }
            for name in &left.names {
                remove(&self.partial, name)?;
            }
            freed += left.bytes;
        }
        Ok(freed)
    }
}

/// All files of one download, as found on the disk; without an id: of none.
#[derive(Default)]
struct Leftover {
    id: Option<PartialId>,
    names: Vec<RelPath>,
    has_data: bool,
    bytes: u64,
    mtime_ns: i64,
}

fn leftovers(dir: &Dir) -> Result<Vec<Leftover>> {
    let mut found: BTreeMap<Option<PartialId>, Leftover> = BTreeMap::new();
    for entry in dir.read_dir(&RelPath::root())? {
        let text = std::str::from_utf8(&entry.name).unwrap_or_default();
        let (stem, suffix) = text.split_once('.').unwrap_or((text, ""));
        let id = PartialId::parse(stem);
        let Ok(name) = RelPath::new(&entry.name) else {
            continue;
        };
        if entry.facts.kind == FileKind::Dir {
            continue;
        }
        let left = found.entry(id.clone()).or_default();
        left.has_data |= id.is_some() && suffix.is_empty();
        left.id = id;
        left.names.push(name);
        left.bytes += entry.facts.blocks.saturating_mul(512);
        left.mtime_ns = left.mtime_ns.max(entry.facts.mtime_ns);
    }
    Ok(found.into_values().collect())
}

impl Partial {
    /// Whether it is the download with this id.
    pub fn is(&self, id: &PartialId) -> bool {
        self.names.data.as_bytes() == id.0.as_bytes()
    }

    /// The file, open for reading and writing, `size` bytes long with holes; none while the bytes
    /// are in memory.
    pub fn file(&self) -> Option<Arc<File>> {
        match &*held(&self.data) {
            Data::File(file, _) => Some(file.clone()),
            Data::Memory(_) => None,
        }
    }

    /// Its file's inode.
    pub fn ino(&self) -> Result<u64> {
        match &*held(&self.data) {
            Data::File(_, ino) => Ok(*ino),
            Data::Memory(_) => Err(Error::new(Kind::Io, "it is in memory still")),
        }
    }

    /// Bytes that are here.
    pub fn read(&self, range: &ByteRange) -> Result<Bytes> {
        let file = match &mut *held(&self.data) {
            Data::File(file, _) => file.clone(),
            Data::Memory(parcel) => return parcel.read(range, self.is_complete()),
        };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .about(&self.names.data)?;
        Ok(bytes.into())
    }

    /// The length it will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is here.
    pub fn have(&self) -> RangeSet {
        held(&self.have).clone()
    }

    /// What of `range` is not here.
    pub fn holes(&self, range: ByteRange) -> Vec<ByteRange> {
        held(&self.have).missing(range)
    }

    /// How many bytes are here.
    pub fn covered(&self) -> u64 {
        held(&self.have).covered()
    }

    /// How far the bytes are here from `at` on, without a hole.
    pub fn reaches(&self, at: u64) -> u64 {
        let hole = held(&self.have).missing(at..self.size).into_iter().next();
        hole.map_or(self.size, |hole| hole.start)
    }

    /// Whether every byte is here.
    pub fn is_complete(&self) -> bool {
        held(&self.have).is_whole(self.size)
    }

    /// Writes bytes and notes them.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        let Some(end) = end.filter(|end| *end <= self.size) else {
            let why = format!("bytes beyond the length of {}", self.size);
            return Err(Error::new(Kind::Range, why).about(&self.names.data));
        };
        let file = match &mut *held(&self.data) {
            Data::File(file, _) => Some(file.clone()),
            Data::Memory(parcel) => {
                parcel.write(offset, bytes)?;
                None
            }
        };
        if let Some(file) = file {
            file.write_all_at(bytes, offset).about(&self.names.data)?;
        }
        held(&self.have).insert(offset..end);
        Ok(())
    }

    /// Makes what is here outlive a restart and a power cut, unless it is in memory.
    pub fn checkpoint(&self) -> Result<()> {
        let (file, ino) = match &*held(&self.data) {
            Data::File(file, ino) => (file.clone(), *ino),
            Data::Memory(_) => return Ok(()),
        };
        let mut saved = held(&self.saved);
        // Taken before the sync: a range that is noted meanwhile may not be covered by it.
        let have = self.have();
        if *saved == have {
            return Ok(());
        }
        file.sync_data().about(&self.names.data)?;
        self.is_saved.store(true, Ordering::SeqCst);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut next = self
            .dir
            .open_file(&self.names.next, flags, Mode::RUSR | Mode::WUSR)?;
        let text = text_of(ino, self.size, &have);
        next.write_all(text.as_bytes()).about(&self.names.next)?;
        self.dir
            .rename(&self.names.next, &self.names.have, Onto::Replace)?;
        *saved = have;
        Ok(())
    }

    /// Gets the whole file ready for its name in the tree, but for being synced.
    /// [`Kind::Corrupt`] while bytes are missing.
    pub fn settle(&self, given: &Given) -> Result<()> {
        if !self.is_complete() {
            return Err(
                Error::new(Kind::Corrupt, "not all bytes have come").about(&self.names.data)
            );
        }
        let file = match self.file() {
            Some(file) => file,
            None => self.unload()?,
        };
        if let Some((uid, gid)) = given.owner {
            // As far as this process may: who may not has nothing of other users' either.
            let _ = set_owner_of(&file, uid, gid);
        }
        set_mode_of(&file, given.mode).about(&self.names.data)?;
        set_times_of(&file, None, Some(given.mtime_ns)).about(&self.names.data)
    }

    /// Syncs the settled file: a power cut cannot take anything of it.
    pub fn sync(&self) -> Result<()> {
        let file = self
            .file()
            .ok_or_else(|| Error::new(Kind::Io, "it is in memory still"))?;
        // All of it, not only the data: a lost mtime would look like a change made here.
        file.sync_all().about(&self.names.data)
    }

    /// From memory to the disk.
    fn unload(&self) -> Result<Arc<File>> {
        let bytes = self.read(&(0..self.size))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let make = || {
            self.dir
                .open_file(&self.names.data, flags, Mode::RUSR | Mode::WUSR)
        };
        let file = match make() {
            // Of an earlier download, which was not one in memory, or was cut short here.
            Err(error) if error.kind() == Kind::Exists => {
                self.discard()?;
                make()?
            }
            made => made?,
        };
        if let Err(error) = file.write_all_at(&bytes, 0) {
            remove(&self.dir, &self.names.data)?;
            return Err(error).about(&self.names.data);
        }
        let ino = facts_of(&file)?.ino;
        let file = Arc::new(file);
        *held(&self.data) = Data::File(file.clone(), ino);
        Ok(file)
    }

    /// Moves the file, settled and synced, to its name in the tree, over what is there; after this, a power cut
    /// cannot leave the name with other bytes.
    pub fn place(&self, store: &Store, to: &RelPath) -> Result<Facts> {
        let facts = store.place(&self.dir, &self.names.data, to)?;
        if self.is_saved.load(Ordering::SeqCst) {
            remove(&self.dir, &self.names.have)?;
        }
        Ok(facts)
    }

    /// Forgets what came, for it was wrong; the download begins anew.
    pub fn start_over(&self) -> Result<()> {
        let mut saved = held(&self.saved);
        *saved = RangeSet::new();
        *held(&self.have) = RangeSet::new();
        if let Data::Memory(parcel) = &mut *held(&self.data) {
            parcel.clear();
            return Ok(());
        }
        remove(&self.dir, &self.names.have)
    }

    /// Gives the download up and frees its bytes.
    pub fn discard(&self) -> Result<()> {
        // The set first: alone it is harmless, but so is the file without it.
        remove(&self.dir, &self.names.have)?;
        remove(&self.dir, &self.names.data)
    }
}

/// Opens or makes the data file. A publish that failed may have left it with the mode of
/// its name in the tree, which its owner may not be allowed to write to.
fn open_data(dir: &Dir, path: &RelPath) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let open = || dir.open_file(path, flags, Mode::RUSR | Mode::WUSR);
    match open() {
        Err(error) if error.kind() == Kind::Denied => {
            dir.set_mode(path, 0o600)?;
            open()
        }
        opened => opened,
    }
}

/// Removes a file; one that is gone already is no error.
fn remove(dir: &Dir, path: &RelPath) -> Result<()> {
    match dir.remove_file(path) {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        done => done,
    }
}

fn held<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each part is whole between any two statements, so a panic elsewhere does not spoil it.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The saved set of the file with `facts`. One that is damaged, or of another file, is none.
fn saved(dir: &Dir, path: &RelPath, facts: &Facts) -> Result<RangeSet> {
    let file = match dir.open_file(path, OFlags::RDONLY, Mode::empty()) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(RangeSet::new()),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.take(SAVED_MAX).read_to_end(&mut text).about(path)?;
    let text = String::from_utf8(text).unwrap_or_default();
    Ok(parse(&text, facts.ino, facts.size).unwrap_or_default())
}

/// `larder-partial-1 INO SIZE`, a line `START END` a range, and `end`.
pub fn text_of(ino: u64, size: u64, have: &RangeSet) -> String {
    let mut text = format!("{FORMAT} {ino} {size}\n");
    for range in have.iter() {
        text.push_str(&format!("{} {}\n", range.start, range.end));
    }
    text.push_str("end\n");
    text
}

/// What [`text_of`] wrote of a file with this number and length; none for anything else.
pub fn parse(text: &str, ino: u64, size: u64) -> Option<RangeSet> {
    let body = text.strip_prefix(&format!("{FORMAT} {ino} {size}\n"))?;
    let (mut have, mut last) = (RangeSet::new(), 0);
    for line in body.strip_suffix("end\n")?.lines() {
        let (start, end) = line.split_once(' ')?;
        let range = start.parse().ok()?..end.parse().ok()?;
        // In order, as we write them: out of order, a long set takes for ever to put together.
        if range.start >= range.end || range.end > size || range.start < last {
            return None;
        }
        last = range.end;
        have.insert(range);
    }
    Some(have)
}
