//! The least that an HTTP client can be, so that the server is what is measured. Keeps its
//! connection where the server does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// A request for a path.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")
}

/// See the module.
pub struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
    /// Of the last answer.
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: &str) -> Client {
        Client {
            address: address.to_owned(),
            stream: None,
            body: Vec::new(),
        }
    }

    /// The length of the answer, which has to be a good one.
    pub fn ask(&mut self, request: &str) -> std::io::Result<usize> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                BufReader::with_capacity(64 << 10, stream)
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let (mut length, mut keep, mut line) = (0, true, String::new());
        stream.read_line(&mut line)?;
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let text = line.trim().to_ascii_lowercase();
            match text.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = value.trim().parse().unwrap(),
                Some(("connection", value)) => keep = value.trim() != "close",
                Some(_) => {}
            }
        }
        self.body.resize(length, 0);
        stream.read_exact(&mut self.body)?;
        self.stream = keep.then_some(stream);
        Ok(length)
    }
}
