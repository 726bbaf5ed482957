//! Which of a file's remotes says what it is, in which order their news came, and how a clean
//! node becomes that.

use rusqlite::params;

use super::node::{self, Node, NodeId, NodeKind, RemoteId, Replica};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::Revision;
use crate::path::RelPath;

impl Writer {
    /// Whether what is known of `key` came later than `revision`: an answer to an upload may
    /// overtake the news of an earlier change on their way here.
    pub(super) fn is_older(
        &self,
        remote: RemoteId,
        key: &RelPath,
        revision: Option<&Revision>,
    ) -> Result<bool> {
        let seq = self.seq_of(remote, revision)?;
        let query = "SELECT 1 FROM replicas WHERE remote = ?1 AND key = ?2 AND seq > ?3";
        let params = params![remote.0, key.as_bytes(), seq];
        Ok(seq != 0 && !node::rows(&self.c, query, params, |_| Ok(()))?.is_empty())
    }

    /// The revision's number as `replicas.seq` holds it: 0 if it is of another epoch than the cursor.
    pub(super) fn seq_of(&self, remote: RemoteId, revision: Option<&Revision>) -> Result<i64> {
        let Some(revision) = revision else {
            return Ok(0);
        };
        let query = "SELECT 1 FROM remotes WHERE id = ?1 AND epoch = ?2";
        let params = params![remote.0, revision.epoch.as_ref()];
        let same = !node::rows(&self.c, query, params, |_| Ok(()))?.is_empty();
        Ok(if same { revision.seq.cast_signed() } else { 0 })
    }

    /// Brings a clean node to what the first of its remotes has. Other bytes make it another
    /// inode: whoever has the old one open keeps it (promise P8).
    pub(super) fn follow(&mut self, id: NodeId, now_ns: i64) -> Result<()> {
        let node = self.need(id)?;
        if node.kind != NodeKind::File || !self.is_settled(&node)? {
            return Ok(());
        }
        let Some(first) = self.authority(&node)? else {
            return self.remove_remote_file(&node, now_ns);
        };
        let meta = &first.meta;
        if node.origin.as_ref() == Some(&(first.remote, meta.version.clone())) {
            return Ok(());
        }
        let elsewhere = node
            .origin
            .as_ref()
            .is_some_and(|(remote, _)| *remote != first.remote);
        if elsewhere && first.may_match(&node) {
            // Whether it is other bytes, or only another remote, is learned soon.
            return Ok(());
        }
        let same = meta.sha256.is_some() && meta.sha256 == node.sha256;
        if same || (elsewhere && first.matches(&node)) {
            return self.adopt_version(id, &first);
        }
        self.renew(&node, &first, now_ns)
    }

    /// The replica that says what a clean node is: the first in the mount's order that is not of a
    /// version that was edited here. While a new name waits to go up, what remotes have under it
    /// is a conflict and not the file.
    fn authority(&self, node: &Node) -> Result<Option<Replica>> {
        let all = node::replicas(&self.c, node.id)?;
        let path = node::path(&self.c, node.id)?;
        let from = node.origin.as_ref().map(|(remote, _)| *remote);
        let moved = all
            .iter()
            .any(|r| Some(r.remote) == from && Some(&r.key) != path.as_ref())
            && self.waits(node.id)?;
        let edited = self.edited_here(node.id)?;
        let mut all = all
            .into_iter()
            .filter(|r| !moved || Some(&r.key) != path.as_ref());
        let first = all.next();
        let is_edited = |r: &Replica| edited.contains(&(r.remote, r.key.clone()));
        Ok(match first {
            Some(first) if is_edited(&first) => all.find(|r| !is_edited(r)).or(Some(first)),
            first => first,
        })
    }

    /// The node's replicas whose version a local write replaced, though not at that remote.
    fn edited_here(&self, id: NodeId) -> Result<Vec<(RemoteId, RelPath)>> {
        let query = "SELECT remote, key FROM replicas WHERE node = ?1 AND base = version";
        node::rows(&self.c, query, [id.0 as i64], |row| {
            let key: Vec<u8> = row.get(1).map_err(sql)?;
            Ok((RemoteId(row.get(0).map_err(sql)?), RelPath::new(&key)?))
        })
    }

    /// A local write begins to replace the versions that the remotes have, as far as they were
    /// seen: whichever remote it goes up to, they do not come back over it.
    pub(super) fn edits_versions(&self, id: NodeId) -> Result<()> {
        self.run_sql(
            "UPDATE replicas SET base = version WHERE node = ?1 AND EXISTS(SELECT 1 FROM nodes n
             WHERE n.id = ?1 AND n.dirty = 0 AND (n.origin <> replicas.remote OR n.version = replicas.version))",
            [id.0 as i64],
        )?;
        Ok(())
    }

    /// Whether a put of the node is in the outbox, parked or not.
    pub(super) fn waits(&self, id: NodeId) -> Result<bool> {
        let query = "SELECT 1 FROM outbox WHERE node = ?1 LIMIT 1";
        Ok(!node::rows(&self.c, query, [id.0 as i64], |_| Ok(()))?.is_empty())
    }

    /// Whether nobody here is changing the node, or has changed it: what remotes say is what it is.
    pub(super) fn is_settled(&self, node: &Node) -> Result<bool> {
        if node.dirty != 0 || node.writing != node::Writing::No || node.origin.is_none() {
            return Ok(false);
        }
        let query = "SELECT 1 FROM staged WHERE node = ?1";
        Ok(node::rows(&self.c, query, [node.id.0 as i64], |_| Ok(()))?.is_empty())
    }

    /// The same bytes under another version: only the label and the time change.
    fn adopt_version(&mut self, id: NodeId, replica: &Replica) -> Result<()> {
        let node = self.need(id)?;
        self.run_sql(
            "UPDATE nodes SET origin = ?2, version = ?3, mtime_ns = CASE touched WHEN 0 THEN ?4 ELSE mtime_ns END
             WHERE id = ?1",
            params![id.0 as i64, replica.remote.0, replica.meta.version.as_str(), replica.meta.mtime_ns],
        )?;
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        Ok(())
    }

    fn renew(&mut self, node: &Node, replica: &Replica, now_ns: i64) -> Result<()> {
        let (old, new) = (node.id.0 as i64, self.fresh_id().0 as i64);
        let meta = &replica.meta;
        self.run_sql(
            "UPDATE nodes SET id = ?2, size = ?3, mtime_ns = ?4, ctime_ns = ?5, sha256 = ?6, origin = ?7,
             version = ?8, touched = 0, held = CASE held WHEN 0 THEN 0 ELSE 2 END WHERE id = ?1",
            params![
                old, new, meta.size as i64, meta.mtime_ns, now_ns, meta.sha256.map(|h| h.0.to_vec()),
                replica.remote.0, meta.version.as_str()
            ],
        )?;
        self.run_sql("UPDATE replicas SET node = ?2 WHERE node = ?1", [old, new])?;
        self.run_sql("UPDATE staged SET node = ?2 WHERE node = ?1", [old, new])?;
        if node::path(&self.c, NodeId(new as u64))?.as_ref() == Some(&replica.key) {
            // Nothing but a name or a time was queued, and the remote's newer file settles both.
            self.run_sql("DELETE FROM outbox WHERE node = ?1", [old])?;
        } else {
            self.run_sql("UPDATE outbox SET node = ?2 WHERE node = ?1", [old, new])?;
        }
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        Ok(())
    }
}
