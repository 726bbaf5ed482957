//! News of commits for whoever caches: every change is told, one by one or as "everything".

use super::locks::mpsc::{SyncSender, TrySendError};
use super::node::NodeId;
use crate::path::Name;

/// A name in a directory whose meaning changed without the kernel's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidation {
    pub parent: NodeId,
    pub name: Name,
}

/// What a commit changed for everyone who caches.
#[derive(Debug, Clone)]
pub enum Event {
    /// These names.
    Names(Vec<Invalidation>),
    /// More than could be told one by one.
    Everything,
}

/// Where news of commits goes.
pub(super) struct Told {
    events: SyncSender<Event>,
    /// Some could not be passed on, for the reader is behind.
    is_owed: bool,
}

impl Told {
    pub fn to(events: SyncSender<Event>) -> Told {
        Told {
            events,
            is_owed: false,
        }
    }

    /// Passes on what a commit changed. Waits for nobody: whoever reads the news may wait for the
    /// very edit that is told of.
    pub fn tell(&mut self, changed: Vec<Invalidation>) {
        let event = match (self.is_owed, changed.is_empty()) {
            (true, _) => Event::Everything,
            (false, true) => return,
            (false, false) => Event::Names(changed),
        };
        self.is_owed = matches!(self.events.try_send(event), Err(TrySendError::Full(_)));
    }

    /// Whether news is to be offered again, with nothing new.
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }
}
