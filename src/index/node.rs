//! Rows as values: what the index says of one name, and how it is read.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::schema::sql;
use crate::error::{Error, Kind, Result};
use crate::object::{Arrival, Meta, Sha256, Version};
pub use crate::object::{NodeId, RemoteId};
use crate::path::{Name, RelPath};

/// The root of the namespace.
pub const ROOT: NodeId = NodeId(1);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    File,
    Dir,
    Symlink,
}

/// Whether the store has a node's bytes. For a directory: whether it was made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No.
    None,
    /// All of them, of the version the node shows.
    Whole,
    /// All of an older version, kept until the new one is here.
    Stale,
}

/// Whether a stored file is being changed in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    No,
    /// A writer has, or had, it open.
    Open,
    /// A writer was killed in the middle; not published until written again.
    Torn,
}

/// A stored file as it was when last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub mtime_ns: i64,
    pub ino: u64,
    pub ctime_ns: i64,
}

/// One name of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub parent: NodeId,
    /// None for the root.
    pub name: Option<Name>,
    pub kind: NodeKind,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub sha256: Option<Sha256>,
    /// The remote and version that size, time and hash are from; none for a local file.
    pub origin: Option<(RemoteId, Version)>,
    pub held: Held,
    pub seen: Option<Seen>,
    /// 0 if clean, else the generation of the last local write.
    pub dirty: u64,
    pub writing: Writing,
    /// Whether the time was set on purpose, so that it must travel even if the bytes need not.
    pub touched: bool,
    pub pinned: bool,
}

/// What a listing shows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub id: NodeId,
    pub kind: NodeKind,
    pub held: Held,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// What one remote has of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub remote: RemoteId,
    pub key: RelPath,
    /// None for a whiteout: deleted here, untouched there.
    pub node: Option<NodeId>,
    pub meta: Meta,
}

impl Replica {
    /// Whether the replica's bytes are those the node shows, as far as can be told without reading them.
    pub fn matches(&self, node: &Node) -> bool {
        if node.origin.as_ref() == Some(&(self.remote, self.meta.version.clone())) {
            return true;
        }
        let meta = &self.meta;
        same_bytes((meta.size, meta.mtime_ns, meta.sha256), node.bytes())
    }

    /// Whether the replica's bytes may be those the node shows, and only asking the remote for the
    /// object can tell.
    pub fn may_match(&self, node: &Node) -> bool {
        self.meta.is_rough()
            && self.meta.sha256.is_none()
            && self.meta.size == node.size
            && !self.matches(node)
    }
}

/// Whether two descriptions can be taken for the same bytes: equal hashes where both are known,
/// else equal sizes and times.
pub fn same_bytes(a: (u64, i64, Option<Sha256>), b: (u64, i64, Option<Sha256>)) -> bool {
    match (a.2, b.2) {
        (Some(x), Some(y)) => x == y,
        _ => a.0 == b.0 && a.1 == b.1,
    }
}

/// The columns that [`node_of`] reads.
macro_rules! node_columns {
    () => {
        "id, parent, name, kind, size, mtime_ns, ctime_ns, mode, uid, gid, sha256, origin, version, held, \
         seen_size, seen_mtime_ns, seen_ino, seen_ctime_ns, dirty, writing, touched, pinned"
    };
}
pub(super) use node_columns;

/// `SELECT`s them, then goes on with the rest of the query.
macro_rules! select_node {
    ($rest:literal) => {
        concat!("SELECT ", $crate::index::node::node_columns!(), " ", $rest)
    };
}
pub(super) use select_node;

/// `SELECT`s the columns that `entry_of` reads.
macro_rules! select_entry {
    ($rest:literal) => {
        concat!(
            "SELECT name, id, kind, held, size, mtime_ns, ctime_ns, mode, uid, gid FROM nodes ",
            $rest
        )
    };
}

/// `SELECT`s the columns that `replica_of` reads.
macro_rules! select_replica {
    ($rest:literal) => {
        concat!(
            "SELECT r.remote, r.key, r.node, r.version, r.size, r.mtime_ns, r.sha256, ",
            "r.arrived_ns, r.rough FROM replicas r ",
            $rest
        )
    };
}

fn corrupt(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("index: bad {what}"))
}

fn kind_of(n: i64) -> Result<NodeKind> {
    match n {
        0 => Ok(NodeKind::File),
        1 => Ok(NodeKind::Dir),
        2 => Ok(NodeKind::Symlink),
        _ => Err(corrupt("kind")),
    }
}

impl Node {
    /// What its bytes are told by.
    fn bytes(&self) -> (u64, i64, Option<Sha256>) {
        (self.size, self.mtime_ns, self.sha256)
    }

    /// Whether a stored file that looks like `now` has the bytes it had when it was last noted. While it
    /// is changed in place, another name or time must not pass for the end of that: a kill would leave
    /// half of the change as what was there before.
    pub fn has_noted_bytes(&self, now: &Seen) -> bool {
        let bytes = |seen: &Seen| (seen.size, seen.mtime_ns, seen.ino);
        self.writing != Writing::Open
            || (self.seen.as_ref()).is_none_or(|noted| bytes(noted) == bytes(now))
    }

    /// Whether what it shows can be taken for the bytes that `other` shows.
    pub fn has_bytes_of(&self, other: &Node) -> bool {
        same_bytes(self.bytes(), other.bytes())
    }
}

impl NodeKind {
    pub(super) fn code(self) -> i64 {
        match self {
            NodeKind::File => 0,
            NodeKind::Dir => 1,
            NodeKind::Symlink => 2,
        }
    }
}

impl Held {
    pub(super) fn code(self) -> i64 {
        match self {
            Held::None => 0,
            Held::Whole => 1,
            Held::Stale => 2,
        }
    }
}

fn int(row: &Row<'_>, at: usize) -> Result<i64> {
    row.get(at).map_err(sql)
}

fn optional(row: &Row<'_>, at: usize) -> Result<Option<i64>> {
    row.get(at).map_err(sql)
}

/// A user's or a group's number.
fn owner(row: &Row<'_>, at: usize) -> Result<Option<u32>> {
    Ok(optional(row, at)?.map(|n| n as u32))
}

/// Reads a row of `select_node!`.
pub(super) fn node_of(row: &Row<'_>) -> Result<Node> {
    let name = row
        .get_ref(2)
        .map_err(sql)?
        .as_bytes()
        .map_err(|_| corrupt("name"))?;
    let sha = row
        .get_ref(10)
        .map_err(sql)?
        .as_bytes_or_null()
        .map_err(|_| corrupt("hash"))?;
    let version = row
        .get_ref(12)
        .map_err(sql)?
        .as_str_or_null()
        .map_err(|_| corrupt("version"))?;
    let seen = match (
        optional(row, 14)?,
        optional(row, 15)?,
        optional(row, 16)?,
        optional(row, 17)?,
    ) {
        (Some(size), Some(mtime_ns), Some(ino), Some(ctime_ns)) => Some(Seen {
            size: size as u64,
            mtime_ns,
            ino: ino as u64,
            ctime_ns,
        }),
        _ => None,
    };
    Ok(Node {
        id: NodeId(int(row, 0)? as u64),
        parent: NodeId(int(row, 1)? as u64),
        name: if name.is_empty() {
            None
        } else {
            Some(Name::new(name)?)
        },
        kind: kind_of(int(row, 3)?)?,
        size: int(row, 4)? as u64,
        mtime_ns: int(row, 5)?,
        ctime_ns: int(row, 6)?,
        mode: int(row, 7)? as u32,
        uid: owner(row, 8)?,
        gid: owner(row, 9)?,
        sha256: sha.map(Sha256::from_slice).transpose()?,
        origin: match (optional(row, 11)?, version) {
            (Some(remote), Some(version)) => {
                Some((RemoteId(remote as u32), Version::new(version)?))
            }
            _ => None,
        },
        held: held_of(int(row, 13)?)?,
        seen,
        dirty: int(row, 18)? as u64,
        writing: match int(row, 19)? {
            0 => Writing::No,
            1 => Writing::Open,
            2 => Writing::Torn,
            _ => return Err(corrupt("writing")),
        },
        touched: int(row, 20)? != 0,
        pinned: int(row, 21)? != 0,
    })
}

fn held_of(n: i64) -> Result<Held> {
    match n {
        0 => Ok(Held::None),
        1 => Ok(Held::Whole),
        2 => Ok(Held::Stale),
        _ => Err(corrupt("held")),
    }
}

fn entry_of(row: &Row<'_>) -> Result<Entry> {
    Ok(Entry {
        id: NodeId(int(row, 1)? as u64),
        kind: kind_of(int(row, 2)?)?,
        held: held_of(int(row, 3)?)?,
        size: int(row, 4)? as u64,
        mtime_ns: int(row, 5)?,
        ctime_ns: int(row, 6)?,
        mode: int(row, 7)? as u32,
        uid: owner(row, 8)?,
        gid: owner(row, 9)?,
    })
}

fn replica_of(row: &Row<'_>) -> Result<Replica> {
    let sha: Option<Vec<u8>> = row.get(6).map_err(sql)?;
    Ok(Replica {
        remote: RemoteId(row.get(0).map_err(sql)?),
        key: RelPath::new(
            row.get_ref(1)
                .map_err(sql)?
                .as_bytes()
                .map_err(|_| corrupt("key"))?,
        )?,
        node: row
            .get::<_, Option<i64>>(2)
            .map_err(sql)?
            .map(|n| NodeId(n as u64)),
        meta: Meta {
            size: row.get::<_, i64>(4).map_err(sql)? as u64,
            mtime_ns: row.get(5).map_err(sql)?,
            version: Version::new(
                row.get_ref(3)
                    .map_err(sql)?
                    .as_str()
                    .map_err(|_| corrupt("version"))?,
            )?,
            sha256: sha.as_deref().map(Sha256::from_slice).transpose()?,
            revision: None,
            arrival: arrival_of(row)?,
        },
    })
}

fn arrival_of(row: &Row<'_>) -> Result<Option<Arrival>> {
    let at_ns: Option<i64> = row.get(7).map_err(sql)?;
    let only = row.get(8).map_err(sql)?;
    Ok(at_ns.map(|at_ns| Arrival { at_ns, only }))
}

/// Runs a query whose rows become values; rows that cannot be read are errors.
pub(super) fn rows<T>(
    c: &Connection,
    query: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    let mut cursor = statement.query(params).map_err(sql)?;
    let mut out = Vec::new();
    while let Some(row) = cursor.next().map_err(sql)? {
        out.push(read(row)?);
    }
    Ok(out)
}

fn one<T>(
    c: &Connection,
    query: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = c.prepare_cached(query).map_err(sql)?;
    let mut cursor = statement.query(params).map_err(sql)?;
    match cursor.next().map_err(sql)? {
        Some(row) => read(row).map(Some),
        None => Ok(None),
    }
}

/// The node `id`.
pub fn node(c: &Connection, id: NodeId) -> Result<Option<Node>> {
    one(
        c,
        select_node!("FROM nodes WHERE id = ?1"),
        [id.0 as i64],
        node_of,
    )
}

/// The node `name` in `parent`.
pub fn child(c: &Connection, parent: NodeId, name: &[u8]) -> Result<Option<Node>> {
    let query = select_node!("FROM nodes WHERE parent = ?1 AND name = ?2");
    one(c, query, params![parent.0 as i64, name], node_of)
}

/// What a listing shows of `name` in `parent`.
pub fn entry(c: &Connection, parent: NodeId, name: &Name) -> Result<Option<Entry>> {
    let query = select_entry!("WHERE parent = ?1 AND name = ?2");
    one(
        c,
        query,
        params![parent.0 as i64, name.as_bytes()],
        entry_of,
    )
}

/// The same of up to `limit` names of `parent` after the name `after`, in byte order.
pub fn entries(
    c: &Connection,
    parent: NodeId,
    after: &[u8],
    limit: usize,
) -> Result<Vec<(Name, Entry)>> {
    let query = select_entry!("WHERE parent = ?1 AND name > ?2 ORDER BY name LIMIT ?3");
    rows(
        c,
        query,
        params![parent.0 as i64, after, limit as i64],
        |row| {
            let name = row.get_ref(0).map_err(sql)?.as_bytes();
            Ok((
                Name::new(name.map_err(|_| corrupt("name"))?)?,
                entry_of(row)?,
            ))
        },
    )
}

/// Up to `limit` nodes of `parent` after the name `after`, in byte order.
pub fn children(c: &Connection, parent: NodeId, after: &[u8], limit: usize) -> Result<Vec<Node>> {
    let query = select_node!("FROM nodes WHERE parent = ?1 AND name > ?2 ORDER BY name LIMIT ?3");
    rows(
        c,
        query,
        params![parent.0 as i64, after, limit as i64],
        node_of,
    )
}

/// The nodes of `parent` that the store holds something of.
pub fn held_children(c: &Connection, parent: NodeId) -> Result<Vec<Node>> {
    let query = select_node!("FROM nodes WHERE parent = ?1 AND held <> 0");
    rows(c, query, [parent.0 as i64], node_of)
}

/// Up to `limit` directories in `parent` after the name `after`, in byte order.
pub fn child_dirs(
    c: &Connection,
    parent: NodeId,
    after: &[u8],
    limit: usize,
) -> Result<Vec<(NodeId, Vec<u8>)>> {
    let query = "SELECT id, name FROM nodes WHERE parent = ?1 AND name > ?2 AND kind = 1 ORDER BY name LIMIT ?3";
    rows(
        c,
        query,
        params![parent.0 as i64, after, limit as i64],
        |row| {
            let id: i64 = row.get(0).map_err(sql)?;
            Ok((NodeId(id as u64), row.get(1).map_err(sql)?))
        },
    )
}

/// Whether something that a remote has is hidden under `path`.
pub fn is_hidden(c: &Connection, path: &RelPath) -> Result<bool> {
    let query = "SELECT 1 FROM remotes m JOIN replicas r ON r.remote = m.id
                 WHERE r.key = ?1 AND r.node IS NULL LIMIT 1";
    Ok(one(c, query, [path.as_bytes()], |_| Ok(()))?.is_some())
}

/// Up to `limit` directories whose numbers are above `after`, in order.
pub fn dirs_after(c: &Connection, after: NodeId, limit: usize) -> Result<Vec<NodeId>> {
    let query = "SELECT id FROM nodes WHERE kind = 1 AND id > ?1 ORDER BY id LIMIT ?2";
    rows(c, query, params![after.0 as i64, limit as i64], |row| {
        Ok(NodeId(row.get::<_, i64>(0).map_err(sql)? as u64))
    })
}

/// The path of a node; none if it, or an ancestor, is gone.
pub fn path(c: &Connection, id: NodeId) -> Result<Option<RelPath>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = id;
    let mut statement = c
        .prepare_cached("SELECT parent, name FROM nodes WHERE id = ?1")
        .map_err(sql)?;
    while at != ROOT {
        let step: Option<(i64, Vec<u8>)> = statement
            .query_row([at.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(sql)?;
        let Some((parent, name)) = step else {
            return Ok(None);
        };
        names.push(name);
        if names.len() > crate::path::PATH_MAX / 2 {
            return Err(corrupt("parent: a loop"));
        }
        at = NodeId(parent as u64);
    }
    names.reverse();
    RelPath::new(&names.join(&b'/')).map(Some)
}

/// The node at `path`.
pub fn resolve(c: &Connection, path: &RelPath) -> Result<Option<Node>> {
    let mut at = node(c, ROOT)?;
    for name in path.components() {
        let Some(parent) = at else { return Ok(None) };
        at = child(c, parent.id, name)?;
    }
    Ok(at)
}

/// The node's replicas, in the mount's order of remotes.
pub fn replicas(c: &Connection, id: NodeId) -> Result<Vec<Replica>> {
    let query = select_replica!(
        "JOIN remotes m ON m.id = r.remote WHERE r.node = ?1 ORDER BY m.position, r.key"
    );
    rows(c, query, [id.0 as i64], replica_of)
}

/// Whether any remote has something of the node.
pub fn has_replicas(c: &Connection, id: NodeId) -> Result<bool> {
    let query = "SELECT 1 FROM replicas WHERE node = ?1 LIMIT 1";
    Ok(one(c, query, [id.0 as i64], |_| Ok(()))?.is_some())
}

/// Whether a remote that the mount has, has something of the node.
pub fn is_at_a_remote(c: &Connection, id: NodeId) -> Result<bool> {
    let query = "SELECT 1 FROM replicas r JOIN remotes m ON m.id = r.remote
                 WHERE r.node = ?1 AND m.position >= 0 LIMIT 1";
    Ok(one(c, query, [id.0 as i64], |_| Ok(()))?.is_some())
}

/// The replica under `key` at `remote`.
pub fn replica(c: &Connection, remote: RemoteId, key: &RelPath) -> Result<Option<Replica>> {
    let query = select_replica!("WHERE r.remote = ?1 AND r.key = ?2");
    one(c, query, params![remote.0, key.as_bytes()], replica_of)
}

/// Up to `limit` replicas of `remote` after `key`, in byte order.
pub fn replicas_after(
    c: &Connection,
    remote: RemoteId,
    key: &[u8],
    limit: usize,
) -> Result<Vec<Replica>> {
    let query = select_replica!("WHERE r.remote = ?1 AND r.key > ?2 ORDER BY r.key LIMIT ?3");
    rows(c, query, params![remote.0, key, limit as i64], replica_of)
}

/// Where keys beneath `path` begin, and where they have ended, in byte order.
pub(super) fn beneath(path: &RelPath) -> (Vec<u8>, Vec<u8>) {
    let mut low = path.as_bytes().to_vec();
    if !low.is_empty() {
        low.push(b'/');
    }
    // Every key beneath `p/` sorts before `p0`, for `0` follows `/`.
    let mut high = low.clone();
    match high.last_mut() {
        Some(last) => *last += 1,
        None => high = vec![0xff; 8],
    }
    (low, high)
}

/// Whiteouts at `path` and beneath it, up to `limit`.
pub fn whiteouts(c: &Connection, path: &RelPath, limit: usize) -> Result<Vec<Replica>> {
    let (low, high) = beneath(path);
    let exact = path.as_bytes();
    let query = select_replica!(
        "WHERE r.node IS NULL AND (r.key = ?1 OR (r.key >= ?2 AND r.key < ?3)) ORDER BY r.key LIMIT ?4"
    );
    rows(
        c,
        query,
        params![exact, low, high, limit as i64],
        replica_of,
    )
}
