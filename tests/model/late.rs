//! Readers whose file is replaced between the kernel's requests: a name that was found stale is looked
//! up once more, and what is found then can be opened.

use larder::backends::memory::Op;
use larder::error::Kind;
use larder::index::{NodeId, ROOT};
use larder::overlay::Attr;
use larder::overlay::read::Access;
use larder::path::{Name, RelPath};

use crate::world::{World, bytes_of};

/// The number of a thread.
const OPENER: u32 = 4711;
const READ: Access = Access {
    write: false,
    truncate: false,
};
const ANEW: Access = Access {
    write: true,
    truncate: true,
};

fn replace(world: &mut World, name: &str, n: usize) {
    let key = RelPath::new(name.as_bytes()).unwrap();
    world.memory.set_object(&key, &bytes_of(n), 3);
    world.sync().unwrap();
}

fn find(world: &World, name: &str) -> Attr {
    let name = Name::new(name.as_bytes()).unwrap();
    let found = world.mount().overlay.lookup_for(OPENER, ROOT, &name);
    world.runtime.block_on(found.get()).unwrap().unwrap()
}

/// A world with the file `a`, which was replaced after the opener found it: he is told so as the kernel
/// asks for its attributes.
fn told_by_attributes() -> World {
    let mut world = World::new(false);
    replace(&mut world, "a", 2);
    let found = find(&world, "a").id;
    replace(&mut world, "a", 3);
    let told = world.mount().overlay.attr_for(OPENER, found);
    assert_eq!(told.unwrap_err().kind(), Kind::Stale);
    world
}

fn open(world: &World, id: NodeId, access: Access) -> larder::error::Result<u64> {
    let opened = world.mount().overlay.open_for(OPENER, id, access);
    world.runtime.block_on(opened.get()).map(|opened| opened.fh)
}

#[test]
fn p8_a_file_whose_attributes_were_stale_can_be_opened_as_it_is_found_next() {
    let mut world = told_by_attributes();
    let found = find(&world, "a");
    // The kernel asks for a name that it knows, forgets it, and asks for it again.
    assert_eq!(find(&world, "a").id, found.id);
    replace(&mut world, "a", 4);
    let overlay = world.mount().overlay.clone();
    assert_eq!(overlay.attr_for(OPENER, found.id).unwrap().id, found.id);
    let fh = open(&world, found.id, READ).unwrap();
    let bytes = world.runtime.block_on(overlay.read(fh, 0, 100).get());
    assert_eq!(bytes.unwrap(), bytes_of(3));
    overlay.release(fh).unwrap();
}

#[test]
fn p2_whoever_wants_attributes_alone_fetches_no_more_than_the_file_that_was_stale() {
    let mut world = told_by_attributes();
    (10..30).for_each(|n| replace(&mut world, &format!("n{n}"), n));
    let before = world.memory.calls(Op::Get);
    find(&world, "a");
    for n in 10..30 {
        assert_eq!(
            find(&world, &format!("n{n}")).size,
            bytes_of(n).len() as u64
        );
    }
    assert_eq!(world.memory.calls(Op::Get) - before, 1);
}

#[test]
fn p8_a_writer_whose_attributes_were_stale_is_not_sent_away_again() {
    let world = told_by_attributes();
    let found = find(&world, "a");
    let fh = open(&world, found.id, ANEW).unwrap();
    world.mount().overlay.release(fh).unwrap();
}
