//! What can be asked of a folder while it is not mounted: the process that asks is its owner for as
//! long as that takes, so nobody can mount it meanwhile, and a kill is a kill like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::{conflicts, verify};
use crate::backends::remote::Remotes;
use crate::beneath::Dir;
use crate::clock::Clock;
use crate::config::{DEFAULT_EXCLUDES, Offline, Patterns};
use crate::control::{Answer, Progress, Request};
use crate::crash;
use crate::error::{About as _, Error, Kind, Result};
use crate::index::{EVENTS, Index, remote as facts};
use crate::metrics::Metrics;
use crate::overlay::{Overlay, Parts, Settings};
use crate::path::{RESERVED, RelPath};
use crate::store::Store;

/// The folder at or above `path` that a larder was mounted over, and where in it `path` is.
pub fn store_above(path: &Path) -> Result<Option<(PathBuf, RelPath)>> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::path::absolute(path).about(path.display())?;
    for above in path.ancestors() {
        if above.join(RESERVED).join("index.db").is_file() {
            let inside = path.strip_prefix(above).unwrap_or(Path::new(""));
            let inside = RelPath::new(inside.as_os_str().as_bytes()).about(path.display())?;
            return Ok(Some((above.to_owned(), inside)));
        }
    }
    Ok(None)
}

/// Answers `request` for the folder of a mount that is not there, with the lines that people should
/// know of. Errors: `Busy` if it is mounted; `Unsupported` for what only a mount can do.
pub fn ask_folder(
    folder: &Path,
    request: Request,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Answer, Vec<String>)> {
    crash::arm()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _context = runtime.enter();
    let overlay = open(folder, runtime.handle())?;
    let answer = match request {
        Request::Conflicts => conflicts::list(&overlay),
        Request::Conflict { which } => conflicts::show_here(&overlay, &which),
        Request::Settle { which, keep } => {
            overlay.recover()?;
            let settled = conflicts::settle(&overlay, &which, keep);
            // Whatever had to be put right was: the next mount follows an end in order.
            overlay.end_runs()?;
            settled
        }
        Request::DropUnfinished => conflicts::drop_unfinished(&overlay),
        Request::Verify {
            path,
            repair: false,
            remote: false,
        } => verify::here(&overlay, &path, progress),
        _ => Err(Error::new(
            Kind::Unsupported,
            "needs the mount; start it with `larder mount`",
        )),
    };
    let notes = overlay.notes();
    overlay.index.close();
    Ok((answer?, notes))
}

/// The mount's own parts, without remotes and without a kernel; starts nothing.
fn open(folder: &Path, runtime: &tokio::runtime::Handle) -> Result<Arc<Overlay>> {
    super::outside_of_mounts(folder)?;
    let at = |error: Error| error.about(folder.display());
    let dir = Dir::open_ambient(folder).about(folder.display())?;
    let store = Store::open(dir, &folder.display().to_string()).map_err(at)?;
    let store = Arc::new(store);
    let (events, _) = sync_channel(EVENTS);
    let (index, _) = Index::open(&store.larder_path().join("index.db"), events).map_err(at)?;
    // The mount's remotes stay what they were: what is written now remembers what it replaces.
    let remotes = index.read(facts::remotes)?;
    let same: Vec<_> = remotes.into_iter().map(|r| (r.url, r.upload)).collect();
    index.edit(move |w| w.set_remotes(&same))?;
    Ok(Overlay::new(Parts {
        store,
        index: Arc::new(index),
        remotes: Remotes(Vec::new().into()),
        metrics: Arc::new(Metrics::default()),
        settings: Settings {
            offline: Offline::Error,
            read_only: false,
            stream: false,
            propagate_deletes: false,
            local_wins: false,
            // What else a mount keeps here is looked at again before anything goes up.
            excludes: Patterns::new(DEFAULT_EXCLUDES)?,
            publish_last: Patterns::new::<&str>(&[])?,
        },
        clock: Clock::System,
        runtime: runtime.clone(),
        lanes: (1, 1),
        prefetch: 0,
        refresh: std::time::Duration::from_secs(30),
    }))
}
