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
    remembered(c, &can(url))
}

/// Whether the remote called `url` heeds the conditions of writes, if that was tried.
pub fn heeds_conditions(c: &rusqlite::Connection, url: &str) -> Result<Option<bool>> {
    Ok(remembered(c, &heeds(url))?.map(|value| value != 0))
}

fn can(url: &str) -> String {
    format!("can {url}")
}

fn heeds(url: &str) -> String {
    format!("heeds_conditions {url}")
}

fn remembered(c: &rusqlite::Connection, what: &str) -> Result<Option<i64>> {
    let query = "SELECT value FROM meta WHERE key = ?1";
    let found = node::rows(c, query, [what], |row| row.get(0).map_err(sql))?;
    Ok(found.first().copied())
}

impl Writer {
    /// Remembers [`capabilities`].
    pub fn set_capabilities(&mut self, url: &str, bits: i64) -> Result<()> {
        self.remember(&can(url), bits)
    }

    /// Remembers [`heeds_conditions`].
    pub fn set_heeds_conditions(&mut self, url: &str, is_heeded: bool) -> Result<()> {
        self.remember(&heeds(url), i64::from(is_heeded))
    }

    fn remember(&mut self, what: &str, value: i64) -> Result<()> {
        self.run_sql(
            "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)",
            params![what, value],
        )?;
        Ok(())
    }
}
