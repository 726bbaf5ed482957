//! Whether the store heeds the conditions of a write, and those of a copy: tried once, on a mark of
//! ours, because no store says so and some take a condition and overwrite all the same.
//!
//! Leaves nothing behind; the mark of a process that was killed meanwhile is no file to anybody,
//! and the next trial removes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::MetadataDirective;
use tokio::sync::OnceCell;

use super::copy;
use super::door::{Door, timed};
use super::listing::{self, Question};
use super::write::Told;
use crate::backends::Conditions;
use crate::clock::Chance;
use crate::error::{Kind, Result};
use crate::object::Precondition;

/// A mark that is older than this was left behind.
const LEFT: Duration = Duration::from_secs(3600);

/// What is known of one store.
pub(super) struct Guard {
    known: OnceCell<bool>,
    /// Whether copies are made on the conditions that writes are.
    copies: OnceCell<bool>,
    /// It said that it makes none.
    no_copies: AtomicBool,
    conditions: Conditions,
}

impl Guard {
    pub(super) fn new(conditions: Conditions) -> Guard {
        Guard {
            known: OnceCell::new_with(conditions.known),
            copies: OnceCell::new(),
            no_copies: AtomicBool::new(false),
            conditions,
        }
    }

    /// Whether it heeds them, as far as anybody tried.
    pub(super) fn known(&self) -> Option<bool> {
        self.known.get().copied()
    }

    /// Whether it heeds them, tried if need be. Errors: `Denied` where nothing may be written.
    pub(super) async fn ask(&self, door: &Door) -> Result<bool> {
        let tried = self.known.get_or_try_init(|| async {
            let heeds = Box::pin(attempt(door, Trial::Writes)).await?;
            self.conditions.learn(heeds);
            Ok(heeds)
        });
        tried.await.copied()
    }

    /// Whether copies may be made, tried if need be: with the conditions that [`ask`](Guard::ask)
    /// tells of, or not at all. A store that heeds those of writes and not those of copies would
    /// replace what nobody here has seen.
    pub(super) async fn ask_copies(&self, door: &Door) -> Result<bool> {
        if !self.may_copy() {
            return Ok(false);
        }
        if !self.ask(door).await? {
            return Ok(true);
        }
        let tried = self
            .copies
            .get_or_try_init(|| Box::pin(attempt(door, Trial::Copies)));
        tried.await.copied()
    }

    /// Whether nothing is known that speaks against copies.
    pub(super) fn may_copy(&self) -> bool {
        !self.no_copies.load(Ordering::Relaxed) && self.copies.get() != Some(&false)
    }

    /// The store said that it makes no copies: it is not asked again.
    pub(super) fn makes_no_copies(&self) {
        self.no_copies.store(true, Ordering::Relaxed);
    }
}

/// What is tried.
#[derive(Clone, Copy)]
enum Trial {
    Writes,
    Copies,
}

async fn attempt(door: &Door, trial: Trial) -> Result<bool> {
    sweep(door).await;
    let number = Chance::from_system().next_u64();
    let key = door.keys.mark(&format!("{number:016x}"))?;
    match mark(door, &key, &Precondition::None).await {
        Ok(()) => tried(door, &key, trial).await,
        // A larder server keeps our name for itself.
        Err(error) if error.kind() == Kind::Invalid => {
            let key = door.keys.plain_mark(&format!("{number:016x}"))?;
            mark(door, &key, &Precondition::None).await?;
            tried(door, &key, trial).await
        }
        Err(error) => Err(error),
    }
}

/// The trial, on the mark `key` that stands there.
async fn tried(door: &Door, key: &str, trial: Trial) -> Result<bool> {
    let write = async |only: &Precondition| match trial {
        Trial::Writes => mark(door, key, only).await,
        Trial::Copies => copy_mark(door, key, only).await,
    };
    let heeds = async {
        let other = crate::object::Version::new("00000000000000000000000000000000")?;
        let absent = is_refused(write(&Precondition::Absent).await)?;
        Ok(absent && is_refused(write(&Precondition::Matches(other)).await)?)
    };
    let heeds = heeds.await;
    remove(door, key).await;
    heeds
}

/// A store that does not take conditions at all is asked without them; keys that may not copy send
/// the bytes.
fn is_refused(put: Result<()>) -> Result<bool> {
    match put {
        Ok(()) => Ok(false),
        Err(error) => match error.kind() {
            Kind::Conflict => Ok(true),
            Kind::Unsupported | Kind::Invalid | Kind::Denied => Ok(false),
            _ => Err(error),
        },
    }
}

async fn mark(door: &Door, key: &str, only: &Precondition) -> Result<()> {
    let request = door.client().await?.put_object();
    let request = request
        .bucket(door.name())
        .key(key)
        .body(ByteStream::from_static(
            b"larder tries conditional writes\n",
        ));
    let told = Told::of(only);
    let request = request.set_if_none_match(told.none).set_if_match(told.same);
    timed(door.times.publish, request.send()).await.map(|_| ())
}

/// Copies the mark onto itself.
async fn copy_mark(door: &Door, key: &str, only: &Precondition) -> Result<()> {
    let told = Told::of(only);
    let request = door.client().await?.copy_object();
    let request = request
        .bucket(door.name())
        .key(key)
        .copy_source(copy::source(door, key))
        .metadata_directive(MetadataDirective::Replace)
        .set_if_none_match(told.none)
        .set_if_match(told.same);
    timed(door.times.publish, request.send()).await.map(|_| ())
}

/// Keys that may write and not delete leave one mark.
async fn remove(door: &Door, key: &str) {
    let Ok(client) = door.client().await else {
        return;
    };
    let request = client.delete_object().bucket(door.name()).key(key);
    if let Err(error) = timed(door.times.answer, request.send()).await {
        tracing::info!(key, %error, "the mark of a trial could not be removed; it is no file to anybody");
    }
}

/// Removes marks that others left behind.
async fn sweep(door: &Door) {
    let prefixes = [door.keys.mark(""), door.keys.plain_mark("")];
    let now = SystemTime::now();
    for prefix in prefixes.into_iter().flatten() {
        let question = Question {
            prefix,
            ..Question::default()
        };
        let Ok(page) = listing::page(door, &question, door.times.answer).await else {
            return;
        };
        for (key, modified) in page.ours {
            if now.duration_since(modified).is_ok_and(|age| age > LEFT) {
                remove(door, &key).await;
            }
        }
    }
}
