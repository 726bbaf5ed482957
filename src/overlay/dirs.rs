//! Reading directories.
//!
//! An entry's offset is its number in the listing, and a hash of its name. A handle remembers the
//! names of the last entries it gave, so that going on (or back a little) costs one query. The kernel
//! also goes on where it read from its own copy of the listing, which it can lose at any time: the
//! handle never gave what came before, and of that some may be gone, so that the number says nothing
//! any more. Then the name is looked for by its hash, in the directory and among those that went
//! lately; only if it is not found, the number counts from the start.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Answer, Attr, Overlay};
use crate::error::{Error, Kind, Result};
use crate::index::{NodeId, NodeKind};
use crate::path::Name;

/// Names remembered a handle.
const REMEMBERED: usize = 4096;
/// Names remembered that went; more than a program is given of a listing at once, several times over.
const GONE: usize = 8192;
/// Entries taken in one go; the kernel takes about twice as many with one request.
const PAGE: usize = 64;

/// Open directories.
#[derive(Default)]
pub struct Dirs {
    open: Mutex<HashMap<u64, Arc<DirHandle>>>,
    next: AtomicU64,
    /// The last ones at the end.
    gone: Mutex<VecDeque<(NodeId, Name)>>,
}

struct DirHandle {
    id: NodeId,
    names: Mutex<VecDeque<(u64, Name)>>,
}

/// One entry of a listing.
pub struct DirEntry {
    pub name: Name,
    pub attr: Attr,
    /// Where the listing goes on after it.
    pub offset: u64,
}

impl Overlay {
    /// Opens a directory. Waits for the first listing of a remote that never was listed.
    pub fn open_dir(self: &Arc<Self>, id: NodeId) -> Answer<u64> {
        if self.remotes.absence_is_known() {
            return Answer::Now(self.open_dir_now(id));
        }
        let this = self.clone();
        Answer::later(async move {
            this.wait_for_listing().await?;
            this.open_dir_now(id)
        })
    }

    fn open_dir_now(&self, id: NodeId) -> Result<u64> {
        match self.index.node(id)? {
            Some(node) if node.kind == NodeKind::Dir => {}
            Some(_) => return Err(Error::new(Kind::NotADirectory, "is not a directory")),
            None => return Err(Error::new(Kind::Stale, "the directory was removed")),
        }
        self.reconcile_once(id)?;
        let fh = self.dirs.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(DirHandle {
            id,
            names: Mutex::new(VecDeque::new()),
        });
        self.dirs
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fh, handle);
        Ok(fh)
    }

    /// Closes a directory.
    pub fn close_dir(&self, fh: u64) {
        self.dirs
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&fh);
    }

    /// Gives the entries after `offset` to `take`, in byte order, until it says stop.
    pub fn read_dir(
        &self,
        fh: u64,
        offset: u64,
        take: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let handle = self
            .dirs
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&fh)
            .cloned()
            .ok_or_else(|| Error::new(Kind::Invalid, "no such directory handle"))?;
        let (mut after, mut skip) = self.resume(&handle, offset)?;
        let mut at = number(offset) - skip;
        loop {
            let mark = self.opens.mark();
            let page = self.index.entries(handle.id, after.as_slice(), PAGE)?;
            let full = page.len() == PAGE;
            for (name, entry) in page {
                after = name.as_bytes().to_vec();
                if self.is_entry_hidden(&entry)? {
                    continue;
                }
                at += 1;
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                let entry = DirEntry {
                    attr: self.shown_since(mark, entry.into()),
                    offset: offset_of(at, &name),
                    name,
                };
                if !take(&entry) {
                    return Ok(());
                }
                handle.gave(entry.offset, entry.name);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// A name is not there any more: somebody may go on after it.
    pub(super) fn name_gone(&self, dir: NodeId, name: &Name) {
        let mut gone = self
            .dirs
            .gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if gone.len() == GONE {
            gone.pop_front();
        }
        gone.push_back((dir, name.clone()));
    }

    /// The name to go on after, and how many entries to pass over from there.
    fn resume(&self, handle: &DirHandle, offset: u64) -> Result<(Vec<u8>, u64)> {
        if offset == 0 {
            return Ok((Vec::new(), 0));
        }
        let known = handle
            .given(offset)
            .or_else(|| self.find_gone(handle.id, offset));
        let name = match known {
            Some(name) => Some(name),
            None => self.find_there(handle.id, offset)?,
        };
        Ok(match name {
            Some(name) => (name.as_bytes().to_vec(), 0),
            None => (Vec::new(), number(offset)),
        })
    }

    fn find_gone(&self, dir: NodeId, offset: u64) -> Option<Name> {
        let gone = self
            .dirs
            .gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut latest = gone.iter().rev();
        let found = latest.find(|(of, name)| *of == dir && hash(name) == offset & HASH);
        found.map(|(_, name)| name.clone())
    }

    fn find_there(&self, dir: NodeId, offset: u64) -> Result<Option<Name>> {
        let mut after = Vec::new();
        loop {
            let page = self.index.entries(dir, &after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(None);
            };
            after = last.as_bytes().to_vec();
            let mut names = page.into_iter().map(|(name, _)| name);
            if let Some(name) = names.find(|name| hash(name) == offset & HASH) {
                return Ok(Some(name));
            }
        }
    }
}

/// The part of an offset that is a hash; the rest is the entry's number.
const HASH: u64 = u32::MAX as u64;

fn offset_of(number: u64, name: &Name) -> u64 {
    number << 32 | hash(name)
}

fn number(offset: u64) -> u64 {
    offset >> 32
}

fn hash(name: &Name) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.as_bytes().hash(&mut hasher);
    hasher.finish() & HASH
}

impl DirHandle {
    /// The entry that was given at `offset`, if it is remembered.
    fn given(&self, offset: u64) -> Option<Name> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let at = names.binary_search_by_key(&offset, |(n, _)| *n).ok()?;
        Some(names[at].1.clone())
    }

    fn gave(&self, offset: u64, name: Name) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        while names.back().is_some_and(|(n, _)| *n >= offset) {
            names.pop_back();
        }
        if names.len() == REMEMBERED {
            names.pop_front();
        }
        names.push_back((offset, name));
    }
}
