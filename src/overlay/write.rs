//! Writing: how sessions of local writers begin, and what they write. Their end: `close`.
//!
//! New and truncated files are written beside the tree and take their name when the
//! last writer closed them. Existing files opened without truncation, and names that
//! never leave this machine, are written in place, as on any disk.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handles::{Body, Handle, OpenNode, Opened, Session};
use super::read::{Access, Others};
use super::{Answer, Attr, Caller, Overlay};
use crate::beneath::{Facts, Mode, OFlags, facts_of, set_owner_of};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{NewNode, Node, NodeId, NodeKind, Writing};
use crate::path::Name;
use crate::transfer::commit::seen;

/// A file belongs to whoever made it, in the plain folder too; as far as this process may say so.
/// Returns what the file is then.
fn own(file: &File, caller: Caller) -> Result<Facts> {
    let facts = facts_of(file)?;
    if (facts.uid, facts.gid) == (caller.uid, caller.gid) {
        return Ok(facts);
    }
    match set_owner_of(file, caller.uid, caller.gid) {
        Err(error) if error.kind() != Kind::Denied => Err(error),
        _ => facts_of(file),
    }
}

/// Gives a file of the store to whom its node belongs, as far as that is known.
pub(super) fn give(file: &File, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let facts = facts_of(file)?;
    let (uid, gid) = (uid.unwrap_or(facts.uid), gid.unwrap_or(facts.gid));
    own(file, Caller { uid, gid }).map(drop)
}

impl Overlay {
    /// Makes a file and opens it for writing. Errors: `Exists`.
    pub fn create(
        self: &Arc<Self>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        caller: Caller,
    ) -> Result<(Attr, Opened)> {
        self.check_writable()?;
        if !self.is_compared(parent) && self.is_local_only(&self.path_of_dir(parent)?.join(name)?) {
            self.reconcile_once(parent)?;
        }
        let _paths = self.commit.paths_stay();
        if let Some(hidden) = self.hidden_child(parent, name)? {
            return self.create_over(hidden);
        }
        let path = self.path_of_dir(parent)?.join(name)?;
        let local = self.is_local_only(&path);
        let now = self.clock.now_ns();
        let new = NewNode {
            parent,
            name: name.clone(),
            kind: NodeKind::File,
            mode: mode & 0o7777,
            uid: Some(caller.uid),
            gid: Some(caller.gid),
            size: 0,
            mtime_ns: now,
        };
        if local {
            return self.create_in_place(new, &path, caller, now);
        }
        let staged = self.with_room(|| self.store.stage(new.mode))?;
        own(&staged.file, caller)?;
        crash::point("stage.file");
        let staged_id = staged.id;
        let made = self.index.edit(move |w| {
            let node = w.create(&new, now)?;
            w.stage(staged_id.0, node.id)?;
            Ok(node)
        });
        let node = match made {
            Ok(node) => node,
            Err(error) => {
                self.store.drop_staged(staged_id)?;
                return Err(error);
            }
        };
        let session = Session::new(Some(staged_id), None);
        crash::point("stage.row");
        let (attr, mut opened) = self.enter_writer(node, staged.file, session)?;
        opened.backing = None;
        Ok((attr, opened))
    }

    /// What may go up is written through us, for whoever publishes has to know of writes that
    /// failed; what stays here may be written by the kernel alone.
    fn through_us(&self, mut opened: Opened) -> Opened {
        let path = self.path_of(opened.id);
        if !path.is_ok_and(|path| self.is_local_only(&path)) {
            opened.backing = None;
        }
        opened
    }

    /// Who makes a name that is hidden while its remote is away replaces the version that is
    /// there (promise P6): the upload will say so.
    fn create_over(&self, node: Node) -> Result<(Attr, Opened)> {
        let _node = self.commit.hold(node.id);
        let opened = self.open_truncated(node.clone())?;
        Ok((self.shown(&node), self.through_us(opened)))
    }

    /// A name that never leaves: the file is in the tree from the start.
    fn create_in_place(
        &self,
        new: NewNode,
        path: &crate::path::RelPath,
        caller: Caller,
        now: i64,
    ) -> Result<(Attr, Opened)> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let root = self.store.root();
        let mode = Mode::from_raw_mode(new.mode);
        let mut made = self.with_room(|| root.open_file(path, flags | OFlags::EXCL, mode));
        if made.as_ref().is_err_and(|e| e.kind() == Kind::NotFound) {
            root.make_dirs(&path.parent().unwrap_or_default())?;
            made = self.with_room(|| root.open_file(path, flags | OFlags::EXCL, mode));
        }
        let file = match made {
            // A file that its remote has no more gives way.
            Err(error) if error.kind() == Kind::Exists => {
                self.bury_doomed_under(path)?;
                self.with_room(|| root.open_file(path, flags, mode))?
            }
            opened => opened?,
        };
        let facts = seen(&own(&file, caller)?);
        crash::point("create.in_place");
        let node = self
            .index
            .edit(move |w| w.create_stored(&new, facts, now))?;
        let session = Session::new(None, Some(facts));
        self.enter_writer(node, file, session)
    }

    /// Enters a file that was just made. Its row could be seen before this: others may have it
    /// open, if it is in the tree already, or have removed it.
    fn enter_writer(&self, node: Node, file: File, session: Session) -> Result<(Attr, Opened)> {
        let _node = self.commit.hold(node.id);
        let (body, is_there) = (
            Body::File(Arc::new(file)),
            self.index.node(node.id)?.is_some(),
        );
        let opened = match self.opens.node(node.id) {
            Some(open) => {
                let mut state = open.lock();
                // Theirs may be open for reading only.
                state.body = body;
                self.enter_handle(&open, &mut state, true)
            }
            None => self.enter(node.clone(), body, true),
        };
        if let Some(open) = self.opens.node(node.id) {
            let mut state = open.lock();
            state.session.get_or_insert(session);
            state.detached |= !is_there;
        }
        Ok((self.shown(&node), opened))
    }

    pub(super) fn open_for_writing(
        self: &Arc<Self>,
        id: NodeId,
        access: Access,
        others: Others,
    ) -> Answer<Opened> {
        let opened = self
            .check_writable()
            .and_then(|()| self.open_writer_here(id, access, others));
        match opened {
            Ok(Some(opened)) => Answer::Now(Ok(opened)),
            Ok(None) => {
                // Changing a part of a file needs the rest of it first.
                let this = self.clone();
                Answer::later(async move {
                    for _ in 0..3 {
                        let came = this.downloads.hydrate(id).await;
                        came.map_err(|error| this.unreadable(error))?;
                        if let Some(opened) = this.open_writer_here(id, access, others)? {
                            return Ok(opened);
                        }
                    }
                    Err(Error::new(Kind::Busy, "the file keeps changing"))
                })
            }
            Err(error) => Answer::Now(Err(error)),
        }
    }

    /// Opens for writing if that needs no remote.
    fn open_writer_here(
        &self,
        id: NodeId,
        access: Access,
        mut others: Others,
    ) -> Result<Option<Opened>> {
        let opened = {
            let _paths = self.commit.paths_stay();
            let _node = self.commit.hold(id);
            if self.awaited.is_awaited(super::awaited::NOBODY, id) {
                // Whoever comes for this inode has to find it.
                others = Others::SeeItCut;
            }
            self.uploads.cancel(id);
            match self.opens.node(id) {
                Some(open) => self.join_writers(&open, access, others)?,
                None => self.open_first_writer(id, access)?,
            }
        };
        let Some(opened) = opened else {
            return Ok(None);
        };
        if access.truncate
            && others == Others::SeeItCut
            && let Err(error) = self.cut(opened.fh, 0)
        {
            return self.release(opened.fh).and(Err(error));
        }
        Ok(Some(self.through_us(opened)))
    }

    fn open_first_writer(&self, id: NodeId, access: Access) -> Result<Option<Opened>> {
        let node = self.need_file(id)?;
        if access.truncate {
            return self.open_truncated(node).map(Some);
        }
        let Some(file) = self.open_held(&node, OFlags::RDWR)? else {
            return Ok(None);
        };
        let node = self.need_file(id)?;
        self.begin_in_place(node, file).map(Some)
    }

    fn open_truncated(&self, node: Node) -> Result<Opened> {
        let path = self.path_of_node(&node)?;
        if self.is_local_only(&path) {
            let root = self.store.root();
            root.make_dirs(&path.parent().unwrap_or_default())?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
            let file =
                self.with_room(|| root.open_file(&path, flags, Mode::from_raw_mode(node.mode)))?;
            give(&file, node.uid, node.gid)?;
            return self.begin_in_place(node, file);
        }
        let staged = self.with_room(|| self.store.stage(node.mode))?;
        give(&staged.file, node.uid, node.gid)?;
        let (id, staged_id) = (node.id, staged.id);
        if let Err(error) = self.index.edit(move |w| w.stage(staged_id.0, id)) {
            self.store.drop_staged(staged_id)?;
            return Err(error);
        }
        crash::point("truncate.row");
        let opened = self.enter(node, Body::File(Arc::new(staged.file)), true);
        if let Some(open) = self.opens.node(id) {
            open.lock().session = Some(Session::new(Some(staged_id), None));
        }
        Ok(opened)
    }

    /// The intent is recorded before the first byte can change.
    fn begin_in_place(&self, node: Node, file: File) -> Result<Opened> {
        let id = node.id;
        self.mark(id, Writing::Open)?;
        crash::point("in_place.intent");
        let recorded = match node.seen {
            Some(seen) => seen,
            None => seen(&facts_of(&file)?),
        };
        let opened = self.enter(node, Body::File(Arc::new(file)), true);
        if let Some(open) = self.opens.node(id) {
            open.lock().session = Some(Session::in_place(recorded));
        }
        Ok(opened)
    }

    /// Writes at `offset`.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let handle = self.writer(fh)?;
        let file = handle
            .node
            .lock()
            .body
            .whole()
            .ok_or_else(|| Error::new(Kind::Io, "nothing to write to"))?;
        self.write_file(&handle, &file, offset, data)
    }

    fn writer(&self, fh: u64) -> Result<Arc<Handle>> {
        let handle = self.opens.handle(fh)?;
        match handle.writes {
            true => Ok(handle),
            false => Err(Error::new(
                Kind::Invalid,
                "the file is not open for writing",
            )),
        }
    }

    /// Reserves space, as `fallocate` without flags does.
    pub fn allocate(&self, fh: u64, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        let handle = self.writer(fh)?;
        let file = handle.node.lock().body.whole();
        let file = file.ok_or_else(|| Error::new(Kind::Io, "nothing to write to"))?;
        let allocated = self.with_room(|| crate::store::allocate(&file, offset, len, keep_size));
        if let Some(error) = allocated
            .as_ref()
            .err()
            .filter(|e| e.kind() == Kind::NoSpace)
        {
            self.note_written(&handle, offset, 0, Some(error));
        }
        allocated
    }

    /// Tells who opened a handle, by the number of a thread.
    pub fn opened_by(&self, fh: u64, opener: u32) -> Result<()> {
        let handle = self.opens.handle(fh)?;
        handle.opener.store(opener, Ordering::SeqCst);
        Ok(())
    }

    /// Makes what was written so far survive a power cut.
    pub fn sync_file(&self, fh: u64, data_only: bool) -> Result<()> {
        let handle = self.opens.handle(fh)?;
        let file = {
            let mut state = handle.node.lock();
            if let Some(session) = &mut state.session {
                session.synced = true;
            }
            state.body.whole()
        };
        let Some(file) = file else { return Ok(()) };
        if data_only {
            file.sync_data()?;
        } else {
            file.sync_all()?;
        }
        if !handle.writes {
            return Ok(());
        }
        // The row that names the bytes, and the directory that holds them.
        self.store.sync_staged()?;
        self.index.sync()
    }

    /// Does `work`; if the disk is full, makes room and does it once more.
    pub(super) fn with_room<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind() == Kind::NoSpace => {
                if !self.make_room_now()? {
                    return Err(error);
                }
                work()
            }
            done => done,
        }
    }

    /// Sets the length of a file that is open for writing.
    pub(super) fn cut(&self, fh: u64, len: u64) -> Result<()> {
        let open = self.writer(fh)?.node.clone();
        self.cut_open(&open, len)
            .unwrap_or_else(|| Err(Error::new(Kind::Io, "nothing to cut")))
    }

    /// None if nobody writes to it.
    fn cut_open(&self, open: &OpenNode, len: u64) -> Option<Result<()>> {
        let mut state = open.lock();
        let (Some(file), Some(session)) = (state.body.whole(), &mut state.session) else {
            return None;
        };
        let done = self.with_room(|| Ok(file.set_len(len)?));
        if done.is_ok() {
            session.failed.cut(len);
        }
        Some(done)
    }

    /// Sets a file's length by name or by handle.
    pub(super) fn set_len(self: &Arc<Self>, id: NodeId, len: u64) -> Answer<()> {
        if let Some(open) = self.opens.node(id)
            && let Some(done) = self.cut_open(&open, len)
        {
            return Answer::Now(done);
        }
        // Like a writer that opens, cuts and closes.
        let access = Access {
            write: true,
            truncate: false,
        };
        let this = self.clone();
        let cut = move |opened: Opened| -> Result<()> {
            let done = this.cut(opened.fh, len);
            let flushed = this.flush(opened.fh, || false);
            this.release(opened.fh)?;
            done.and(flushed)
        };
        match self.open_for_writing(id, access, Others::KeepTheirs) {
            Answer::Now(opened) => Answer::Now(opened.and_then(cut)),
            Answer::Later(pending) => Answer::later(async move { cut(pending.await?) }),
        }
    }
}
