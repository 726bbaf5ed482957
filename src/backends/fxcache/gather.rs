//! Lookups that come at the same time, asked together.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Kind, Result};

/// How long the first of a batch waits for others: less than a round trip.
const PATIENCE: Duration = Duration::from_millis(2);
/// Most names in one question: the server's own limit.
const MOST: usize = 500;

type Answered = oneshot::Sender<Result<bool>>;

/// Names that wait to be asked for, and who wants to know.
#[derive(Default)]
pub(super) struct Gather {
    waiting: std::sync::Arc<Mutex<HashMap<String, Vec<Answered>>>>,
}

impl Gather {
    /// Whether there is a file `name`. `batch` asks for many names; it is used by whoever comes
    /// first, from a task of its own, so that nobody else depends on who gives up.
    pub(super) async fn ask<F>(
        &self,
        name: &str,
        batch: impl Fn(Vec<String>) -> F + Send + 'static,
    ) -> Result<bool>
    where
        F: Future<Output = Result<HashMap<String, bool>>> + Send,
    {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let first = waiting.is_empty();
            waiting.entry(name.to_owned()).or_default().push(answer);
            first
        };
        if first {
            let waiting = self.waiting.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                let all = {
                    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::take(&mut *waiting)
                };
                let mut all: Vec<_> = all.into_iter().collect();
                while !all.is_empty() {
                    let rest = all.split_off(all.len().min(MOST));
                    let asked = std::mem::replace(&mut all, rest);
                    let names = asked.iter().map(|(name, _)| name.clone()).collect();
                    tell(asked, batch(names).await);
                }
            });
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "the question was given up")))
    }
}

fn tell(asked: Vec<(String, Vec<Answered>)>, answers: Result<HashMap<String, bool>>) {
    for (name, who) in asked {
        // What an answer leaves out it does not have.
        let answer = match &answers {
            Ok(known) => Ok(known.get(&name).copied().unwrap_or(false)),
            Err(error) => Err(error.clone()),
        };
        for asker in who {
            let _ = asker.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn p2_many_lookups_at_once_are_few_questions() {
        let gather = Arc::new(Gather::default());
        let batches = Arc::new(AtomicUsize::new(0));
        let asks: Vec<_> = (0..1200)
            .map(|n| {
                let (gather, batches) = (gather.clone(), batches.clone());
                tokio::spawn(async move {
                    let name = format!("f{}", n % 1100);
                    let counted = move |names: Vec<String>| {
                        batches.fetch_add(1, Ordering::SeqCst);
                        assert!(names.len() <= MOST);
                        async move {
                            Ok(names
                                .into_iter()
                                .map(|name| (name.clone(), name.ends_with('7')))
                                .collect())
                        }
                    };
                    (
                        name.ends_with('7'),
                        gather.ask(&name, counted).await.unwrap(),
                    )
                })
            })
            .collect();
        for ask in asks {
            let (expected, found) = ask.await.unwrap();
            assert_eq!(expected, found);
        }
        assert!(batches.load(Ordering::SeqCst) <= 12, "{batches:?}");
    }

    #[tokio::test]
    async fn a_question_that_fails_fails_for_everybody_who_asked_it() {
        let gather = Gather::default();
        let failing = |_| async { Err(Error::new(Kind::Offline, "gone")) };
        let (a, b) = tokio::join!(gather.ask("a", failing), gather.ask("b", failing));
        assert_eq!(a.unwrap_err().kind(), Kind::Offline);
        assert_eq!(b.unwrap_err().kind(), Kind::Offline);
    }
}
