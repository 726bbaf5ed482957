//! A wire that reads each request, and answers it crookedly.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::proxy::listen;

const LOOK: Duration = Duration::from_millis(10);

/// A place in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Before the status line.
    Start,
    Headers,
    /// Between the headers and the body.
    Between,
    FirstBlock,
    Middle,
    /// One byte before the end.
    Last,
}

impl At {
    pub const ALL: [At; 6] = [
        At::Start,
        At::Headers,
        At::Between,
        At::FirstBlock,
        At::Middle,
        At::Last,
    ];

    fn of(self, head: usize, body: usize) -> usize {
        match self {
            At::Start => 0,
            At::Headers => head / 2,
            At::Between => head,
            At::FirstBlock => head + body.min(1000) / 2,
            At::Middle => head + body / 2,
            At::Last => (head + body).saturating_sub(1),
        }
    }
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset there.
    Reset(At),
    /// It is closed there, as if that were all.
    Close(At),
    /// It stands, and nothing more comes.
    Stall(At),
    /// A shorter body, whose length is told truly.
    Shorter,
    /// A body longer than its length.
    Longer,
    /// One byte in the middle is another.
    WrongByte,
    /// A page, with 200.
    Page,
    Status(&'static str),
    /// A byte every now and then.
    Drip,
    /// A little all the time.
    Slow,
    /// The answer comes twice.
    Twice,
    /// Each answer on a connection but the first is the one before.
    OneBehind,
}

#[derive(Default)]
struct State {
    /// What happens to answers whose request has this in its head.
    faults: Mutex<Vec<(String, Fault)>>,
    requests: AtomicU64,
    hurt: AtomicU64,
    /// Which of the faults happened to any.
    happened: Mutex<BTreeSet<String>>,
    ended: AtomicBool,
}

/// The wire. Ends with the test.
pub struct Crooked {
    state: Arc<State>,
    pub url: String,
}

impl Crooked {
    /// A wire to the server at `url`, straight until told otherwise.
    pub fn to(url: &str) -> Crooked {
        let target = url.trim_start_matches("http://").to_owned();
        let state = Arc::new(State::default());
        let (shared, ending) = (state.clone(), state.clone());
        let url = listen(
            move || ending.ended.load(Ordering::SeqCst),
            move |client| {
                let (state, target) = (shared.clone(), target.clone());
                thread::spawn(move || serve(&client, &target, &state));
            },
        );
        Crooked { state, url }
    }

    /// From now on this happens to requests with `part` in their heads; the first that fits counts.
    pub fn bend(&self, part: &str, fault: Fault) {
        let mut faults = self.state.faults.lock().unwrap();
        faults.push((part.to_owned(), fault));
    }

    pub fn straighten(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Answers that something happened to.
    pub fn hurt(&self) -> u64 {
        self.state.hurt.load(Ordering::SeqCst)
    }

    /// Whether anything happened to a request with `part`, for which it was to.
    pub fn has_hurt(&self, part: &str) -> bool {
        self.state.happened.lock().unwrap().contains(part)
    }
}

impl Drop for Crooked {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

/// Requests of one connection, one after the other.
fn serve(mut client: &TcpStream, target: &str, state: &State) {
    client.set_nonblocking(false).unwrap();
    let mut before: Option<Vec<u8>> = None;
    while let Some(request) = request(client, state) {
        state.requests.fetch_add(1, Ordering::SeqCst);
        let asked = end_of_head(&request).map_or(&request[..], |end| &request[..end]);
        let asked = String::from_utf8_lossy(asked).into_owned();
        let fault = || {
            let faults = state.faults.lock().unwrap();
            let found = faults.iter().find(|(part, _)| asked.contains(part));
            let (part, fault) = found?;
            state.happened.lock().unwrap().insert(part.clone());
            Some(*fault)
        };
        let Some(answer) = ask(target, &request, state) else {
            break;
        };
        let Some(fault) = fault() else {
            before = Some(answer.clone());
            if client.write_all(&answer).is_err() {
                break;
            }
            continue;
        };
        state.hurt.fetch_add(1, Ordering::SeqCst);
        let head = end_of_head(&answer).unwrap_or(answer.len());
        let parts = (&answer[..head], &answer[head..]);
        if !hurt(client, parts, fault, before.take().as_ref(), state) {
            break;
        }
        before = Some(answer);
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// Returns whether the connection goes on.
fn hurt(
    mut client: &TcpStream,
    (head, body): (&[u8], &[u8]),
    fault: Fault,
    before: Option<&Vec<u8>>,
    state: &State,
) -> bool {
    let whole = [head, body].concat();
    let until = |at: At| &whole[..at.of(head.len(), body.len()).min(whole.len())];
    let sent = match fault {
        Fault::Reset(at) => {
            let sent = client.write_all(until(at));
            // What was sent has to arrive before the reset, which overtakes it.
            thread::sleep(2 * LOOK);
            reset(client);
            sent.and(Err(std::io::ErrorKind::ConnectionReset.into()))
        }
        Fault::Close(at) => {
            let _ = client.write_all(until(at));
            return false;
        }
        Fault::Stall(at) => {
            let _ = client.write_all(until(at));
            hold(client, state);
            return false;
        }
        Fault::Shorter => {
            let short = &body[..body.len() / 2];
            client.write_all(&[&with_length(head, short.len()), short].concat())
        }
        Fault::Longer => client.write_all(&[&whole[..], b"more"].concat()),
        Fault::WrongByte => {
            let mut wrong = whole.clone();
            if let Some(byte) = wrong.get_mut(head.len() + body.len() / 2) {
                *byte ^= 1;
            }
            client.write_all(&wrong)
        }
        Fault::Page => client.write_all(&said("200 OK")),
        Fault::Status(status) => client.write_all(&said(status)),
        Fault::Drip => {
            let _ = trickle(client, head, body.chunks(1), state);
            return false;
        }
        Fault::Slow => trickle(client, head, body.chunks(2048), state),
        Fault::Twice => client.write_all(&[&whole[..], &whole[..]].concat()),
        Fault::OneBehind => client.write_all(before.unwrap_or(&whole)),
    };
    sent.is_ok()
}

/// A piece every fifth of a second.
fn trickle<'a>(
    mut client: &TcpStream,
    head: &[u8],
    pieces: impl Iterator<Item = &'a [u8]>,
    state: &State,
) -> std::io::Result<()> {
    client.write_all(head)?;
    for piece in pieces {
        if state.ended.load(Ordering::SeqCst) {
            break;
        }
        client.write_all(piece)?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn said(status: &str) -> Vec<u8> {
    let page = "<html><body>Please log in</body></html>";
    let len = page.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len}\r\n\r\n");
    (head + page).into_bytes()
}

fn with_length(head: &[u8], len: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let lines = text.split_inclusive("\r\n").map(|line| {
        match line.to_ascii_lowercase().starts_with("content-length:") {
            true => format!("content-length: {len}\r\n"),
            false => line.to_owned(),
        }
    });
    lines.collect::<String>().into_bytes()
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    Some(at + 4)
}

/// Nothing more goes, until the other side is gone.
fn hold(mut client: &TcpStream, state: &State) {
    client.set_read_timeout(Some(LOOK)).unwrap();
    while !state.ended.load(Ordering::SeqCst) {
        match client.read(&mut [0; 64]) {
            Ok(0) => return,
            Err(e) if !is_quiet(&e) => return,
            _ => {}
        }
    }
}

fn is_quiet(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut)
}

fn reset(client: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the value is one of that option.
    let done = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0);
}

/// The next request with its body; none: the client has gone.
fn request(mut client: &TcpStream, state: &State) -> Option<Vec<u8>> {
    client.set_read_timeout(Some(LOOK)).unwrap();
    let (mut heard, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(head) = end_of_head(&heard) {
            let text = String::from_utf8_lossy(&heard[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if heard.len() >= head + length.unwrap_or(0) {
                return Some(heard);
            }
        }
        match client.read(&mut buffer) {
            Ok(0) => return None,
            Ok(n) => heard.extend_from_slice(&buffer[..n]),
            Err(e) if is_quiet(&e) && !state.ended.load(Ordering::SeqCst) => {}
            Err(_) => return None,
        }
    }
}

/// What the server answers, made to stand on a connection that goes on.
fn ask(target: &str, request: &[u8], state: &State) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(target).ok()?;
    let head = end_of_head(request)?;
    let once = [
        &request[..head - 2],
        b"connection: close\r\n\r\n",
        &request[head..],
    ];
    server.write_all(&once.concat()).ok()?;
    server.set_read_timeout(Some(LOOK)).unwrap();
    let (mut heard, mut buffer) = (Vec::new(), [0; 64 << 10]);
    loop {
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => heard.extend_from_slice(&buffer[..n]),
            Err(e) if is_quiet(&e) && !state.ended.load(Ordering::SeqCst) => {}
            Err(_) => return None,
        }
    }
    let head = end_of_head(&heard)?;
    let text = String::from_utf8_lossy(&heard[..head]);
    let kept = text
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let kept = kept.collect::<String>().into_bytes();
    Some([&kept, &heard[head..]].concat())
}
