//! Many at once: what several programs, other clients, evictions and uploads do at the same time
//! neither hangs nor leaves the two sides apart; and readers of a file that is still coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use larder::backends::memory::{Fault, Op};
use larder::clock::Chance;
use larder::error::{Kind, Result};
use larder::index::{NodeId, ROOT};
use larder::overlay::read::Access;
use larder::overlay::rename::RenameMode;
use larder::overlay::{Caller, Overlay};
use larder::path::{Name, RelPath};
use larder::sync::feed::Feed;
use larder::sync::pace::Pace;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::world::{World, bytes_of};

const ME: Caller = Caller { uid: 0, gid: 0 };
const NAMES: [&str; 5] = ["a", "b", "c", "e", "f"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives up if the work does not end: a thread that waits for itself would wait for ever.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = channel();
    std::thread::spawn(move || drop(done.send(work())));
    ended
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{what}: hangs or failed"))
}

struct Program {
    overlay: Arc<Overlay>,
    runtime: Handle,
    chance: Chance,
}

impl Program {
    fn pick(&self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    fn name(&self) -> Name {
        Name::new(NAMES[self.pick(5) as usize].as_bytes()).unwrap()
    }

    fn id(&self, name: &Name) -> Result<Option<NodeId>> {
        let found = self
            .runtime
            .block_on(self.overlay.lookup(ROOT, name).get())?;
        Ok(found.map(|attr| attr.id))
    }

    fn write(&self, truncate: bool) -> Result<()> {
        let name = self.name();
        let access = Access {
            write: true,
            truncate,
        };
        let fh = match self.id(&name)? {
            Some(id) => {
                self.runtime
                    .block_on(self.overlay.open(id, access).get())?
                    .fh
            }
            None => self.overlay.create(ROOT, &name, 0o644, ME)?.1.fh,
        };
        let bytes = bytes_of(1 + self.pick(3000) as usize);
        // Once it is open, nothing that others do makes a writer fail.
        self.overlay.write(fh, 0, &bytes).unwrap();
        let flushed = self.overlay.flush(fh, || false);
        let released = self.overlay.release(fh);
        flushed.unwrap();
        released.unwrap();
        Ok(())
    }

    fn read(&self) -> Result<()> {
        let Some(id) = self.id(&self.name())? else {
            return Ok(());
        };
        let access = Access {
            write: false,
            truncate: false,
        };
        let fh = self
            .runtime
            .block_on(self.overlay.open(id, access).get())?
            .fh;
        let read = self.runtime.block_on(self.overlay.read(fh, 0, 4096).get());
        self.overlay.release(fh)?;
        read.map(drop)
    }

    fn step(&self) -> Result<()> {
        match self.pick(12) {
            0..4 => self.write(true),
            4 => self.write(false),
            5..8 => self.read(),
            8..10 => {
                let (from, to) = (self.name(), self.name());
                let mode = RenameMode::Replace;
                self.overlay.rename((ROOT, &from), (ROOT, &to), mode)
            }
            10 => self.overlay.unlink(ROOT, &self.name()),
            _ => self.overlay.evict_under(&RelPath::root()).map(drop),
        }
    }

    fn run(&self) {
        for _ in 0..250 {
            match self.step() {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), Kind::Stale | Kind::NotFound) => {}
                Err(error) if matches!(error.kind(), Kind::Exists | Kind::Busy) => {}
                Err(error) => panic!("{error} ({:?})", error.kind()),
            }
        }
    }
}

#[test]
fn p6_many_at_once_neither_hang_nor_part_the_two_sides() {
    in_time("everything at once", || {
        let mut world = World::new(true);
        let mount = world.mount();
        let (overlay, remote, clock) = (
            mount.overlay.clone(),
            mount.remote.clone(),
            larder::clock::Clock::System,
        );
        let stop = CancellationToken::new();
        let index = overlay.index.clone();
        let long = Pace {
            refresh: Duration::from_secs(3600),
            budget: None,
        };
        let (feed, bell) = Feed::new(remote, index, clock, long, Arc::new(|| {}));
        let runtime = world.runtime.handle().clone();
        let feeding = runtime.spawn(feed.run(stop.clone()));
        let uploading = runtime.spawn(overlay.uploads.clone().run(stop.clone()));
        let over = Arc::new(AtomicBool::new(false));
        let others = {
            let (memory, over) = (world.memory.clone(), over.clone());
            std::thread::spawn(move || {
                let chance = Chance::seeded(9);
                while !over.load(Ordering::SeqCst) {
                    let name = NAMES[(chance.next_u64() % 5) as usize];
                    let bytes = bytes_of(4000 + (chance.next_u64() % 3000) as usize);
                    memory.set_object(&RelPath::new(name.as_bytes()).unwrap(), &bytes, 3);
                    std::thread::sleep(Duration::from_millis(3));
                }
            })
        };
        let programs: Vec<_> = (0..4)
            .map(|seed| {
                let program = Program {
                    overlay: overlay.clone(),
                    runtime: runtime.clone(),
                    chance: Chance::seeded(seed),
                };
                std::thread::spawn(move || program.run())
            })
            .collect();
        for program in programs {
            program.join().unwrap();
        }
        over.store(true, Ordering::SeqCst);
        others.join().unwrap();
        world.runtime.block_on(bell.ring()).unwrap();
        stop.cancel();
        world.runtime.block_on(async {
            feeding.await.unwrap();
            uploading.await.unwrap();
        });
        drop(overlay);
        world.settle().unwrap();
        let view = world.view().unwrap();
        for (path, n) in &view {
            assert_eq!(world.at_remote().get(path), Some(n), "{path}");
        }
        assert_eq!(world.mount().overlay.open_handles(), 0);
    });
}

#[test]
fn p8_a_file_that_is_still_coming_can_be_written_anew() {
    in_time("writing anew", || {
        let mut world = World::new(false);
        let bytes = bytes_of(3 << 20);
        let key = RelPath::new(b"a").unwrap();
        world.memory.set_object(&key, &bytes, 3);
        world.sync().unwrap();
        world.memory.script(Op::Get, 1, Fault::StallBody(1 << 20));
        let reader = world.open("a", false, false).unwrap().unwrap();
        let writer = world.open("a", true, true).unwrap().unwrap();
        let overlay = world.mount().overlay.clone();
        overlay.write(writer, 0, b"new").unwrap();
        overlay.flush(writer, || false).unwrap();
        overlay.release(writer).unwrap();
        // Who read the old one still does.
        let front = world.runtime.block_on(overlay.read(reader, 0, 1000).get());
        assert_eq!(front.unwrap(), bytes[..1000]);
        overlay.release(reader).unwrap();
        assert_eq!(world.look_up("a").unwrap().unwrap().size, 3);
    });
}

#[test]
fn p6_a_reader_outlives_a_download_that_failed() {
    in_time("reading on", || {
        let mut world = World::new(false);
        let bytes = bytes_of(3 << 20);
        let key = RelPath::new(b"a").unwrap();
        world.memory.set_object(&key, &bytes, 3);
        world.sync().unwrap();
        let memory = world.memory.clone();
        memory.script(Op::Get, 1, Fault::Truncate(1 << 20));
        memory.script(Op::Get, 50, Fault::Fail(Kind::Unavailable));
        let fh = world.open("a", false, false).unwrap().unwrap();
        let overlay = world.mount().overlay.clone();
        let read = |at: u64| world.runtime.block_on(overlay.read(fh, at, 1000).get());
        assert_eq!(read(2 << 20).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(read(500).unwrap(), bytes[500..1500]);
        memory.clear_script();
        assert_eq!(read(2 << 20).unwrap(), bytes[2 << 20..][..1000]);
        overlay.release(fh).unwrap();
    });
}

/// A directory is compared with the folder when it is first looked into, while a name is made in it.
fn made_while_compared(name: &str, make: fn(&Arc<Overlay>, NodeId, &Name) -> Result<()>) {
    let mut world = World::new(false);
    let dirs: Vec<String> = (0..300).map(|n| format!("d{n}")).collect();
    for dir in &dirs {
        let file = RelPath::new(format!("{dir}/far").as_bytes()).unwrap();
        world.memory.set_object(&file, &bytes_of(5), 3);
        std::fs::create_dir(world.dir.path().join(dir)).unwrap();
    }
    world.sync().unwrap();
    let overlay = &world.mount().overlay;
    let both = std::sync::Barrier::new(2);
    let id = |dir: &String| world.look_up(dir).unwrap().unwrap().id;
    let dirs: Vec<NodeId> = dirs.iter().map(id).collect();
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            for dir in &dirs {
                both.wait();
                let listed = world.runtime.block_on(overlay.open_dir(*dir).get());
                listed.unwrap();
            }
        });
        let make = |dir: &NodeId| {
            both.wait();
            make(overlay, *dir, &Name::new(name.as_bytes()).unwrap())
        };
        dirs.iter().map(make).collect::<Vec<_>>()
    });
    let failed = made.iter().filter(|made| made.is_err()).count();
    assert_eq!(failed, 0, "{:?}", made.iter().find(|made| made.is_err()));
}

#[test]
fn p7_a_directory_is_made_while_its_own_is_compared() {
    made_while_compared("new", |overlay, dir, name| {
        overlay.make_dir(dir, name, 0o755, ME).map(drop)
    });
}

#[test]
fn p7_a_link_is_made_while_its_directory_is_compared() {
    made_while_compared("new", |overlay, dir, name| {
        overlay.symlink(dir, name, b"far", ME).map(drop)
    });
}

#[test]
fn p7_a_file_that_stays_here_is_made_while_its_directory_is_compared() {
    made_while_compared("new.tmp", |overlay, dir, name| {
        let (_, opened) = overlay.create(dir, name, 0o644, ME)?;
        overlay.release(opened.fh)
    });
}
