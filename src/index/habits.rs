//! What is remembered of a remote from one life of the mount to the next, so that a start need not
//! ask for it.

use rusqlite::params;

use super::node;
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;

/// What the remote called `url` could do when it was last listed: bits that mean something to
/// whoever had them remembered.
pub fn capabilities(c: &rusqlite::Connection, url: &str) -> Result<Option<i64>> {
    let query = "SELECT value FROM meta WHERE key = ?1";
    let found = node::rows(c, query, [can(url)], |row| row.get(0).map_err(sql))?;
    Ok(found.first().copied())
}

fn can(url: &str) -> String {
    format!("can {url}")
}

impl Writer {
    /// Remembers [`capabilities`].
    pub fn set_capabilities(&mut self, url: &str, bits: i64) -> Result<()> {
        self.run_sql(
            "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)",
            params![can(url), bits],
        )?;
        Ok(())
    }
}
