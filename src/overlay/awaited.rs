//! Names that a truncating writer was sent to look up anew, because readers have the old bytes open.
//! The kernel does that once: were a reader quicker there, too, the writer would be told that its
//! file is stale. So readers let it go first, for a moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::index::NodeId;

/// Longer than the way to the kernel and back, which the writer may not come by any more.
const MOMENT: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Awaited {
    /// Until when each is waited for.
    ids: Mutex<HashMap<NodeId, Instant>>,
    /// How many there are, for those who only want to know that there is none.
    count: AtomicUsize,
    came: Notify,
}

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its writer was sent to look for it.
    pub fn expect(&self, id: NodeId) {
        let now = Instant::now();
        let mut ids = self.lock();
        ids.retain(|_, until| *until > now);
        ids.insert(id, now + MOMENT);
        self.count.store(ids.len(), Ordering::SeqCst);
    }

    /// It came.
    pub fn came(&self, id: NodeId) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut ids = self.lock();
            ids.remove(&id);
            self.count.store(ids.len(), Ordering::SeqCst);
            drop(ids);
            self.came.notify_waiters();
        }
    }

    /// Whether the writer of `id` is on its way.
    pub fn is_awaited(&self, id: NodeId) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.until(id).is_some()
    }

    fn until(&self, id: NodeId) -> Option<Instant> {
        let until = self.lock().get(&id).copied();
        until.filter(|until| *until > Instant::now())
    }

    /// Ends when it came, or is not waited for any more.
    pub async fn wait(&self, id: NodeId) {
        loop {
            let came = self.came.notified();
            let Some(until) = self.until(id) else { return };
            let _ = tokio::time::timeout_at(until, came).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn readers_wait_for_the_writer_and_not_for_ever() {
        let awaited = Arc::new(Awaited::default());
        let (one, other) = (NodeId(1), NodeId(2));
        awaited.wait(one).await;
        awaited.expect(one);
        assert!(awaited.is_awaited(one) && !awaited.is_awaited(other));
        awaited.wait(other).await;
        let reader = tokio::spawn({
            let awaited = awaited.clone();
            async move { awaited.wait(one).await }
        });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        awaited.came(one);
        reader.await.unwrap();
        assert!(!awaited.is_awaited(one));
        // Should it never come.
        awaited.expect(other);
        awaited.wait(other).await;
        assert!(!awaited.is_awaited(other));
    }
}
