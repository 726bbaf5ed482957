//! Readers that came too late: the file that they had looked up was replaced before they opened it,
//! or before the kernel asked whether they may.
//!
//! The kernel looks such a name up and opens it once more, and then gives up: where many replace one
//! file, a reader would be told that it is stale. So what he finds the second time is open already,
//! and stays open, whatever happens to its name, until he opens it himself. Only that: whoever wanted
//! its attributes alone goes on to other names.

use std::sync::Arc;
use std::time::Duration;

use super::moments::Moments;
use super::read::Access;
use super::{Answer, Attr, Opened, Overlay};
use crate::error::{Kind, Result};
use crate::index::{NodeId, NodeKind};
use crate::path::Name;

/// Longer than the way to the kernel and back, which a killed reader does not come by any more.
const MOMENT: Duration = Duration::from_secs(1);
/// How often a name is looked up that is replaced as often before it can be opened.
const TRIES: usize = 8;
const READ: Access = Access {
    write: false,
    truncate: false,
};

/// By the number of their threads.
#[derive(Default)]
pub(super) struct Late(Moments<u32, Option<Kept>>);

/// What is open for somebody, and where he found it.
struct Kept {
    parent: NodeId,
    name: Name,
    fh: u64,
}

impl Late {
    /// Puts down whom to keep what for. Returns the handles that nobody needs any more.
    fn keep(&self, opener: u32, kept: Option<Kept>) -> Vec<u64> {
        handles(self.0.put(opener, MOMENT, kept))
    }

    /// Whether what the opener finds under this name is to be kept for him.
    fn is_late(&self, opener: u32, parent: NodeId, name: &Name) -> bool {
        let is_this = |kept: &Kept| kept.parent == parent && kept.name == *name;
        let late = self
            .0
            .get(&opener, |kept, _| kept.as_ref().is_none_or(is_this));
        late.unwrap_or(false)
    }

    /// Forgets the opener, who is here, and those who will not come. Returns what was kept for them.
    fn arrived(&self, opener: Option<u32>) -> Vec<u64> {
        handles(self.0.take(opener.as_ref()))
    }
}

fn handles(over: Vec<Option<Kept>>) -> Vec<u64> {
    over.into_iter().flatten().map(|kept| kept.fh).collect()
}

impl Overlay {
    /// [`lookup`](Overlay::lookup) for a thread that may come to open what it finds.
    pub fn lookup_for(
        self: &Arc<Self>,
        opener: u32,
        parent: NodeId,
        name: &Name,
    ) -> Answer<Option<Attr>> {
        let found = self.lookup(parent, name);
        if !self.late.is_late(opener, parent, name) {
            return found;
        }
        let (this, name) = (self.clone(), name.clone());
        Answer::later(async move {
            let found = found.get().await?;
            // Nobody makes a name in the directory meanwhile: the kernel waits for this answer.
            let kept = this.keep_for(opener, parent, &name, found);
            let kept = tokio::time::timeout(MOMENT, kept).await;
            kept.unwrap_or(Ok(found))
        })
    }

    /// Opens what was found, far as it may be; what is replaced before it is open is looked up again.
    async fn keep_for(
        self: &Arc<Self>,
        opener: u32,
        parent: NodeId,
        name: &Name,
        mut found: Option<Attr>,
    ) -> Result<Option<Attr>> {
        for tries in 0..TRIES {
            let Some(file) = found.filter(|found| found.kind == NodeKind::File) else {
                break;
            };
            // Its writer has to be the first; he may be waiting for this very answer.
            if self.awaited.is_awaited(file.id) {
                break;
            }
            match self.open(file.id, READ).get().await {
                Ok(opened) => {
                    let (name, fh) = (name.clone(), opened.fh);
                    let kept = Kept { parent, name, fh };
                    self.let_go(self.late.keep(opener, Some(kept)));
                    break;
                }
                Err(error) if error.kind() == Kind::Stale => {}
                // He is told so himself.
                Err(_) => break,
            }
            // Longer each time: whoever replaces it is at work now.
            tokio::time::sleep(Duration::from_millis(1 << tries)).await;
            found = self.lookup_now(parent, name)?;
        }
        Ok(found)
    }

    /// [`open`](Overlay::open) by a thread that can be told to look its file up again.
    pub fn open_for(self: &Arc<Self>, opener: u32, id: NodeId, access: Access) -> Answer<Opened> {
        let kept = self.late.arrived(Some(opener));
        if access.truncate {
            // It would have to step aside for what is kept for it.
            self.let_go(kept);
            return self.open(id, access);
        }
        let answer = self.open(id, access);
        self.let_go(kept);
        if access.write {
            return answer;
        }
        match answer {
            Answer::Now(opened) => {
                self.note_late(opener, &opened);
                Answer::Now(opened)
            }
            Answer::Later(pending) => {
                let this = self.clone();
                Answer::later(async move {
                    let opened = pending.await;
                    this.note_late(opener, &opened);
                    opened
                })
            }
        }
    }

    /// [`attr`](Overlay::attr) for a thread that the kernel may ask for on the way to an open, which
    /// counts as one try.
    pub fn attr_for(&self, opener: u32, id: NodeId) -> Result<Attr> {
        let attr = self.attr(id);
        self.note_late(opener, &attr);
        attr
    }

    fn note_late<T>(&self, opener: u32, opened: &Result<T>) {
        if opened.as_ref().is_err_and(|e| e.kind() == Kind::Stale) {
            self.let_go(self.late.keep(opener, None));
        }
    }

    /// Closes what was kept for openers that did not come.
    pub(super) fn forget_late(&self) {
        self.let_go(self.late.arrived(None));
    }

    fn let_go(&self, handles: Vec<u64>) {
        for fh in handles {
            if let Err(error) = self.release(fh) {
                tracing::warn!(%error, "a file that was kept open could not be closed");
            }
        }
    }
}
