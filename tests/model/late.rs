//! Programs whose file is replaced between the kernel's requests: a name that was found stale is
//! looked up once more, and what is found then can be opened.

use larder::backends::memory::Op;
use larder::error::Kind;
use larder::index::{NodeId, ROOT};
use larder::overlay::Attr;
use larder::overlay::read::Access;
use larder::path::{Name, RelPath};

use crate::world::{World, bytes_of};

/// The numbers of threads.
const OPENER: u32 = 4711;
const ANOTHER: u32 = 4712;
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

/// A reader who has the file open, and heeds nobody who comes for it.
fn read_open(world: &World, id: NodeId) -> u64 {
    let opened = world.mount().overlay.open(id, READ);
    world.runtime.block_on(opened.get()).unwrap().fh
}

fn bytes_at(world: &World, fh: u64) -> Vec<u8> {
    let read = world.mount().overlay.read(fh, 0, 1000);
    world.runtime.block_on(read.get()).unwrap().to_vec()
}

/// A world with the file `a`, which a reader has open, so that a writer who was to truncate it was
/// sent to look for it anew.
fn sent_away() -> (World, u64) {
    let mut world = World::new(false);
    replace(&mut world, "a", 5);
    let found = find(&world, "a").id;
    let reader = read_open(&world, found);
    let told = open(&world, found, ANEW);
    assert_eq!(told.unwrap_err().kind(), Kind::Stale);
    (world, reader)
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

#[test]
fn p8_a_writer_finds_a_file_that_no_reader_has_open() {
    let (world, reader) = sent_away();
    let before = find(&world, "a").id;
    let second = read_open(&world, before);
    // The kernel looks twice where it finds another file than it knew.
    let found = find(&world, "a").id;
    assert_ne!(found, before);
    let writer = open(&world, found, ANEW).unwrap();
    for reader in [reader, second] {
        assert_eq!(bytes_at(&world, reader), bytes_of(5));
        world.mount().overlay.release(reader).unwrap();
    }
    world.mount().overlay.release(writer).unwrap();
}

#[test]
fn p8_a_writer_is_sent_away_once_only() {
    let (world, reader) = sent_away();
    let found = find(&world, "a").id;
    let second = read_open(&world, found);
    // Nor does another one give the file away that this one comes for.
    let overlay = world.mount().overlay.clone();
    let other = world.runtime.block_on(overlay.open(found, ANEW).get());
    let writer = open(&world, found, ANEW).unwrap();
    overlay.write(writer, 0, b"new").unwrap();
    assert_eq!(bytes_at(&world, reader), bytes_of(5));
    assert_eq!(bytes_at(&world, second), b"new");
    for fh in [writer, other.unwrap().fh] {
        overlay.flush(fh, || false).unwrap();
        overlay.release(fh).unwrap();
    }
    let stored = world.dir.path().join("a");
    assert_eq!(std::fs::read(stored).unwrap(), b"new");
}

#[test]
fn p8_others_let_a_writer_come_who_was_sent_away() {
    let (world, _reader) = sent_away();
    let found = find(&world, "a").id;
    let overlay = world.mount().overlay.clone();
    let others = [READ, ANEW].map(|access| {
        let opened = overlay.open_for(ANOTHER, found, access);
        world.runtime.spawn(opened.get())
    });
    assert!(others.iter().all(|other| !other.is_finished()));
    let writer = open(&world, found, ANEW).unwrap();
    for other in others {
        let fh = world.runtime.block_on(other).unwrap().unwrap().fh;
        overlay.release(fh).unwrap();
    }
    overlay.release(writer).unwrap();
}
