//! The same under a scheduler that decides at each of them who runs on. Tokio's own stay what they are:
//! each use is one step, before which anybody else may take one.

use std::future::Future;

use shuttle::Config;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

use crate::clock::Chance;

pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic, mpsc};
pub(crate) use shuttle::{future::block_on, thread};
pub(crate) use std::sync::PoisonError;

/// How many orders are tried; others, and as many as asked for, with `LARDER_MODEL_CASES`.
const FEW: usize = 2000;

/// Runs `story` in one order after another, half of them with as few changes of threads as a fault of
/// two or three steps takes. Fails where it panics, or where everybody waits.
pub(crate) fn in_every_order(story: impl Fn() + Send + Sync + Copy + 'static) {
    let asked = std::env::var("LARDER_MODEL_CASES").ok();
    let asked: Option<usize> = asked.and_then(|n| n.parse().ok());
    let seed = asked.map_or(1, |_| Chance::from_system().next_u64());
    let orders = asked.unwrap_or(FEW) / 2;
    // Orders weaker than the strictest count as the strictest, which it would warn of.
    let config = || {
        let mut config = Config::new();
        config.silence_warnings = true;
        config
    };
    let random = RandomScheduler::new_from_seed(seed, orders);
    shuttle::Runner::new(random, config()).run(story);
    let few_changes = PctScheduler::new_from_seed(seed, 3, orders);
    shuttle::Runner::new(few_changes, config()).run(story);
}

fn others_first() {
    thread::yield_now();
}

#[derive(Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub fn new() -> Notify {
        Notify::default()
    }

    pub fn notify_one(&self) {
        others_first();
        self.0.notify_one();
    }

    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        others_first();
        self.0.notified()
    }
}

pub(crate) mod watch {
    use super::others_first;
    use tokio::sync::watch::{self, Ref, error::RecvError};

    pub struct Sender<T>(watch::Sender<T>);
    pub struct Receiver<T>(watch::Receiver<T>);

    impl<T> Sender<T> {
        pub fn new(value: T) -> Sender<T> {
            Sender(watch::Sender::new(value))
        }

        pub fn borrow(&self) -> Ref<'_, T> {
            others_first();
            self.0.borrow()
        }

        pub fn send_replace(&self, value: T) -> T {
            others_first();
            self.0.send_replace(value)
        }

        pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            others_first();
            self.0.send_modify(modify);
        }

        pub fn subscribe(&self) -> Receiver<T> {
            others_first();
            Receiver(self.0.subscribe())
        }
    }

    impl<T> Receiver<T> {
        pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
            others_first();
            self.0.borrow_and_update()
        }

        pub fn mark_unchanged(&mut self) {
            others_first();
            self.0.mark_unchanged();
        }

        pub async fn changed(&mut self) -> Result<(), RecvError> {
            others_first();
            self.0.changed().await
        }

        pub async fn wait_for(
            &mut self,
            enough: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, RecvError> {
            others_first();
            self.0.wait_for(enough).await
        }
    }
}
