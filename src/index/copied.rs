//! What the end of a copy that a remote made means, where that is not the same as for bytes that
//! were sent from here: whoever has not read a file has no bytes of its own to stand by.

use rusqlite::params;

use super::node::{Held, Node, RemoteId};
use super::outbox::OutboxRow;
use super::sent::Sent;
use super::writer::Writer;
use crate::error::Result;
use crate::object::{Meta, Sha256, Version};
use crate::path::RelPath;

/// Whether the node shows other bytes by now than those that were copied: the remote made another
/// version of what it is, and it followed.
pub(super) fn shows_other(row: &OutboxRow, outcome: &Sent, node: Option<&Node>) -> bool {
    let (Sent::Copied(meta, of), Some(node)) = (outcome, node) else {
        return false;
    };
    let is_own = node.dirty != 0 || node.held == Held::Whole;
    let is_it = node.origin.as_ref() == Some(&(row.remote, of.clone()));
    let same = meta.sha256.is_some() && meta.sha256 == node.sha256;
    !is_own && !is_it && !same
}

impl Writer {
    /// Of bytes that nobody here has read, the copy's own name for them is known now: whoever
    /// deleted the file meanwhile means that.
    pub(super) fn name_attempt(
        &self,
        remote: RemoteId,
        key: &RelPath,
        of: &Version,
        meta: &Meta,
    ) -> Result<()> {
        let before = Sha256::stand_in(of, meta.size);
        let now = Sha256::stand_in(&meta.version, meta.size);
        self.run_sql(
            "UPDATE OR REPLACE attempts SET sha256 = ?4 WHERE remote = ?1 AND key = ?2 AND sha256 = ?3",
            params![
                remote.0,
                key.as_bytes(),
                before.0.as_slice(),
                now.0.as_slice()
            ],
        )?;
        Ok(())
    }

    /// The node shows what was copied: from now on by the copy's name for it.
    pub(super) fn relabel(
        &self,
        node: &Node,
        remote: RemoteId,
        key: &RelPath,
        of: &Version,
        version: &Version,
    ) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET version = ?5 WHERE id = ?1 AND dirty = 0 AND origin = ?2 AND version = ?4
             AND EXISTS(SELECT 1 FROM replicas r WHERE r.remote = ?2 AND r.key = ?3 AND r.node = ?1)",
            params![
                node.id.0 as i64,
                remote.0,
                key.as_bytes(),
                of.as_str(),
                version.as_str()
            ],
        )?;
        Ok(())
    }
}
