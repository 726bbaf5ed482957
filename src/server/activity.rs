//! What happened lately, for people: who asks, what came and went, what was refused.
//!
//! Everything here is bounded, forgets the oldest, and decides nothing. A handler puts what it
//! did on its answer ([`Did`]); the one layer around all routes notes it with who asked.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::middleware::Next;
use lru::LruCache;
use serde::Serialize;

use crate::clock::Clock;
use crate::metrics::Counter;
use crate::path::RelPath;

use super::App;
use super::problem::Reason;
use super::routes::Peer;

/// Files that came or went, and refusals, that are remembered.
const RECENT: usize = 60;
const ERRORS: usize = 30;
/// Addresses that are remembered.
const CLIENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Of a text that somebody sent.
const TEXT: usize = 300;

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    Download,
    Upload,
    Delete,
}

/// What a handler did; on its answer.
#[derive(Debug, Clone)]
pub struct Did {
    deed: Deed,
    key: RelPath,
    bytes: u64,
}

impl Did {
    pub fn download(key: &RelPath, bytes: u64) -> Did {
        Did::new(Deed::Download, key, bytes)
    }

    pub fn upload(key: &RelPath, bytes: u64) -> Did {
        Did::new(Deed::Upload, key, bytes)
    }

    pub fn delete(key: &RelPath) -> Did {
        Did::new(Deed::Delete, key, 0)
    }

    fn new(deed: Deed, key: &RelPath, bytes: u64) -> Did {
        let key = key.clone();
        Did { deed, key, bytes }
    }

    pub fn put_on(self, response: &mut Response<Body>) {
        let all = response.extensions_mut().get_or_insert_default::<Deeds>();
        all.0.push(self);
    }

    /// What the answer says was done.
    pub fn all_of(response: &Response<Body>) -> Vec<Did> {
        let all = response.extensions().get::<Deeds>();
        all.map_or_else(Vec::new, |all| all.0.clone())
    }
}

/// All that one request did.
#[derive(Debug, Clone, Default)]
struct Deeds(Vec<Did>);

/// A file that came or went.
#[derive(Debug, Clone, Serialize)]
pub struct Recent {
    pub at_ms: i64,
    pub what: Deed,
    pub path: String,
    pub bytes: u64,
    pub peer: IpAddr,
}

/// A request that was refused or failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    pub at_ms: i64,
    pub status: u16,
    pub asked: String,
    pub why: String,
    pub peer: IpAddr,
}

/// Somebody who asks.
#[derive(Debug, Clone, Serialize)]
pub struct Client {
    pub address: IpAddr,
    /// What it calls itself.
    pub agent: String,
    pub requests: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub seen_ms: i64,
}

/// See the module.
pub struct Activity {
    clock: Clock,
    pub began_ms: i64,
    pub uploads: Counter,
    pub downloads: Counter,
    /// Paths whose existence was asked for.
    pub exists: Counter,
    pub received: Counter,
    pub sent: Counter,
    pub errors: Counter,
    recent: Mutex<VecDeque<Recent>>,
    failed: Mutex<VecDeque<Failed>>,
    clients: Mutex<LruCache<IpAddr, Client>>,
}

impl Activity {
    pub fn new(clock: Clock) -> Activity {
        Activity {
            began_ms: clock.now_ms(),
            clock,
            uploads: Counter::default(),
            downloads: Counter::default(),
            exists: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            errors: Counter::default(),
            recent: Mutex::default(),
            failed: Mutex::default(),
            clients: Mutex::new(LruCache::new(CLIENTS)),
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The newest first.
    pub fn recent(&self) -> Vec<Recent> {
        lock(&self.recent).iter().cloned().collect()
    }

    /// The newest first.
    pub fn failed(&self) -> Vec<Failed> {
        lock(&self.failed).iter().cloned().collect()
    }

    /// Those who asked last first.
    pub fn clients(&self) -> Vec<Client> {
        let clients = lock(&self.clients);
        clients.iter().map(|(_, client)| client.clone()).collect()
    }

    fn note_request(&self, peer: IpAddr, agent: &Agent) {
        self.client(peer, |client| {
            client.requests += 1;
            if let Some(agent) = agent
                && client.agent != *agent
            {
                client.agent.clone_from(agent);
            }
        });
    }

    /// One of the things that a request of `peer` came to.
    pub fn note(&self, peer: IpAddr, did: &Did) {
        let peer = peer.to_canonical();
        let (down, up) = self.count(did);
        self.client(peer, |client| {
            client.bytes_down += down;
            client.bytes_up += up;
        });
        self.note_recent(peer, did);
    }

    fn client(&self, peer: IpAddr, change: impl FnOnce(&mut Client)) {
        let mut clients = lock(&self.clients);
        let client = clients.get_or_insert_mut(peer, || Client {
            address: peer,
            agent: String::new(),
            requests: 0,
            bytes_down: 0,
            bytes_up: 0,
            seen_ms: 0,
        });
        client.seen_ms = self.clock.now_ms();
        change(client);
    }

    fn count(&self, did: &Did) -> (u64, u64) {
        let (down, up) = match did.deed {
            Deed::Download => (did.bytes, 0),
            Deed::Upload => (0, did.bytes),
            Deed::Delete => (0, 0),
        };
        match did.deed {
            Deed::Download => self.downloads.add(1),
            Deed::Upload => self.uploads.add(1),
            Deed::Delete => {}
        }
        self.sent.add(down);
        self.received.add(up);
        (down, up)
    }

    fn note_recent(&self, peer: IpAddr, did: &Did) {
        let recent = Recent {
            at_ms: self.clock.now_ms(),
            what: did.deed,
            path: cut(&did.key.to_string()),
            bytes: did.bytes,
            peer,
        };
        push(&self.recent, recent, RECENT);
    }

    fn note_failed(&self, peer: IpAddr, status: StatusCode, asked: &str, why: &str) {
        if status.is_server_error() {
            self.errors.add(1);
        }
        let failed = Failed {
            at_ms: self.clock.now_ms(),
            status: status.as_u16(),
            asked: cut(asked),
            why: cut(why),
            peer,
        };
        push(&self.failed, failed, ERRORS);
    }
}

type Agent = Option<String>;

fn agent_of(headers: &HeaderMap) -> Agent {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(agent.chars().take(80).collect())
}

/// Whether a status is worth a line: not the ones that working clients get in their daily work.
fn is_trouble(status: StatusCode) -> bool {
    let daily = matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::CONFLICT
            | StatusCode::GONE
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
    );
    (status.is_client_error() || status.is_server_error()) && !daily
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push<T>(ring: &Mutex<VecDeque<T>>, item: T, most: usize) {
    let mut ring = lock(ring);
    ring.truncate(most - 1);
    ring.push_front(item);
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The layer around all routes. Those who look at the page are no clients.
pub async fn noted(
    (State(app), Extension(peer)): (State<Arc<App>>, Extension<Peer>),
    request: Request,
    next: Next,
) -> Response<Body> {
    let uri = request.uri().clone();
    if matches!(uri.path(), "/" | "/v1/page") {
        return next.run(request).await;
    }
    let (method, agent) = (request.method().clone(), agent_of(request.headers()));
    let peer = peer.0.to_canonical();
    let response = next.run(request).await;
    app.activity.note_request(peer, &agent);
    for did in Did::all_of(&response) {
        app.activity.note(peer, &did);
    }
    let status = response.status();
    if is_trouble(status) {
        // A signed address is as good as a key, for as long as it is valid.
        let is_signed = uri
            .query()
            .is_some_and(|query| query.to_ascii_lowercase().contains("signature"));
        let asked = match is_signed {
            true => format!("{method} {}", uri.path()),
            false => format!("{method} {uri}"),
        };
        let why = response.extensions().get::<Reason>();
        let why = why.map_or_else(|| status.to_string(), |reason| reason.0.clone());
        app.activity.note_failed(peer, status, &asked, &why);
    }
    response
}
