//! A mount's life: the only place that builds everything, and the order of start and end.
//!
//! Start: store (and its lock), index, recovery, control socket, the kernel's mount,
//! the guard, then whatever works in the background. Nothing of it waits for a remote
//! or grows with the number of files. End: the mount first, so that nothing new comes;
//! then the background; the index last. A kill at any point is a clean end for the data.

mod answer;
mod conflicts;
mod guard;
mod status;
mod tiers;
mod unmounted;
mod verify;
mod warm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backends::remote::{Remote, Remotes};
use crate::backends::{Conditions, Options as RemoteOptions, connect};
use crate::beneath::Dir;
use crate::clock::{Chance, Clock};
use crate::config::{ConflictPolicy, MountConfig, Patterns};
use crate::control;
use crate::crash;
use crate::error::{About as _, Error, Kind, Result};
use crate::fs;
use crate::fs::mounts::How;
use crate::index::{EVENTS, Event, Index, habits, parting};
use crate::metrics::Metrics;
use crate::overlay::{Overlay, Parts, Settings};
use crate::path::RelPath;
use crate::store::{Limits, Store};
use crate::sync::bound::Bound;
use crate::sync::feed::{Bell, Feed};
use crate::sync::pace::Pace;
use crate::sync::times::Times;

pub use crate::fs::mounts::{MountEntry, detach, detach_dead, mounts};
pub use tiers::{Tier, tiers};
pub use unmounted::{ask_folder, store_above};

/// How long the background may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to forget millions of names.
const LEAVING: Duration = Duration::from_secs(60);
/// How soon background work that a full disk ended begins anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of partial downloads that are kept over a restart.
const KEPT_PARTIALS: u64 = 8 << 30;
/// Files of a remote that the mount has no more that are looked at in one go.
const STEP: usize = 1000;

/// Everything that runs.
struct Daemon {
    config: MountConfig,
    overlay: Arc<Overlay>,
    bells: Vec<Bell>,
    since_ms: i64,
    clock: Clock,
    store_shown: String,
    is_passthrough: std::sync::OnceLock<Arc<AtomicBool>>,
    /// Says that the mount is to end.
    ending: CancellationToken,
    /// Unmounting under way: the session may have ended long before it has.
    leaving: TaskTracker,
    mountpoint: PathBuf,
}

/// Threads for what waits for the network. On two processors one is faster than two: they wake each
/// other for every request, and the kernel, the disk and the programs want the rest.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 4))
}

/// Mounts and serves until unmounted; `ready` is called when the mount answers.
pub fn mount(config: MountConfig, ready: Box<dyn FnOnce() + Send>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(32)
        .thread_name("larder-task")
        .enable_all()
        .build()?;
    crash::arm()?;
    detach_dead(&config.mountpoint)?;
    let (events, heard) = sync_channel(EVENTS);
    let store = config
        .store
        .clone()
        .unwrap_or_else(|| config.mountpoint.clone());
    let (daemon, feeds) = build(config, &store, &runtime, events.clone()).map_err(|error| {
        let why = match error.kind() {
            Kind::NoSpace => "the disk is full; make room on it, then mount again",
            _ => error.message(),
        };
        let subject = error
            .subject()
            .map_or_else(|| store.display().to_string(), str::to_owned);
        Error::new(error.kind(), why).about(subject)
    })?;
    let daemon = Arc::new(daemon);
    let result = run(&daemon, feeds, &runtime, events, heard, ready);
    daemon.overlay.write_uses().ok();
    // A mount that never came to be was not killed either.
    daemon.overlay.end_runs().ok();
    daemon.overlay.index.close();
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn build(
    config: MountConfig,
    at: &Path,
    runtime: &Runtime,
    events: SyncSender<Event>,
) -> Result<(Daemon, Vec<Feed>)> {
    let clock = Clock::System;
    let metrics = Arc::new(Metrics::default());
    let mountpoint = config.mountpoint.clone();
    outside_of_mounts(at)?;
    let dir = Dir::open_ambient(at).about(at.display())?;
    let beneath = |error: Error, part: &str| {
        let subject = at.join(error.subject().filter(|_| part.is_empty()).unwrap_or(part));
        Error::new(error.kind(), error.message()).about(subject.display())
    };
    let store = Store::open(dir, &mountpoint.display().to_string()).map_err(|e| beneath(e, ""))?;
    let store = Arc::new(store);
    let (index, aside) = Index::open(&store.larder_path().join("index.db"), events)
        .map_err(|e| beneath(e, ".larder/index.db"))?;
    let index = Arc::new(index);
    let remotes = remotes(&config, &index, &metrics, &clock)?;
    let settings = Settings {
        offline: config.offline,
        read_only: config.read_only,
        stream: config.stream,
        propagate_deletes: config.propagate_deletes,
        local_wins: config.conflicts == ConflictPolicy::LocalWins,
        excludes: Patterns::new(&config.exclude)?,
        publish_last: Patterns::new(&config.publish_last)?,
    };
    let overlay = Overlay::new(Parts {
        store: store.clone(),
        index: index.clone(),
        remotes: remotes.clone(),
        metrics,
        settings,
        clock: clock.clone(),
        runtime: runtime.handle().clone(),
        lanes: (config.transfers, config.uploads),
        prefetch: config.prefetch,
        refresh: config.refresh,
    });
    if let Some(aside) = aside {
        let name = aside
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        overlay.note(format!(
            "the index was broken and is being rebuilt from the folder; the old one is .larder/{name}"
        ));
        index.told_of_the_broken_one()?;
    }
    overlay.recover()?;
    // What the last life was refused may be taken now: another key was given, say.
    index.edit(crate::index::Writer::retry_now)?;
    let (feeds, bells) = follow(&config, &overlay, &remotes, &clock);
    let daemon = Daemon {
        overlay,
        bells,
        since_ms: clock.now_ms(),
        clock,
        store_shown: at.display().to_string(),
        is_passthrough: std::sync::OnceLock::new(),
        ending: CancellationToken::new(),
        leaving: TaskTracker::new(),
        mountpoint,
        config,
    };
    Ok((daemon, feeds))
}

/// A mount shows nobody its `.larder`: what is in one cannot be the store of another.
fn outside_of_mounts(store: &Path) -> Result<()> {
    match mounts()?.iter().find(|m| store.starts_with(&m.mountpoint)) {
        Some(other) => {
            let other = other.mountpoint.display();
            let why = format!(
                "is in the mount at {other}; unmount that with `larder umount {other}`, or choose another folder"
            );
            Err(Error::new(Kind::Busy, why).about(store.display()))
        }
        None => Ok(()),
    }
}

fn remotes(
    config: &MountConfig,
    index: &Arc<Index>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Remotes> {
    let options = RemoteOptions {
        metrics: metrics.clone(),
        refresh: config.refresh,
        ask_on_miss: config.ask_on_miss,
        ..RemoteOptions::default()
    };
    let mut built = Vec::new();
    let mut wanted = Vec::new();
    let tiers = tiers(config)?;
    for tier in &tiers {
        let shown = tier.url.shown().to_owned();
        wanted.push((shown.clone(), tier.upload));
        let options = RemoteOptions {
            upload: tier.upload,
            conditions: conditions(index, &shown)?,
            ..options.clone()
        };
        built.push((shown, connect(&tier.url, &tier.credentials, &options)?));
    }
    let rows = index.edit(move |w| w.set_remotes(&wanted))?;
    supersede(index, tiers, clock)?;
    let mut remotes = Vec::new();
    for row in rows {
        let Some((shown, backend)) = built.iter().find(|(shown, _)| *shown == row.url) else {
            continue;
        };
        let listed = row.listed_ms.is_some();
        let remote = Remote::new(
            row.id,
            shown.clone(),
            row.upload,
            backend.clone(),
            listed,
            clock.clone(),
        );
        remotes.push(Arc::new(remote));
    }
    Ok(Remotes(remotes.into()))
}

/// Lets go of what is another one of the caches that the mount shows one of, before anybody sees it.
fn supersede(index: &Index, tiers: Vec<Tier>, clock: &Clock) -> Result<()> {
    let (tiers, now) = (Arc::new(tiers), clock.now_ns());
    loop {
        let tiers = tiers.clone();
        let is_version = move |url: &str| tiers.iter().any(|tier| tier.supersedes(url));
        if !index.edit(move |w| w.supersede_some(STEP, &is_version, now))? {
            return Ok(());
        }
    }
}

/// What was found out about a remote's conditional writes, and where it is remembered.
fn conditions(index: &Arc<Index>, shown: &str) -> Result<Conditions> {
    let known = index.read(|c| habits::heeds_conditions(c, shown))?;
    let (index, shown) = (index.clone(), shown.to_owned());
    let learned = Arc::new(move |heeds| {
        let (index, shown) = (index.clone(), shown.clone());
        tokio::spawn(async move {
            let noted = index
                .edit_later(move |w| w.set_heeds_conditions(&shown, heeds))
                .await;
            if let Err(error) = noted {
                tracing::debug!(%error, "it will be tried again after the next start");
            }
        });
    });
    Ok(Conditions {
        known,
        learned: Some(learned),
    })
}

fn follow(
    config: &MountConfig,
    overlay: &Arc<Overlay>,
    remotes: &Remotes,
    clock: &Clock,
) -> (Vec<Feed>, Vec<Bell>) {
    let weak = Arc::downgrade(overlay);
    let news: crate::sync::feed::OnNews = Arc::new(move || {
        if let Some(overlay) = weak.upgrade() {
            overlay.heard_news();
            overlay.uploads.kick();
        }
    });
    let pace = Pace {
        refresh: config.refresh,
        budget: config.list_budget,
    };
    let bound = Bound::new(config.max_listed, config.min_free);
    remotes
        .iter()
        .map(|remote| {
            let (feed, bell) = Feed::new(
                remote.clone(),
                overlay.index.clone(),
                clock.clone(),
                pace,
                news.clone(),
            );
            let settings = overlay.settings.clone();
            let feed = feed
                .asking_on_miss(config.ask_on_miss)
                .within(bound)
                .sparing(Arc::new(move |path| settings.excludes.matches(path)));
            if feed.doubts() {
                remote.is_to_be_asked();
            }
            (feed, bell)
        })
        .unzip()
}

fn run(
    daemon: &Arc<Daemon>,
    feeds: Vec<Feed>,
    runtime: &Runtime,
    events: SyncSender<Event>,
    heard: Receiver<Event>,
    ready: Box<dyn FnOnce() + Send>,
) -> Result<()> {
    let _context = runtime.enter();
    let socket = control::socket_path(&daemon.mountpoint)?;
    let listening = control::listen(&socket, daemon.clone())?;
    let source = format!(
        "{}{:016x}",
        fs::mounts::SOURCE_PREFIX,
        Chance::from_system().next_u64()
    );
    let options = fs::Options {
        mountpoint: daemon.mountpoint.clone(),
        source: source.clone(),
        allow_other: daemon.config.allow_other,
        read_only: daemon.config.read_only,
        passthrough: daemon.config.passthrough,
        threads: daemon.config.threads,
    };
    let mounted = fs::mount(
        daemon.overlay.clone(),
        runtime.handle().clone(),
        &options,
        heard,
    )?;
    let _guard = guard::post(&daemon.mountpoint, &source);
    let _ = daemon.is_passthrough.set(mounted.is_passthrough());
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    background(daemon, feeds, events, &tasks, &stop);
    tracing::info!(mountpoint = %daemon.mountpoint.display(), "mounted");
    ready();
    let ended = runtime.block_on(serve(daemon, &mounted));
    stop.cancel();
    tasks.close();
    runtime.block_on(async {
        daemon.leaving.close();
        let _ = tokio::time::timeout(LEAVING, daemon.leaving.wait()).await;
        listening.stop().await;
        let _ = tokio::time::timeout(PATIENCE, tasks.wait()).await;
        let _ = tokio::time::timeout(PATIENCE, daemon.overlay.downloads.placed()).await;
    });
    daemon.overlay.end_closed();
    // The index's thread holds the last sender of events: without it the notifier ends.
    daemon.overlay.tidy_last(&limits(&daemon.config))?;
    daemon.overlay.end_runs()?;
    daemon.overlay.index.close();
    // With files still open the session lasts as long as they do; the process does not.
    if mounted.has_ended() {
        mounted.join()?;
    }
    tracing::info!(mountpoint = %daemon.mountpoint.display(), "unmounted");
    ended
}

/// Everything that goes on while the mount is there.
fn background(
    daemon: &Arc<Daemon>,
    feeds: Vec<Feed>,
    events: SyncSender<Event>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    for feed in feeds {
        tasks.spawn(feed.run(stop.clone()));
    }
    let overlay = &daemon.overlay;
    for remote in overlay.remotes.iter() {
        let times = Times::new(remote.clone(), overlay.index.clone(), Clock::System);
        tasks.spawn(times.run(stop.clone()));
    }
    tasks.spawn(overlay.uploads.clone().run(stop.clone()));
    tasks.spawn(
        overlay
            .clone()
            .keep_room(limits(&daemon.config), stop.clone()),
    );
    tasks.spawn(
        overlay
            .clone()
            .fetch_ahead(limits(&daemon.config), stop.clone()),
    );
    tasks.spawn(watch_presence(overlay.clone(), events, stop.clone()));
    let (overlay, stop) = (overlay.clone(), stop.clone());
    tasks.spawn_blocking(move || {
        let stopped = || stop.is_cancelled();
        if let Err(error) = settle(&overlay, &stopped) {
            tracing::warn!(%error, "the folder could not be compared with the index");
        }
    });
}

/// Background work of every start: the folder against its rows, what old remotes left, old partials.
fn settle(overlay: &Arc<Overlay>, stop: &dyn Fn() -> bool) -> Result<()> {
    let pruned = overlay.store.prune_partials(&|_| false, KEPT_PARTIALS);
    let compared = overlay.reconcile_all(stop);
    // What waits for this does not wait for ever because a directory could not be read.
    while let Err(error) = overlay.put_in_order(stop) {
        tracing::warn!(%error, "the outbox cannot be put in order yet");
        std::thread::sleep(AGAIN);
        if stop() {
            return Ok(());
        }
    }
    pruned?;
    compared?;
    part_with_remotes(overlay, stop)
}

/// Lets go of remotes that the mount has no more. What is held of them waits until all others were
/// listed, at the next mount if they are not during this one.
fn part_with_remotes(overlay: &Arc<Overlay>, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut kept = 0;
    loop {
        let are_listed = overlay.remotes.iter().all(|remote| remote.is_listed());
        let (now, settings) = (Clock::System.now_ns(), overlay.settings.clone());
        let parting = overlay.index.edit(move |w| {
            let local_only = |path: &RelPath| settings.excludes.matches(path);
            w.part_with_some(STEP, are_listed, &local_only, now)
        })?;
        kept += parting.kept;
        if stop() {
            return Ok(());
        }
        if parting.more {
            continue;
        }
        if are_listed || !overlay.index.read(parting::is_parting)? {
            break;
        }
        std::thread::sleep(AGAIN);
    }
    if kept > 0 {
        overlay.note(format!(
            "files that only a remote had which this mount has no more, and that count as written here: {kept}"
        ));
        overlay.uploads.wrote();
    }
    Ok(())
}

fn limits(config: &MountConfig) -> Limits {
    Limits {
        // A stream keeps nothing that is not needed.
        max_bytes: if config.stream {
            Some(0)
        } else {
            config.max_size
        },
        min_free: config.min_free,
        max_files: config.max_files,
        ..Limits::default()
    }
}

/// A remote that goes or comes changes what names can be seen (promise P6), and one whose listing is
/// cut short, which names are known not to be there.
async fn watch_presence(overlay: Arc<Overlay>, events: SyncSender<Event>, stop: CancellationToken) {
    let look = |remote: &Remote| (remote.is_away(), remote.is_cut_short());
    let mut watched: Vec<_> = overlay
        .remotes
        .iter()
        .map(|r| (r.clone(), r.presence(), r.whole(), look(r)))
        .collect();
    loop {
        let changes = watched.iter_mut().map(|(_, presence, whole, _)| {
            Box::pin(async {
                tokio::select! {
                    _ = presence.changed() => {}
                    _ = whole.changed() => {}
                }
            })
        });
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return stop.cancelled().await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = futures_util::future::select_all(changes) => {}
        }
        let mut turned = false;
        for (remote, presence, whole, before) in &mut watched {
            presence.mark_unchanged();
            whole.mark_unchanged();
            let now = look(remote);
            turned |= now != *before;
            *before = now;
        }
        if turned {
            while let Err(TrySendError::Full(_)) = events.try_send(Event::Everything) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let retried = overlay
                .index
                .edit_later(crate::index::Writer::retry_now)
                .await;
            if let Err(error) = retried {
                tracing::warn!(%error, "waiting uploads could not be woken");
            }
        }
        overlay.uploads.kick();
    }
}

/// Waits for the end: asked for at the socket, by a signal, or made by somebody's `umount`.
async fn serve(daemon: &Arc<Daemon>, mounted: &fs::Mounted) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            () = daemon.ending.cancelled() => break,
            _ = look.tick() => if mounted.has_ended() { return Ok(()) },
        }
    }
    if !daemon.ending.is_cancelled() {
        leave(mounted).await?;
    }
    // The kernel ends the session when the last user is gone; a lazy unmount may take as long as they do.
    while !mounted.has_ended() {
        tokio::select! {
            _ = term.recv() => return Err(Error::new(Kind::Busy, "files in the mount are still open; ended all the same")),
            _ = int.recv() => return Err(Error::new(Kind::Busy, "files in the mount are still open; ended all the same")),
            _ = look.tick() => {}
        }
    }
    Ok(())
}

/// Unmounts for a signal: at once if nobody is in the way, else as soon as nobody is.
async fn leave(mounted: &fs::Mounted) -> Result<()> {
    match mounted.unmount(How::Now) {
        Err(error) if error.kind() == Kind::Busy => {
            tracing::warn!(%error, "detached; the daemon ends when the last file is closed");
            mounted.unmount(How::Lazily)
        }
        done => done,
    }
}
