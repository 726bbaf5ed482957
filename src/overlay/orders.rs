//! The table of what is open under a scheduler: the same source, in one order of its threads after another.

use std::fs::File;
use std::sync::Arc;

use super::{Settings, fail};
use crate::index::{Held, Node, NodeId};
use crate::locks::scheduled as locks;
use locks::{Mutex, in_every_order, thread};

#[path = "handles.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod handles;

use handles::{Body, OpenState, Opens, Session};

const ID: NodeId = NodeId(7);

fn state() -> OpenState {
    let node = Node {
        size: 1,
        held: Held::Whole,
        ..Node::sample(ID)
    };
    OpenState {
        handles: 1,
        writers: 1,
        closed_writers: 0,
        node,
        body: Body::File(Arc::new(File::open("/dev/null").unwrap())),
        session: Some(Session::new(None, None)),
        detached: false,
    }
}

/// A file of which one byte was known has two by now; its writer closes it while it is looked at.
#[test]
fn p3_whoever_looks_while_a_writer_ends_sees_what_was_written() {
    in_every_order(|| {
        let (opens, row) = (Arc::new(Opens::default()), Arc::new(Mutex::new(1)));
        let open = opens.enter(state());
        let fh = opens.add(open.clone(), true);
        let writer = {
            let (opens, row) = (opens.clone(), row.clone());
            thread::spawn(move || {
                let handle = opens.remove(fh).unwrap();
                let mut state = handle.node.lock();
                state.session = None;
                *row.lock().unwrap() = 2;
                opens.session_ended();
                opens.leave(&handle.node);
            })
        };
        let mark = opens.mark();
        let known = *row.lock().unwrap();
        let show = |size: &mut i32| {
            let Some(open) = opens.node(ID) else {
                return false;
            };
            let has_session = open.lock().session.is_some();
            if has_session {
                *size = 2;
            }
            has_session
        };
        let again = || Some(*row.lock().unwrap());
        assert_eq!(opens.newest(mark, known, show, again), 2);
        writer.join().unwrap();
        assert!(!opens.is_open(ID) && opens.count() == 0);
    });
}

/// The old node's last handle goes while the name is opened again.
#[test]
fn p3_the_end_of_an_open_file_does_not_take_the_next_one_along() {
    in_every_order(|| {
        let opens = Arc::new(Opens::default());
        let old = opens.enter(state());
        let fh = opens.add(old.clone(), true);
        let enders = [0, 1].map(|_| {
            let (opens, old) = (opens.clone(), old.clone());
            thread::spawn(move || {
                let was_mine = opens.remove(fh).is_some();
                opens.leave(&old);
                was_mine
            })
        });
        let new = opens.enter(state());
        let next = opens.add(new.clone(), true);
        let ended = enders.map(|ender| ender.join().unwrap());
        assert_eq!(ended.iter().filter(|was_mine| **was_mine).count(), 1);
        assert!(
            opens
                .node(ID)
                .is_some_and(|found| Arc::ptr_eq(&found, &new))
        );
        assert!(fh != next && opens.handle(next).is_ok() && opens.handle(fh).is_err());
        assert!(opens.is_being_written(ID));
    });
}
