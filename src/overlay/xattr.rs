//! Extended attributes: `user.*` on files that are here, and what the mount says of every file.
//!
//! What the mount says (`user.larder.state`, `.remote`, `.version`, `.pinned`) is given to
//! whoever asks for it by name and is not listed: `cp -a` and `rsync -X` copy what is
//! listed, and it would be a lie on the copy.

use std::fs::File;
use std::sync::Arc;

use super::Overlay;
use crate::beneath::{XattrSet, remove_xattr_of, set_xattr_of, xattr_of, xattrs_of};
use crate::error::{Error, Kind, Result};
use crate::index::{Held, NodeId, NodeKind};

impl Overlay {
    /// The value of an attribute. Errors: `NoAttribute`.
    pub fn xattr(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        let none = || Error::new(Kind::NoAttribute, "no such attribute");
        if !name.starts_with(b"user.") {
            return Err(none());
        }
        // Asked before the row is read: a session that ends in between has its row by then.
        let written = self.being_written(id);
        let Some(node) = self.index.node(id)? else {
            let file = self.unlinked(id).ok_or_else(none)?;
            return xattr_of(&file, name);
        };
        if name.starts_with(b"user.larder.") {
            if node.kind != NodeKind::File {
                return Err(none());
            }
            return match name {
                b"user.larder.state" => Ok(self.state_of(&node)?.word().into()),
                b"user.larder.remote" => self
                    .remote_of(&node)?
                    .map(String::into_bytes)
                    .ok_or_else(none),
                b"user.larder.version" => {
                    let version = node.origin.map(|(_, v)| v.as_str().as_bytes().to_vec());
                    version.ok_or_else(none)
                }
                b"user.larder.pinned" => Ok(if node.pinned { "1" } else { "0" }.into()),
                _ => Err(none()),
            };
        }
        if let Some(file) = written {
            return xattr_of(&file, name);
        }
        if node.held == Held::None {
            return Err(none());
        }
        let _paths = self.commit.paths_stay();
        self.store.root().xattr(&self.path_of(id)?, name)
    }

    /// Sets an attribute of a file that is here. Errors: `Unsupported` if its bytes are not.
    pub fn set_xattr(&self, id: NodeId, name: &[u8], value: &[u8], how: XattrSet) -> Result<()> {
        self.check_writable()?;
        check_name(name)?;
        if let Some(file) = self.being_written(id).or_else(|| self.unlinked(id)) {
            return set_xattr_of(&file, name, value, how);
        }
        self.check_stored_xattr(id)?;
        let _paths = self.commit.paths_stay();
        self.store
            .root()
            .set_xattr(&self.path_of(id)?, name, value, how)?;
        self.resee(id)
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, id: NodeId, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        check_name(name)?;
        if let Some(file) = self.being_written(id).or_else(|| self.unlinked(id)) {
            return remove_xattr_of(&file, name);
        }
        self.check_stored_xattr(id)?;
        let _paths = self.commit.paths_stay();
        self.store.root().remove_xattr(&self.path_of(id)?, name)?;
        self.resee(id)
    }

    /// The names of the attributes that are stored.
    pub fn xattrs(&self, id: NodeId) -> Result<Vec<Vec<u8>>> {
        // Asked before the row is read: a session that ends in between has its row by then.
        let written = self.being_written(id);
        let node = self.index.node(id)?;
        let open = match &node {
            Some(_) => written,
            None => self.unlinked(id),
        };
        let mut names = if let Some(file) = open {
            xattrs_of(&file)?
        } else if let Some(node) = node
            && node.held != Held::None
            && node.kind != NodeKind::Symlink
        {
            let _paths = self.commit.paths_stay();
            let path = self.path_of(id)?;
            self.store.root().xattrs(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        names.retain(|name| name.starts_with(b"user."));
        Ok(names)
    }

    /// The file that local writers are at work on, if they are. Its session notices that the
    /// attribute changed the ctime.
    fn being_written(&self, id: NodeId) -> Option<Arc<File>> {
        let open = self.opens.node(id)?;
        let state = open.lock();
        state.session.as_ref()?;
        state.body.whole()
    }

    /// The file of a node whose name is gone, and which somebody has open.
    fn unlinked(&self, id: NodeId) -> Option<Arc<File>> {
        let open = self.opens.node(id)?;
        let state = open.lock();
        state.detached.then(|| state.body.whole()).flatten()
    }

    fn check_stored_xattr(&self, id: NodeId) -> Result<()> {
        match self.index.node(id)? {
            Some(node) if node.held != Held::None && node.kind != NodeKind::Symlink => Ok(()),
            _ => Err(Error::new(
                Kind::Unsupported,
                "the file is not here; read it first",
            )),
        }
    }

    /// An attribute changes the ctime that the row remembers.
    fn resee(&self, id: NodeId) -> Result<()> {
        let Some(node) = self.index.node(id)? else {
            return Ok(());
        };
        if node.kind == NodeKind::File && node.seen.is_some() {
            let facts = self.store.root().stat(&self.path_of(id)?)?;
            let now = crate::transfer::commit::seen(&facts);
            if node.has_noted_bytes(&now) {
                self.index.edit(move |w| w.saw(id, now))?;
            }
        }
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.starts_with(b"user.larder.") {
        return Err(Error::new(Kind::Denied, "user.larder.* is read-only"));
    }
    if !name.starts_with(b"user.") {
        return Err(Error::new(
            Kind::Unsupported,
            "only user.* attributes are kept",
        ));
    }
    Ok(())
}
