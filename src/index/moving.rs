//! Renames that are under way: noted before the tree changes, where a kill before the rows follow
//! could leave an old name to what a remote has of it.

use rusqlite::params;

use super::node::{self, NodeId};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::path::Name;

/// A rename that is under way, as far as the next start needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub node: NodeId,
    /// Where it goes.
    pub parent: NodeId,
    pub name: Name,
    /// What it changes places with.
    pub other: Option<NodeId>,
    /// The stored thing's inode: what has the new name in the tree if the tree did change.
    pub ino: u64,
}

/// The renames that the last life did not come to the end of; up to `limit`.
pub fn moves(c: &rusqlite::Connection, limit: usize) -> Result<Vec<Move>> {
    let query = "SELECT node, parent, name, other, ino FROM moving ORDER BY node LIMIT ?1";
    node::rows(c, query, [limit as i64], |row| {
        let name: Vec<u8> = row.get(2).map_err(sql)?;
        let other: Option<i64> = row.get(3).map_err(sql)?;
        Ok(Move {
            node: NodeId(row.get::<_, i64>(0).map_err(sql)? as u64),
            parent: NodeId(row.get::<_, i64>(1).map_err(sql)? as u64),
            name: Name::new(&name)?,
            other: other.map(|id| NodeId(id as u64)),
            ino: row.get::<_, i64>(4).map_err(sql)? as u64,
        })
    })
}

impl Writer {
    /// The tree is about to change.
    pub fn move_begins(&mut self, it: &Move) -> Result<()> {
        self.run_sql(
            "INSERT OR REPLACE INTO moving(node, parent, name, other, ino) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                it.node.0 as i64,
                it.parent.0 as i64,
                it.name.as_bytes(),
                it.other.map(|id| id.0 as i64),
                it.ino as i64
            ],
        )?;
        Ok(())
    }

    /// The rows follow the tree in this very edit, or the tree did not change.
    pub fn move_ended(&mut self, node: NodeId) -> Result<()> {
        self.run_sql("DELETE FROM moving WHERE node = ?1", [node.0 as i64])?;
        Ok(())
    }
}
