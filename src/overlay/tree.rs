//! Changing the namespace: directories, links, attributes. Removals and renames stand beside this.
//!
//! The store's tree changes first and its row after: killed between, the row is found
//! out of date by what the tree says, and no bytes are lost.

use std::sync::Arc;

use super::write::give;
use super::{Answer, Attr, Caller, Overlay};
use crate::beneath::{FileKind, set_mode_of, set_times_of};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Attrs, Held, NewNode, Node, NodeId, NodeKind, Writing, node as rows};
use crate::path::{Name, RelPath};
use crate::transfer::commit::seen;

/// What `setattr` may change; none leaves a thing as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime_ns: Option<i64>,
}

/// "It is not there" is as good as done.
pub(super) fn unless_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        done => done,
    }
}

impl Overlay {
    fn new_node(
        &self,
        parent: NodeId,
        name: &Name,
        kind: NodeKind,
        mode: u32,
        caller: Caller,
    ) -> NewNode {
        NewNode {
            parent,
            name: name.clone(),
            kind,
            mode: mode & 0o7777,
            uid: Some(caller.uid),
            gid: Some(caller.gid),
            size: 0,
            mtime_ns: self.clock.now_ns(),
        }
    }

    /// Makes a directory. Errors: `Exists`.
    pub fn make_dir(&self, parent: NodeId, name: &Name, mode: u32, caller: Caller) -> Result<Attr> {
        self.check_writable()?;
        self.reconcile_once(parent)?;
        let _paths = self.commit.paths_stay();
        self.check_absent(parent, name)?;
        let path = self.path_of_dir(parent)?.join(name)?;
        let root = self.store.root();
        root.make_dirs(&path.parent().unwrap_or_default())?;
        // Ours must be able to work in it, whatever its owner lets others do.
        match self.with_room(|| root.make_dir(&path, mode | 0o700)) {
            Err(error) if error.kind() == Kind::Exists => self.make_dir_over(&path, mode)?,
            done => done?,
        }
        self.own_path(&path, caller)?;
        crash::point("mkdir.tree");
        let new = self.new_node(parent, name, NodeKind::Dir, mode, caller);
        let now = self.clock.now_ns();
        let node = self.index.edit(move |w| w.create(&new, now))?;
        self.mark_reconciled(node.id);
        Ok(Attr::of(&node))
    }

    /// Something without a row has the name in the store: a directory will do; a file that its
    /// remote has no more gives way; anything else is somebody's.
    fn make_dir_over(&self, path: &RelPath, mode: u32) -> Result<()> {
        let root = self.store.root();
        self.bury_doomed_under(path)?;
        match root.stat(path) {
            Ok(facts) if facts.kind == FileKind::Dir => Ok(()),
            Ok(_) => Err(Error::new(Kind::Exists, "exists already")),
            Err(error) if error.kind() == Kind::NotFound => root.make_dir(path, mode | 0o700),
            Err(error) => Err(error),
        }
    }

    /// What was made belongs to whoever made it, in the plain folder too; as far as this process
    /// may say so.
    fn own_path(&self, path: &RelPath, caller: Caller) -> Result<()> {
        let facts = self.store.root().stat(path)?;
        if (facts.uid, facts.gid) == (caller.uid, caller.gid) {
            return Ok(());
        }
        let given = self
            .store
            .root()
            .set_owner(path, Some(caller.uid), Some(caller.gid));
        match given {
            Err(error) if error.kind() != Kind::Denied => Err(error),
            _ => Ok(()),
        }
    }

    fn check_absent(&self, parent: NodeId, name: &Name) -> Result<()> {
        match self
            .index
            .glance(|c| rows::child(c, parent, name.as_bytes()))?
        {
            Some(_) => Err(Error::new(Kind::Exists, "exists already")),
            None => Ok(()),
        }
    }

    /// Makes a symbolic link; it stays on this machine.
    pub fn symlink(
        &self,
        parent: NodeId,
        name: &Name,
        target: &[u8],
        caller: Caller,
    ) -> Result<Attr> {
        self.check_writable()?;
        self.reconcile_once(parent)?;
        let _paths = self.commit.paths_stay();
        self.check_absent(parent, name)?;
        let path = self.path_of_dir(parent)?.join(name)?;
        let root = self.store.root();
        root.make_dirs(&path.parent().unwrap_or_default())?;
        match self.with_room(|| root.symlink(target, &path)) {
            // A file that its remote has no more gives way.
            Err(error) if error.kind() == Kind::Exists => {
                self.bury_doomed_under(&path)?;
                self.with_room(|| root.symlink(target, &path))?;
            }
            done => done?,
        }
        self.own_path(&path, caller)?;
        let mut new = self.new_node(parent, name, NodeKind::Symlink, 0o777, caller);
        new.size = target.len() as u64;
        let now = self.clock.now_ns();
        let node = self.index.edit(move |w| w.create(&new, now))?;
        Ok(Attr::of(&node))
    }

    /// Makes a directory's names survive a power cut: those of the tree, and their rows.
    pub fn sync_dir(&self, id: NodeId) -> Result<()> {
        unless_missing(self.store.root().sync(&self.path_of(id)?))?;
        self.index.sync()
    }

    /// Where a symbolic link points.
    pub fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let _paths = self.commit.paths_stay();
        self.store.root().read_link(&self.path_of(id)?)
    }

    pub(super) fn need_child(&self, parent: NodeId, name: &Name) -> Result<Node> {
        self.index
            .glance(|c| rows::child(c, parent, name.as_bytes()))?
            .filter(|node| !self.is_hidden(node))
            .ok_or_else(|| Error::new(Kind::NotFound, "no such file"))
    }

    /// Changes attributes, the length first.
    pub fn set_attr(self: &Arc<Self>, id: NodeId, changes: Changes) -> Answer<Attr> {
        if let Err(error) = self.check_writable() {
            return Answer::Now(Err(error));
        }
        let Some(size) = changes.size else {
            return Answer::Now(self.set_plain(id, changes));
        };
        let this = self.clone();
        match self.set_len(id, size) {
            Answer::Now(done) => Answer::Now(done.and_then(|()| this.set_plain(id, changes))),
            Answer::Later(pending) => Answer::later(async move {
                pending.await?;
                this.set_plain(id, changes)
            }),
        }
    }

    /// Everything but the length.
    fn set_plain(&self, id: NodeId, changes: Changes) -> Result<Attr> {
        let attrs = Attrs {
            mode: changes.mode.map(|m| m & 0o7777),
            uid: changes.uid,
            gid: changes.gid,
            mtime_ns: changes.mtime_ns,
        };
        if attrs == Attrs::default() {
            return self.attr(id);
        }
        let _paths = self.commit.paths_stay();
        let _node = self.commit.hold(id);
        let Some(node) = self.index.node(id)? else {
            return self.set_of_unlinked(id, attrs);
        };
        let path = self.path_of(id)?;
        let in_session = self.stamp_session(id, attrs)?;
        if !in_session {
            self.stamp_stored(&node, &path, attrs)?;
        }
        let (queue, now) = (
            !in_session && !self.is_local_only(&path),
            self.clock.now_ns(),
        );
        self.index.edit(move |w| match in_session {
            // The session's end takes the file's own time.
            true => {
                if attrs.mtime_ns.is_some() {
                    w.touched(id)?;
                }
                let rest = Attrs {
                    mtime_ns: None,
                    ..attrs
                };
                w.set_attrs(id, rest, false, now)
            }
            false => w.set_attrs(id, attrs, queue, now),
        })?;
        if let Some(open) = self.opens.node(id) {
            wear(&mut open.lock().node, attrs);
        }
        self.uploads.kick();
        self.attr(id)
    }

    /// Unlinked but open: those who have it open are all there is.
    fn set_of_unlinked(&self, id: NodeId, attrs: Attrs) -> Result<Attr> {
        if let Some(open) = self.opens.node(id) {
            let mut state = open.lock();
            if let (Some(t), Some(file)) = (attrs.mtime_ns, state.body.whole()) {
                set_times_of(&file, None, Some(t))?;
            }
            wear(&mut state.node, attrs);
        }
        self.attr(id)
    }

    /// A file being written carries its time, mode and owner itself. Returns whether there is one.
    fn stamp_session(&self, id: NodeId, attrs: Attrs) -> Result<bool> {
        let Some(open) = self.opens.node(id) else {
            return Ok(false);
        };
        let state = open.lock();
        let (Some(_), Some(file)) = (&state.session, state.body.whole()) else {
            return Ok(false);
        };
        if let Some(t) = attrs.mtime_ns {
            set_times_of(&file, None, Some(t))?;
        }
        give(&file, attrs.uid, attrs.gid)?;
        if let Some(mode) = attrs.mode {
            set_mode_of(&file, mode | 0o600)?;
        }
        Ok(true)
    }

    /// The plain tree shows what the mount shows, as far as this process may say.
    fn stamp_stored(&self, node: &Node, path: &RelPath, attrs: Attrs) -> Result<()> {
        let root = self.store.root();
        match (node.kind, node.held) {
            // Files will be put into it, and who may look at them is said here.
            (NodeKind::Dir, Held::None) => self.with_room(|| root.make_dirs(path))?,
            (_, Held::None) => return Ok(()),
            _ => {}
        }
        // Asked before the time is changed.
        let has_noted_bytes = node.writing != Writing::Open
            || (root.stat(path)).is_ok_and(|facts| node.has_noted_bytes(&seen(&facts)));
        let ours = if node.kind == NodeKind::Dir {
            0o700
        } else {
            0o600
        };
        // Links have no mode of their own.
        if let Some(mode) = attrs.mode
            && node.kind != NodeKind::Symlink
        {
            unless_missing(root.set_mode(path, mode | ours))?;
        }
        if attrs.uid.is_some() || attrs.gid.is_some() {
            unless_missing(root.set_owner(path, attrs.uid, attrs.gid))?;
        }
        if attrs.mtime_ns.is_some() {
            unless_missing(root.set_times(path, None, attrs.mtime_ns))?;
        }
        if node.kind == NodeKind::File && node.seen.is_some() && has_noted_bytes {
            let (id, facts) = (node.id, root.stat(path));
            if let Ok(facts) = facts {
                let mut now = seen(&facts);
                if node.held == Held::Stale
                    && let Some(before) = node.seen
                {
                    now.size = before.size;
                }
                self.index.edit(move |w| w.saw(id, now))?;
            }
        }
        Ok(())
    }
}

/// Mode and owner of an open file are also those that it has once its name is gone.
fn wear(node: &mut Node, attrs: Attrs) {
    node.mode = attrs.mode.unwrap_or(node.mode);
    node.uid = attrs.uid.or(node.uid);
    node.gid = attrs.gid.or(node.gid);
}
