//! What remotes tell us, applied: changes become rows, rows become names.

use rusqlite::params;

use super::node::{self, Held, Node, NodeId, NodeKind, ROOT, RemoteId, Replica, same_bytes};
use super::schema::sql;
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::object::{Change, Cursor, Meta, Object, Version};
use crate::path::{Name, RelPath};

/// What applying a batch of changes came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    pub changed: u64,
    pub removed: u64,
    pub refused: u64,
}

/// Where a remote's facts stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRow {
    pub id: RemoteId,
    pub url: String,
    pub upload: bool,
    pub cursor: Option<Cursor>,
    /// When a whole listing was last taken, in milliseconds since 1970.
    pub listed_ms: Option<i64>,
    pub refused: u64,
    pub files: u64,
    pub bytes: u64,
    /// Whiteouts: there, but deleted here.
    pub hidden: u64,
}

/// The remotes of the mount, in order.
pub fn remotes(c: &rusqlite::Connection) -> Result<Vec<RemoteRow>> {
    let query =
        "SELECT id, url, upload, epoch, seq, listed_ms, refused, files, bytes, hidden FROM remotes
                 WHERE position >= 0 ORDER BY position";
    node::rows(c, query, [], |row| {
        let epoch: Option<String> = row.get(3).map_err(sql)?;
        let seq: Option<i64> = row.get(4).map_err(sql)?;
        Ok(RemoteRow {
            id: RemoteId(row.get(0).map_err(sql)?),
            url: row.get(1).map_err(sql)?,
            upload: row.get::<_, i64>(2).map_err(sql)? != 0,
            cursor: epoch.zip(seq).map(|(epoch, seq)| Cursor {
                epoch,
                seq: seq as u64,
            }),
            listed_ms: row.get(5).map_err(sql)?,
            refused: row.get::<_, i64>(6).map_err(sql)? as u64,
            files: row.get::<_, i64>(7).map_err(sql)?.max(0) as u64,
            bytes: row.get::<_, i64>(8).map_err(sql)?.max(0) as u64,
            hidden: row.get::<_, i64>(9).map_err(sql)?.max(0) as u64,
        })
    })
}

impl Writer {
    /// Says which remotes the mount has, in order. Remotes it had before and has no more are
    /// parked: their rows stay until [`part_with_some`](Writer::part_with_some) took them.
    pub fn set_remotes(&mut self, wanted: &[(String, bool)]) -> Result<Vec<RemoteRow>> {
        self.run_sql("UPDATE remotes SET position = -1, upload = 0", [])?;
        for (position, (url, upload)) in wanted.iter().enumerate() {
            self.run_sql(
                "INSERT INTO remotes(url, position, upload) VALUES (?1, ?2, ?3)
                 ON CONFLICT(url) DO UPDATE SET position = excluded.position, upload = excluded.upload",
                params![url, position as i64, upload],
            )?;
        }
        let found = remotes(&self.c)?;
        self.remotes = found.iter().map(|r| (r.id, r.upload)).collect();
        Ok(found)
    }

    /// Applies changes in order; `cursor`, if given, is stored in the same transaction.
    pub fn apply(
        &mut self,
        remote: RemoteId,
        changes: &[Change],
        cursor: Option<&Cursor>,
        now_ns: i64,
    ) -> Result<Applied> {
        let mut applied = Applied::default();
        for change in changes {
            match change {
                Change::Put(object) => match self.apply_put(remote, object, now_ns) {
                    Ok(changed) => applied.changed += u64::from(changed),
                    Err(error) if error.kind() == Kind::Invalid => applied.refused += 1,
                    Err(error) => return Err(error),
                },
                Change::Deleted(key, since) => {
                    let gone = !self.is_older(remote, key, since.as_ref())?
                        && self.apply_deleted(remote, key, now_ns)?;
                    applied.removed += u64::from(gone);
                }
                Change::Refused { .. } => applied.refused += 1,
            }
        }
        if applied.refused > 0 {
            self.run_sql(
                "UPDATE remotes SET refused = refused + ?2 WHERE id = ?1",
                params![remote.0, applied.refused as i64],
            )?;
        }
        if let Some(cursor) = cursor {
            self.run_sql(
                "UPDATE remotes SET epoch = ?2, seq = ?3 WHERE id = ?1",
                params![remote.0, cursor.epoch, cursor.seq as i64],
            )?;
        }
        Ok(applied)
    }

    /// How many files of the remote are known.
    pub fn names_of(&self, remote: RemoteId) -> Result<u64> {
        let query = "SELECT files FROM remotes WHERE id = ?1";
        let mut prepared = self.c.prepare_cached(query).map_err(sql)?;
        let files: i64 = prepared
            .query_row([remote.0], |row| row.get(0))
            .map_err(sql)?;
        Ok(files.max(0) as u64)
    }

    /// One object as its remote has it now, for it was asked for; none for none. Nothing is done if
    /// what is known of it is not `known` any more: that is newer.
    pub fn correct(
        &mut self,
        remote: RemoteId,
        key: &RelPath,
        known: Option<&Version>,
        found: Option<Meta>,
        now_ns: i64,
    ) -> Result<()> {
        let now = node::replica(&self.c, remote, key)?.map(|r| r.meta.version);
        if now.as_ref() != known {
            return Ok(());
        }
        let change = match found {
            Some(meta) => Change::Put(Object {
                key: key.clone(),
                meta,
            }),
            None => Change::Deleted(key.clone(), None),
        };
        self.apply(remote, &[change], None, now_ns).map(drop)
    }

    /// A directory that a remote without a listing may have things in. Goes with the first listing,
    /// if nothing turned up in it.
    pub fn guess_dir(&mut self, key: &RelPath, now_ns: i64) -> Result<()> {
        let (Some(parent), Some(name)) = (key.parent(), key.file_name()) else {
            return Ok(());
        };
        let Some(parent) = node::resolve(&self.c, &parent)? else {
            return Ok(());
        };
        if node::child(&self.c, parent.id, name.as_bytes())?.is_none() {
            let id = self.insert_dir(parent.id, &name, now_ns)?;
            self.guessed.push(id);
        }
        Ok(())
    }

    /// Takes the directories away that were guessed and that nothing turned up in.
    fn drop_guesses(&mut self, now_ns: i64) -> Result<()> {
        while let Some(id) = self.guessed.pop() {
            let Some(dir) = node::node(&self.c, id)? else {
                continue;
            };
            if dir.held != Held::None || !node::children(&self.c, id, b"", 1)?.is_empty() {
                continue;
            }
            self.drop_node(&dir)?;
            if let Some(name) = &dir.name {
                self.tell(dir.parent, name);
            }
            self.touch_dir(dir.parent, now_ns)?;
        }
        Ok(())
    }

    /// A whole listing begins: what it refuses is counted anew. What we publish from here on it
    /// may not know; see [`apply_listing`](Writer::apply_listing).
    pub fn listing_begins(&mut self, remote: RemoteId) -> Result<u64> {
        self.run_sql("UPDATE remotes SET refused = 0 WHERE id = ?1", [remote.0])?;
        Ok(self.fresh_generation())
    }

    /// The remote does not know the number that its changes had come to: it may have been put back to
    /// what it was, and counts from there. Its numbers from before say nothing about those to come.
    pub fn forget_order(&mut self, remote: RemoteId) -> Result<()> {
        let query = "UPDATE replicas SET seq = 0 WHERE remote = ?1 AND seq <> 0";
        self.run_sql(query, [remote.0]).map(drop)
    }

    /// Applies what a listing that began at `begun` came to. What was published from here since
    /// then is newer than the listing, and stays.
    pub fn apply_listing(
        &mut self,
        remote: RemoteId,
        changes: &[Change],
        begun: u64,
        now_ns: i64,
    ) -> Result<Applied> {
        let older = self.not_sent_since(remote, changes, begun)?;
        self.apply(remote, &older, None, now_ns)
    }

    /// What is not of names that something was published to from here since `begun`.
    pub(super) fn not_sent_since(
        &self,
        remote: RemoteId,
        changes: &[Change],
        begun: u64,
    ) -> Result<Vec<Change>> {
        let mut older = Vec::with_capacity(changes.len());
        for change in changes {
            let key = match change {
                Change::Put(object) => &object.key,
                Change::Deleted(key, _) => key,
                Change::Refused { .. } => {
                    older.push(change.clone());
                    continue;
                }
            };
            if self.sent_at(remote, key)? <= begun {
                older.push(change.clone());
            }
        }
        Ok(older)
    }

    fn sent_at(&self, remote: RemoteId, key: &RelPath) -> Result<u64> {
        let found = node::rows(
            &self.c,
            "SELECT sent FROM replicas WHERE remote = ?1 AND key = ?2",
            params![remote.0, key.as_bytes()],
            |row| row.get::<_, i64>(0).map_err(sql),
        )?;
        Ok(found.first().map_or(0, |n| *n as u64))
    }

    /// A whole listing was applied; the remote's changes go on from `cursor`.
    pub fn listing_ends(&mut self, remote: RemoteId, cursor: &Cursor, now_ms: i64) -> Result<()> {
        self.run_sql(
            "UPDATE replicas SET seq = 0 WHERE remote = ?1 AND seq <> 0
             AND NOT EXISTS(SELECT 1 FROM remotes WHERE id = ?1 AND epoch = ?2)",
            params![remote.0, cursor.epoch],
        )?;
        self.run_sql(
            "UPDATE remotes SET epoch = ?2, seq = ?3, listed_ms = ?4 WHERE id = ?1",
            params![remote.0, cursor.epoch, cursor.seq as i64, now_ms],
        )?;
        self.drop_guesses(now_ms * 1_000_000)
    }

    fn apply_put(&mut self, remote: RemoteId, object: &Object, now_ns: i64) -> Result<bool> {
        if self.is_older(remote, &object.key, object.meta.revision.as_ref())? {
            return Ok(false);
        }
        let known = node::replica(&self.c, remote, &object.key)?;
        if let Some(known) = &known {
            if known.meta.version == object.meta.version {
                return self.learn(known, &object.meta, now_ns);
            }
            if known.node.is_none() && self.is_recalled(remote, object, now_ns)? {
                return Ok(true);
            }
            return self.apply_new_version(known, object, now_ns);
        }
        if !self.is_recalled(remote, object, now_ns)? {
            self.enter_put(remote, object, now_ns)?;
        }
        Ok(true)
    }

    /// A remote's file that the namespace does not have yet.
    pub(super) fn enter_put(
        &mut self,
        remote: RemoteId,
        object: &Object,
        now_ns: i64,
    ) -> Result<()> {
        let name = object
            .key
            .file_name()
            .ok_or_else(|| refuse("the root is not a file"))?;
        let parent = match self.make_parents(&object.key, now_ns) {
            Err(error) if error.kind() == Kind::Invalid => {
                return self.store_behind(remote, object);
            }
            done => done?,
        };
        match node::child(&self.c, parent, name.as_bytes())? {
            None => self.insert_remote_file(remote, object, parent, &name, now_ns)?,
            Some(node) if node.kind == NodeKind::File => {
                self.store_replica(remote, &object.key, Some(node.id), &object.meta)?;
                self.meet(&node, remote, object, now_ns)?;
                self.follow(node.id, now_ns)?;
            }
            Some(_) => self.store_behind(remote, object)?,
        }
        Ok(())
    }

    fn apply_new_version(&mut self, known: &Replica, object: &Object, now_ns: i64) -> Result<bool> {
        let node = match known.node {
            Some(id) => node::node(&self.c, id)?,
            None => None,
        };
        let kept = match &node {
            Some(node) => self.keep_moved(node, &object.key)?,
            None => false,
        };
        let owner = node.filter(|_| !kept).map(|n| n.id);
        self.store_replica(known.remote, &object.key, owner, &object.meta)?;
        if kept {
            self.run_sql(
                "UPDATE replicas SET base = ?3 WHERE remote = ?1 AND key = ?2",
                params![
                    known.remote.0,
                    object.key.as_bytes(),
                    known.meta.version.as_str()
                ],
            )?;
        }
        if let Some(id) = owner {
            self.follow(id, now_ns)?;
        }
        Ok(true)
    }

    pub(super) fn store_replica(
        &mut self,
        remote: RemoteId,
        key: &RelPath,
        node: Option<NodeId>,
        meta: &Meta,
    ) -> Result<()> {
        let seq = self.seq_of(remote, meta.revision.as_ref())?;
        self.run_sql(
            "INSERT INTO replicas(remote, key, node, version, size, mtime_ns, sha256, seq, arrived_ns, rough)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT(remote, key) DO UPDATE SET node = excluded.node, version = excluded.version,
             size = excluded.size, mtime_ns = excluded.mtime_ns, sha256 = excluded.sha256, seq = excluded.seq,
             behind = behind AND excluded.node IS NULL, arrived_ns = excluded.arrived_ns, rough = excluded.rough,
             base = CASE WHEN excluded.node IS NULL THEN base WHEN base = version AND size = excluded.size
             AND (sha256 = excluded.sha256 OR mtime_ns = excluded.mtime_ns) THEN excluded.version END",
            params![
                remote.0,
                key.as_bytes(),
                node.map(|n| n.0 as i64),
                meta.version.as_str(),
                meta.size as i64,
                meta.mtime_ns,
                meta.sha256.map(|h| h.0.to_vec()),
                seq,
                meta.arrival.map(|a| a.at_ns),
                meta.is_rough()
            ],
        )?;
        Ok(())
    }

    /// The directory that `key` is in; what is missing of it is made.
    pub(super) fn make_parents(&mut self, key: &RelPath, now_ns: i64) -> Result<NodeId> {
        let parent = key.parent().unwrap_or_default();
        if let Some((last, id)) = &self.last_parent
            && *last == parent
        {
            return Ok(*id);
        }
        let mut at = ROOT;
        for bytes in parent.components() {
            let name = Name::new(bytes)?;
            at = match node::child(&self.c, at, bytes)? {
                Some(dir) if dir.kind == NodeKind::Dir => dir.id,
                Some(_) => return Err(refuse("a file has the name of its directory")),
                None => self.insert_dir(at, &name, now_ns)?,
            };
        }
        self.last_parent = Some((parent, at));
        Ok(at)
    }

    fn insert_dir(&mut self, parent: NodeId, name: &Name, now_ns: i64) -> Result<NodeId> {
        let id = self.fresh_id();
        self.run_sql(
            "INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, held)
             VALUES (?1, ?2, ?3, 1, 0, ?4, ?4, 493, 0)",
            params![id.0 as i64, parent.0 as i64, name.as_bytes(), now_ns],
        )?;
        self.touch_dir(parent, now_ns)?;
        self.tell(parent, name);
        Ok(id)
    }

    pub(super) fn insert_remote_file(
        &mut self,
        remote: RemoteId,
        object: &Object,
        parent: NodeId,
        name: &Name,
        now_ns: i64,
    ) -> Result<()> {
        let id = self.fresh_id();
        let meta = &object.meta;
        self.run_sql(
            "INSERT INTO nodes(id, parent, name, kind, size, mtime_ns, ctime_ns, mode, sha256, origin, version)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, 420, ?7, ?8, ?9)",
            params![
                id.0 as i64, parent.0 as i64, name.as_bytes(), meta.size as i64, meta.mtime_ns, now_ns,
                meta.sha256.map(|h| h.0.to_vec()), remote.0, meta.version.as_str()
            ],
        )?;
        self.store_replica(remote, &object.key, Some(id), meta)?;
        // A new time tells the kernel that a listing it was still reading is out of date.
        self.touch_dir(parent, now_ns)?;
        self.tell(parent, name);
        Ok(())
    }

    /// A local file and a remote's file of the same path meet: equal bytes are no conflict, and
    /// a local file that never had a version has this one from now on.
    fn meet(&mut self, node: &Node, remote: RemoteId, object: &Object, now_ns: i64) -> Result<()> {
        let meta = &object.meta;
        let same = same_bytes(
            (meta.size, meta.mtime_ns, meta.sha256),
            (node.size, node.mtime_ns, node.sha256),
        );
        if node.dirty == 0 || node.held != Held::Whole || !same {
            return Ok(());
        }
        self.run_sql(
            "DELETE FROM outbox WHERE node = ?1 AND remote = ?2",
            params![node.id.0 as i64, remote.0],
        )?;
        // Renamed here, and it is there under the new name: as when the upload's answer comes.
        self.leave_old_names(node, remote, &object.key, now_ns)?;
        if super::outbox::is_queued(&self.c, node.id)? {
            return Ok(());
        }
        self.run_sql(
            "UPDATE nodes SET dirty = 0, touched = 0, origin = ?2, version = ?3, sha256 = coalesce(sha256, ?4) WHERE id = ?1",
            params![
                node.id.0 as i64, remote.0, meta.version.as_str(), meta.sha256.map(|h| h.0.to_vec())
            ],
        )?;
        Ok(())
    }

    pub(super) fn apply_deleted(
        &mut self,
        remote: RemoteId,
        key: &RelPath,
        now_ns: i64,
    ) -> Result<bool> {
        let Some(known) = node::replica(&self.c, remote, key)? else {
            return Ok(false);
        };
        self.run_sql(
            "DELETE FROM replicas WHERE remote = ?1 AND key = ?2",
            params![remote.0, key.as_bytes()],
        )?;
        let Some(id) = known.node else {
            return Ok(true);
        };
        self.lost_replica(id, key, now_ns)?;
        Ok(true)
    }

    /// A clean file that no remote has any more goes, and so do directories that were only its path.
    pub(super) fn remove_remote_file(&mut self, node: &Node, now_ns: i64) -> Result<()> {
        let path = node::path(&self.c, node.id)?;
        if let (Some(seen), Some(path)) = (&node.seen, &path)
            && node.held != Held::None
        {
            self.run_sql(
                "INSERT OR REPLACE INTO doomed(path, size, mtime_ns, ino) VALUES (?1, ?2, ?3, ?4)",
                params![
                    path.as_bytes(),
                    seen.size as i64,
                    seen.mtime_ns,
                    seen.ino as i64
                ],
            )?;
        }
        if let Some(path) = &path {
            // Nobody here deleted it: a copy under its new name, if it did arrive, is to be seen.
            self.run_sql("DELETE FROM attempts WHERE key = ?1", [path.as_bytes()])?;
        }
        self.drop_node(node)?;
        if let Some(name) = &node.name {
            self.tell(node.parent, name);
        }
        self.touch_dir(node.parent, now_ns)?;
        if let Some(path) = path {
            self.show_what_was_behind(&path, now_ns)?;
        }
        self.prune_up(node.parent, now_ns)
    }

    /// Directories that were only the path of what is gone go, from `at` upwards.
    pub(super) fn prune_up(&mut self, mut at: NodeId, now_ns: i64) -> Result<()> {
        while at != ROOT {
            let Some(dir) = node::node(&self.c, at)? else {
                break;
            };
            if dir.held != Held::None || !node::children(&self.c, at, b"", 1)?.is_empty() {
                break;
            }
            let path = node::path(&self.c, at)?;
            self.drop_node(&dir)?;
            if let Some(name) = &dir.name {
                self.tell(dir.parent, name);
            }
            if let Some(path) = path {
                self.show_what_was_behind(&path, now_ns)?;
            }
            at = dir.parent;
        }
        Ok(())
    }
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Invalid, why)
}
