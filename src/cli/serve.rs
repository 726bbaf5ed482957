//! `larder serve`: offer a folder to the network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::flags::ServeFlags;
use super::{Context, Outcome, log, show};
use crate::config::{ServeSettings, resolve_serve};
use crate::error::{About, Error, Kind, Result};
use crate::server::{self, ServeConfig, Server};

/// Serve a folder to the network, for `larder mount` on other machines
#[derive(Debug, Args)]
pub struct Serve {
    /// The folder
    dir: Option<PathBuf>,
    /// The same, as FXCACHE servers have it
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    fxcache_path: Option<PathBuf>,
    #[command(flatten)]
    settings: ServeFlags,
}

/// How often the first scan says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

impl Serve {
    pub fn run(&self, context: &Context) -> Result<Outcome> {
        let flags = self
            .settings
            .flags(self.dir.as_ref().or(self.fxcache_path.as_ref()));
        let resolved = resolve_serve(&context.file()?, &context.env, &flags)?;
        resolved.notes.iter().for_each(|note| show::complain(note));
        log::to_stderr(&resolved.config.log)?;
        look(&resolved.config.dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .about("starting the server")?;
        runtime.block_on(serve(resolved.config))?;
        // What still reads a slow disk does not keep the program.
        runtime.shutdown_timeout(Duration::from_secs(2));
        Ok(Outcome::Done)
    }
}

/// The usual mistakes, in plain words.
fn look(dir: &Path) -> Result<()> {
    let at = dir.display();
    let facts = match std::fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = "does not exist; name the folder that holds the files";
            return Err(Error::new(Kind::NotFound, text).about(at));
        }
        other => other.about(&at)?,
    };
    if !facts.is_dir() {
        let text = "is not a directory; name the folder that holds the files";
        return Err(Error::new(Kind::NotADirectory, text).about(at));
    }
    Ok(())
}

async fn serve(settings: ServeSettings) -> Result<()> {
    // Before anything is started: a signal in between must not be lost.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let dir = settings.dir.display().to_string();
    let server = server::start(mapped(settings)).await?;
    banner(&server, &dir);
    let work = async {
        scan(&server).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = work => {}
    }
    server.stop().await;
    show::tell(&"stopped");
    Ok(())
}

/// Waits for the first scan and says how far it is.
async fn scan(server: &Server) {
    let done = server.wait_scanned();
    tokio::pin!(done);
    loop {
        let waited = tokio::time::timeout(PROGRESS, &mut done).await;
        let (files, bytes) = server.totals();
        let so_far = format!(
            "{}, {}",
            show::count(files, "file", "files"),
            show::bytes(bytes)
        );
        if waited.is_ok() {
            show::tell(&format!("the index is current: {so_far}"));
            return;
        }
        show::tell(&format!("scanning: {so_far}"));
    }
}

fn banner(server: &Server, dir: &str) {
    let url = server.url();
    show::tell(&format!("serving {dir} at {url}"));
    for note in server.notes() {
        show::tell(note);
    }
    show::tell(&format!(
        "on another machine: larder mount FOLDER --remote {url}"
    ));
    show::tell(&format!("what goes on, in a browser: {url}/"));
}

fn mapped(s: ServeSettings) -> ServeConfig {
    ServeConfig {
        host: s.host,
        port: s.port,
        key: s.key,
        read_key: s.read_key,
        open_writes: s.open_writes,
        allow_delete: s.allow_delete,
        s3_bucket: s.s3_bucket,
        tls: s.tls_cert.zip(s.tls_key),
        sweep: s.sweep,
        ..ServeConfig::new(s.dir)
    }
}
