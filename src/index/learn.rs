//! What is learned of a version that is known already: its hash, and the writer's time where a
//! listing told only when the version came.

use rusqlite::params;

use super::node::{self, NodeId, RemoteId, Replica};
use super::schema::sql;
use super::writer::Writer;
use crate::error::Result;
use crate::object::{Arrival, Meta, Version};
use crate::path::RelPath;

/// What [`Writer::learn`] makes of a replica's times.
struct Times {
    mtime_ns: i64,
    arrival: Option<Arrival>,
}

/// The times of `known` after the remote told `meta` of the same version; none: as they are.
fn times(known: &Meta, meta: &Meta) -> Option<Times> {
    let told = match meta.arrival {
        None if known.is_rough() => Arrival {
            only: false,
            ..known.arrival?
        },
        told => told?,
    };
    let at_ns = match known.arrival {
        // What it was learned from may have been rounded to the second.
        Some(before) if before.is_same(&told) => before.at_ns,
        _ => told.at_ns,
    };
    let times = match known.arrival {
        _ if !told.only => Times {
            mtime_ns: meta.mtime_ns,
            arrival: Some(Arrival { at_ns, only: false }),
        },
        Some(before) if before.is_same(&told) => return None,
        // The same bytes were sent again, perhaps for another time.
        Some(_) => Times {
            mtime_ns: known.mtime_ns,
            arrival: Some(Arrival { at_ns, only: true }),
        },
        // It is what went up from here, whose time is known.
        None => Times {
            mtime_ns: known.mtime_ns,
            arrival: Some(Arrival { at_ns, only: false }),
        },
    };
    let is_new = times.mtime_ns != known.mtime_ns || times.arrival != known.arrival;
    is_new.then_some(times)
}

impl Writer {
    /// The remote told of the version that is known of it already. Returns whether that was news.
    pub(super) fn learn(&mut self, known: &Replica, meta: &Meta, now_ns: i64) -> Result<bool> {
        let hash = meta.sha256.filter(|_| known.meta.sha256.is_none());
        let times = times(&known.meta, meta);
        if hash.is_none() && times.is_none() {
            return Ok(false);
        }
        let was_rough = known.meta.is_rough();
        let (mtime_ns, arrival) = match times {
            Some(times) => (times.mtime_ns, times.arrival),
            None => (known.meta.mtime_ns, known.meta.arrival),
        };
        self.run_sql(
            "UPDATE replicas SET sha256 = coalesce(sha256, ?3), mtime_ns = ?4, arrived_ns = ?5, rough = ?6
             WHERE remote = ?1 AND key = ?2",
            params![
                known.remote.0,
                known.key.as_bytes(),
                hash.map(|h| h.0.to_vec()),
                mtime_ns,
                arrival.map(|a| a.at_ns),
                arrival.is_some_and(|a| a.only),
            ],
        )?;
        let Some(id) = known.node else {
            return Ok(true);
        };
        // What is fetched from now on is verified with the hash.
        self.run_sql(
            "UPDATE nodes SET sha256 = coalesce(sha256, ?4) WHERE id = ?1 AND dirty = 0
             AND origin = ?2 AND version = ?3",
            params![
                id.0 as i64,
                known.remote.0,
                known.meta.version.as_str(),
                hash.map(|h| h.0.to_vec()),
            ],
        )?;
        if mtime_ns != known.meta.mtime_ns {
            self.retime(id, known, mtime_ns)?;
        }
        if was_rough {
            // Only now it can be told whether another remote's bytes are the same.
            self.follow(id, now_ns)?;
        }
        Ok(true)
    }

    /// A file that shows the version of `known` shows this time from now on.
    fn retime(&mut self, id: NodeId, known: &Replica, mtime_ns: i64) -> Result<()> {
        self.run_sql(
            "UPDATE nodes SET mtime_ns = ?4 WHERE id = ?1 AND dirty = 0 AND touched = 0
             AND origin = ?2 AND version = ?3",
            params![
                id.0 as i64,
                known.remote.0,
                known.meta.version.as_str(),
                mtime_ns
            ],
        )?;
        let node = node::node(&self.c, id)?;
        if let Some((parent, name)) = node.and_then(|n| Some((n.parent, n.name?))) {
            self.tell(parent, &name);
        }
        Ok(())
    }
}

/// Up to `limit` replicas of `remote` whose writers' times are not known, in byte order of the keys.
pub fn rough(c: &rusqlite::Connection, remote: RemoteId, limit: usize) -> Result<Vec<Rough>> {
    let query =
        "SELECT key, version FROM replicas WHERE remote = ?1 AND rough = 1 ORDER BY key LIMIT ?2";
    node::rows(c, query, params![remote.0, limit as i64], |row| {
        let key: Vec<u8> = row.get(0).map_err(sql)?;
        let version: String = row.get(1).map_err(sql)?;
        Ok(Rough {
            key: RelPath::new(&key)?,
            version: Version::new(&version)?,
        })
    })
}

/// A version whose writer's time is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rough {
    pub key: RelPath,
    pub version: Version,
}
