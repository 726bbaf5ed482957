//! Reading directories.
//!
//! An entry's offset is its number in the listing. A handle remembers the names of
//! the last entries it gave, so that going on (or back a little) costs one query; a
//! jump elsewhere counts from the start.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Answer, Attr, Overlay};
use crate::error::{Error, Kind, Result};
use crate::index::{NodeId, NodeKind};
use crate::path::Name;

/// Names remembered a handle.
const REMEMBERED: usize = 4096;
/// Entries taken in one go; the kernel takes about twice as many with one request.
const PAGE: usize = 64;

/// Open directories.
#[derive(Default)]
pub struct Dirs {
    open: Mutex<HashMap<u64, Arc<DirHandle>>>,
    next: AtomicU64,
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
        let (mut after, mut skip) = handle.resume(offset);
        let mut at = offset - skip;
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
                    name,
                    offset: at,
                };
                if !take(&entry) {
                    return Ok(());
                }
                handle.gave(at, entry.name);
            }
            if !full {
                return Ok(());
            }
        }
    }
}

impl DirHandle {
    /// The name to go on after, and how many entries to pass over from there.
    fn resume(&self, offset: u64) -> (Vec<u8>, u64) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.binary_search_by_key(&offset, |(n, _)| *n) {
            Ok(at) => (names[at].1.as_bytes().to_vec(), 0),
            Err(_) => (Vec::new(), offset),
        }
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
