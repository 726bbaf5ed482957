//! What holds for a moment: notes on those who are on their way to us, and may never come.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Notes by key, each of which ends by itself.
pub(super) struct Moments<K, V> {
    notes: Mutex<HashMap<K, (Instant, V)>>,
    /// How many there are, for those who only want to know that there is none.
    count: AtomicUsize,
}

impl<K, V> Default for Moments<K, V> {
    fn default() -> Moments<K, V> {
        Moments {
            notes: Mutex::default(),
            count: AtomicUsize::new(0),
        }
    }
}

impl<K: Eq + Hash, V> Moments<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes `value` for so long. Returns what is over: what was noted before, and what has ended.
    pub fn put(&self, key: K, lasts: Duration, value: V) -> Vec<V> {
        let now = Instant::now();
        let mut notes = self.lock();
        let mut over = take_ended(&mut notes, now);
        let before = notes.insert(key, (now + lasts, value));
        over.extend(before.map(|(_, value)| value));
        self.count.store(notes.len(), Ordering::SeqCst);
        over
    }

    /// What `look` makes of the key's note and of when that ends; none if there is no note.
    pub fn get<T>(&self, key: &K, look: impl FnOnce(&V, Instant) -> T) -> Option<T> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let notes = self.lock();
        let (until, value) = notes.get(key)?;
        (*until > Instant::now()).then(|| look(value, *until))
    }

    /// Takes the key's note, and those that have ended.
    pub fn take(&self, key: Option<&K>) -> Vec<V> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let mut notes = self.lock();
        let mut over = take_ended(&mut notes, Instant::now());
        let taken = key.and_then(|key| notes.remove(key));
        over.extend(taken.map(|(_, value)| value));
        self.count.store(notes.len(), Ordering::SeqCst);
        over
    }
}

fn take_ended<K: Eq + Hash, V>(notes: &mut HashMap<K, (Instant, V)>, now: Instant) -> Vec<V> {
    let ended = notes.extract_if(|_, (until, _)| *until <= now);
    ended.map(|(_, (_, value))| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_secs(3600);

    #[test]
    fn a_note_ends_by_itself_and_is_given_back_once() {
        let notes = Moments::default();
        assert!(notes.put("a", MOMENT, 1).is_empty());
        assert_eq!(notes.get(&"a", |value, _| *value), Some(1));
        assert_eq!(notes.get(&"b", |value, _| *value), None);
        assert_eq!(notes.put("a", Duration::ZERO, 2), [1]);
        assert_eq!(notes.get(&"a", |value, _| *value), None);
        assert_eq!(notes.put("b", MOMENT, 3), [2]);
        assert!(notes.take(None).is_empty());
        assert_eq!(notes.take(Some(&"b")), [3]);
        assert!(notes.take(Some(&"b")).is_empty());
    }
}
