//! The listing of a directory tree: depth first, in ascending byte order of the whole
//! paths, one directory's names in memory at a time for each level.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Place, meta};
use crate::beneath::{Dir, Entry, FileKind};
use crate::error::{Error, Kind, Result};
use crate::object::{Listed, Object};
use crate::path::{Name, RelPath};

/// Objects a batch.
const BATCH: usize = 2000;
/// How often to say that the walk goes on, at least.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Sends every regular file. The directory must be there at the end as at the beginning.
pub(super) fn walk(place: &Place, out: mpsc::Sender<Vec<Listed>>) -> Result<()> {
    let root = place.root()?;
    let mut out = Batches::new(out);
    let mut levels = vec![level(&root, RelPath::root())?.unwrap_or_default()];
    while let Some((path, entries)) = levels.last_mut() {
        let Some(entry) = entries.pop() else {
            levels.pop();
            continue;
        };
        match (entry.facts.kind, child(path, &entry)) {
            (FileKind::File, Ok(key)) => {
                let meta = meta(&entry.facts)?;
                out.push(Listed::Object(Object { key, meta }))?;
            }
            (FileKind::Dir, Ok(path)) => {
                out.sign_of_life()?;
                levels.extend(level(&root, path)?);
            }
            (FileKind::File | FileKind::Dir, Err(error)) => out.push(refused(&entry, &error))?,
            (FileKind::Symlink | FileKind::Other, _) => {}
        }
    }
    let before = root.facts()?;
    let now = place.root()?.facts()?;
    if (before.dev, before.ino) != (now.dev, now.ino) {
        let why = "the directory was replaced while it was listed";
        return Err(Error::new(Kind::Unavailable, why).about(place.path.display()));
    }
    out.send()
}

/// A directory's path, and its entries, the first one last. None if it is gone meanwhile;
/// one that cannot be read is an error, for what it holds must not seem deleted.
fn level(root: &Dir, path: RelPath) -> Result<Option<(RelPath, Vec<Entry>)>> {
    let mut entries = match root.read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::NotADirectory) => return Ok(None),
        Err(e) => return Err(e),
    };
    entries.sort_unstable_by(|a, b| in_path(b).cmp(in_path(a)));
    Ok(Some((path, entries)))
}

/// A name as it stands in whole paths: a directory's is followed by a slash.
fn in_path(entry: &Entry) -> impl Iterator<Item = &u8> {
    let slash = (entry.facts.kind == FileKind::Dir).then_some(&b'/');
    entry.name.iter().chain(slash)
}

fn child(path: &RelPath, entry: &Entry) -> Result<RelPath> {
    path.join(&Name::new(&entry.name)?)
}

fn refused(entry: &Entry, error: &Error) -> Listed {
    Listed::Refused {
        shown: entry.name.escape_ascii().to_string(),
        why: error.message().to_owned(),
    }
}

struct Batches {
    out: mpsc::Sender<Vec<Listed>>,
    batch: Vec<Listed>,
    sent: Instant,
}

impl Batches {
    fn new(out: mpsc::Sender<Vec<Listed>>) -> Batches {
        Batches {
            out,
            batch: Vec::new(),
            sent: Instant::now(),
        }
    }

    fn push(&mut self, listed: Listed) -> Result<()> {
        self.batch.push(listed);
        match self.batch.len() {
            BATCH => self.send(),
            _ => Ok(()),
        }
    }

    fn sign_of_life(&mut self) -> Result<()> {
        match self.sent.elapsed() > SIGN_OF_LIFE {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.sent = Instant::now();
        let gone = |_| Error::new(Kind::Cancelled, "nobody takes the listing any more");
        self.out.blocking_send(batch).map_err(gone)
    }
}
