//! Names that no listing has, or that no listing can tell: asked for at remotes where that
//! makes sense, and the answers remembered for a while (promise P2).

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::{Answer, Attr, Overlay};
use crate::backends::Found;
use crate::backends::remote::Remote;
use crate::error::{Kind, Result};
use crate::index::{Node, NodeId, NodeKind, node as rows};
use crate::object::Version;
use crate::path::{Name, RelPath};

/// Most names whose answer is remembered.
const REMEMBERED: usize = 100_000;

/// When each name was last asked for.
pub(super) struct Asked {
    lasts: Duration,
    when: Mutex<LruCache<RelPath, Instant>>,
}

impl Asked {
    /// Answers last for `lasts`.
    pub(super) fn new(lasts: Duration) -> Asked {
        let most = NonZeroUsize::new(REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Asked {
            lasts,
            when: Mutex::new(LruCache::new(most)),
        }
    }

    fn is_recent(&self, key: &RelPath) -> bool {
        let mut when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        when.get(key).is_some_and(|at| at.elapsed() < self.lasts)
    }

    fn note(&self, key: RelPath) {
        let mut when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        when.put(key, Instant::now());
    }

    /// Nothing is remembered: a remote has news, or another is there.
    pub(super) fn forget(&self) {
        let mut when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        when.clear();
    }
}

/// What the remote has under a name now, directories apart.
pub(super) async fn head(remote: &Remote, key: &RelPath) -> Result<Found> {
    let found = remote.backend.head(key).await?;
    Ok(found.map_or(Found::Nothing, Found::Object))
}

impl Overlay {
    /// What `found` in the index comes to: that, or a question to a remote that may know better.
    pub(super) fn or_elsewhere(
        self: &Arc<Self>,
        parent: NodeId,
        name: &Name,
        found: Option<Attr>,
    ) -> Answer<Option<Attr>> {
        match self.to_ask(parent, name, found.as_ref()) {
            Ok(Some(key)) => {
                let (this, name) = (self.clone(), name.clone());
                Answer::later(async move {
                    this.ask_elsewhere(&key).await;
                    this.lookup_now(parent, &name)
                })
            }
            Ok(None) => Answer::Now(Ok(found)),
            Err(error) => Answer::Now(Err(error)),
        }
    }

    /// The path to ask remotes for, if there is reason to.
    fn to_ask(&self, parent: NodeId, name: &Name, found: Option<&Attr>) -> Result<Option<RelPath>> {
        let wanted = match found {
            None => self.remotes.iter().any(|r| r.probes()),
            Some(attr) => {
                attr.kind == NodeKind::File
                    && self.remotes.iter().any(|r| !r.can_list())
                    && !self.opens.is_open(attr.id)
                    && self
                        .index
                        .node(attr.id)?
                        .is_some_and(|node| self.is_told(&node))
            }
        };
        if !wanted {
            return Ok(None);
        }
        let key = self.path_of_dir(parent)?.join(name)?;
        let hidden = found.is_none() && self.hidden_child(parent, name)?.is_some();
        let passed = hidden || self.is_local_only(&key) || self.asked.is_recent(&key);
        Ok((!passed).then_some(key))
    }

    /// Whether all that is known of the file is what a remote without a listing said once.
    fn is_told(&self, node: &Node) -> bool {
        node.dirty == 0
            && node.origin.as_ref().is_some_and(|(remote, _)| {
                self.remotes
                    .get(*remote)
                    .is_some_and(|r| r.probes() && !r.can_list())
            })
    }

    /// Asks every remote that may have it. What cannot be asked now is asked again the next time.
    pub(super) async fn ask_elsewhere(&self, key: &RelPath) {
        let mut all = true;
        for remote in self.remotes.iter().filter(|r| r.probes()) {
            let known = self.index.read(|c| rows::replica(c, remote.id, key));
            let known = known.ok().flatten().map(|r| r.meta.version);
            let asked = remote.backend.find(key);
            if let Err(error) = self.take_answer(remote, key, known, asked).await {
                tracing::debug!(%error, "a name could not be asked for");
                all = false;
            }
        }
        if all {
            self.asked.note(key.clone());
        }
    }

    /// Waits for what a remote says of a name, and enters it unless what was known has changed
    /// meanwhile. Returns whether there is such a file.
    pub(super) async fn take_answer(
        &self,
        remote: &Remote,
        key: &RelPath,
        known: Option<Version>,
        asked: impl Future<Output = Result<Found>>,
    ) -> Result<bool> {
        let found = asked.await.inspect_err(|error| remote.heard(error))?;
        let is_file = matches!(found, Found::Object(_));
        let (id, key, now) = (remote.id, key.clone(), self.clock.now_ns());
        let is_nothing = known.is_none() && found == Found::Nothing;
        if is_nothing {
            // Most questions end so, and there is nothing to note.
            return Ok(false);
        }
        let entered = self.index.edit_later(move |w| match found {
            Found::Object(meta) => w.correct(id, &key, known.as_ref(), Some(meta), now),
            Found::Nothing => w.correct(id, &key, known.as_ref(), None, now),
            Found::Directory => w.guess_dir(&key, now),
        });
        entered.await.map(|()| is_file)
    }

    /// A remote that has the file said that it is gone, or another: what it has now is asked for
    /// rather than waited for.
    pub(super) async fn ask_again(&self, id: NodeId) {
        let Ok(replicas) = self.index.read(|c| rows::replicas(c, id)) else {
            return;
        };
        for replica in replicas {
            let Some(remote) = self.remotes.get(replica.remote).filter(|r| !r.is_away()) else {
                continue;
            };
            let (key, known) = (replica.key, Some(replica.meta.version));
            if let Err(error) = self
                .take_answer(remote, &key, known, head(remote, &key))
                .await
                && error.kind() != Kind::Cancelled
            {
                tracing::debug!(%error, "a file that changed could not be asked for");
            }
        }
    }

    /// How long the kernel may believe that a name is not there without asking again; none for as
    /// long as it is not told otherwise.
    pub fn absence_lasts(&self) -> Option<Duration> {
        let told = self.remotes.iter().all(|r| r.is_away() || r.never_probes());
        (!told).then_some(Duration::ZERO)
    }

    /// The same for a name that is there.
    pub fn presence_lasts(&self) -> Option<Duration> {
        let told = self.remotes.iter().all(|r| r.can_list());
        (!told).then_some(self.asked.lasts)
    }
}
