//! What a server starts from: the directory, the place for our own things, both indexes; and
//! what the one who starts it should read.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::error::{About, Result};
use crate::index::served::{Index, Legacy};

use super::access::Access;
use super::disk::blocking;
use super::home::Home;
use super::root::Root;
use super::tree::Tree;

/// What is on the disk.
pub struct Place {
    pub tree: Arc<Tree>,
    pub home: Home,
    /// The index of another server, as long as ours knows nothing.
    pub legacy: Result<Option<Legacy>>,
}

/// Opens what is on the disk: the directory, the place for our own things, the index.
pub async fn open(dir: PathBuf, state_dir: Option<PathBuf>, clock: Clock) -> Result<Place> {
    blocking(move || {
        let root = Root::open(&dir).about(dir.display())?;
        let home = Home::open(&root, state_dir)?;
        let index = Index::open(&home.index, clock.clone())?;
        let legacy = match index.is_scanned() {
            true => Ok(None),
            false => Legacy::open(root.path()),
        };
        let tree = Arc::new(Tree::new(root, index, clock));
        Ok(Place { tree, home, legacy })
    })
    .await
}

impl Place {
    /// What the one who starts the server should read.
    pub fn notes(&self, access: &Access) -> Vec<String> {
        let Place { tree, home, legacy } = self;
        let mut notes: Vec<String> = tree.index.take_report().into_iter().collect();
        match legacy {
            Ok(None) => {}
            Ok(Some(legacy)) => notes.push(format!(
                "an FXCACHE server left its index, with {} files: it answers /exists until \
                 the first scan is done",
                legacy.files()
            )),
            Err(error) => notes.push(format!(
                "what looks like an FXCACHE server's index is none, and ignored: {error}"
            )),
        }
        match home.uploads {
            Some(_) => notes.push(access.describe().to_owned()),
            None => notes.push(format!(
                "the directory cannot be written: it is served for reading only, with its \
                 index at {}",
                home.index.display()
            )),
        }
        for note in &notes {
            tracing::debug!("{note}");
        }
        notes
    }
}
