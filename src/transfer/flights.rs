//! Which flights are under way: one a node at most, which all its readers share.
//!
//! One that has failed is under way no more, and one that nobody holds any more neither; one that has
//! landed is, until its bytes have their place.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::flight::{Flight, Passenger, Stage};
use super::locks::{Mutex, MutexGuard, PoisonError};
use crate::error::Result;
use crate::index::NodeId;

/// Flights by their nodes.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<NodeId, Weak<Flight>>>);

impl Flights {
    /// Counts somebody in to the node's flight; with it, if none was under way, the one that `begin`
    /// makes, which is the caller's to fly. Nobody begins another one meanwhile.
    pub(super) fn board<T>(
        &self,
        id: NodeId,
        begin: impl FnOnce() -> Result<(Arc<Flight>, T)>,
    ) -> Result<(Passenger, Option<T>)> {
        let mut flights = self.lock();
        if let Some(flight) = flying(&flights, id) {
            return Ok((flight.join(), None));
        }
        let (flight, start) = begin()?;
        flights.retain(|_, f| f.strong_count() > 0);
        flights.insert(id, Arc::downgrade(&flight));
        Ok((flight.join(), Some(start)))
    }

    /// The flight of a node, if there is one under way.
    pub(super) fn under_way(&self, id: NodeId) -> Option<Arc<Flight>> {
        flying(&self.lock(), id)
    }

    /// All that somebody holds, failed ones among them.
    pub(super) fn all(&self) -> Vec<Arc<Flight>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Does something while none is begun; it is told which are under way.
    pub(super) fn while_none_begins<T>(&self, work: impl FnOnce(&[Arc<Flight>]) -> T) -> T {
        let flights = self.lock();
        let busy: Vec<_> = flights
            .keys()
            .filter_map(|id| flying(&flights, *id))
            .collect();
        work(&busy)
    }

    /// Nobody can join the flight any more.
    pub(super) fn ended(&self, flight: &Arc<Flight>) {
        let mut flights = self.lock();
        let id = flight.node.id;
        let is_it = |f: &Weak<Flight>| f.as_ptr() == Arc::as_ptr(flight);
        if flights.get(&id).is_some_and(is_it) {
            flights.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Weak<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flying(flights: &HashMap<NodeId, Weak<Flight>>, id: NodeId) -> Option<Arc<Flight>> {
    let flight = flights.get(&id).and_then(Weak::upgrade)?;
    (!matches!(flight.stage(), Stage::Failed(_))).then_some(flight)
}
