//! What is made under a name whose file its remote deleted, while the store still has that.

use larder::index::NodeId;
use larder::overlay::Caller;
use larder::path::{Name, RelPath};

use crate::world::{Step, World, bytes_of};

const ME: Caller = Caller { uid: 0, gid: 0 };

/// A mount whose store has the file `name`, which is gone at the remote and from view.
fn left_over(name: &'static str) -> World {
    let mut world = World::new(false);
    let key = RelPath::new(name.as_bytes()).unwrap();
    // Its directory is there for another one's sake, and not in the store.
    let other = RelPath::new(b"d/other").unwrap();
    world.memory.set_object(&other, &bytes_of(5), 3);
    world.memory.set_object(&key, &bytes_of(7), 3);
    world.sync().unwrap();
    world.take(&Step::Read(name)).unwrap();
    // The reader has it before it has its place.
    let overlay = world.mount().overlay.clone();
    world.runtime.block_on(overlay.downloads.placed());
    drop(overlay);
    world.memory.remove_object(&key);
    world.sync().unwrap();
    assert!(world.look_up(name).unwrap().is_none());
    assert!(world.dir.path().join(name).exists());
    world
}

fn parent(world: &World) -> NodeId {
    world.look_up("d").unwrap().unwrap().id
}

#[test]
fn p8_a_link_takes_the_name_of_a_file_that_is_gone() {
    let world = left_over("d/a");
    let overlay = &world.mount().overlay;
    let (dir, name) = (parent(&world), Name::new(b"a").unwrap());
    overlay.symlink(dir, &name, b"elsewhere", ME).unwrap();
    let link = std::fs::read_link(world.dir.path().join("d/a")).unwrap();
    assert_eq!(link.to_str(), Some("elsewhere"));
}

#[test]
fn p8_a_directory_takes_the_name_of_a_file_that_is_gone() {
    let world = left_over("d/a");
    let overlay = &world.mount().overlay;
    let (dir, name) = (parent(&world), Name::new(b"a").unwrap());
    overlay.make_dir(dir, &name, 0o755, ME).unwrap();
    assert!(world.dir.path().join("d/a").is_dir());
}

#[test]
fn p8_a_file_that_stays_here_does_not_begin_with_what_is_gone() {
    let world = left_over("d/t.tmp");
    let overlay = &world.mount().overlay;
    let (dir, name) = (parent(&world), Name::new(b"t.tmp").unwrap());
    let (attr, opened) = overlay.create(dir, &name, 0o644, ME).unwrap();
    assert_eq!(attr.size, 0);
    overlay.write(opened.fh, 0, b"new").unwrap();
    overlay.flush(opened.fh, || false).unwrap();
    overlay.release(opened.fh).unwrap();
    let stored = world.dir.path().join("d/t.tmp");
    assert_eq!(std::fs::read(&stored).unwrap(), b"new");
    // What was to go does not take it along.
    overlay.tidy_now(&larder::store::Limits::default()).unwrap();
    assert!(stored.exists());
}
