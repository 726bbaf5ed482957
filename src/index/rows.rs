//! Rows in memory: those of the nodes that were asked for lately.
//!
//! What is kept of a node is what a reader of the last commit would read: before a commit the rows
//! that it changes are dropped, and until it is through, whatever comes of it, none is kept. So whoever
//! read another row as it left it does not find one here as it was before. Their number is bounded;
//! those that nobody asked for longest go first.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::locks::{Mutex, MutexGuard};
use super::names::{FOLLOWED, lock};
use super::node::{Node, NodeId, node_columns};
use super::schema::sql;
use crate::error::Result;

const SHARDS: u64 = 4;
/// Rows in one shard: 8,192 in all, about 4 MB of usual ones.
const EACH: NonZeroUsize = NonZeroUsize::new(2048).unwrap();

/// Nodes whose rows the edits since the last commit changed or removed.
pub(super) type Changed = Arc<Mutex<Vec<NodeId>>>;

/// See the module.
pub(super) struct Rows([Mutex<Shard>; SHARDS as usize]);

struct Shard {
    nodes: LruCache<NodeId, Node>,
    /// Counts beginnings and ends of commits that change rows: odd while one is under way.
    commits: u64,
}

/// What is in memory of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Known(Node),
    /// To be read, and told to [`learn`](Rows::learn) under this number.
    Unknown(u64),
}

impl Rows {
    pub fn new() -> Rows {
        let shard = || Shard {
            nodes: LruCache::new(EACH),
            commits: 0,
        };
        Rows(std::array::from_fn(|_| Mutex::new(shard())))
    }

    /// What is known of the node `id`.
    pub fn node(&self, id: NodeId) -> Look {
        let mut shard = self.shard(id);
        match shard.nodes.get(&id) {
            Some(node) => Look::Known(node.clone()),
            None => Look::Unknown(shard.commits),
        }
    }

    /// A row was read, after it was found unknown under `commits`.
    pub fn learn(&self, node: &Node, commits: u64) {
        let mut shard = self.shard(node.id);
        if shard.commits == commits && !shard.is_changing() {
            shard.nodes.put(node.id, node.clone());
        }
    }

    /// A commit is about to change these. Until [`changed`](Rows::changed) nothing is kept.
    pub fn changing(&self, changed: &Changed) {
        let changed = std::mem::take(&mut *lock(changed));
        if changed.is_empty() {
            return;
        }
        for shard in &self.0 {
            let mut shard = lock(shard);
            shard.commits += u64::from(!shard.is_changing());
            if changed.len() > FOLLOWED {
                shard.nodes.clear();
            }
        }
        if changed.len() <= FOLLOWED {
            for id in changed {
                self.shard(id).nodes.pop(&id);
            }
        }
    }

    /// The commit is through, or failed. Called before anybody is told of it.
    pub fn changed(&self) {
        for shard in &self.0 {
            let mut shard = lock(shard);
            shard.commits += u64::from(shard.is_changing());
        }
    }

    fn shard(&self, id: NodeId) -> MutexGuard<'_, Shard> {
        lock(&self.0[(id.0 % SHARDS) as usize])
    }
}

impl Shard {
    fn is_changing(&self) -> bool {
        self.commits % 2 == 1
    }
}

/// Has the connection that writes note the rows that its statements change. A row that is made was
/// not there, and what is not there is not kept.
pub(super) fn watch(c: &Connection) -> Result<Changed> {
    let changed = Changed::default();
    let notes = changed.clone();
    let note = move |context: &rusqlite::functions::Context<'_>| {
        lock(&notes).push(NodeId(context.get::<i64>(0)? as u64));
        Ok(false)
    };
    c.create_scalar_function("row_changed", 1, FunctionFlags::SQLITE_UTF8, note)
        .map_err(sql)?;
    // What `Node` shows: not when the file was last used, which changes with every use.
    c.execute_batch(concat!(
        "CREATE TEMP TRIGGER row_gone AFTER DELETE ON nodes BEGIN SELECT row_changed(old.id); END;
         CREATE TEMP TRIGGER row_changed AFTER UPDATE OF ",
        node_columns!(),
        " ON nodes BEGIN SELECT row_changed(old.id); END;",
    ))
    .map_err(sql)?;
    Ok(changed)
}
