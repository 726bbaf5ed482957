//! The pure and the hot parts, each by itself, by criterion: `cargo bench --bench hot`, which
//! takes a minute; a word as an argument picks the names that have it.
//!
//! Only what the library shows is measured: the rules of `transfer/plan.rs` are seen through
//! `benches/mount.rs`, and here in what they cost most, the set of ranges. The index is on disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use criterion::{
    BatchSize, Bencher, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use larder::backends::memory::Memory;
use larder::backends::remote::{Remote, Remotes};
use larder::beneath::Dir;
use larder::clock::Clock;
use larder::config::{Offline, Patterns};
use larder::index::node as rows;
use larder::index::{Attrs, EVENTS, Index, NodeId, RemoteId, Seen, Writer, outbox};
use larder::metrics::Metrics;
use larder::object::{Change, Cursor, Listed, Meta, Object, Version};
use larder::overlay::{Answer, Overlay, Parts, Settings};
use larder::path::{Name, RelPath};
use larder::store::{RangeSet, Store};
use larder::sync::diff::Merge;
use larder::transfer::queue::{Lanes, Waiting, next_ready};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const NOW_MS: i64 = 1_700_000_000_000;
const NOW_NS: i64 = NOW_MS * 1_000_000;
/// Files, and how many of them are in one directory.
const FILES: usize = 63_000;
const IN_DIR: usize = 1_000;
const LISTED: usize = 1_000_000;
const QUEUED: usize = 10_000;
/// Entries that a listing of a directory reads at a time, rows that a listing of a remote is compared
/// with, and rows that uploads are taken from, as the mount does it.
const DIR_PAGE: usize = 64;
const LISTING_PAGE: usize = 5_000;
const OUTBOX_PAGE: usize = 64;

fn key(file: usize) -> RelPath {
    let path = format!("dir-{:04}/part-{:04}.parquet", file / IN_DIR, file % IN_DIR);
    RelPath::new(path.as_bytes()).unwrap()
}

fn object(file: usize, version: u64) -> Object {
    Object {
        key: key(file),
        meta: Meta {
            size: 100_000,
            mtime_ns: NOW_NS,
            version: Version::numbered(version),
            sha256: None,
            revision: None,
            arrival: None,
        },
    }
}

fn seen(n: u64) -> Seen {
    Seen {
        size: 100_000 + n,
        mtime_ns: NOW_NS,
        ino: 1_000 + n,
        ctime_ns: NOW_NS,
    }
}

/// Where one thing in a sequence comes after another that is far from it.
struct Stride(usize);

impl Stride {
    fn next<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        self.0 = (self.0 + 7_919) % of.len();
        &of[self.0]
    }
}

/// A store and its index, which knows the files of one listed remote.
struct Facts {
    /// Declared first, so that both are closed before their directory goes.
    index: Arc<Index>,
    store: Arc<Store>,
    remote: RemoteId,
    _dir: TempDir,
}

impl Facts {
    fn of(files: usize) -> Facts {
        let dir = tempfile::tempdir().unwrap();
        let at = Dir::open_ambient(dir.path()).unwrap();
        let store = Arc::new(Store::open(at, "/bench").unwrap());
        // Nobody listens: there is no kernel to be told.
        let (events, _) = sync_channel(EVENTS);
        let (index, _) = Index::open(&store.larder_path().join("index.db"), events).unwrap();
        let remotes = index
            .edit(|w| w.set_remotes(&[("http://memory".into(), true)]))
            .unwrap();
        let remote = remotes[0].id;
        for first in (0..files).step_by(LISTING_PAGE) {
            let chunk = first..files.min(first + LISTING_PAGE);
            let changes: Vec<_> = chunk.map(|n| Change::Put(object(n, 1))).collect();
            index
                .edit(move |w| w.apply(remote, &changes, None, NOW_NS))
                .unwrap();
        }
        let cursor = Cursor {
            epoch: "bench".into(),
            seq: 1,
        };
        index
            .edit(move |w| w.listing_ends(remote, &cursor, NOW_MS))
            .unwrap();
        Facts {
            index: Arc::new(index),
            store,
            remote,
            _dir: dir,
        }
    }

    fn id(&self, path: &RelPath) -> NodeId {
        let found = self.index.read(|c| rows::resolve(c, path)).unwrap();
        found.unwrap().id
    }

    /// Every name with its directory, in order; all of them are in memory after this.
    fn names(&self, files: usize) -> Vec<(NodeId, Name)> {
        let mut names = Vec::with_capacity(files);
        for first in (0..files).step_by(IN_DIR) {
            let dir = self.id(&key(first).parent().unwrap());
            let found = self.index.entries(dir, &[], usize::MAX).unwrap();
            assert_eq!(found.len(), IN_DIR);
            names.extend(found.into_iter().map(|(name, _)| (dir, name)));
        }
        names
    }

    fn overlay(&self, runtime: &Runtime) -> Arc<Overlay> {
        let remote = Remote::new(
            self.remote,
            "http://memory".into(),
            true,
            Arc::new(Memory::new()),
            true,
            Clock::System,
        );
        remote.is_here();
        Overlay::new(Parts {
            store: self.store.clone(),
            index: self.index.clone(),
            remotes: Remotes([Arc::new(remote)].into()),
            metrics: Arc::new(Metrics::default()),
            settings: Settings {
                offline: Offline::Hide,
                read_only: false,
                stream: false,
                propagate_deletes: true,
                local_wins: false,
                excludes: Patterns::new(&["*.tmp"]).unwrap(),
                publish_last: Patterns::new::<&str>(&[]).unwrap(),
            },
            clock: Clock::System,
            runtime: runtime.handle().clone(),
            lanes: (4, 4),
            prefetch: 4,
            refresh: Duration::from_secs(30),
        })
    }
}

/// One name at a time, far from the one before, in an index of 63,000.
fn lookup(c: &mut Criterion) {
    let facts = Facts::of(FILES);
    let names = facts.names(FILES);
    let index = &facts.index;
    let absent: Vec<_> = (names.iter().step_by(IN_DIR))
        .map(|(dir, _)| (*dir, Name::new(b"part-0500.parquet.tmp").unwrap()))
        .collect();
    let mut group = c.benchmark_group("lookup of 63k");
    let at = &mut Stride(0);
    group.bench_function("in memory", |b| {
        b.iter(|| {
            let (dir, name) = at.next(&names);
            assert!(index.entry(*dir, name).unwrap().is_some());
        });
    });
    group.bench_function("in memory, absent", |b| {
        b.iter(|| {
            let (dir, name) = at.next(&absent);
            assert!(index.entry(*dir, name).unwrap().is_none());
        });
    });
    group.bench_function("marked", |b| marked(b, index, &names[..IN_DIR]));
    group.bench_function("row", |b| {
        b.iter(|| {
            let (dir, name) = at.next(&names);
            let found = index.glance(|c| rows::entry(c, *dir, name)).unwrap();
            assert!(found.is_some());
        });
    });
    group.bench_function("row, absent", |b| {
        b.iter(|| {
            let (dir, name) = at.next(&absent);
            let found = index.glance(|c| rows::entry(c, *dir, name)).unwrap();
            assert!(found.is_none());
        });
    });
    let runtime = Runtime::new().unwrap();
    let overlay = facts.overlay(&runtime);
    for (name, names, is_there) in [
        ("overlay", &names, true),
        ("overlay, absent", &absent, false),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let (dir, name) = at.next(names);
                let Answer::Now(found) = overlay.lookup(*dir, name) else {
                    panic!("a lookup that waits");
                };
                assert_eq!(found.unwrap().is_some(), is_there);
            });
        });
    }
    group.finish();
}

/// The first lookup of a name after a commit that changed it.
fn marked(b: &mut Bencher<'_>, index: &Index, names: &[(NodeId, Name)]) {
    let ids: Vec<NodeId> = (names.iter())
        .map(|(dir, name)| index.entry(*dir, name).unwrap().unwrap().id)
        .collect();
    let mut mode = 0o600;
    b.iter_custom(|times| {
        let mut took = Duration::ZERO;
        let mut left = times as usize;
        while left > 0 {
            let now = left.min(ids.len());
            let some = ids[..now].to_vec();
            mode ^= 0o044;
            let attrs = Attrs {
                mode: Some(mode),
                ..Attrs::default()
            };
            let mark = move |w: &mut Writer| {
                for id in &some {
                    w.set_attrs(*id, attrs, false, NOW_NS)?;
                }
                Ok(())
            };
            index.edit(mark).unwrap();
            let began = Instant::now();
            for (dir, name) in &names[..now] {
                let found = index.entry(*dir, name).unwrap().unwrap();
                assert_eq!(found.mode, mode);
            }
            took += began.elapsed();
            left -= now;
        }
        took
    });
}

/// All of a directory of 1,000, page by page.
fn readdir(c: &mut Criterion) {
    let facts = Facts::of(IN_DIR);
    let dir = facts.id(&key(0).parent().unwrap());
    let index = &facts.index;
    let mut group = c.benchmark_group("readdir of 1k");
    group.throughput(Throughput::Elements(IN_DIR as u64));
    group.bench_function("in memory", |b| {
        b.iter(|| pages(|after| index.entries(dir, after, DIR_PAGE)));
    });
    group.bench_function("rows", |b| {
        b.iter(|| pages(|after| index.read(|c| rows::entries(c, dir, after, DIR_PAGE))));
    });
    let runtime = Runtime::new().unwrap();
    let overlay = facts.overlay(&runtime);
    group.bench_function("overlay", |b| {
        b.iter(|| {
            let fh = runtime.block_on(overlay.open_dir(dir).get()).unwrap();
            let mut count = 0;
            let mut take = |entry: &_| {
                black_box(entry);
                count += 1;
                true
            };
            overlay.read_dir(fh, 0, &mut take).unwrap();
            overlay.close_dir(fh);
            assert_eq!(count, IN_DIR);
        });
    });
    group.finish();
}

fn pages<E>(mut page: impl FnMut(&[u8]) -> larder::error::Result<Vec<(Name, E)>>) {
    let (mut after, mut count) = (Vec::new(), 0);
    loop {
        let found = page(&after).unwrap();
        count += found.len();
        match found.last() {
            Some((name, _)) if found.len() == DIR_PAGE => after = name.as_bytes().to_vec(),
            _ => break,
        }
    }
    assert_eq!(count, IN_DIR);
}

/// A file of 1 GiB of which every other page was read, as a database reads.
fn ranges(c: &mut Criterion) {
    const PAGE: u64 = 4 << 10;
    let mut read = RangeSet::new();
    for page in (0..1 << 18).step_by(2) {
        read.insert(page * PAGE..(page + 1) * PAGE);
    }
    let places: Vec<u64> = (0..1 << 18).map(|page| page * PAGE).collect();
    let mut group = c.benchmark_group("131k ranges");
    let at = &mut Stride(0);
    group.bench_function("missing of 128 KiB", |b| {
        b.iter(|| {
            let from = *at.next(&places);
            black_box(read.missing(from..from + 32 * PAGE))
        });
    });
    group.bench_function("insert what is there", |b| {
        b.iter(|| {
            let from = *at.next(&places) / (2 * PAGE) * (2 * PAGE);
            read.insert(from..from + PAGE);
        });
    });
    group.finish();
}

/// A listing of which one line in a hundred is a new version, against the rows of the index.
fn diff(c: &mut Criterion) {
    let facts = Facts::of(LISTED);
    let listing: Vec<Object> = (0..LISTED)
        .map(|n| object(n, if n % 100 == 0 { 2 } else { 1 }))
        .collect();
    let mut group = c.benchmark_group("diff of a listing");
    group.throughput(Throughput::Elements(LISTED as u64));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("1M", |b| {
        b.iter_batched(
            || listing.clone(),
            |listing| {
                let mut merge = Merge::new(|after: &[u8]| {
                    let page = |c: &_| rows::replicas_after(c, facts.remote, after, LISTING_PAGE);
                    facts.index.read(page)
                });
                let mut news = 0;
                let mut emit = |change: Change| {
                    black_box(change);
                    news += 1;
                    Ok(())
                };
                for object in listing {
                    merge.take(Listed::Object(object), &mut emit).unwrap();
                }
                merge.finish(&mut emit).unwrap();
                assert_eq!(news, LISTED / 100);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// 10,000 files that were written here and have not gone up.
fn queue(c: &mut Criterion) {
    let facts = Facts::of(QUEUED);
    let index = &facts.index;
    let ids: Vec<NodeId> = (facts.names(QUEUED).iter())
        .map(|(dir, name)| index.entry(*dir, name).unwrap().unwrap().id)
        .collect();
    let all = ids.clone();
    let write = move |w: &mut Writer| {
        for (n, id) in all.iter().enumerate() {
            w.written(*id, None, seen(n as u64), true, NOW_MS)?;
        }
        Ok(())
    };
    index.edit(write).unwrap();
    let due = NOW_MS + outbox::SETTLE_MS;
    let mut group = c.benchmark_group("outbox of 10k");
    group.bench_function("a page of what is ready", |b| {
        b.iter(|| {
            let ready = index.read(|c| outbox::ready(c, due, 0, OUTBOX_PAGE));
            assert_eq!(ready.unwrap().len(), OUTBOX_PAGE);
        });
    });
    group.bench_function("nothing ready", |b| {
        b.iter(|| {
            let ready = index.read(|c| outbox::ready(c, NOW_MS, 0, OUTBOX_PAGE));
            assert_eq!(ready.unwrap().len(), 0);
        });
    });
    group.bench_function("all that is ready", |b| {
        b.iter(|| {
            let ready = index.read(|c| outbox::ready(c, due, 0, QUEUED));
            assert_eq!(ready.unwrap().len(), QUEUED);
        });
    });
    let at = &mut Stride(0);
    group.bench_function("a file is written again", |b| {
        b.iter(|| {
            let id = *at.next(&ids);
            index
                .edit(move |w| w.written(id, None, seen(id.0), true, NOW_MS))
                .unwrap()
        });
    });
    let waiting: Vec<Waiting> = (0..QUEUED)
        .map(|n| Waiting {
            row: n as i64,
            remote: facts.remote,
            key: key(n).as_bytes().into(),
            open: false,
            last: false,
        })
        .collect();
    let lanes = Lanes {
        width: 8,
        ..Lanes::default()
    };
    group.bench_function("which start, of a page", |b| {
        b.iter(|| {
            let starts = next_ready(black_box(&waiting[..OUTBOX_PAGE]), &lanes, |_| false);
            assert_eq!(starts.len(), lanes.width);
        });
    });
    group.finish();
}

/// Quick rather than exact: what these find is of another size than a percent.
fn quick() -> Criterion {
    Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = hot;
    config = quick();
    targets = lookup, readdir, ranges, queue, diff
}
criterion_main!(hot);
