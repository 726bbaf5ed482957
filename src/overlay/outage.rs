//! After a power cut (promises P3, P4): what was written and not synced may be shorter
//! than its row says, and rows may be missing. Such files are held back.
//!
//! The machine's life has a name and a beginning. If it is another one than that of the
//! last run, whatever is not as its row says and was last changed while the mount ran was
//! changed by us, not by people, and is what the power cut left of it.

use std::sync::atomic::Ordering;

use super::Overlay;
use crate::beneath::Facts;
use crate::clock::Boot;
use crate::error::Result;
use crate::index::{Node, Runs, runs};
use crate::path::RelPath;

/// The time that a power cut may have taken something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    since_ns: i64,
    until_ns: i64,
}

impl Outage {
    /// None if the machine has not been started anew since.
    fn between(last: &Runs, boot: &Boot) -> Option<Outage> {
        let outage = Outage {
            since_ns: last.since_ms.saturating_mul(1_000_000),
            until_ns: match last.ended_ms {
                Some(ended_ms) => ended_ms.saturating_mul(1_000_000),
                None => boot.at_ns,
            },
        };
        (last.boot != boot.id).then_some(outage)
    }

    /// Whether the file was last changed in that time.
    pub(super) fn covers(&self, facts: &Facts) -> bool {
        (self.since_ns..self.until_ns).contains(&facts.ctime_ns)
    }
}

impl Overlay {
    /// Looks whether the power was cut. What it finds holds until the folder was compared.
    pub(super) fn begin_runs(&self) -> Result<()> {
        let Some(boot) = Boot::current(&self.clock) else {
            return Ok(());
        };
        let last = self.index.read(runs::last)?;
        let found = last.as_ref().and_then(|last| Outage::between(last, &boot));
        if let Some(outage) = found {
            let _ = self.outage.set(outage);
            self.in_doubt.store(true, Ordering::SeqCst);
            return Ok(());
        }
        // Those before it in the same life of the machine may not have been written out either.
        let earlier = last.filter(|last| last.boot == boot.id);
        self.note_runs(&boot, earlier.map(|last| last.since_ms))
    }

    fn note_runs(&self, boot: &Boot, since_ms: Option<i64>) -> Result<()> {
        let runs = Runs {
            boot: boot.id,
            since_ms: since_ms.unwrap_or_else(|| self.clock.now_ms()),
            ended_ms: None,
        };
        self.index.edit(move |w| w.set_runs(runs))
    }

    /// The whole folder was compared: what the power cut left is settled.
    pub(super) fn outage_is_over(&self) -> Result<()> {
        if let (Some(_), Some(boot)) = (self.outage.get(), Boot::current(&self.clock)) {
            self.note_runs(&boot, None)?;
            self.in_doubt.store(false, Ordering::SeqCst);
            self.uploads.kick();
        }
        Ok(())
    }

    /// The mount has ended in order.
    pub fn end_runs(&self) -> Result<()> {
        let (last, boot) = (self.index.read(runs::last)?, Boot::current(&self.clock));
        match (last, boot) {
            (Some(last), Some(boot)) if last.boot == boot.id => {
                let ended_ms = Some(self.clock.now_ms());
                self.index
                    .edit(move |w| w.set_runs(Runs { ended_ms, ..last }))
            }
            _ => Ok(()),
        }
    }

    /// A stored file that is not as its row says: whether a power cut made it so.
    pub(super) fn is_unsure(&self, facts: &Facts) -> bool {
        self.outage.get().is_some_and(|outage| outage.covers(facts))
    }

    /// What is left of a file that is shorter than its row says is nobody's version: it is kept
    /// where nobody takes it for whole, and the name has its old meaning again.
    pub(super) fn keep_what_is_left(&self, row: &Node, path: &RelPath) -> Result<()> {
        let kept = self.store.orphan_stored(path)?;
        let (id, now) = (row.id, self.clock.now_ns());
        self.index.edit(move |w| w.not_held(id, now))?;
        self.note(format!(
            "{path}: was cut short by a power failure; what is left is kept as .larder/orphans/{kept} and was not published"
        ));
        Ok(())
    }

    /// Says of a file that it is held back.
    pub(super) fn note_unsure(&self, path: &RelPath) {
        self.note(format!(
            "{path}: was written shortly before a power failure and may not be whole; it is not published until it is written again"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_only_what_changed_while_the_mount_ran_is_doubted() {
        let boot = Boot {
            id: 7,
            at_ns: 9_000_000,
        };
        let killed = Runs {
            boot: 6,
            since_ms: 3,
            ended_ms: None,
        };
        let span = |last: &Runs| Outage::between(last, &boot).map(|o| (o.since_ns, o.until_ns));
        assert_eq!(span(&killed), Some((3_000_000, 9_000_000)));
        let ended_ms = Some(5);
        let ended = Runs { ended_ms, ..killed };
        assert_eq!(span(&ended), Some((3_000_000, 5_000_000)));
        assert_eq!(span(&Runs { boot: 7, ..killed }), None);
    }
}
