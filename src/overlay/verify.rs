//! The stored files against what the index knows of their bytes: every one is read.
//!
//! A file whose facts are not those of its row was changed by people, and is theirs to change; one
//! with the same facts and other bytes has rotted. A clean file without a known hash has it noted,
//! so that the next look can tell. Reads a few files at a time, in flat memory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, sync_channel};

use super::Overlay;
use super::compare::hash;
use super::reconcile::{Verdict, verdict};
use crate::beneath::{Facts, FileKind, Mode, OFlags, facts_of};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, NodeKind, Writing, node as rows, outbox};
use crate::path::{Name, RelPath};
use crate::transfer::commit::seen;

/// Rows read in one go, and files that wait for a reader.
const PAGE: usize = 1000;
/// Most files read at a time; half of the processors are left to others.
const READERS: usize = 4;

/// What looking at one stored file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// The bytes that it should have.
    Good,
    /// Clean, and of no known hash until now.
    Noted,
    /// Of an older version than the remote's, and kept until the new one is here.
    Older,
    /// Read whole; what it should be is not known: written here and not sent yet, or left torn.
    Unknown,
    /// Not as its row says: people changed it.
    Changed,
    /// People put it there; it has no row.
    New,
    /// Other bytes behind the same facts.
    Rotten,
    /// The row says held, and there is nothing.
    Missing,
    /// The disk does not give it.
    Unreadable,
    /// Being written, or replaced while it was read.
    Busy,
}

/// One file, looked at.
#[derive(Debug, Clone)]
pub struct Checked {
    pub path: RelPath,
    pub found: Found,
    /// Bytes read.
    pub bytes: u64,
    /// None of a new one.
    pub node: Option<Node>,
    /// What the system said of an unreadable one.
    pub why: Option<String>,
}

/// How a look goes about it.
pub struct Look<'a> {
    /// Rows follow what people did, as at a start. Not without a mount: its next start does that.
    pub follow: bool,
    /// Whether to end early.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Told of every file.
    pub tell: &'a (dyn Fn(Checked) + Sync),
}

/// A file that is to be read, as its row has it.
struct Opened {
    node: Node,
    path: RelPath,
    file: File,
    facts: Facts,
}

enum Begun {
    Ended(Box<Checked>),
    Read(Box<Opened>),
    /// Not held, or gone.
    Nothing,
}

fn ended(path: RelPath, node: Node, found: Found) -> Begun {
    Begun::Ended(Box::new(Checked {
        path,
        found,
        bytes: 0,
        node: Some(node),
        why: None,
    }))
}

impl Overlay {
    /// Looks at every held file at `top` and beneath it. Blocks. Errors: `NotFound`.
    pub fn verify(&self, top: &RelPath, look: &Look<'_>) -> Result<()> {
        let none = || Error::new(Kind::NotFound, "no such file or directory here").about(top);
        let node = self
            .index
            .read(|c| rows::resolve(c, top))?
            .ok_or_else(none)?;
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let (send, receive) = sync_channel(PAGE);
        let (receive, failed) = (Mutex::new(receive), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..(processors / 2).clamp(1, READERS) {
                scope.spawn(|| {
                    if let Err(error) = self.read_in_turn(&receive, look) {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        // Whoever sends must not wait for a reader that is gone.
                        while next(&receive).is_some() {}
                    }
                });
            }
            let walked = self.walk(node, look, &mut |id| {
                // All readers end after the last one was sent.
                let _ = send.send(id);
            });
            drop(send);
            walked
        })?;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    fn read_in_turn(&self, receive: &Mutex<Receiver<NodeId>>, look: &Look<'_>) -> Result<()> {
        while let Some(id) = next(receive) {
            if (look.stop)() {
                continue;
            }
            if let Some(checked) = self.check(id, look.follow)? {
                (look.tell)(checked);
            }
        }
        Ok(())
    }

    fn walk(&self, top: Node, look: &Look<'_>, send: &mut dyn FnMut(NodeId)) -> Result<()> {
        if top.kind != NodeKind::Dir {
            send(top.id);
            return Ok(());
        }
        let mut work = vec![top.id];
        while let Some(dir) = work.pop() {
            let (mut after, mut known) = (Vec::new(), HashSet::new());
            loop {
                if (look.stop)() {
                    return Ok(());
                }
                let page = self.index.read(|c| rows::children(c, dir, &after, PAGE))?;
                let Some(name) = page.last().and_then(|n| n.name.clone()) else {
                    break;
                };
                after = name.as_bytes().to_vec();
                for child in page {
                    match child.kind {
                        NodeKind::Dir => work.push(child.id),
                        NodeKind::File if child.held != Held::None => send(child.id),
                        _ => continue,
                    }
                    if let Some(name) = child.name.filter(|_| !look.follow) {
                        known.insert(name.as_bytes().to_vec());
                    }
                }
            }
            if !look.follow {
                self.tell_new(dir, &known, look)?;
            }
        }
        Ok(())
    }

    /// Files that people put into a directory while it was not mounted, and into new ones in it.
    fn tell_new(&self, dir: NodeId, known: &HashSet<Vec<u8>>, look: &Look<'_>) -> Result<()> {
        let Some(top) = self.index.path_of(dir)? else {
            return Ok(());
        };
        let (mut work, none) = (vec![top.clone()], HashSet::new());
        while let Some(at) = work.pop() {
            let known = if at == top { known } else { &none };
            let entries = match self.store.root().read_dir(&at) {
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) => {
                    continue;
                }
                entries => entries?,
            };
            for entry in entries.iter().filter(|entry| !known.contains(&entry.name)) {
                let Ok(path) = Name::new(&entry.name).and_then(|name| at.join(&name)) else {
                    continue;
                };
                match entry.facts.kind {
                    FileKind::Dir => work.push(path),
                    FileKind::File if !self.is_doomed(&path, &entry.facts)? => {
                        (look.tell)(Checked {
                            path,
                            found: Found::New,
                            bytes: 0,
                            node: None,
                            why: None,
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Looks at one file; none if there is nothing of it here.
    fn check(&self, id: NodeId, follow: bool) -> Result<Option<Checked>> {
        let opened = match self.begin_check(id, follow)? {
            Begun::Nothing => return Ok(None),
            Begun::Ended(checked) => return Ok(Some(*checked)),
            Begun::Read(opened) => opened,
        };
        let Opened {
            node,
            path,
            file,
            facts,
        } = *opened;
        let mut checked = Checked {
            path,
            found: Found::Busy,
            bytes: facts.size,
            node: None,
            why: None,
        };
        match hash(&file) {
            Err(error) => {
                checked.found = Found::Unreadable;
                checked.why = Some(error.message().to_owned());
            }
            Ok(_) if seen(&facts_of(&file)?) != seen(&facts) || self.has_moved_on(&node)? => {}
            Ok(hash) => {
                checked.found = match node.sha256 {
                    _ if node.held == Held::Stale => Found::Older,
                    _ if node.held != Held::Whole || node.writing != Writing::No => Found::Unknown,
                    Some(known) if known == hash => Found::Good,
                    Some(_) => Found::Rotten,
                    None if node.dirty != 0 => Found::Unknown,
                    None => {
                        let facts = seen(&facts);
                        self.index.edit(move |w| w.note_hash(id, facts, hash))?;
                        Found::Noted
                    }
                };
            }
        }
        checked.node = Some(node);
        Ok(Some(checked))
    }

    /// Whether the row says something else of the file than when it was opened.
    fn has_moved_on(&self, node: &Node) -> Result<bool> {
        let now = self.index.node(node.id)?;
        let of = |n: &Node| (n.seen, n.dirty, n.sha256, n.held, n.writing);
        Ok(now.is_none_or(|now| of(&now) != of(node)) || self.opens.is_being_written(node.id))
    }

    fn begin_check(&self, id: NodeId, follow: bool) -> Result<Begun> {
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        let Some(node) = self.index.node(id)?.filter(|n| n.held != Held::None) else {
            return Ok(Begun::Nothing);
        };
        let Some(path) = self.index.path_of(id)? else {
            return Ok(Begun::Nothing);
        };
        if self.opens.is_being_written(id) {
            return Ok(ended(path, node, Found::Busy));
        }
        let opened = self
            .store
            .root()
            .open_file(&path, OFlags::RDONLY, Mode::empty());
        let file = match opened {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) => {
                let now = self.clock.now_ns();
                if follow {
                    self.index.edit(move |w| w.not_held(id, now))?;
                }
                return Ok(ended(path, node, Found::Missing));
            }
            Err(error) => {
                let why = Some(error.message().to_owned());
                return Ok(Begun::Ended(Box::new(Checked {
                    path,
                    found: Found::Unreadable,
                    bytes: 0,
                    node: Some(node),
                    why,
                })));
            }
        };
        let facts = facts_of(&file)?;
        match verdict(Some(&node), &facts) {
            Verdict::Same => {}
            Verdict::See | Verdict::Adopt if !follow => {}
            Verdict::See | Verdict::Adopt => {
                self.follow_hand(&node, &path, &facts)?;
            }
            Verdict::Written if node.writing == Writing::Open => {
                // Its writers' end is still to be noted, or a start will see to it.
                return Ok(ended(path, node, Found::Busy));
            }
            _ => {
                if follow
                    && facts.kind == FileKind::File
                    && self.follow_hand(&node, &path, &facts)?
                {
                    // The kernel may have the old bytes cached.
                    self.index.edit(move |w| w.replace_id(id))?;
                }
                return Ok(ended(path, node, Found::Changed));
            }
        }
        let node = self.index.node(id)?.unwrap_or(node);
        Ok(Begun::Read(Box::new(Opened {
            node,
            path,
            file,
            facts,
        })))
    }

    /// Drops a clean file that has rotted, so that it comes anew. The name gets another inode, for
    /// the kernel may have bad bytes cached under this one. False if it is not as it was found.
    ///
    /// The file goes first: killed after it, the row says held, and that means "no longer held".
    pub fn drop_rotten(&self, found: &Node) -> Result<bool> {
        let id = found.id;
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        if self.has_moved_on(found)? || found.dirty != 0 {
            return Ok(false);
        }
        let waits = self.index.read(|c| outbox::is_queued(c, id))?;
        let Some(path) = self.index.path_of(id)?.filter(|_| !waits) else {
            return Ok(false);
        };
        let now_is = self.store.stored(&path)?;
        if now_is.is_none_or(|facts| Some(seen(&facts)) != found.seen) {
            return Ok(false);
        }
        self.store.bury(&path)?;
        crate::crash::point("evict.buried");
        let now = self.clock.now_ns();
        self.index.edit(move |w| {
            w.not_held(id, now)?;
            w.replace_id(id).map(drop)
        })?;
        Ok(true)
    }
}

fn next(receive: &Mutex<Receiver<NodeId>>) -> Option<NodeId> {
    let receive = receive.lock().unwrap_or_else(PoisonError::into_inner);
    receive.recv().ok()
}

/// How many files of each kind there were.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub files: u64,
    pub bytes: u64,
    pub found: HashMap<Found, u64>,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, checked: &Checked) {
        self.files += 1;
        self.bytes += checked.bytes;
        *self.found.entry(checked.found).or_default() += 1;
    }

    /// How many were like this.
    pub fn of(&self, found: Found) -> u64 {
        self.found.get(&found).copied().unwrap_or_default()
    }
}
