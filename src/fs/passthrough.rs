//! Which inodes the kernel reads without us.
//!
//! All opens of one inode must agree, and must name the same backing file, for as long
//! as any of them lasts (`fs/fuse/iomode.c`). The first open decides.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;

use crate::index::NodeId;

/// How an inode is read while it is open.
#[derive(Clone)]
pub enum Mode {
    /// By the kernel, from this file.
    Passthrough(Arc<BackingId>),
    /// By us, through the page cache.
    Cached,
}

/// The modes of what is open.
pub struct Backings {
    enabled: bool,
    open: Mutex<HashMap<NodeId, (Mode, usize)>>,
}

impl Backings {
    pub fn new(enabled: bool) -> Backings {
        Backings {
            enabled,
            open: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the kernel offers it and may be asked for it.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The mode for one more open of `id`; `register` tells the kernel of a file.
    pub fn enter(
        &self,
        id: NodeId,
        file: Option<&File>,
        register: impl FnOnce(&File) -> std::io::Result<BackingId>,
    ) -> Mode {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mode, count)) = open.get_mut(&id) {
            *count += 1;
            return mode.clone();
        }
        let mode = match file.filter(|_| self.enabled).map(register) {
            Some(Ok(backing)) => Mode::Passthrough(Arc::new(backing)),
            Some(Err(error)) => {
                tracing::debug!(%error, "no passthrough for this file");
                Mode::Cached
            }
            None => Mode::Cached,
        };
        open.insert(id, (mode.clone(), 1));
        mode
    }

    /// One open of `id` has ended.
    pub fn leave(&self, id: NodeId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = open.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                open.remove(&id);
            }
        }
    }
}
