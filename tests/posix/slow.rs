//! A line to a server that lets only so many bytes through.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A proxy on loopback. Ends with the test's process.
pub struct SlowLine {
    at: SocketAddr,
    /// Answers wait once this many bytes of them came through.
    budget: Arc<AtomicU64>,
    open: Arc<AtomicBool>,
    /// Bytes of answers that came through.
    passed: Arc<AtomicU64>,
}

impl SlowLine {
    /// Leads to `url` (of a server on loopback); lets everything through until told otherwise.
    pub fn to(url: &str) -> SlowLine {
        let target: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = SlowLine {
            at: listener.local_addr().unwrap(),
            budget: Arc::new(AtomicU64::new(0)),
            open: Arc::new(AtomicBool::new(true)),
            passed: Arc::default(),
        };
        let (budget, open) = (line.budget.clone(), line.open.clone());
        let passed = line.passed.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                carry(client, server, &budget, &open, &passed);
            }
        });
        line
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// From now on answers get only what [`SlowLine::allow`] gives them.
    pub fn narrow(&self) {
        self.budget.store(0, Ordering::SeqCst);
        self.open.store(false, Ordering::SeqCst);
    }

    /// Lets so many more bytes of answers through.
    pub fn allow(&self, bytes: u64) {
        self.budget.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Bytes of answers that came through so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Lets everything through again.
    pub fn widen(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

fn carry(
    client: TcpStream,
    server: TcpStream,
    budget: &Arc<AtomicU64>,
    open: &Arc<AtomicBool>,
    passed: &Arc<AtomicU64>,
) {
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (budget, open, passed) = (budget.clone(), open.clone(), passed.clone());
    std::thread::spawn(move || {
        let (mut server, mut client) = (server, client);
        let mut buffer = vec![0; 16 << 10];
        loop {
            let n = server.read(&mut buffer).unwrap_or(0);
            if n == 0 {
                break;
            }
            while !open.load(Ordering::SeqCst) && !take(&budget, n as u64) {
                std::thread::sleep(Duration::from_millis(1));
            }
            passed.fetch_add(n as u64, Ordering::SeqCst);
            if client.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn take(budget: &AtomicU64, n: u64) -> bool {
    budget
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |b| b.checked_sub(n))
        .is_ok()
}
