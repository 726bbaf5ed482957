//! What becomes of a download whose node became something else while it got its name, also if a kill
//! came between: it is the remote's, and an older version of it; never a local write.

use super::commit::{Commit, seen};
use crate::beneath::Facts;
use crate::error::Result;
use crate::index::arriving::{self, Arriving};
use crate::index::{Held, Seen};

impl Commit {
    /// Ends what the last life left of downloads that were being put in place. Nothing else runs yet.
    pub fn recover_arriving(&self) -> Result<()> {
        for it in self.index.read(arriving::arriving)? {
            let Some(seen) = self.placed(&it)? else {
                self.index.edit(move |w| w.arrived(&it.path))?;
                continue;
            };
            let (arrived, now_ms) = (it.clone(), self.clock.now_ms());
            if !self
                .index
                .edit(move |w| w.has_arrived(&arrived, seen, now_ms))?
            {
                self.take_back(it)?;
            }
        }
        Ok(())
    }

    /// What the tree has of it, if it has.
    fn placed(&self, it: &Arriving) -> Result<Option<Seen>> {
        let is_it = |facts: &Facts| {
            (facts.size, facts.mtime_ns, facts.ino) == (it.size, it.mtime_ns, it.ino)
        };
        let found = self.store.stored(&it.path)?.filter(is_it);
        Ok(found.map(|facts| seen(&facts)))
    }

    /// Takes it out of the tree again. The caller holds the paths and the node.
    pub(super) fn take_back(&self, it: Arriving) -> Result<()> {
        if self.placed(&it)?.is_some() {
            self.store.bury(&it.path)?;
        }
        let (now, now_ns) = (self.index.node(it.node)?, self.clock.now_ns());
        // An older version, which was held and which it replaced, is gone with it.
        let has_replaced = now.is_some_and(|n| n.dirty == 0 && n.held == Held::Stale);
        self.index.edit(move |w| {
            if has_replaced {
                w.not_held(it.node, now_ns)?;
            }
            w.arrived(&it.path)
        })
    }
}
