//! Brings files into the store before anybody opens them.
//!
//! What lies beneath some paths is walked in the order of the tree, by pages of rows, and what is
//! missing is fetched, a few files at a time. It takes no reader's lane for small files, and
//! nothing has to go for it: what would not fit is booked before it comes, and the first file
//! that does not fit ends it. What came is kept, however it ends; dropped, it ends at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Overlay;
use crate::error::{Error, Kind, Result};
use crate::index::{Held, Index, Node, NodeId, NodeKind, node as rows};
use crate::path::RelPath;
use crate::store::Limits;
use crate::store::evict::{Usage, need};

/// Rows read in one go.
const PAGE: usize = 256;
/// Files that could not be had and are named.
const NAMED: usize = 20;
/// So many files in a row that cannot be had are enough to tell of the rest.
const IN_A_ROW: u64 = 32;
/// Files that came and are being put in their places, beside those that are fetched.
const LANDING: usize = 64;
/// How often a file is looked for that changes, or whose remote has a bad moment.
const TRIES: u32 = 4;
/// How long such a moment may be at first.
const PAUSE: Duration = Duration::from_millis(100);

/// What bounds it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub limits: Limits,
    /// Files that are fetched at once.
    pub width: usize,
}

/// Files, and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub files: u64,
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What warming has come to so far.
#[derive(Debug, Default)]
pub struct Warmth {
    /// Was missing when it began.
    pub missing: Sum,
    /// Of these, fetched.
    pub came: Sum,
    /// Files whose bytes were here, or came by themselves.
    pub here: u64,
    /// Files that are being written.
    pub busy: u64,
    /// Paths that are none, and files that could not be had; the first ones by name.
    pub failed: u64,
    pub failures: Vec<(RelPath, Error)>,
    /// Why it ended early.
    pub end: Option<End>,
}

impl Warmth {
    fn fail(&mut self, path: RelPath, error: Error) {
        self.failed += 1;
        if self.failures.len() < NAMED {
            self.failures.push((path, error));
        }
    }
}

/// Why not all was tried.
#[derive(Debug, Clone)]
pub enum End {
    Full(Full),
    /// The remote, as it is shown.
    Away(String),
    /// One file after the other cannot be had; why the last one cannot.
    Refused(Error),
}

/// What the next file would have been too much for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    MaxBytes,
    MaxFiles,
    Disk,
}

/// What is on its way into the store and not in its sums, of all who warm.
pub(super) type Booked = Arc<Mutex<Sum>>;

/// A place for one file.
struct Ticket(Booked, u64);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut booked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        booked.files -= 1;
        booked.bytes -= self.1;
    }
}

enum Place {
    Taken(Ticket),
    /// What is on its way may take less than was booked.
    Later,
    None(Full),
}

/// What is to be done about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lot {
    Far,
    Here,
    Busy,
}

/// How the fetching of a file ended.
enum Fetched {
    Came(u64),
    Not(Lot),
    /// There is no such file any more.
    Gone,
}

/// The files beneath some nodes, in the order of the tree; a page a level is in memory.
struct Walk {
    tops: VecDeque<Node>,
    levels: Vec<Level>,
}

struct Level {
    dir: NodeId,
    page: VecDeque<Node>,
    after: Vec<u8>,
    is_last: bool,
}

impl Walk {
    fn new(tops: &[Node]) -> Walk {
        Walk {
            tops: tops.to_vec().into(),
            levels: Vec::new(),
        }
    }

    fn next(&mut self, index: &Index) -> Result<Option<Node>> {
        loop {
            let Some(node) = self.step(index)? else {
                return Ok(None);
            };
            match node.kind {
                NodeKind::File => return Ok(Some(node)),
                NodeKind::Dir => self.levels.push(Level {
                    dir: node.id,
                    page: VecDeque::new(),
                    after: Vec::new(),
                    is_last: false,
                }),
                NodeKind::Symlink => {}
            }
        }
    }

    fn step(&mut self, index: &Index) -> Result<Option<Node>> {
        while let Some(level) = self.levels.last_mut() {
            if level.page.is_empty() && !level.is_last {
                let page = index.read(|c| rows::children(c, level.dir, &level.after, PAGE))?;
                level.is_last = page.len() < PAGE;
                if let Some(name) = page.last().and_then(|node| node.name.as_ref()) {
                    level.after = name.as_bytes().to_vec();
                }
                level.page = page.into();
            }
            match level.page.pop_front() {
                Some(node) => return Ok(Some(node)),
                None => self.levels.pop(),
            };
        }
        Ok(self.tops.pop_front())
    }
}

/// One order to warm, on its way.
struct Warming<'a> {
    overlay: &'a Arc<Overlay>,
    bounds: &'a Bounds,
    flights: JoinSet<(Node, Result<Fetched>)>,
    lanes: Arc<Semaphore>,
    done: Warmth,
    failed_in_a_row: u64,
}

impl Overlay {
    /// Fetches the missing files at `tops` and beneath; `tell` hears of every one that came.
    pub async fn warm(
        self: &Arc<Self>,
        tops: Vec<RelPath>,
        bounds: &Bounds,
        tell: &(dyn Fn(&Warmth) + Send + Sync),
    ) -> Result<Warmth> {
        let mut warming = Warming {
            overlay: self,
            bounds,
            flights: JoinSet::new(),
            lanes: Arc::new(Semaphore::new(bounds.width.max(1))),
            done: Warmth::default(),
            failed_in_a_row: 0,
        };
        let tops = warming.find(tops).await?;
        warming.count(&tops).await?;
        tell(&warming.done);
        let mut walk = Walk::new(&tops);
        while warming.done.end.is_none() && warming.go_on(&mut walk).await? {
            tell(&warming.done);
        }
        Ok(warming.done)
    }

    fn lot(&self, node: &Node) -> Lot {
        if self.is_being_written(node.id) {
            Lot::Busy
        } else if node.held == Held::Whole || node.dirty != 0 || node.origin.is_none() {
            Lot::Here
        } else {
            Lot::Far
        }
    }

    /// A place in the store for so many bytes that nothing has to go for.
    fn book(&self, bytes: u64, limits: &Limits) -> Result<Place> {
        let mut booked = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.usage()?;
        let coming = booked.bytes.saturating_add(bytes);
        let then = Usage {
            held_bytes: now.held_bytes.saturating_add(coming),
            held_files: now.held_files.saturating_add(booked.files + 1),
            free_bytes: now.free_bytes.saturating_sub(coming),
        };
        let full = match need(limits, &then) {
            _ if now.free_bytes <= coming => Full::Disk,
            Some(need) if need.files > 0 => Full::MaxFiles,
            Some(_) if limits.max_bytes.is_some_and(|most| then.held_bytes > most) => {
                Full::MaxBytes
            }
            Some(_) => Full::Disk,
            None => {
                booked.add(bytes);
                return Ok(Place::Taken(Ticket(self.warming.clone(), bytes)));
            }
        };
        Ok(match booked.files {
            0 => Place::None(full),
            _ => Place::Later,
        })
    }

    /// Fetches one file, in the version that it has by then.
    async fn warm_one(
        self: Arc<Self>,
        mut node: Node,
        lanes: Arc<Semaphore>,
        _place: Ticket,
    ) -> (Node, Result<Fetched>) {
        let mut tries = 0;
        loop {
            let error = match self.fetch_now(node.id, &lanes).await {
                Ok(bytes) => return (node, Ok(Fetched::Came(bytes))),
                Err(error) => error,
            };
            tries += 1;
            let is_other = matches!(error.kind(), Kind::Stale | Kind::NotFound);
            let is_moment = error.kind().is_away() && !self.remotes.all_away();
            if tries == TRIES || !(is_other || is_moment) {
                return (node, Err(error));
            }
            if is_moment {
                tokio::time::sleep(PAUSE * 2_u32.pow(tries)).await;
                continue;
            }
            match self.now_there(&node, tries > 1).await {
                Ok(Some(now)) if self.lot(&now) == Lot::Far => node = now,
                Ok(Some(now)) => {
                    let lot = self.lot(&now);
                    return (now, Ok(Fetched::Not(lot)));
                }
                Ok(None) => return (node, Ok(Fetched::Gone)),
                Err(error) => return (node, Err(error)),
            }
        }
    }

    /// Fetches a file and sees to it that it is here. Returns its size.
    async fn fetch_now(&self, id: NodeId, lanes: &Arc<Semaphore>) -> Result<u64> {
        let lane = lanes.clone().acquire_owned().await.map_err(|_| broken())?;
        self.downloads.hydrate_ahead(id, lane).await?;
        match self.index.node(id)? {
            Some(now) if now.held == Held::Whole => Ok(now.size),
            Some(_) => {
                let why = "came and could not be kept; see .larder/larder.log";
                Err(Error::new(Kind::Io, why))
            }
            None => Err(Error::new(Kind::Stale, "was replaced as it came")),
        }
    }

    /// The file that has the name of `node` now; remotes are asked if the rows are behind them.
    async fn now_there(&self, node: &Node, is_behind: bool) -> Result<Option<Node>> {
        if is_behind {
            self.ask_again(node.id).await;
        }
        let Some(name) = &node.name else {
            return Ok(None);
        };
        let now = self
            .index
            .read(|c| rows::child(c, node.parent, name.as_bytes()))?;
        Ok(now.filter(|now| now.kind == NodeKind::File))
    }
}

impl Warming<'_> {
    /// The nodes at the paths, each once; paths that are none are failures.
    async fn find(&mut self, mut paths: Vec<RelPath>) -> Result<Vec<Node>> {
        let overlay = self.overlay;
        paths.sort();
        let mut found: Vec<(RelPath, Node)> = Vec::new();
        for path in paths {
            if found.iter().any(|(top, _)| path.is_under(top)) {
                continue;
            }
            let mut node = overlay.index.read(|c| rows::resolve(c, &path))?;
            if node.is_none() && overlay.remotes.iter().any(|remote| remote.probes()) {
                overlay.ask_elsewhere(&path).await;
                node = overlay.index.read(|c| rows::resolve(c, &path))?;
            }
            match node {
                Some(node) => found.push((path, node)),
                None => {
                    let why = Error::new(Kind::NotFound, "no such file in the mount");
                    self.done.fail(path, why);
                }
            }
        }
        Ok(found.into_iter().map(|(_, node)| node).collect())
    }

    /// Counts what is missing.
    async fn count(&mut self, tops: &[Node]) -> Result<()> {
        let mut walk = Walk::new(tops);
        let mut looked = 0_usize;
        while let Some(node) = walk.next(&self.overlay.index)? {
            if self.overlay.lot(&node) == Lot::Far {
                self.done.missing.add(node.size);
            }
            looked += 1;
            if looked.is_multiple_of(PAGE) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Begins with what fits in, and takes in one file that ended. False: that was all.
    async fn go_on(&mut self, walk: &mut Walk) -> Result<bool> {
        let mut looked = 0_usize;
        while self.flights.len() < self.bounds.width.max(1) + LANDING {
            let Some(node) = walk.next(&self.overlay.index)? else {
                break;
            };
            match self.overlay.lot(&node) {
                Lot::Far if !self.begin(node).await? => return Ok(false),
                Lot::Far => {}
                lot => self.passed(lot),
            }
            looked += 1;
            if looked.is_multiple_of(PAGE) {
                tokio::task::yield_now().await;
            }
        }
        match self.flights.join_next().await {
            Some(ended) => {
                let (node, fetched) = ended.map_err(|_| broken())?;
                self.ended(&node, fetched)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Begins to fetch a file as soon as it fits. False: it does not, or all is over.
    async fn begin(&mut self, node: Node) -> Result<bool> {
        loop {
            match self.overlay.book(node.size, &self.bounds.limits)? {
                Place::Taken(place) => {
                    let overlay = self.overlay.clone();
                    let lanes = self.lanes.clone();
                    self.flights.spawn(overlay.warm_one(node, lanes, place));
                    return Ok(true);
                }
                Place::None(full) => {
                    self.done.end = Some(End::Full(full));
                    return Ok(false);
                }
                Place::Later => {}
            }
            match self.flights.join_next().await {
                Some(ended) => {
                    let (ended, fetched) = ended.map_err(|_| broken())?;
                    self.ended(&ended, fetched)?;
                    if self.done.end.is_some() {
                        return Ok(false);
                    }
                }
                // The places are somebody else's.
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn passed(&mut self, lot: Lot) {
        match lot {
            Lot::Busy => self.done.busy += 1,
            Lot::Here | Lot::Far => self.done.here += 1,
        }
    }

    fn ended(&mut self, node: &Node, fetched: Result<Fetched>) -> Result<()> {
        let error = match fetched {
            Ok(fetched) => {
                self.failed_in_a_row = 0;
                match fetched {
                    Fetched::Came(bytes) => self.done.came.add(bytes),
                    Fetched::Not(lot) => self.passed(lot),
                    Fetched::Gone => {}
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let remotes = &self.overlay.remotes;
        let away = || remotes.iter().find(|remote| remote.is_away());
        self.failed_in_a_row += 1;
        let is_enough = remotes.all_away() || self.failed_in_a_row >= IN_A_ROW;
        self.done.end = match (error.kind(), away()) {
            (Kind::NoSpace, _) => Some(End::Full(Full::Disk)),
            (kind, Some(remote)) if kind.is_away() && is_enough => {
                Some(End::Away(remote.shown.clone()))
            }
            (_, _) => {
                let path = self.overlay.index.path_of(node.id)?;
                let path = path.or_else(|| RelPath::new(node.name.as_ref()?.as_bytes()).ok());
                self.done.fail(path.unwrap_or_default(), error.clone());
                (self.failed_in_a_row >= IN_A_ROW).then_some(End::Refused(error))
            }
        };
        Ok(())
    }
}

fn broken() -> Error {
    Error::new(Kind::Io, "warming failed")
}
