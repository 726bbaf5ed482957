//! Names that a truncating writer was sent to look up anew, because readers have the old bytes open.
//! The kernel does that once: were a reader quicker there, too, the writer would be told that its
//! file is stale. So readers let it go first, for a moment.

use std::time::Duration;

use tokio::sync::Notify;

use super::moments::Moments;
use crate::index::NodeId;

/// Longer than the way to the kernel and back, which the writer may not come by any more.
const MOMENT: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Awaited {
    ids: Moments<NodeId, ()>,
    came: Notify,
}

impl Awaited {
    /// Its writer was sent to look for it.
    pub fn expect(&self, id: NodeId) {
        self.ids.put(id, MOMENT, ());
    }

    /// It came.
    pub fn came(&self, id: NodeId) {
        if !self.ids.take(Some(&id)).is_empty() {
            self.came.notify_waiters();
        }
    }

    /// Whether the writer of `id` is on its way.
    pub fn is_awaited(&self, id: NodeId) -> bool {
        self.ids.get(&id, |(), _| ()).is_some()
    }

    /// Ends when it came, or is not waited for any more.
    pub async fn wait(&self, id: NodeId) {
        loop {
            let came = self.came.notified();
            let Some(until) = self.ids.get(&id, |(), until| until) else {
                return;
            };
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
