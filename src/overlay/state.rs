//! What the mount says of itself and of each file.

use super::Overlay;
use crate::error::Result;
use crate::index::{Held, Node, node as rows, outbox};
use crate::object::FileState;

impl Overlay {
    /// One word on a file.
    pub fn state_of(&self, node: &Node) -> Result<FileState> {
        if self.uploads.is_uploading(node.id) {
            return Ok(FileState::Uploading);
        }
        let queued = self.index.read(|c| outbox::is_queued(c, node.id))?;
        if queued {
            return Ok(FileState::Dirty);
        }
        if node.dirty != 0 || node.origin.is_none() {
            return Ok(FileState::Local);
        }
        Ok(match node.held {
            Held::Whole => FileState::Clean,
            _ if self.downloads.under_way(node.id).is_some() => FileState::Partial,
            Held::Stale => FileState::Stale,
            Held::None => FileState::Remote,
        })
    }

    /// The first remote that has the file, as it is shown.
    pub fn remote_of(&self, node: &Node) -> Result<Option<String>> {
        let replicas = self.index.read(|c| rows::replicas(c, node.id))?;
        let first = replicas.first().and_then(|r| self.remotes.get(r.remote));
        Ok(first.map(|r| r.shown.clone()))
    }

    /// What was put right at the start, and what happened since that somebody should know.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock();
        let mut notes = notes
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        if self.index.is_damaged() {
            notes.push("the index is damaged; unmount and mount again to have it rebuilt from the folder, where nothing is lost".to_owned());
        }
        notes
    }

    /// Whether local writers are at work on the file.
    pub fn is_being_written(&self, id: crate::index::NodeId) -> bool {
        self.opens.is_being_written(id)
    }

    /// How many handles are open.
    pub fn open_handles(&self) -> usize {
        self.opens.count()
    }
}
