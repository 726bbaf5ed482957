//! A server that says what a test wants: a listing of any bytes, and bodies of any kind.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use sha2::Digest as _;

/// Answers one request: its method, its target and its range, with all that goes over the wire.
type Said = Vec<u8>;

#[derive(Default)]
struct State {
    listing: Mutex<Said>,
    /// The content of every file of a listing that never ends; none: it does.
    endless: Mutex<Option<Said>>,
    /// Whole answers to GET, by path.
    files: Mutex<HashMap<String, Said>>,
    seq: AtomicU64,
    gets: AtomicU64,
    ended: AtomicBool,
}

/// The server. Ends with the test.
pub struct Liar {
    state: Arc<State>,
    pub url: String,
}

/// An object as an honest server tells it.
pub fn line(path: &str, etag: &str, content: &[u8]) -> String {
    let hash = hex::encode(sha2::Sha256::digest(content));
    let size = content.len();
    format!(
        "{{\"path\":{},\"size\":{size},\"mtime_ns\":1700000000000000000,\"etag\":\"{etag}\",\"sha256\":\"{hash}\"}}\n",
        serde_json::Value::from(path)
    )
}

/// The answer of an honest server to a GET of all of `content`.
pub fn honest(etag: &str, content: &[u8]) -> Said {
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(content));
    let digest = format!("repr-digest: sha-256=:{digest}:\r\n");
    answer("200 OK", etag, content.len(), &digest, content)
}

/// An answer with the headers that a file has.
pub fn answer(status: &str, etag: &str, len: usize, more: &str, body: &[u8]) -> Said {
    let head = format!(
        "HTTP/1.1 {status}\r\netag: \"{etag}\"\r\nx-mtime-ns: 1700000000000000000\r\ncontent-length: {len}\r\n{more}connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// An answer without any of them.
pub fn plain(status: &str, kind: &str, body: &str) -> Said {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}").into()
}

impl Liar {
    pub fn new() -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        state.seq.store(1, Ordering::SeqCst);
        let shared = state.clone();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            while !shared.ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let state = shared.clone();
                        thread::spawn(move || serve(stream, &state));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Liar { state, url }
    }

    /// Lists these bytes, as they are, from now on; with the line that ends a listing.
    pub fn lists(&self, lines: impl AsRef<[u8]>) {
        let seq = self.state.seq.fetch_add(1, Ordering::SeqCst) + 1;
        let end = format!("{{\"epoch\":\"e{seq}\",\"seq\":{seq}}}\n");
        self.lists_only([lines.as_ref(), end.as_bytes()].concat());
    }

    /// The same without it.
    pub fn lists_only(&self, bytes: impl Into<Said>) {
        *self.state.listing.lock().unwrap() = bytes.into();
        *self.state.endless.lock().unwrap() = None;
        self.state.seq.fetch_add(1, Ordering::SeqCst);
    }

    /// Names `f0000000000.bin` and so on, all with this content, as long as anybody listens.
    pub fn lists_for_ever(&self, content: &[u8]) {
        *self.state.endless.lock().unwrap() = Some(content.to_owned());
        self.state.seq.fetch_add(1, Ordering::SeqCst);
    }

    /// Answers a GET of `path` with these bytes.
    pub fn says(&self, path: &str, said: Said) {
        self.state
            .files
            .lock()
            .unwrap()
            .insert(path.to_owned(), said);
    }

    /// How often it was asked for a file.
    pub fn gets(&self) -> u64 {
        self.state.gets.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn serve(stream: TcpStream, state: &State) {
    stream.set_nonblocking(false).unwrap();
    let Ok(from) = stream.try_clone() else { return };
    let mut request = String::new();
    let mut lines = BufReader::new(from);
    while let Ok(n) = lines.read_line(&mut request) {
        if n == 0 || request.ends_with("\r\n\r\n") {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let endless = state.endless.lock().unwrap().clone();
    if let Some(content) = endless.filter(|_| target.starts_with("/v1/index")) {
        return list_for_ever(&stream, &content, state);
    }
    let said = said(method, target, state);
    let mut to = &stream;
    let _ = to.write_all(&said);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// Ends with the test, or when the other side has heard enough.
fn list_for_ever(mut to: &TcpStream, content: &[u8], state: &State) {
    let line = line("NAME", "v1", content);
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
    let (mut page, mut names) = (head, 0..);
    while !state.ended.load(Ordering::SeqCst) && to.write_all(page.as_bytes()).is_ok() {
        let names = names.by_ref().take(1000);
        page = names
            .map(|n: u64| line.replace("NAME", &format!("f{n:010}.bin")))
            .collect();
    }
}

fn said(method: &str, target: &str, state: &State) -> Said {
    let seq = || state.seq.load(Ordering::SeqCst);
    if target.starts_with("/v1/info") {
        let text = format!(
            "{{\"server\":\"liar\",\"version\":1,\"epoch\":\"e\",\"seq\":{},\"files\":0,\"bytes\":0,\"capabilities\":[\"changes\"]}}",
            seq()
        );
        return plain("200 OK", "application/json", &text);
    }
    if target.starts_with("/v1/changes") {
        // Whoever has heard everything waits; then, and else, it is to list again.
        let heard = seq();
        for _ in 0..200 {
            if state.ended.load(Ordering::SeqCst) || seq() != heard || !target.contains("wait=25") {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        return plain(
            "410 Gone",
            "application/problem+json",
            "{\"title\":\"gone\"}",
        );
    }
    if target.starts_with("/v1/index") {
        let listing = state.listing.lock().unwrap().clone();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            listing.len()
        );
        return [head.into_bytes(), listing].concat();
    }
    let path = target.strip_prefix("/v1/files/").unwrap_or_default();
    if method == "GET" {
        state.gets.fetch_add(1, Ordering::SeqCst);
    }
    let found = state.files.lock().unwrap().get(path).cloned();
    found.unwrap_or_else(|| {
        plain(
            "404 Not Found",
            "application/problem+json",
            "{\"title\":\"there is no such file\"}",
        )
    })
}
