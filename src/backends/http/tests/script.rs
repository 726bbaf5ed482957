//! A server that does exactly what a script says, byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Http;

/// What the server does with one connection, once it has a whole request.
#[derive(Clone)]
pub enum Act {
    /// Says this and closes.
    Say(Vec<u8>),
    /// Says this and holds the line.
    Hold(Vec<u8>),
    /// Says this and resets the connection.
    Reset(Vec<u8>),
    /// Says this without reading the body of the request, and holds the line.
    Interrupt(Vec<u8>),
    /// Does not even read the body of the request.
    Deaf,
}

pub struct Server {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn new(act: Act) -> Server {
        Server::each(vec![act]).await
    }

    /// One act a connection, the last one from then on.
    pub async fn each(acts: Vec<Act>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = heard.clone();
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            let mut acts = acts.into_iter().peekable();
            while let Ok((mut stream, _)) = listener.accept().await {
                let act = match acts.len() {
                    1 => acts.peek().cloned(),
                    _ => acts.next(),
                };
                let act = act.unwrap();
                if let Some(request) = hear(&mut stream, &act).await {
                    notes.lock().unwrap().push(request);
                }
                held.extend(answer(stream, &act).await);
            }
        });
        Server {
            address,
            heard,
            task,
        }
    }

    pub fn http(&self) -> Http {
        super::http(&format!("http://{}", self.address), Some("sesame"))
    }

    pub fn heard(&self) -> String {
        self.heard.lock().unwrap().join("\n")
    }
}

/// A whole request: head, and as much body as its length says.
async fn hear(stream: &mut TcpStream, act: &Act) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length = length.map_or(0, |l| l.parse().unwrap());
            if matches!(act, Act::Deaf | Act::Interrupt(_)) || body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

async fn answer(mut stream: TcpStream, act: &Act) -> Option<TcpStream> {
    let (Act::Say(bytes) | Act::Hold(bytes) | Act::Reset(bytes) | Act::Interrupt(bytes)) = act
    else {
        return Some(stream);
    };
    let _ = stream.write_all(bytes).await;
    match act {
        Act::Say(_) => None,
        Act::Reset(_) => {
            stream.set_zero_linger().unwrap();
            None
        }
        _ => Some(stream),
    }
}
