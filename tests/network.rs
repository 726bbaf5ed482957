//! One mount and its server: freshness, absence, deadlines, faults, uploads, deletes, on real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "common/proxy.rs"]
mod proxy;

#[path = "fxcache/original.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod original;
#[path = "fxcache/stand_in.rs"]
mod stand_in;

#[path = "network/ahead.rs"]
mod ahead;
#[path = "network/away.rs"]
mod away;
#[path = "network/certificates.rs"]
mod certificates;
#[path = "network/crooked.rs"]
mod crooked;
#[path = "network/deletes.rs"]
mod deletes;
#[path = "network/faults.rs"]
mod faults;
#[path = "network/fresh.rs"]
mod fresh;
#[path = "network/order.rs"]
mod order;
#[path = "network/remotes.rs"]
mod remotes;
#[path = "network/stalled.rs"]
mod stalled;
#[path = "network/table.rs"]
mod table;
#[path = "network/uploads.rs"]
mod uploads;
#[path = "network/warm.rs"]
mod warm;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What `ls` shows.
pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub fn is_absent(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}
