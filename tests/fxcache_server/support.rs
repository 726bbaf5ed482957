//! A server over a small cache folder, and a client that speaks to it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::common::{Lab, SOON, put};

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}: {text}", self.status))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Status and text of an error.
    pub fn error(&self) -> (u16, String) {
        let error = self.json()["error"].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), error)
    }
}

/// Something that answers at an address.
pub struct Client {
    http: reqwest::Client,
    pub url: String,
}

impl Client {
    pub fn new(url: &str) -> Client {
        // The second of two tests finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(SOON).build().unwrap();
        let url = url.to_owned();
        Client { http, url }
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.to_vec()).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.unwrap().to_vec();
        Answer {
            status,
            headers,
            body,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("POST", path, &[], body).await
    }

    pub async fn batch(&self, body: &str) -> Answer {
        let json = [("Content-Type", "application/json")];
        self.ask("POST", "/exists_batch", &json, body.as_bytes())
            .await
    }

    /// Whether the index has it.
    pub async fn exists(&self, path: &str) -> bool {
        let answer = self.get(&format!("/exists?path={path}")).await;
        answer.json()["exists"].as_bool().unwrap()
    }

    /// Polls until the refresh that runs has ended.
    pub async fn refreshed(&self) -> Value {
        for _ in 0..2000 {
            let status = self.get("/refresh/status").await.json();
            if status["status"] != "running" {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the refresh never ended");
    }
}

/// A server of our own, over `root`.
pub struct Site {
    child: Child,
    pub root: PathBuf,
    pub client: Client,
    /// What it printed, line by line.
    pub lines: Receiver<String>,
    pub lab: Lab,
}

/// The folder of the protocol's description.
pub fn fill(root: &Path) {
    put(&root.join("TB/a.pkl"), b"hello");
    put(&root.join(".hid/z"), b"z");
    put(&root.join(".dot"), b"d");
    put(&root.join("empty.bin"), b"");
    put(&root.join("d/\u{fc} b.bin"), b"umlaut");
    for name in ["TB/a.pkl", "d/\u{fc} b.bin", "empty.bin", ".hid/z", ".dot"] {
        at(&root.join(name), 1_795_186_679, 551_627_588);
    }
}

/// Sets a file's time.
pub fn at(path: &Path, seconds: u64, nanos: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

impl Site {
    /// Over the folder of the description, everything seen.
    pub async fn new(args: &[&str]) -> Site {
        let lab = Lab::new();
        fill(&lab.dir("root"));
        let site = Site::start(lab, args);
        site.client.refreshed().await;
        site
    }

    /// Over what is in `root` of the laboratory.
    pub fn start(lab: Lab, args: &[&str]) -> Site {
        let root = lab.dir("root");
        let mut command = lab.larder();
        command
            .args(["serve", "--host", "127.0.0.1", "--port", "0"])
            .args(args)
            .arg(&root);
        Site::run(lab, root, command)
    }

    /// Runs a command that serves.
    pub fn run(lab: Lab, root: PathBuf, mut command: Command) -> Site {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let first = lines
            .recv_timeout(SOON)
            .expect("the server says where it is");
        let url = &first[first.find("http").expect("an address")..];
        Site {
            child,
            root,
            client: Client::new(url),
            lines,
            lab,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What it said until the folder was seen.
    pub fn said(&self) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(SOON) {
            let is_last = line.contains("index is current");
            said.push(line);
            if is_last {
                break;
            }
        }
        said
    }

    /// Ends it and gives the laboratory back.
    pub fn stop(mut self) -> Lab {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.lab, Lab::new())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
