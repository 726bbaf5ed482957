//! Tells the kernel what it must forget: one thread, which holds no lock of ours and
//! answers no request, for the kernel may make it wait for lookups under way.

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
                for changed in names {
                    forget(notifier, changed.parent, changed.name.as_os_str());
                }
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
    let _ = notifier.inval_inode(INodeNo(ROOT.0), 0, 0);
}
