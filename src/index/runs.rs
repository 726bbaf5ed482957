//! When the mount last ran, in which life of the machine, and which names people saw then.

use rusqlite::params;

use super::node::{self, NodeId};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;

/// The runs of the mount within one life of the machine, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Names the machine's life.
    pub boot: i64,
    /// When the first of them began, in milliseconds since 1970.
    pub since_ms: i64,
    /// When the last of them ended, if it did.
    pub ended_ms: Option<i64>,
}

/// What is on record; none before the first run.
pub fn last(c: &rusqlite::Connection) -> Result<Option<Runs>> {
    let value = |key: &str| -> Result<Option<i64>> {
        let query = "SELECT value FROM meta WHERE key = ?1";
        Ok(node::rows(c, query, [key], |row| row.get(0).map_err(sql))?.pop())
    };
    Ok(match (value("runs_boot")?, value("runs_since_ms")?) {
        (Some(boot), Some(since_ms)) => Some(Runs {
            boot,
            since_ms,
            ended_ms: value("runs_ended_ms")?,
        }),
        _ => None,
    })
}

impl Writer {
    /// Records when the mount ran.
    pub fn set_runs(&mut self, runs: Runs) -> Result<()> {
        let values = [
            ("runs_boot", Some(runs.boot)),
            ("runs_since_ms", Some(runs.since_ms)),
            ("runs_ended_ms", runs.ended_ms),
        ];
        for (key, value) in values {
            match value {
                Some(value) => self.run_sql(
                    "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)",
                    params![key, value],
                )?,
                None => self.run_sql("DELETE FROM meta WHERE key = ?1", [key])?,
            };
        }
        Ok(())
    }

    /// The newest node there was when the folder was last left to itself: whoever changed the folder
    /// since has seen no version that a later one shows. It stays so over starts until the folder was
    /// compared ([`folder_compared`](Writer::folder_compared)).
    pub fn shown_until(&mut self) -> Result<NodeId> {
        let query = "SELECT value FROM meta WHERE key = 'shown_until'";
        let noted: Option<i64> =
            node::rows(&self.c, query, [], |row| row.get(0).map_err(sql))?.pop();
        // The numbers of nodes that are gone may be given again after a start.
        let newest = self.next_id;
        let until = noted.map_or(newest, |noted| newest.min(noted as u64));
        self.run_sql(
            "INSERT OR REPLACE INTO meta(key, value) VALUES ('shown_until', ?1)",
            [until as i64],
        )?;
        Ok(NodeId(until))
    }

    /// All that people did to the folder is known: from here on they see what its names show.
    pub fn folder_compared(&mut self) -> Result<()> {
        self.run_sql("DELETE FROM meta WHERE key = 'shown_until'", [])?;
        Ok(())
    }
}
