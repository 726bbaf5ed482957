//! A remote whose answers can be kept back: between what was done there and what is known of it
//! here, anything may happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use larder::backends::memory::Memory;
use larder::backends::{Backend, Capabilities, Changes, Copying, Download, Upload};
use larder::error::Result;
use larder::object::{ByteRange, Cursor, Listed, Meta, Precondition, Version};
use larder::path::RelPath;
use tokio::sync::{mpsc, watch};

/// Which puts wait, and where.
#[derive(Debug, Clone)]
pub struct Hold {
    /// None for all.
    pub key: Option<RelPath>,
    /// On their way there, and not on the way back.
    pub before: bool,
}

#[derive(Clone)]
pub struct Gate {
    memory: Memory,
    hold: Arc<watch::Sender<Option<Hold>>>,
    waiting: Arc<AtomicUsize>,
}

/// A put that waits, until it is let through or given up.
struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    pub fn new(memory: Memory) -> Gate {
        Gate {
            memory,
            hold: Arc::new(watch::channel(None).0),
            waiting: Arc::default(),
        }
    }

    pub fn set(&self, hold: Option<Hold>) {
        self.hold.send_replace(hold);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self, key: &RelPath, before: bool) {
        let holds = |hold: &Option<Hold>| {
            let hold = hold.as_ref();
            let same = |hold: &Hold| hold.key.as_ref().is_none_or(|held| held == key);
            hold.is_some_and(|hold| same(hold) && hold.before == before)
        };
        let mut hold = self.hold.subscribe();
        if !holds(&hold.borrow_and_update()) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waits = Waits(self.waiting.clone());
        // The sender lives as long as `self`.
        let _ = hold.wait_for(|hold| !holds(hold)).await;
    }
}

#[async_trait]
impl Backend for Gate {
    async fn capabilities(&self) -> Result<Capabilities> {
        self.memory.capabilities().await
    }

    async fn list(&self, batches: mpsc::Sender<Vec<Listed>>) -> Result<Cursor> {
        self.memory.list(batches).await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes> {
        self.memory.changes(since, wait).await
    }

    async fn head(&self, key: &RelPath) -> Result<Option<Meta>> {
        self.memory.head(key).await
    }

    async fn get(
        &self,
        key: &RelPath,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Download> {
        self.memory.get(key, range, version).await
    }

    async fn put(&self, key: &RelPath, upload: Upload, precondition: Precondition) -> Result<Meta> {
        self.pass(key, true).await;
        let answer = self.memory.put(key, upload, precondition).await;
        self.pass(key, false).await;
        answer
    }

    async fn copy(
        &self,
        key: &RelPath,
        copying: Copying,
        precondition: Precondition,
    ) -> Result<Meta> {
        self.pass(key, true).await;
        let answer = self.memory.copy(key, copying, precondition).await;
        self.pass(key, false).await;
        answer
    }

    async fn delete(&self, key: &RelPath, version: Option<&Version>) -> Result<()> {
        self.memory.delete(key, version).await
    }
}
