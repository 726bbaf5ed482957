//! Named places where the process can be made to die, for the tests that kill it there.
//!
//! Compiled in always, so that what is tested is what is shipped; armed only by the
//! environment: `LARDER_CRASH_AT=NAME`, or `NAME:3` for the third time that the place is
//! reached. `NAME:slow` lingers there every time instead, so that others come in between.
//! Unarmed, a place costs one relaxed load. Dying is `abort`: no destructor, no flush,
//! nothing but what the kernel has already been given.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// The variable that arms a place.
pub const VARIABLE: &str = "LARDER_CRASH_AT";

/// Every place there is, in the order of a file's life.
pub const POINTS: &[&str] = &[
    "mkdir.tree",
    "stage.file",
    "stage.row",
    "create.in_place",
    "truncate.row",
    "in_place.intent",
    "close.row",
    "close.in_place",
    "publish.renamed",
    "publish.row",
    "orphan.kept",
    "open.flown",
    "hydrate.whole",
    "hydrate.noted",
    "hydrate.renamed",
    "hydrate.row",
    "evict.buried",
    "evict.row",
    "rename.settled",
    "rename.noted",
    "rename.tree",
    "rename.row",
    "exchange.tree",
    "remove.aside",
    "unlink.row",
    "release.told",
    "upload.begin",
    "upload.answered",
    "upload.row",
    "conflict.row",
    "conflict.aside",
    "conflict.named",
    "settle.noted",
    "settle.staged",
    "settle.placed",
    "settle.dropped",
    "apply.listing",
    "apply.changes",
    "index.created",
    "index.committed",
    "migrate.columns",
    "migrate.moving",
    "migrate.outbox",
    "migrate.sums",
    "migrate.arriving",
    "migrate.version",
    "migrate.committed",
    "aside.marked",
    "aside.renamed",
    "aside.cleared",
    "recover.published",
];

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<(String, AtomicU32)> = OnceLock::new();
/// In place of a number of times: never to die, but to linger.
const SLOW: u32 = 0;
const LINGER: Duration = Duration::from_micros(300);

/// Reads the environment; for the start of a daemon. Errors: `Invalid` for a place that
/// does not exist.
pub fn arm() -> Result<()> {
    let Ok(wanted) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let (name, times) = match wanted.split_once(':') {
        Some((name, "slow")) => (name, Some(SLOW)),
        Some((name, times)) => (name, times.parse().ok().filter(|times| *times > 0)),
        None => (wanted.as_str(), Some(1)),
    };
    let Some(times) = times.filter(|_| POINTS.contains(&name)) else {
        let text = format!(
            "`{wanted}` is no place to crash at; it is one of {POINTS:?}, or NAME:3 or NAME:slow"
        );
        return Err(Error::new(Kind::Invalid, text).about(VARIABLE));
    };
    let plan = PLAN.get_or_init(|| (name.to_owned(), AtomicU32::new(times)));
    ARMED.store(!plan.0.is_empty(), Ordering::Relaxed);
    Ok(())
}

/// The process dies here if it was told to.
#[inline]
pub fn point(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        reached(name);
    }
}

#[cold]
fn reached(name: &str) {
    debug_assert!(POINTS.contains(&name), "{name} is not in the table");
    let Some((_, left)) = PLAN.get().filter(|(wanted, _)| wanted == name) else {
        return;
    };
    // Zero stays zero.
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    }) {
        Ok(1) => std::process::abort(),
        Ok(_) => {}
        Err(_) => std::thread::sleep(LINGER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unarmed_place_is_passed() {
        assert!(POINTS.iter().all(|name| {
            point(name);
            true
        }));
    }
}
