//! What the remote in memory holds, knows, and was told to do wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use sha2::Digest;

use super::{Fault, Op};
use crate::backends::verdict::conflict;
use crate::backends::{Capabilities, Changes};
use crate::error::{Error, Kind, Result};
use crate::object::{
    Change, Cursor, Listed, Meta, Object, Precondition, Revision, Sha256, Version,
};
use crate::path::RelPath;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<RelPath, (Meta, Bytes)>,
    /// When each key last changed; the keys without an object were deleted.
    pub(super) log: BTreeMap<u64, RelPath>,
    pub(super) logged: HashMap<RelPath, u64>,
    pub(super) refused: Vec<(String, String)>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) offline: bool,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) faults: HashMap<Op, VecDeque<Fault>>,
    pub(super) calls: HashMap<Op, u64>,
}

impl State {
    pub(super) fn online(&self) -> Result<()> {
        match self.offline {
            true => Err(Error::new(Kind::Offline, "the remote is away")),
            false => Ok(()),
        }
    }

    pub(super) fn can(&self) -> Capabilities {
        self.capabilities.unwrap_or(Capabilities {
            put: true,
            conditional_put: true,
            delete: true,
            changes: true,
            listing: true,
            probe: false,
            copy: true,
            page: None,
        })
    }

    pub(super) fn cursor(&self) -> Cursor {
        let epoch = format!("epoch-{}", self.epoch);
        Cursor {
            epoch,
            seq: self.seq,
        }
    }

    pub(super) fn log(&mut self, key: &RelPath) {
        self.seq += 1;
        self.log.insert(self.seq, key.clone());
        if let Some(before) = self.logged.insert(key.clone(), self.seq) {
            self.log.remove(&before);
        }
    }

    /// What the remote's `seq`th change is called.
    pub(super) fn revision(&self, seq: u64) -> Revision {
        Revision {
            epoch: self.cursor().epoch.into(),
            seq,
        }
    }

    pub(super) fn store(&mut self, key: &RelPath, bytes: Bytes, mtime_ns: i64) -> Meta {
        self.log(key);
        let meta = Meta {
            size: bytes.len() as u64,
            mtime_ns,
            // Never the same again, also for equal bytes: the promise goes one way only.
            version: Version::numbered(self.seq),
            sha256: Some(sha256(&bytes)),
            revision: Some(self.revision(self.seq)),
            arrival: None,
        };
        self.objects.insert(key.clone(), (meta.clone(), bytes));
        meta
    }

    pub(super) fn remove(&mut self, key: &RelPath) -> bool {
        let removed = self.objects.remove(key).is_some();
        if removed {
            self.log(key);
        }
        removed
    }

    pub(super) fn check(&self, key: &RelPath, precondition: &Precondition) -> Result<()> {
        let now = self.objects.get(key).map(|(meta, _)| &meta.version);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Absent => now.is_none(),
            Precondition::Matches(version) => now == Some(version),
        };
        match holds {
            true => Ok(()),
            false => Err(conflict().about(key)),
        }
    }

    /// What a file system would refuse: a file and a directory of one name.
    pub(super) fn fits(&self, key: &RelPath) -> Result<()> {
        let mut above = key.parent();
        while let Some(parent) = above.filter(|p| !p.is_root()) {
            if self.objects.contains_key(&parent) {
                return Err(Error::new(Kind::NotADirectory, "a file is in the way").about(parent));
            }
            above = parent.parent();
        }
        let mut alike = (self.objects.range(key.clone()..).map(|(k, _)| k))
            .take_while(|k| k.as_bytes().starts_with(key.as_bytes()));
        match alike.any(|k| k != key && k.is_under(key)) {
            true => Err(Error::new(Kind::IsADirectory, "a directory is in the way").about(key)),
            false => Ok(()),
        }
    }

    pub(super) fn since(&self, since: &Cursor) -> Changes {
        let now = self.cursor();
        if !self.can().changes || since.epoch != now.epoch || since.seq > now.seq {
            return Changes::Relist;
        }
        let changed = self.log.range(since.seq + 1..);
        let changes = changed.map(|(seq, key)| match self.objects.get(key) {
            Some((meta, _)) => Change::Put(Object {
                key: key.clone(),
                meta: meta.clone(),
            }),
            None => Change::Deleted(key.clone(), Some(self.revision(*seq))),
        });
        Changes::Delta {
            changes: changes.collect(),
            cursor: now,
        }
    }

    pub(super) fn listing(&self) -> Vec<Listed> {
        let objects = self.objects.iter().map(|(key, (meta, _))| {
            Listed::Object(Object {
                key: key.clone(),
                meta: meta.clone(),
            })
        });
        let refused = self.refused.iter().cloned();
        let refused = refused.map(|(shown, why)| Listed::Refused { shown, why });
        objects.chain(refused).collect()
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}
