//! Downloads that are being put in place: noted before the tree changes, so that what a kill leaves in
//! it is known to be the remote's, whatever version the row has by then.

use rusqlite::params;

use super::node::{self, NodeId, RemoteId, Seen};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::{Sha256, Version};
use crate::path::RelPath;

/// A download that is about to have its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arriving {
    pub path: RelPath,
    pub node: NodeId,
    pub version: (RemoteId, Version),
    /// What has the name in the tree if the tree did change.
    pub size: u64,
    pub mtime_ns: i64,
    pub ino: u64,
    pub sha256: Sha256,
}

/// Those that the last life did not come to the end of.
pub fn arriving(c: &rusqlite::Connection) -> Result<Vec<Arriving>> {
    let query = "SELECT path, node, remote, version, size, mtime_ns, ino, sha256 FROM arriving";
    node::rows(c, query, [], |row| {
        let path: Vec<u8> = row.get(0).map_err(sql)?;
        let version: String = row.get(3).map_err(sql)?;
        Ok(Arriving {
            path: RelPath::new(&path)?,
            node: NodeId(row.get::<_, i64>(1).map_err(sql)? as u64),
            version: (RemoteId(row.get(2).map_err(sql)?), Version::new(&version)?),
            size: row.get::<_, i64>(4).map_err(sql)? as u64,
            mtime_ns: row.get(5).map_err(sql)?,
            ino: row.get::<_, i64>(6).map_err(sql)? as u64,
            sha256: Sha256(row.get(7).map_err(sql)?),
        })
    })
}

impl Writer {
    /// The tree is about to change.
    pub fn arrives(&mut self, it: &Arriving) -> Result<()> {
        self.run_sql(
            "INSERT OR REPLACE INTO arriving(path, node, remote, version, size, mtime_ns, ino, sha256)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                it.path.as_bytes(),
                it.node.0 as i64,
                it.version.0.0,
                it.version.1.as_str(),
                it.size as i64,
                it.mtime_ns,
                it.ino as i64,
                it.sha256.0.to_vec()
            ],
        )?;
        Ok(())
    }

    /// The node follows the tree. False if it became something else meanwhile: then the tree has to
    /// follow, and this stays on record until it did.
    pub fn has_arrived(&mut self, it: &Arriving, seen: Seen, now_ms: i64) -> Result<bool> {
        let is_kept = self.hydrated(it.node, &it.version, seen, Some(it.sha256), now_ms)?;
        if is_kept {
            self.arrived(&it.path)?;
        }
        Ok(is_kept)
    }

    /// The row follows the tree in this very edit, or the tree has nothing of it.
    pub fn arrived(&mut self, path: &RelPath) -> Result<()> {
        self.run_sql("DELETE FROM arriving WHERE path = ?1", [path.as_bytes()])?;
        Ok(())
    }
}
