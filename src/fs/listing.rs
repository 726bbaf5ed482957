//! Directory listings: ours, and the two entries that every directory has.

use fuser::INodeNo;

use super::Edge;
use crate::error::Result;
use crate::index::{NodeId, ROOT};
use crate::overlay::dirs::DirEntry;

pub(super) enum Listed<'a> {
    Dot(INodeNo, u64, &'static str),
    Entry(&'a DirEntry, u64),
}

/// The entries `.` and `..` have the offsets 1 and 2.
const DOTS: u64 = 2;

impl Edge {
    pub(super) fn list(
        &self,
        ino: INodeNo,
        fh: u64,
        offset: u64,
        take: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<()> {
        if offset == 0 && !take(Listed::Dot(ino, 1, ".")) {
            return Ok(());
        }
        if offset <= 1 {
            let parent = self
                .overlay
                .index
                .node(NodeId(ino.0))?
                .map_or(ROOT, |n| if n.parent.0 == 0 { ROOT } else { n.parent });
            if !take(Listed::Dot(INodeNo(parent.0), DOTS, "..")) {
                return Ok(());
            }
        }
        let from = offset.saturating_sub(DOTS);
        self.overlay.read_dir(fh, from, &mut |entry| {
            take(Listed::Entry(entry, entry.offset + DOTS))
        })
    }
}
