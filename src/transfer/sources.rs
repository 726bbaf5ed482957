//! Which remotes a file's bytes can come from: those known to have its version, in the mount's
//! order, and behind them those that may have it and have to be asked first, because their
//! listing does not tell enough.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::download::Downloads;
use super::flight::Flight;
use crate::backends::remote::Remote;
use crate::error::{Error, Kind, Result};
use crate::index::{Node, Replica, node as rows};
use crate::object::Meta;

/// The remotes that a flight asks, in order; shared by its requests.
pub(super) struct Sources(Mutex<Vec<(Arc<Remote>, Replica)>>);

impl Sources {
    pub(super) fn new(sources: Vec<(Arc<Remote>, Replica)>) -> Sources {
        Sources(Mutex::new(sources))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<Remote>, Replica)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them as they are now.
    pub(super) fn all(&self) -> Vec<(Arc<Remote>, Replica)> {
        self.lock().clone()
    }

    /// What a remote has proved to have the file.
    pub(super) fn proved(&self, remote: &Remote, replica: &Replica) {
        let mut all = self.lock();
        if let Some((_, old)) = all.iter_mut().find(|(other, _)| other.id == remote.id) {
            *old = replica.clone();
        }
    }

    /// Asks the next one first.
    pub(super) fn rotate(&self) {
        let mut all = self.lock();
        if !all.is_empty() {
            all.rotate_left(1);
        }
    }
}

impl Downloads {
    /// The remotes that have these bytes and are not known to be away, in order; behind them
    /// those that may have them, and have to be asked first.
    pub(super) fn sources(&self, node: &Node) -> Result<Vec<(Arc<Remote>, Replica)>> {
        let replicas = self.commit.index.glance(|c| rows::replicas(c, node.id))?;
        self.sources_among(replicas, node)
    }

    pub(super) fn sources_among(
        &self,
        replicas: Vec<Replica>,
        node: &Node,
    ) -> Result<Vec<(Arc<Remote>, Replica)>> {
        let (sure, rest): (Vec<_>, Vec<_>) = replicas
            .into_iter()
            .partition(|replica| replica.matches(node));
        let perhaps = rest.into_iter().filter(|replica| replica.may_match(node));
        let all: Vec<_> = sure
            .into_iter()
            .chain(perhaps)
            .filter_map(|replica| Some((self.remotes.get(replica.remote)?.clone(), replica)))
            .collect();
        if all.is_empty() {
            return Err(Error::new(
                Kind::Stale,
                "no remote has this version any more",
            ));
        }
        let here: Vec<_> = all
            .into_iter()
            .filter(|(remote, _)| !remote.is_away())
            .collect();
        if here.is_empty() {
            return Err(Error::new(
                Kind::Offline,
                "every remote that has the file is away",
            ));
        }
        Ok(here)
    }

    /// Whether some remote that has these bytes can be asked.
    pub fn is_reachable(&self, node: &Node) -> bool {
        // Of every name of a large folder, while the only remote is away: no row is asked for it.
        !self.remotes.all_away() && self.sources(node).is_ok()
    }

    /// Makes sure that what the remote has is this version, where its listing could not tell.
    pub(super) async fn prove(
        &self,
        flight: &Flight,
        remote: &Remote,
        replica: &mut Replica,
    ) -> Result<()> {
        if replica.matches(&flight.node) {
            return Ok(());
        }
        let found = remote.backend.head(&replica.key).await?;
        self.learn(remote, replica, found).await?;
        let index = &self.commit.index;
        let now = index.read(|c| rows::replica(c, remote.id, &replica.key))?;
        match now.filter(|now| now.matches(&flight.node)) {
            Some(now) => *replica = now,
            None => {
                let why = "the remote has another version of the file";
                return Err(Error::new(Kind::Stale, why));
            }
        }
        Ok(())
    }

    /// Notes what the remote told of the object behind `replica`, when it was asked for it.
    pub(super) async fn learn(
        &self,
        remote: &Remote,
        replica: &Replica,
        told: Option<Meta>,
    ) -> Result<()> {
        let (id, key, now) = (remote.id, replica.key.clone(), self.commit.clock.now_ns());
        let known = replica.meta.version.clone();
        self.commit
            .index
            .edit_later(move |w| w.correct(id, &key, Some(&known), told, now))
            .await
    }
}
