//! Tells the kernel what it must forget: one thread, which holds no lock of ours and
//! answers no request, for the kernel may make it wait for lookups under way.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fuser::{INodeNo, Notifier};

use crate::index::{Event, Index, NodeId, ROOT, node as rows};

/// Rows read in one go.
const PAGE: usize = 1000;

/// Runs until the senders are gone or the mount is.
pub fn run(events: &Receiver<Event>, notifier: &Notifier, index: &Arc<Index>) {
    while let Ok(event) = events.recv() {
        match event {
            Event::Names(names) => {
                let mut dirs = HashSet::new();
                for changed in names {
                    forget(notifier, changed.parent, changed.name.as_os_str());
                    dirs.insert(changed.parent);
                }
                dirs.into_iter()
                    .for_each(|dir| forget_listing(notifier, dir));
            }
            Event::Everything => forget_all(notifier, index),
        }
    }
}

/// Dropping a name drops everything cached beneath it.
fn forget(notifier: &Notifier, parent: NodeId, name: &std::ffi::OsStr) {
    // What the kernel does not know it need not forget: ENOENT.
    let _ = notifier.inval_entry(INodeNo(parent.0), name);
}

/// A listing that the kernel has cached may name what it has no entry for, and the other way
/// about: forgetting entries does not reach it.
fn forget_listing(notifier: &Notifier, dir: NodeId) {
    let _ = notifier.inval_inode(INodeNo(dir.0), 0, 0);
}

/// Entries at the top take everything beneath with them, but for the listings of directories
/// that somebody is in.
fn forget_all(notifier: &Notifier, index: &Arc<Index>) {
    let mut after = Vec::new();
    loop {
        let page = index.read(|c| rows::children(c, ROOT, &after, PAGE));
        let Ok(page) = page else { break };
        let Some(last) = page.last().and_then(|n| n.name.clone()) else {
            break;
        };
        after = last.as_bytes().to_vec();
        for name in page.iter().filter_map(|n| n.name.as_ref()) {
            forget(notifier, ROOT, name.as_os_str());
        }
    }
    forget_listing(notifier, ROOT);
    let mut after = ROOT;
    while let Ok(page) = index.read(|c| rows::dirs_after(c, after, PAGE)) {
        let Some(last) = page.last() else { break };
        after = *last;
        page.iter().for_each(|dir| forget_listing(notifier, *dir));
    }
}
