//! Listings that are gone on with by a handle that did not give their beginning: the kernel had it
//! from elsewhere.

use larder::index::ROOT;
use larder::path::{Name, RelPath};

use crate::world::{World, bytes_of};

const FILES: usize = 300;

fn name(n: usize) -> String {
    format!("f{n:04}")
}

/// What a new handle gives after `offset`: names, and where each stands.
fn list(world: &World, offset: u64) -> Vec<(String, u64)> {
    let overlay = &world.mount().overlay;
    let fh = world.runtime.block_on(overlay.open_dir(ROOT).get());
    let (fh, mut seen) = (fh.unwrap(), Vec::new());
    let take = &mut |entry: &larder::overlay::dirs::DirEntry| {
        seen.push((entry.name.to_string(), entry.offset));
        true
    };
    overlay.read_dir(fh, offset, take).unwrap();
    overlay.close_dir(fh);
    seen
}

fn filled() -> World {
    let mut world = World::new(false);
    for n in 0..FILES {
        let key = RelPath::new(name(n).as_bytes()).unwrap();
        world.memory.set_object(&key, &bytes_of(1), 3);
    }
    world.sync().unwrap();
    world
}

#[test]
fn p13_a_listing_goes_on_where_it_was_whatever_is_removed_and_added_before() {
    let mut world = filled();
    let all = list(&world, 0);
    assert_eq!(all.len(), FILES);
    let overlay = world.mount().overlay.clone();
    // What was read so far goes, all but one, the last of it, too.
    for n in (1..=200).rev() {
        let gone = Name::new(name(n).as_bytes()).unwrap();
        overlay.unlink(ROOT, &gone).unwrap();
    }
    drop(overlay);
    let early = RelPath::new(b"a-new-one").unwrap();
    world.memory.set_object(&early, &bytes_of(1), 3);
    world.sync().unwrap();
    for from in [200, 201, 250] {
        let rest: Vec<_> = list(&world, all[from].1)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let expected: Vec<_> = (from + 1..FILES).map(name).collect();
        assert_eq!(rest, expected, "after {from}");
    }
}

#[test]
fn p13_each_entry_of_a_listing_stands_elsewhere_and_later() {
    let world = filled();
    let offsets: Vec<u64> = list(&world, 0)
        .into_iter()
        .map(|(_, offset)| offset)
        .collect();
    assert!(offsets.is_sorted_by(|a, b| a < b));
}
