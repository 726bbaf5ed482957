//! Moves bytes from remotes into a partial download, and verifies them.
//!
//! Every way a body can be wrong ends in a retry or an error, never in bytes shown as the file's
//! (promise P1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::download::Downloads;
use super::flight::{Flight, Stage};
use super::front::{self, Front};
use super::sources::Sources;
use crate::backends::remote::Remote;
use crate::error::{Error, Kind, Result};
use crate::index::Replica;
use crate::object::{ByteRange, Meta, Sha256};

/// How often a broken stream is taken up again before the flight fails.
const ATTEMPTS: u32 = 4;
/// For how long nothing may come, over all attempts: somebody waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// Less of it than this is worth no other attempt.
const TOO_LITTLE: Duration = Duration::from_secs(1);
/// Less than this in all that time is as good as nothing.
const LEAST: usize = 1024;
/// How often a file that came whole and wrong is fetched anew.
pub(super) const WRONG: u32 = 2;
/// Partial downloads are made to survive a restart every so many bytes.
pub(super) const CHECKPOINT: u64 = 32 << 20;

impl Downloads {
    /// Fetches a whole file and verifies it. Bytes that came whole and are wrong are fetched again,
    /// from the next remote first.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        sources: &Sources,
    ) -> Result<Sha256> {
        let mut wrong = 0;
        loop {
            let mut front = Front::new();
            let all = 0..flight.size();
            match self.bring(flight, sources, &all, Some(&mut front)).await {
                Err(error) if error.kind() == Kind::NoSpace => {
                    // What came of it must not be what keeps the disk full.
                    flight.partial.discard()?;
                    return Err(error);
                }
                Err(error) => {
                    // Whoever asks next goes on from here.
                    self.checkpoint(flight).await;
                    return Err(error);
                }
                Ok(()) => {}
            }
            match self.verify(flight, front).await {
                Err(error) if error.kind() == Kind::Corrupt && wrong < WRONG => {
                    wrong += 1;
                    tracing::warn!(%error, "fetched again");
                    flight.doubt();
                    flight.start_over()?;
                    sources.rotate();
                }
                Err(error) => {
                    flight.partial.discard()?;
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    /// Fetches every missing byte of `block`; of an empty one, the proof that the version is
    /// there. With `front`, nobody else fetches anything of the file, and its front is hashed as
    /// far as it comes in order.
    pub(super) async fn bring(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        sources: &Sources,
        block: &ByteRange,
        mut front: Option<&mut Front>,
    ) -> Result<()> {
        let mut failed = Error::new(Kind::Offline, "every remote that has the file is away");
        // Flights last: who was there when it began may be away by now.
        let is_flying = !matches!(flight.stage(), Stage::Asking);
        let mut silence = Silence::none();
        for attempt in 0..ATTEMPTS {
            let mut asked = false;
            for (remote, mut replica) in sources.all() {
                if (attempt > 0 || is_flying) && remote.is_away() {
                    continue;
                }
                asked = true;
                if let Err(error) = self.prove(flight, &remote, &mut replica).await {
                    remote.heard(&error);
                    silence.heard(&error);
                    failed = error;
                    continue;
                }
                sources.proved(&remote, &replica);
                let streamed = loop {
                    let (from, front) = ((&*remote, &replica), front.as_deref_mut());
                    let streamed = self.stream(flight, from, block, front, &mut silence).await;
                    let is_full = matches!(&streamed, Err(e) if e.kind() == Kind::NoSpace);
                    if !is_full || !self.make_room().await {
                        break streamed;
                    }
                };
                match streamed {
                    Ok(()) => return Ok(()),
                    Err(error) => match error.kind() {
                        // What this remote sent may be what is wrong; a full disk is not.
                        Kind::Cancelled | Kind::NoSpace => return Err(error),
                        _ => {
                            remote.heard(&error);
                            silence.heard(&error);
                            failed = error;
                        }
                    },
                }
            }
            if !asked || silence.is_over() || !failed.kind().is_transient() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
        }
        if failed.kind() == Kind::TimedOut {
            flight.was_late(block);
        }
        Err(failed)
    }

    /// Streams the holes of `block` from one remote until there are none.
    async fn stream(
        &self,
        flight: &Arc<Flight>,
        (remote, replica): (&Remote, &Replica),
        block: &ByteRange,
        mut front: Option<&mut Front>,
        silence: &mut Silence,
    ) -> Result<()> {
        if block.is_empty() {
            return self.is_there(flight, remote, replica).await;
        }
        let (size, alone) = (flight.size(), front.is_some());
        let mut since_checkpoint = 0;
        while let Some(hole) = flight.partial.holes(block.clone()).into_iter().next() {
            let whole = hole == (0..size);
            let range = (!whole).then(|| hole.clone());
            let (key, version) = (&replica.key, &replica.meta.version);
            let asked = match whole && alone && flight.is_ahead {
                true => remote.backend.get_among(key, version).await,
                false => remote.backend.get(key, range, Some(version)).await,
            };
            let got = match asked {
                Err(error) if error.kind() == Kind::Unsupported && !whole && alone => {
                    // It gives whole files only.
                    start_over(flight, &mut front)?;
                    continue;
                }
                got => got?,
            };
            if got.range != hole || got.meta.size != size {
                return Err(Error::new(
                    Kind::Corrupt,
                    "the remote sent other bytes than were asked for",
                ));
            }
            self.first_bytes(flight, remote, replica, &got.meta).await?;
            if let Some(proof) = got.proof {
                flight.learn_proof(proof);
            }
            let mut body = got.body;
            let mut at = hole.start;
            while let Some(chunk) = body.next().await {
                let chunk = match chunk {
                    // All that came before is as wrong as what is missing.
                    Err(error) if got.is_proven && error.kind() == Kind::Corrupt && alone => {
                        flight.doubt();
                        start_over(flight, &mut front)?;
                        return Err(error);
                    }
                    chunk => chunk?,
                };
                since_checkpoint += chunk.len() as u64;
                silence.broken_by(&chunk);
                at = take_chunk(flight, at, &hole, &chunk, &mut front)?;
                if alone && since_checkpoint >= CHECKPOINT {
                    since_checkpoint = 0;
                    self.checkpoint(flight).await;
                }
            }
            if at != hole.end {
                return Err(Error::new(Kind::Corrupt, "the body ended early"));
            }
        }
        Ok(())
    }

    /// Nothing to fetch, but the version must still be there.
    async fn is_there(
        &self,
        flight: &Arc<Flight>,
        remote: &Remote,
        replica: &Replica,
    ) -> Result<()> {
        match remote.backend.head(&replica.key).await? {
            Some(meta) if meta.version == replica.meta.version => {
                self.first_bytes(flight, remote, replica, &meta).await
            }
            _ => Err(Error::new(
                Kind::Stale,
                "the remote has another version now",
            )),
        }
    }

    async fn first_bytes(
        &self,
        flight: &Flight,
        remote: &Remote,
        replica: &Replica,
        meta: &Meta,
    ) -> Result<()> {
        remote.is_here();
        if let Some(hash) = meta.sha256 {
            flight.learn_sha256(hash);
        }
        if replica.meta.is_rough() && matches!(flight.stage(), Stage::Asking) {
            // The file gets the writer's time when it is put in place.
            self.learn(remote, replica, Some(meta.clone())).await?;
        }
        if matches!(flight.stage(), Stage::Asking) {
            flight.set_stage(Stage::Flowing);
        }
        Ok(())
    }

    pub(super) async fn checkpoint(&self, flight: &Arc<Flight>) {
        let flight = flight.clone();
        let done = tokio::task::spawn_blocking(move || flight.partial.checkpoint()).await;
        if let Ok(Err(error)) = done {
            tracing::debug!(%error, "a partial download could not be noted");
        }
    }

    /// Hashes what did not come in order; compares where the remote gives a hash, or else
    /// another checksum.
    pub(super) async fn verify(&self, flight: &Arc<Flight>, front: Front) -> Result<Sha256> {
        let (hash, proof) = (flight.sha256(), flight.take_proof());
        let proof = proof.filter(|_| hash.is_none());
        let found = match (front.at == flight.size(), proof) {
            (true, None) => front.hash(),
            (_, proof) => {
                let this = flight.clone();
                let finish = move || {
                    proof.map_or(Ok(()), |proof| front::prove(&this, proof))?;
                    front.finish(&this)
                };
                tokio::task::spawn_blocking(finish)
                    .await
                    .map_err(|_| Error::new(Kind::Io, "hashing failed"))??
            }
        };
        match hash {
            Some(expected) if expected != found => Err(Error::new(
                Kind::Corrupt,
                "the bytes that came do not have the file's hash",
            )),
            _ => Ok(found),
        }
    }
}

/// How long nothing came, or as good as nothing, in the attempts that ran into a deadline.
struct Silence {
    before: Duration,
    since: Instant,
    came: usize,
}

impl Silence {
    fn none() -> Silence {
        Silence {
            before: Duration::ZERO,
            since: Instant::now(),
            came: 0,
        }
    }

    fn starts(&mut self) {
        (self.since, self.came) = (Instant::now(), 0);
    }

    fn broken_by(&mut self, chunk: &Bytes) {
        self.came += chunk.len();
        if self.came >= LEAST {
            self.starts();
        }
    }

    /// An attempt ended so.
    fn heard(&mut self, error: &Error) {
        if error.kind() == Kind::TimedOut {
            self.before += self.since.elapsed();
        }
        self.starts();
    }

    fn is_over(&self) -> bool {
        self.before + TOO_LITTLE > PATIENCE
    }
}

fn start_over(flight: &Flight, front: &mut Option<&mut Front>) -> Result<()> {
    flight.start_over()?;
    if let Some(front) = front {
        **front = Front::new();
    }
    Ok(())
}

fn take_chunk(
    flight: &Flight,
    at: u64,
    hole: &ByteRange,
    chunk: &Bytes,
    front: &mut Option<&mut Front>,
) -> Result<u64> {
    let end = at + chunk.len() as u64;
    if end > hole.end {
        return Err(Error::new(
            Kind::Corrupt,
            "the body is longer than was asked for",
        ));
    }
    flight.partial.write_at(at, chunk)?;
    if let Some(front) = front {
        front.take(at, chunk);
    }
    flight.advance();
    Ok(end)
}
