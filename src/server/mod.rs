//! `larder serve`: a directory, offered to the local network.
//!
//! Owns the served directory's descriptor, its index, the port and the threads that follow
//! the directory. It promises that what it serves is whole, that what it accepts is whole
//! and durable before it says so, and that of several conditional writers one wins. It runs
//! on Linux and macOS alike; what only one of them has is asked for in one place each.
//!
//! The files: `place`, `root` and `home` are where things are; `tree` is what is there; `sweep` and
//! `watch` keep it current, `sweeper` and `refresh` say when and how far; `listen` and `routes`
//! are the way in; `get`, `batch`, `put`, `delete` and `listing` answer, and `fxcache` in the words of
//! another protocol, `s3` in those of a third; `question` takes in what is asked; `conditions`, `access` and `problem` are the rules they answer by; `activity`
//! and `page` are for people.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch as tell};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

mod access;
mod activity;
mod batch;
mod certificate;
pub mod conditions;
mod crowd;
mod delete;
mod disk;
mod fxcache;
mod get;
mod home;
mod listen;
mod listing;
mod page;
mod place;
mod problem;
mod put;
mod question;
mod refresh;
mod root;
mod routes;
mod s3;
mod sweep;
mod sweeper;
mod tree;
mod watch;

use access::Access;
use activity::Activity;
use certificate::Certificate;
use disk::{Disk, blocking};
use home::Uploads;
use refresh::{Mode, Refresh};
pub use routes::Stats;
use tree::Tree;
use watch::{Sweeps, Watch};

/// Listings that are told at the same time.
const LISTINGS: usize = 16;

/// Everything that `larder serve` can be told.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The directory to serve.
    pub dir: PathBuf,
    /// Name or address to bind to.
    pub host: String,
    /// 0: any free one.
    pub port: u16,
    /// Needed for writes, once it is set; good for reads too.
    pub key: Option<Secret>,
    /// Needed for reads, once it is set.
    pub read_key: Option<Secret>,
    /// Without a key, take writes from everywhere instead of this machine only.
    pub open_writes: bool,
    /// Do what `DELETE` asks for.
    pub allow_delete: bool,
    /// The one name that the directory has as an S3 bucket; none: every name is it.
    pub s3_bucket: Option<String>,
    /// Certificate chain and private key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Between two sweeps.
    pub sweep: Duration,
    /// Connections at the same time; more wait. Of one address: a quarter of them; more are refused.
    pub connections: usize,
    /// Where the index goes when `dir` cannot be written; none: the user's state directory.
    pub state_dir: Option<PathBuf>,
    pub clock: Clock,
}

impl ServeConfig {
    /// Serves `dir` with the defaults.
    pub fn new(dir: impl Into<PathBuf>) -> ServeConfig {
        ServeConfig {
            dir: dir.into(),
            host: "0.0.0.0".to_owned(),
            port: 5002,
            key: None,
            read_key: None,
            open_writes: false,
            allow_delete: false,
            s3_bucket: None,
            tls: None,
            sweep: Duration::from_secs(600),
            connections: 1024,
            state_dir: None,
            clock: Clock::System,
        }
    }
}

/// What every request can reach.
struct App {
    tree: Arc<Tree>,
    access: Access,
    disk: Disk,
    uploads: Option<Uploads>,
    allow_delete: bool,
    counters: routes::Counters,
    activity: Activity,
    refresh: Arc<Refresh>,
    sweeps: Sweeps,
    fxcache: fxcache::Own,
    s3: s3::Own,
    /// Where others on the network find this server.
    url: String,
    listings: Arc<Semaphore>,
    scanned: tell::Receiver<bool>,
    closing: CancellationToken,
}

impl App {
    fn uploads(&self) -> Result<&Uploads> {
        self.uploads
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, "the served directory cannot be written"))
    }
}

/// A server that runs. Dropping it stops it without waiting; [`Server::stop`] waits.
pub struct Server {
    app: Arc<App>,
    addr: SocketAddr,
    watch: Option<Watch>,
    accepting: Option<JoinHandle<()>>,
    notes: Vec<String>,
    _home: home::Lock,
}

/// Opens the directory and its index, binds, and begins to answer; the first scan goes on
/// behind that. Must be called inside a tokio runtime.
pub async fn start(config: ServeConfig) -> Result<Server> {
    let tls = match &config.tls {
        Some((cert, key)) => Some(Certificate::read(cert, key)?),
        None => None,
    };
    let listener = listen::bind(&config.host, config.port).await?;
    let addr = listener.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let seen_at = SocketAddr::new(listen::lan_address(addr.ip()), addr.port());
    let (limit, sweep) = (config.connections, config.sweep);
    let access = Access::new(
        config.key.as_ref(),
        config.read_key.as_ref(),
        config.open_writes,
    );
    let s3 = s3::Own::new(
        config.key.as_ref(),
        config.read_key.as_ref(),
        config.s3_bucket,
    );
    let clock = config.clock.clone();
    let place = place::open(config.dir, config.state_dir, config.clock).await?;
    let notes = place.notes(&access);
    let place::Place { tree, home, legacy } = place;
    let first = match tree.index.is_scanned() {
        true => Mode::Incremental,
        false => Mode::Full,
    };
    let refresh = Arc::new(Refresh::new(first, clock.clone()));
    let (scanned_now, scanned) = tell::channel(false);
    let watch = Watch::start(&tree, sweep, &refresh, scanned_now)?;
    let home::Home { uploads, lock, .. } = home;
    let app = Arc::new(App {
        tree,
        access,
        disk: Disk::default(),
        uploads,
        allow_delete: config.allow_delete,
        counters: routes::Counters::default(),
        activity: Activity::new(clock),
        refresh,
        sweeps: watch.sweeps(),
        fxcache: fxcache::Own::new(legacy.ok().flatten()),
        s3,
        url: format!("{scheme}://{seen_at}"),
        listings: Arc::new(Semaphore::new(LISTINGS)),
        scanned,
        closing: CancellationToken::new(),
    });
    tokio::spawn(forget_legacy(app.clone()));
    if let Some(certificate) = tls.clone() {
        tokio::spawn(certificate.follow(app.closing.clone()));
    }
    let accepting = tokio::spawn(listen::listen(
        listener,
        routes::router(app.clone()),
        tls,
        limit,
        app.closing.clone(),
    ));
    Ok(Server {
        app,
        addr,
        watch: Some(watch),
        accepting: Some(accepting),
        notes,
        _home: lock,
    })
}

/// Hearsay ends with the first scan.
async fn forget_legacy(app: Arc<App>) {
    let mut scanned = app.scanned.clone();
    tokio::select! {
        _ = scanned.wait_for(|done| *done) => app.fxcache.forget_legacy(),
        () = app.closing.cancelled() => {}
    }
}

impl Server {
    /// The address bound.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address that others on the network use.
    pub fn url(&self) -> String {
        self.app.url.clone()
    }

    /// How many requests came, by kind.
    pub fn stats(&self) -> Stats {
        self.app.counters.read()
    }

    /// Files and bytes known now.
    pub fn totals(&self) -> (u64, u64) {
        self.app.tree.index.totals()
    }

    /// What should be said at start: who may write, what was recovered.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Waits until the whole directory was gone through once in this run.
    pub async fn wait_scanned(&self) {
        let mut scanned = self.app.scanned.clone();
        // An error means that the sweeper has ended, with the server.
        let _ = scanned.wait_for(|done| *done).await;
    }

    /// Goes through the directory now, without waiting for it.
    pub fn sweep(&self) {
        self.app.sweeps.ask();
    }

    /// Stops accepting, lets requests in progress end within a few seconds, ends the threads.
    pub async fn stop(mut self) {
        self.app.closing.cancel();
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await;
        }
        if let Some(watch) = self.watch.take() {
            let _ = blocking(move || {
                drop(watch);
                Ok(())
            })
            .await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.closing.cancel();
    }
}
