//! Changing the namespace: directories, links, removals, renames, attributes.
//!
//! The store's tree changes first and its row after: killed between, the row is found
//! out of date by what the tree says, and no bytes are lost.

use std::sync::Arc;

use super::{Answer, Attr, Caller, Overlay};
use crate::beneath::{FileKind, Onto, set_times_of};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::index::{Attrs, Held, NewNode, Node, NodeId, NodeKind, node as rows};
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

/// What a rename does about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// "It is not there" is as good as done.
fn unless_missing(result: Result<()>) -> Result<()> {
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
        let _paths = self.commit.paths_stay();
        self.check_absent(parent, name)?;
        let path = self.path_of(parent)?.join(name)?;
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
            .read(|c| rows::child(c, parent, name.as_bytes()))?
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
        let _paths = self.commit.paths_stay();
        self.check_absent(parent, name)?;
        let path = self.path_of(parent)?.join(name)?;
        let root = self.store.root();
        root.make_dirs(&path.parent().unwrap_or_default())?;
        self.with_room(|| root.symlink(target, &path))?;
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

    fn need_child(&self, parent: NodeId, name: &Name) -> Result<Node> {
        self.index
            .read(|c| rows::child(c, parent, name.as_bytes()))?
            .filter(|node| !self.is_hidden(node))
            .ok_or_else(|| Error::new(Kind::NotFound, "no such file"))
    }

    /// Removes a file or a link here; at remotes only if the mount propagates deletes (promise P12).
    pub fn unlink(&self, parent: NodeId, name: &Name) -> Result<()> {
        self.check_writable()?;
        let _paths = self.commit.paths_stay();
        let node = self.need_child(parent, name)?;
        if node.kind == NodeKind::Dir {
            return Err(Error::new(Kind::IsADirectory, "is a directory"));
        }
        let _node = self.commit.hold(node.id);
        self.uploads.cancel(node.id);
        unless_missing(self.store.root().remove_file(&self.path_of(node.id)?))?;
        crash::point("unlink.tree");
        let (id, now) = (node.id, self.clock.now_ns());
        let propagate = self.settings.propagate_deletes;
        self.index.edit(move |w| w.unlink(id, propagate, now))?;
        crash::point("unlink.row");
        self.detach(id);
        self.uploads.kick();
        Ok(())
    }

    /// Those who have the node open keep it; its name is gone.
    pub(super) fn detach(&self, id: NodeId) {
        if let Some(open) = self.opens.node(id) {
            open.lock().detached = true;
        }
    }

    /// Removes an empty directory. Errors: `NotEmpty`.
    pub fn remove_dir(&self, parent: NodeId, name: &Name) -> Result<()> {
        self.check_writable()?;
        let _paths = self.commit.paths_change();
        let node = self.need_child(parent, name)?;
        if node.kind != NodeKind::Dir {
            return Err(Error::new(Kind::NotADirectory, "is not a directory"));
        }
        if !self
            .index
            .read(|c| rows::children(c, node.id, b"", 1))?
            .is_empty()
        {
            return Err(Error::new(Kind::NotEmpty, "the directory is not empty"));
        }
        let path = self.path_of(node.id)?;
        self.bury_doomed_under(&path)?;
        unless_missing(self.store.root().remove_dir(&path))?;
        let (id, now) = (node.id, self.clock.now_ns());
        self.index.edit(move |w| w.remove_dir(id, now))
    }

    /// Renames, over what is there if `mode` says so.
    pub fn rename(
        &self,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        mode: RenameMode,
    ) -> Result<()> {
        self.check_writable()?;
        self.reconcile_once(to.0)?;
        let _paths = self.commit.paths_change();
        let node = self.need_child(from.0, from.1)?;
        let target = self.index.read(|c| rows::child(c, to.0, to.1.as_bytes()))?;
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => {
                return Err(Error::new(Kind::Exists, "exists already"));
            }
            (RenameMode::Exchange, None) => return Err(Error::new(Kind::NotFound, "no such file")),
            (RenameMode::Exchange, Some(target)) => return self.exchange(&node, target),
            _ => {}
        }
        if target.as_ref().is_some_and(|t| t.id == node.id) {
            return Ok(());
        }
        let (old, new) = (self.path_of(node.id)?, self.path_of(to.0)?.join(to.1)?);
        if new.is_under(&old) {
            return Err(Error::new(
                Kind::Invalid,
                "a directory cannot move into itself",
            ));
        }
        self.check_target(&node, target.as_ref())?;
        self.settle(node.id)?;
        crash::point("rename.settled");
        self.move_in_tree(&node, &old, &new, target.as_ref())?;
        crash::point("rename.tree");
        self.record_rename(node.id, to, target.as_ref())?;
        crash::point("rename.row");
        Ok(())
    }

    fn check_target(&self, node: &Node, target: Option<&Node>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        match (node.kind == NodeKind::Dir, target.kind == NodeKind::Dir) {
            (true, false) => Err(Error::new(Kind::NotADirectory, "is not a directory")),
            (false, true) => Err(Error::new(Kind::IsADirectory, "is a directory")),
            (true, true)
                if !self
                    .index
                    .read(|c| rows::children(c, target.id, b"", 1))?
                    .is_empty() =>
            {
                Err(Error::new(Kind::NotEmpty, "the directory is not empty"))
            }
            _ => Ok(()),
        }
    }

    /// What the store has of a node moves; what it has under the target's name goes.
    fn move_in_tree(
        &self,
        node: &Node,
        old: &RelPath,
        new: &RelPath,
        target: Option<&Node>,
    ) -> Result<()> {
        let root = self.store.root();
        if node.kind == NodeKind::Dir {
            // What is to go must not come along under another name.
            self.bury_doomed_under(old)?;
            self.bury_doomed_under(new)?;
        }
        if let Some(target) = target {
            self.uploads.cancel(target.id);
            if target.kind == NodeKind::Dir {
                unless_missing(root.remove_dir(new))?;
            }
        }
        let parent = new.parent().unwrap_or_default();
        root.make_dirs(&parent)?;
        match root.rename(old, new, Onto::Replace) {
            // Nothing of it is stored: only names move, and an older file must not pass for it.
            Err(error) if error.kind() == Kind::NotFound => match node.kind {
                NodeKind::Dir => Ok(()),
                NodeKind::File | NodeKind::Symlink => unless_missing(root.remove_file(new)),
            },
            done => done,
        }
    }

    fn record_rename(&self, id: NodeId, to: (NodeId, &Name), target: Option<&Node>) -> Result<()> {
        let (parent, name) = (to.0, to.1.clone());
        let (now, propagate) = (self.clock.now_ns(), self.settings.propagate_deletes);
        let settings = self.settings.clone();
        let seen_now = self.stored_facts(id, parent, &name);
        self.index.edit(move |w| {
            w.rename(id, parent, &name, now)?;
            if let Some(seen) = seen_now {
                // A rename changes the ctime that the row remembers.
                w.saw(id, seen)?;
            }
            w.requeue_moved(
                id,
                propagate,
                &|path| settings.excludes.matches(path),
                now / 1_000_000,
            )
        })?;
        if let Some(target) = target {
            self.detach(target.id);
        }
        self.uploads.kick();
        Ok(())
    }

    /// The facts of a held file under the name it just got.
    fn stored_facts(&self, id: NodeId, parent: NodeId, name: &Name) -> Option<crate::index::Seen> {
        let node = self.index.node(id).ok().flatten()?;
        if node.kind != NodeKind::File || node.held == Held::None {
            return None;
        }
        let path = self.path_of(parent).ok()?.join(name).ok()?;
        self.store.root().stat(&path).ok().map(|facts| seen(&facts))
    }

    fn exchange(&self, a: &Node, b: &Node) -> Result<()> {
        self.settle(a.id)?;
        self.settle(b.id)?;
        let (a_path, b_path) = (self.path_of(a.id)?, self.path_of(b.id)?);
        if a_path.is_under(&b_path) || b_path.is_under(&a_path) {
            return Err(Error::new(
                Kind::Invalid,
                "a directory cannot change places with what is in it",
            ));
        }
        if a.held == Held::None || b.held == Held::None {
            return Err(Error::new(
                Kind::Unsupported,
                "only files that are here can change places",
            ));
        }
        self.store.root().rename(&a_path, &b_path, Onto::Exchange)?;
        let (a, b, now, propagate) = (
            a.id,
            b.id,
            self.clock.now_ns(),
            self.settings.propagate_deletes,
        );
        let settings = self.settings.clone();
        self.index.edit(move |w| {
            w.exchange(a, b, now)?;
            let local = |path: &RelPath| settings.excludes.matches(path);
            w.requeue_moved(a, propagate, &local, now / 1_000_000)?;
            w.requeue_moved(b, propagate, &local, now / 1_000_000)
        })?;
        for id in [a, b] {
            self.refresh_seen(id)?;
        }
        self.uploads.kick();
        Ok(())
    }

    fn refresh_seen(&self, id: NodeId) -> Result<()> {
        let Some(node) = self.index.node(id)? else {
            return Ok(());
        };
        if node.kind == NodeKind::File && node.held != Held::None {
            let facts = seen(&self.store.root().stat(&self.path_of(id)?)?);
            self.index.edit(move |w| w.saw(id, facts))?;
        }
        Ok(())
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
            // Unlinked but open: the file itself is all there is.
            if let (Some(open), Some(t)) = (self.opens.node(id), attrs.mtime_ns)
                && let Some(file) = open.lock().body.whole()
            {
                set_times_of(&file, None, Some(t))?;
            }
            return self.attr(id);
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
        self.uploads.kick();
        self.attr(id)
    }

    /// A file being written carries its time itself. Returns whether there is one.
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
        if let Some(mode) = attrs.mode {
            crate::beneath::set_mode_of(&file, mode | 0o600)?;
        }
        Ok(true)
    }

    /// The plain tree shows what the mount shows, as far as this process may say.
    fn stamp_stored(&self, node: &Node, path: &RelPath, attrs: Attrs) -> Result<()> {
        if node.held == Held::None || node.kind == NodeKind::Symlink {
            return Ok(());
        }
        let root = self.store.root();
        let ours = if node.kind == NodeKind::Dir {
            0o700
        } else {
            0o600
        };
        if let Some(mode) = attrs.mode {
            unless_missing(root.set_mode(path, mode | ours))?;
        }
        if attrs.uid.is_some() || attrs.gid.is_some() {
            unless_missing(root.set_owner(path, attrs.uid, attrs.gid))?;
        }
        if attrs.mtime_ns.is_some() {
            unless_missing(root.set_times(path, None, attrs.mtime_ns))?;
        }
        if node.kind == NodeKind::File && node.seen.is_some() {
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
