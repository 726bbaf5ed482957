//! What is remembered of a remote from one life of the mount to the next, so that a start need not
//! ask for it.

use rusqlite::params;

use super::node;
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;

/// How many objects one request of a listing of the remote called `url` names, where each costs.
pub fn page(c: &rusqlite::Connection, url: &str) -> Result<Option<u32>> {
    let found = remembered(c, &format!("page {url}"))?;
    Ok(found.and_then(|n| u32::try_from(n).ok()))
}

fn remembered(c: &rusqlite::Connection, what: &str) -> Result<Option<i64>> {
    let query = "SELECT value FROM meta WHERE key = ?1";
    let found = node::rows(c, query, [what], |row| row.get::<_, i64>(0).map_err(sql))?;
    Ok(found.first().copied())
}

impl Writer {
    /// Remembers [`page`].
    pub fn set_page(&mut self, url: &str, page: Option<u32>) -> Result<()> {
        self.remember(&format!("page {url}"), page.map(i64::from))
    }

    fn remember(&mut self, what: &str, value: Option<i64>) -> Result<()> {
        match value {
            Some(value) => self.run_sql(
                "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)",
                params![what, value],
            )?,
            None => self.run_sql("DELETE FROM meta WHERE key = ?1", [what])?,
        };
        Ok(())
    }
}
