//! A wire between a mount and its server that can be cut, stalled, slowed, and made to lose answers.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a waiting end looks whether the wire changed.
const LOOK: Duration = Duration::from_millis(10);

const OPEN: u8 = 0;
const CUT: u8 = 1;
const STALLED: u8 = 2;

#[derive(Default)]
struct State {
    mode: AtomicU8,
    /// Bytes a second towards the client; 0 for as fast as it goes.
    rate: AtomicU64,
    /// Answers to uploads still to be lost.
    lose: AtomicU64,
    lost: AtomicU64,
    /// Bytes that went towards the client.
    down: AtomicU64,
    /// Uploads of names with this in them stay on the way.
    held: Mutex<Option<String>>,
    /// Counts the cuts: a connection does not survive one.
    cuts: AtomicU64,
    ended: AtomicBool,
}

/// The wire. Ends with the test.
pub struct Proxy {
    state: Arc<State>,
    pub url: String,
}

/// Gives `take` whoever connects to the address that is returned, until `is_over`.
pub fn listen(
    is_over: impl Fn() -> bool + Send + 'static,
    take: impl Fn(TcpStream) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        while !is_over() {
            match listener.accept() {
                Ok((client, _)) => take(client),
                Err(_) => thread::sleep(LOOK),
            }
        }
    });
    url
}

impl Proxy {
    /// A wire to the server at `url`, open.
    pub fn to(url: &str) -> Proxy {
        let target = url.trim_start_matches("http://").to_owned();
        let state = Arc::new(State::default());
        let (shared, ending) = (state.clone(), state.clone());
        let url = listen(
            move || ending.ended.load(Ordering::SeqCst),
            move |client| join(client, &target, &shared),
        );
        Proxy { state, url }
    }

    /// Connections end, and no new one lasts.
    pub fn cut(&self) {
        self.state.mode.store(CUT, Ordering::SeqCst);
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// Connections stand, and nothing goes through them.
    pub fn stall(&self) {
        self.state.mode.store(STALLED, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.state.rate.store(0, Ordering::SeqCst);
        self.state.mode.store(OPEN, Ordering::SeqCst);
    }

    /// Lets so many bytes a second through to the client.
    pub fn slow(&self, rate: u64) {
        self.state.rate.store(rate, Ordering::SeqCst);
    }

    /// The next `n` uploads arrive, and their answers do not.
    pub fn lose_answers(&self, n: u64) {
        self.state.lose.store(n, Ordering::SeqCst);
    }

    /// Uploads of names that contain `part` do not arrive until [`release`](Proxy::release).
    pub fn hold(&self, part: &str) {
        *self.state.held.lock().unwrap() = Some(part.to_owned());
    }

    pub fn release(&self) {
        *self.state.held.lock().unwrap() = None;
    }

    pub fn lost_answers(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// Bytes that came down so far.
    pub fn down(&self) -> u64 {
        self.state.down.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn join(client: TcpStream, target: &str, state: &Arc<State>) {
    client.set_nonblocking(false).unwrap();
    if state.mode.load(Ordering::SeqCst) == CUT {
        return;
    }
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let uploads = Arc::new(AtomicBool::new(false));
    for (from, to, is_up) in [(&client, &server, true), (&server, &client, false)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (state, uploads) = (state.clone(), uploads.clone());
        thread::spawn(move || {
            copy(&from, &to, is_up, &state, &uploads);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Passes bytes on until either end is gone or the wire is cut.
fn copy(
    mut from: &TcpStream,
    mut to: &TcpStream,
    is_up: bool,
    state: &State,
    uploads: &AtomicBool,
) {
    from.set_read_timeout(Some(LOOK)).unwrap();
    let mut buffer = [0; 16 << 10];
    let cuts = state.cuts.load(Ordering::SeqCst);
    loop {
        match state.mode.load(Ordering::SeqCst) {
            _ if state.ended.load(Ordering::SeqCst) => return,
            _ if state.cuts.load(Ordering::SeqCst) != cuts => return,
            STALLED => {
                thread::sleep(LOOK);
                continue;
            }
            _ => {}
        }
        let n = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        // Stalled while it was being read: it waits with the rest.
        while state.mode.load(Ordering::SeqCst) == STALLED {
            if state.ended.load(Ordering::SeqCst) || state.cuts.load(Ordering::SeqCst) != cuts {
                return;
            }
            thread::sleep(LOOK);
        }
        if is_up && is_request(&buffer[..n]) {
            uploads.store(buffer.starts_with(b"PUT "), Ordering::SeqCst);
            while is_held(&buffer[..n], state) {
                if state.ended.load(Ordering::SeqCst) || state.cuts.load(Ordering::SeqCst) != cuts {
                    return;
                }
                thread::sleep(LOOK);
            }
        }
        if !is_up && uploads.load(Ordering::SeqCst) && take(&state.lose) {
            state.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
        if !is_up {
            state.down.fetch_add(n as u64, Ordering::SeqCst);
            let rate = state.rate.load(Ordering::SeqCst);
            if rate > 0 {
                thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
            }
        }
    }
}

fn is_held(request: &[u8], state: &State) -> bool {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let held = state.held.lock().unwrap();
    line.starts_with("PUT ") && held.as_ref().is_some_and(|part| line.contains(part))
}

fn is_request(bytes: &[u8]) -> bool {
    [&b"GET "[..], b"PUT ", b"HEAD ", b"DELETE "]
        .iter()
        .any(|verb| bytes.starts_with(verb))
}

fn take(count: &AtomicU64) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}
