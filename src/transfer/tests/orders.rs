//! Flights and their table under a scheduler: the same source, in one order of its threads after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::beneath::Dir;
use crate::error::{Error, Kind, Result};
use crate::index::{Node, NodeId};
use crate::locks::scheduled as locks;
use crate::object::{RemoteId, Version};
use crate::path::RelPath;
use crate::store::{PartialId, Store};
use crate::transfer::{footer, plan};
use locks::{block_on, in_every_order, thread};

#[path = "../flight.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod flight;
#[path = "../flights.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same source with other locks"
)]
mod flights;

use flight::{Flight, Stage};
use flights::Flights;

const ID: NodeId = NodeId(7);
const BYTES: &[u8] = b"0123456789";

/// One store for all: what lies in memory leaves nothing there.
fn store() -> &'static Store {
    static STORE: OnceLock<(Store, tempfile::TempDir)> = OnceLock::new();
    let (store, _) = STORE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Dir::open_ambient(dir.path()).unwrap(), "/orders").unwrap();
        (store, dir)
    });
    store
}

fn flight(size: u64) -> Arc<Flight> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let version = Version::new("v").unwrap();
    let node = Node {
        size,
        origin: Some((RemoteId(1), version.clone())),
        ..Node::sample(ID)
    };
    let name = NEXT.fetch_add(1, Ordering::SeqCst).to_string();
    let key = RelPath::new(name.as_bytes()).unwrap();
    let id = PartialId::new("r", &key, &version);
    let partial = match size > plan::WHOLE {
        true => store().partial(&id, size).unwrap(),
        false => store().partial_in_memory(&id, size).unwrap().unwrap(),
    };
    Arc::new(Flight::new(node, (RemoteId(1), version), partial, true))
}

fn failure() -> Error {
    Error::new(Kind::Offline, "the remote went away")
}

/// Brings `range` of the small file.
fn bring(flight: &Flight, range: std::ops::Range<usize>) {
    let bytes = &BYTES[range.clone()];
    flight.partial.write_at(range.start as u64, bytes).unwrap();
    flight.advance();
}

#[test]
fn p1_every_reader_of_a_flight_gets_its_bytes_or_its_failure() {
    for fails in [false, true] {
        in_every_order(move || {
            let flight = flight(BYTES.len() as u64);
            let readers = [0..4, 2..9].map(|want: std::ops::Range<usize>| {
                let flight = flight.clone();
                thread::spawn(move || {
                    let range = want.start as u64..want.end as u64;
                    (want, block_on(flight.wait_for(&range)))
                })
            });
            let waiter = {
                let flight = flight.clone();
                thread::spawn(move || block_on(flight.landed()))
            };
            flight.set_stage(Stage::Flowing);
            bring(&flight, 3..5);
            bring(&flight, 0..3);
            if fails {
                flight.set_stage(Stage::Failed(failure()));
            } else {
                bring(&flight, 5..10);
                flight.set_stage(Stage::Landed);
            }
            for reader in readers {
                let (want, read) = reader.join().unwrap();
                match read {
                    Ok(bytes) => assert_eq!(bytes, BYTES[want]),
                    Err(error) => assert!(fails && want.end > 5, "{want:?}: {error}"),
                }
            }
            assert_eq!(waiter.join().unwrap().is_err(), fails);
        });
    }
}

/// Two bring pieces at once, in any order; who waits for both has neither one alone.
#[test]
fn p1_pieces_that_come_side_by_side_are_all_heard_of() {
    in_every_order(|| {
        let flight = flight(BYTES.len() as u64);
        let bringers = [0..5, 5..10].map(|range| {
            let flight = flight.clone();
            thread::spawn(move || bring(&flight, range))
        });
        assert_eq!(block_on(flight.wait_for(&(3..8))).unwrap(), BYTES[3..8]);
        for bringer in bringers {
            bringer.join().unwrap();
        }
    });
}

/// Whoever flies a big file sleeps until somebody asks for something, or the last reader has left.
#[test]
fn p1_whoever_flies_hears_of_every_reader_and_of_the_last_ones_leaving() {
    in_every_order(|| {
        let flight = flight(plan::WHOLE + 100);
        let first = flight.join();
        let pilot = {
            let flight = flight.clone();
            thread::spawn(move || {
                while flight.is_wanted() {
                    let holes = |range| flight.partial.holes(range);
                    let next = flight.reading().unwrap().next(&holes, false);
                    let Some(block) = next else {
                        block_on(flight.called());
                        continue;
                    };
                    let bytes = vec![7; (block.end - block.start) as usize];
                    flight.partial.write_at(block.start, &bytes).unwrap();
                    flight.reading().unwrap().ended(&block);
                    flight.advance();
                }
            })
        };
        let second = {
            let passenger = flight.join();
            thread::spawn(move || {
                let want = plan::WHOLE + 50..plan::WHOLE + 60;
                passenger.ask(&want);
                block_on(passenger.wait_for(&want)).unwrap();
            })
        };
        first.ask(&(10..20));
        block_on(first.wait_for(&(10..20))).unwrap();
        drop(first);
        second.join().unwrap();
        pilot.join().unwrap();
        flight.partial.discard().unwrap();
    });
}

/// Flies as `Downloads` does: whoever begins a flight ends it.
fn fly(flights: &Flights, flight: &Arc<Flight>, fails: bool, in_the_air: &AtomicUsize) {
    flight.set_stage(Stage::Flowing);
    bring(flight, 0..10);
    if fails {
        // The next one may begin as soon as this is known.
        in_the_air.fetch_sub(1, Ordering::SeqCst);
        flight.set_stage(Stage::Failed(failure()));
    } else {
        flight.set_stage(Stage::Landed);
        in_the_air.fetch_sub(1, Ordering::SeqCst);
    }
    flights.ended(flight);
}

#[test]
fn p14_one_flight_is_under_way_whoever_boards_and_whenever_it_ends() {
    for fails in [false, true] {
        in_every_order(move || {
            let flights = Arc::new(Flights::default());
            let in_the_air = Arc::new(AtomicUsize::new(0));
            let travellers = [0, 1, 2].map(|_| {
                let (flights, in_the_air) = (flights.clone(), in_the_air.clone());
                thread::spawn(move || -> Result<()> {
                    let (passenger, start) = flights.board(ID, || {
                        assert_eq!(in_the_air.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        Ok((flight(BYTES.len() as u64), ()))
                    })?;
                    if start.is_some() {
                        fly(&flights, &passenger, fails, &in_the_air);
                    }
                    block_on(passenger.landed())
                })
            });
            for traveller in travellers {
                assert_eq!(traveller.join().unwrap().is_err(), fails);
            }
            assert!(flights.under_way(ID).is_none() && flights.all().is_empty());
        });
    }
}
