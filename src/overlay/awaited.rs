//! Files that somebody is on the way to who was sent to look for them anew.
//!
//! The kernel does that once: had somebody else opened or replaced the file meanwhile, he would be
//! told that it is stale. So everybody else lets him go first, for a moment.
//!
//! Where he finds another file than before, the kernel looks the name up once more before it opens
//! it, and that look waits for those who have its directory. So nobody waits for him who looks the
//! name up himself, and who renames or removes waits for a shorter time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::index::NodeId;

/// No thread has this number.
pub(super) const NOBODY: u32 = 0;
/// Longer than the way to the kernel and back, which he may not come by any more.
const MOMENT: Duration = Duration::from_millis(500);
/// The same for who holds up a directory: he who looked twice comes, whoever has it; he who looked
/// once may be held up himself.
const SURE: Duration = Duration::from_millis(2);
const UNSURE: Duration = Duration::from_micros(500);

#[derive(Default)]
pub(super) struct Awaited {
    /// Few ever.
    comers: Mutex<Vec<Comer>>,
    /// How many there are, for those who only want to know that there is none.
    count: AtomicUsize,
    came: Notify,
    came_here: Condvar,
}

struct Comer {
    /// The number of his thread.
    opener: u32,
    id: NodeId,
    writes: bool,
    /// He looked twice: what he comes for is this very file.
    is_sure: bool,
    until: Instant,
}

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, Vec<Comer>> {
        self.comers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The opener is told of the file now, and will come for it.
    pub fn expect(&self, opener: u32, id: NodeId, writes: bool) {
        let (now, mut comers) = (Instant::now(), self.lock());
        comers.retain(|comer| comer.until > now);
        let looked = comers
            .extract_if(.., |comer| comer.opener == opener)
            .count();
        comers.push(Comer {
            opener,
            id,
            writes,
            is_sure: looked > 0,
            until: now + MOMENT,
        });
        self.count.store(comers.len(), Ordering::SeqCst);
    }

    /// The opener has what he came for, or went elsewhere.
    pub fn came(&self, opener: u32) {
        if !self.is_empty() {
            let mut comers = self.lock();
            comers.retain(|comer| comer.opener != opener);
            self.count.store(comers.len(), Ordering::SeqCst);
            drop(comers);
            self.came.notify_waiters();
            self.came_here.notify_all();
        }
    }

    /// Whether nobody is on the way to anything.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Whether another than the opener is on the way to the file.
    pub fn is_awaited(&self, opener: u32, id: NodeId) -> bool {
        self.is_any(|comer| comer.opener != opener && comer.is_for(id))
    }

    /// Whether one of those looked twice, and comes whoever has the directory.
    pub fn is_due(&self, opener: u32, id: NodeId) -> bool {
        self.is_any(|comer| comer.opener != opener && comer.is_sure && comer.is_for(id))
    }

    fn is_any(&self, comes: impl Fn(&Comer) -> bool) -> bool {
        !self.is_empty() && self.lock().iter().any(comes)
    }

    /// Whether the opener has to let others come to the file first: all, if he is not awaited
    /// himself; else writers, if he is none.
    pub fn has_to_wait(&self, opener: u32, id: NodeId) -> bool {
        !self.is_empty() && turn(&self.lock(), opener, id).is_some()
    }

    /// Ends when it is the opener's turn.
    pub async fn wait(&self, opener: u32, id: NodeId) {
        loop {
            let came = self.came.notified();
            let Some(until) = turn(&self.lock(), opener, id) else {
                return;
            };
            let _ = tokio::time::timeout_at(until, came).await;
        }
    }

    /// Lets those come who are on the way to the file, for a short moment, on this thread.
    pub fn wait_here(&self, id: NodeId) {
        let mut comers = self.lock();
        for (moment, is_sure) in [(UNSURE, false), (SURE, true)] {
            let comes = |comer: &Comer| (comer.is_sure || !is_sure) && comer.is_for(id);
            let to_come = |comers: &mut Vec<Comer>| comers.iter().any(comes);
            let waited = self.came_here.wait_timeout_while(comers, moment, to_come);
            comers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Comer {
    fn is_for(&self, id: NodeId) -> bool {
        self.id == id && self.until > Instant::now()
    }
}

/// Until when the opener has to wait for others.
fn turn(comers: &[Comer], opener: u32, id: NodeId) -> Option<Instant> {
    let is_awaited = |comer: &&Comer| comer.opener == opener && comer.is_for(id);
    let own = comers.iter().find(is_awaited).map(|own| own.writes);
    let first = comers.iter().filter(|comer| {
        let goes_first = match own {
            Some(writes) => comer.writes && !writes,
            None => true,
        };
        goes_first && comer.opener != opener && comer.is_for(id)
    });
    first.map(|comer| comer.until).max()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FILE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const WRITER: u32 = 7;
    const READER: u32 = 8;
    const SOMEBODY: u32 = 9;

    #[tokio::test]
    async fn others_wait_for_who_is_awaited_and_not_for_ever() {
        let awaited = Arc::new(Awaited::default());
        awaited.wait(SOMEBODY, FILE).await;
        awaited.expect(WRITER, FILE, true);
        awaited.wait(SOMEBODY, OTHER).await;
        let waiting = tokio::spawn({
            let awaited = awaited.clone();
            async move { awaited.wait(SOMEBODY, FILE).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        awaited.came(WRITER);
        waiting.await.unwrap();
        assert!(!awaited.has_to_wait(SOMEBODY, FILE));
        // Should he never come.
        awaited.expect(WRITER, OTHER, true);
        awaited.expect(WRITER, OTHER, true);
        awaited.wait_here(OTHER);
        assert!(awaited.has_to_wait(SOMEBODY, OTHER));
        awaited.wait(SOMEBODY, OTHER).await;
        assert!(!awaited.has_to_wait(SOMEBODY, OTHER));
    }

    #[test]
    fn who_looked_once_may_look_again_and_find_another() {
        let awaited = Awaited::default();
        awaited.expect(WRITER, FILE, true);
        assert!(awaited.is_awaited(SOMEBODY, FILE) && !awaited.is_due(SOMEBODY, FILE));
        awaited.expect(WRITER, FILE, true);
        assert!(awaited.is_due(SOMEBODY, FILE));
        assert!(!awaited.is_awaited(WRITER, FILE) && !awaited.is_due(WRITER, FILE));
    }

    #[test]
    fn of_those_who_are_awaited_writers_come_first() {
        let awaited = Awaited::default();
        awaited.expect(WRITER, FILE, true);
        awaited.expect(READER, FILE, false);
        assert!(awaited.has_to_wait(SOMEBODY, FILE));
        assert!(awaited.has_to_wait(READER, FILE));
        assert!(!awaited.has_to_wait(WRITER, FILE));
        awaited.came(WRITER);
        assert!(!awaited.has_to_wait(READER, FILE));
        assert!(awaited.has_to_wait(SOMEBODY, FILE));
        // He went for another one.
        awaited.expect(READER, OTHER, false);
        assert!(!awaited.has_to_wait(SOMEBODY, FILE));
    }
}
