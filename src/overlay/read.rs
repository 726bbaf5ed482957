//! Opening files, and reading them: from the store where it has them, from a flight
//! where it does not.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::handles::{Body, OpenNode, OpenState, Opened};
use super::{Answer, Overlay, replaced};
use crate::beneath::{Mode, OFlags, facts_of};
use crate::config::Offline;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Node, NodeId, NodeKind};
use crate::object::ByteRange;
use crate::transfer::commit::seen;
use crate::transfer::download::WHOLE_AT_OPEN;
use crate::transfer::flight::{Flight, Passenger, Stage};

/// A download of what the file is no more takes about so long to end.
const GIVEN_UP: std::time::Duration = std::time::Duration::from_millis(20);

/// How far a file is.
enum Here {
    Opened(Opened),
    /// It has to be fetched.
    Far(Node),
}

/// What a caller wants of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    pub truncate: bool,
}

/// What those who have a file open see of a writer that truncates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Nothing: the writer is told to look for the file anew, under another inode.
    KeepTheirs,
    /// The file is truncated where it is, for the writer was told so before.
    SeeItCut,
}

impl Overlay {
    /// Opens a file.
    ///
    /// Errors: `Stale` if the name means another node by now, or has to: the caller looks it up again.
    pub fn open(self: &Arc<Self>, id: NodeId, access: Access) -> Answer<Opened> {
        if access.write || access.truncate {
            return self.open_for_writing(id, access, Others::KeepTheirs);
        }
        match self.open_here(id) {
            Ok(Here::Opened(opened)) => {
                self.metrics.hits.add(1);
                self.ahead.opened(id, true);
                Answer::Now(Ok(opened))
            }
            Ok(Here::Far(node)) => {
                self.metrics.misses.add(1);
                self.ahead.opened(id, false);
                let this = self.clone();
                Answer::later(async move { this.open_remote(id, node).await })
            }
            Err(error) => Answer::Now(Err(error)),
        }
    }

    /// Opens what is open already, or held.
    fn open_here(&self, id: NodeId) -> Result<Here> {
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        if let Some(open) = self.opens.node(id) {
            let mut state = open.lock();
            if let (Body::Flight(flight), Some(whole)) = (&state.body, state.body.whole()) {
                let _ = flight;
                state.body = Body::File(whole);
            }
            if matches!(&state.body, Body::Flight(f) if matches!(f.stage(), Stage::Failed(_))) {
                return Ok(Here::Far(state.node.clone()));
            }
            return Ok(Here::Opened(self.enter_handle(&open, &mut state, false)));
        }
        if let Some(file) = self.undone_file(id)?
            && let Some(node) = self.index.node(id)?
        {
            return Ok(Here::Opened(self.enter(
                node,
                Body::File(Arc::new(file)),
                false,
            )));
        }
        let node = self.need_file(id)?;
        let Some(file) = self.open_held(&node, OFlags::RDONLY)? else {
            return Ok(Here::Far(node));
        };
        self.used(id);
        Ok(Here::Opened(self.enter(
            node,
            Body::File(Arc::new(file)),
            false,
        )))
    }

    pub(super) fn need_file(&self, id: NodeId) -> Result<Node> {
        let node = self.index.node(id)?.ok_or_else(replaced)?;
        match node.kind {
            // Its maker has not entered it yet: as good as not there.
            NodeKind::File if node.origin.is_none() && node.held == Held::None => Err(Error::new(
                Kind::Stale,
                "the file is being made at this moment",
            )),
            NodeKind::File => Ok(node),
            NodeKind::Dir => Err(Error::new(Kind::IsADirectory, "is a directory")),
            NodeKind::Symlink => Err(Error::new(Kind::Invalid, "is a symbolic link")),
        }
    }

    /// The stored file of a held node. A file that is not what its row says was changed by hand:
    /// its row follows first. The caller holds the node.
    pub(super) fn open_held(&self, node: &Node, flags: OFlags) -> Result<Option<File>> {
        if node.held != Held::Whole {
            return Ok(None);
        }
        let path = self.path_of_node(node)?;
        let file = match self.store.root().open_file(&path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::NotFound => {
                let (id, now) = (node.id, self.clock.now_ns());
                self.index.edit(move |w| w.not_held(id, now))?;
                return match self.index.node(id)? {
                    Some(_) => Ok(None),
                    None => Err(Error::new(
                        Kind::Stale,
                        "the file was removed from the store by hand",
                    )),
                };
            }
            Err(error) => return Err(error),
        };
        let facts = facts_of(&file)?;
        if Some(seen(&facts)) != node.seen && self.follow_hand(node, &path, &facts)? {
            // The kernel may have the old bytes cached: the new ones get an inode of their own.
            let id = node.id;
            self.index.edit(move |w| w.replace_id(id))?;
            return Err(Error::new(
                Kind::Stale,
                "the file was changed in the store by hand",
            ));
        }
        Ok(Some(file))
    }

    /// Enters a node that nobody had open, with its first handle.
    pub(super) fn enter(&self, node: Node, body: Body, writes: bool) -> Opened {
        let open = self.opens.enter(OpenState {
            handles: 0,
            writers: 0,
            closed_writers: 0,
            node,
            body,
            session: None,
            detached: false,
        });
        let mut state = open.lock();
        self.enter_handle(&open, &mut state, writes)
    }

    pub(super) fn enter_handle(
        &self,
        open: &Arc<OpenNode>,
        state: &mut OpenState,
        writes: bool,
    ) -> Opened {
        state.handles += 1;
        state.writers += usize::from(writes);
        Opened {
            fh: self.opens.add(open.clone(), writes),
            id: open.id,
            writes,
            backing: state.body.whole(),
            is_cached: false,
        }
    }

    async fn open_remote(self: Arc<Self>, id: NodeId, mut node: Node) -> Result<Opened> {
        let mut tries = 0;
        loop {
            let flown = self.take_off(&node).await;
            match flown {
                Ok(passenger) => {
                    if let Some(opened) = self.enter_flown(node, passenger)? {
                        return Ok(opened);
                    }
                    if let Here::Opened(opened) = self.open_here(id)? {
                        return Ok(opened);
                    }
                    if tries == 3 {
                        return Err(Error::new(Kind::Busy, "the file keeps changing"));
                    }
                    tries += 1;
                    // What came is given up as soon as it should get its name.
                    tokio::time::sleep(GIVEN_UP).await;
                }
                // Given up for want of readers just as this one came: it goes on from there.
                Err(error) if error.kind() == Kind::Cancelled && tries < 3 => tries += 1,
                // Held by now, or another version: the row knows.
                Err(error) if matches!(error.kind(), Kind::Stale | Kind::NotFound) && tries < 3 => {
                    tries += 1;
                    if let Here::Opened(opened) = self.open_here(id)? {
                        return Ok(opened);
                    }
                    self.ask_again(id).await;
                    self.wait_for_news(id).await;
                }
                Err(error) => return Err(self.unreadable(error)),
            }
            node = self.need_file(id)?;
        }
    }

    /// Opens what came. None: the file was written here meanwhile.
    fn enter_flown(&self, node: Node, flight: Passenger) -> Result<Option<Opened>> {
        let id = node.id;
        crash::point("open.flown");
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        if let Some(open) = self.opens.node(id) {
            let mut state = open.lock();
            if matches!(&state.body, Body::Flight(f) if matches!(f.stage(), Stage::Failed(_))) {
                state.body = body_of(flight);
            }
            return Ok(Some(self.enter_handle(&open, &mut state, false)));
        }
        let Some(now) = self.index.node(id)? else {
            return Err(replaced());
        };
        let is_same =
            now.origin.as_ref() == Some(&flight.version) || now.has_bytes_of(&flight.node);
        if now.dirty != 0 || !is_same {
            return Ok(None);
        }
        self.used(id);
        // Nobody has it open or can write to it now: the kernel's copy will be right.
        let is_cached = content_of(&flight).is_some_and(|all| self.hand_over(id, &all));
        let opened = self.enter(node, body_of(flight), false);
        Ok(Some(Opened {
            is_cached,
            ..opened
        }))
    }

    async fn take_off(&self, node: &Node) -> Result<Passenger> {
        if node.size <= WHOLE_AT_OPEN {
            return self.downloads.bring_small(node).await;
        }
        let passenger = self.downloads.board(node)?;
        passenger.flowing().await?;
        Ok(passenger)
    }

    /// The remote said that the version is gone: its change is on the way to us.
    async fn wait_for_news(&self, id: NodeId) {
        for _ in 0..20 {
            if self.index.node(id).ok().flatten().is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// What a reader is told of a file that cannot be had: by default that there is none, so that
    /// a pipeline builds it again.
    pub(super) fn unreadable(&self, error: Error) -> Error {
        if error.kind().is_away() && self.settings.offline == Offline::Hide {
            return Error::new(Kind::NotFound, error.message());
        }
        match error.kind() {
            // What a remote cannot do is not what the caller did.
            Kind::Unsupported | Kind::Invalid | Kind::Range | Kind::Exists => {
                Error::new(Kind::Io, error.message())
            }
            _ => error,
        }
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    pub fn read(self: &Arc<Self>, fh: u64, offset: u64, len: u32) -> Answer<Bytes> {
        let handle = match self.opens.handle(fh) {
            Ok(handle) => handle,
            Err(error) => return Answer::Now(Err(error)),
        };
        let state = handle.node.lock();
        if let Some(file) = state.body.whole() {
            drop(state);
            return Answer::Now(read_file(&file, offset, len));
        }
        let Body::Flight(flight) = &state.body else {
            return Answer::Now(Err(Error::new(Kind::Io, "nothing to read from")));
        };
        let flight = Arc::clone(flight);
        drop(state);
        let end = (offset + u64::from(len)).min(flight.size());
        if offset >= end {
            return Answer::Now(Ok(Bytes::new()));
        }
        if let Some(error) = flight.was_just_late(&(offset..end)) {
            return Answer::Now(Err(error));
        }
        flight.ask(&(offset..end));
        if let Some(bytes) = flight.try_read(&(offset..end)) {
            return Answer::Now(bytes);
        }
        let this = self.clone();
        Answer::later(async move {
            let read = this.read_far(&handle.node, flight, offset..end).await;
            read.map_err(|error| match error.kind().is_away() {
                true => error,
                false => this.unreadable(error),
            })
        })
    }

    /// Waits for bytes that are not here.
    async fn read_far(
        &self,
        open: &OpenNode,
        mut flight: Arc<Flight>,
        want: ByteRange,
    ) -> Result<Bytes> {
        let mut tries = 0;
        loop {
            if matches!(flight.stage(), Stage::Failed(_)) {
                flight = self.fly_again(open, &flight)?;
                flight.ask(&want);
            }
            match self.downloads.read(&flight, want.clone()).await {
                // Given up for want of readers just as this one came: it goes on from there.
                Err(error) if error.kind() == Kind::Cancelled && tries < 3 => tries += 1,
                // What did not come in time is not what this one waits for.
                Err(error)
                    if error.kind() == Kind::TimedOut && !flight.is_late(&want) && tries < 3 =>
                {
                    tries += 1;
                }
                read => return read,
            }
        }
    }

    /// A download that failed does not fail its readers for ever: the next read tries again, for
    /// the same version. Errors: `Stale` if that is gone.
    fn fly_again(&self, open: &OpenNode, failed: &Flight) -> Result<Arc<Flight>> {
        let passenger = self.downloads.board_again(failed)?;
        let flight = Arc::clone(&passenger);
        let mut state = open.lock();
        if matches!(&state.body, Body::Flight(f) if matches!(f.stage(), Stage::Failed(_))) {
            state.body = Body::Flight(passenger);
        }
        Ok(flight)
    }
}

fn body_of(passenger: Passenger) -> Body {
    let body = Body::Flight(passenger);
    match body.whole() {
        Some(file) => Body::File(file),
        None => body,
    }
}

/// All the bytes of a file that lies in memory: the kernel can have them with the answer, and asks
/// for none of them.
fn content_of(flight: &Flight) -> Option<Bytes> {
    let landed = matches!(flight.stage(), Stage::Landed) && flight.partial.file().is_none();
    let all = || flight.partial.read(&(0..flight.size())).ok();
    landed.then(all).flatten().filter(|all| !all.is_empty())
}

fn read_file(file: &File, offset: u64, len: u32) -> Result<Bytes> {
    let mut bytes = vec![0; len as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
