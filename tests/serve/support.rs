//! A server over a directory of its own, and a client that speaks to it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use larder::object::{Change, Listed, Object, Sha256};
use larder::path::RelPath;
use larder::server::{ServeConfig, Server, start};
use larder::wire::{Info, Line};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use sha2::Digest;
use tempfile::TempDir;

/// Nothing in these tests may take longer.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Site {
    pub dir: TempDir,
    pub server: Server,
    pub client: reqwest::Client,
    pub base: String,
}

pub fn config(dir: &Path) -> ServeConfig {
    ServeConfig {
        host: "127.0.0.1".into(),
        port: 0,
        allow_delete: true,
        ..ServeConfig::new(dir)
    }
}

pub fn client() -> reqwest::Client {
    // The second of two tests finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(DEADLINE)
        .build()
        .unwrap()
}

impl Site {
    pub async fn new() -> Site {
        Site::over(tempfile::tempdir().unwrap(), |_| {}).await
    }

    pub async fn with(files: &[(&str, &[u8])]) -> Site {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            write(&dir.path().join(name), bytes);
        }
        Site::over(dir, |_| {}).await
    }

    pub async fn over(dir: TempDir, adjust: impl FnOnce(&mut ServeConfig)) -> Site {
        let mut config = config(dir.path());
        adjust(&mut config);
        let secure = config.tls.is_some();
        let server = start(config).await.unwrap();
        server.wait_scanned().await;
        let scheme = if secure { "https" } else { "http" };
        Site {
            dir,
            base: format!("{scheme}://{}", server.addr()),
            server,
            client: client(),
        }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub fn file(&self, method: Method, name: &str) -> RequestBuilder {
        self.ask(method, &format!("/v1/files/{name}"))
    }

    pub async fn get(&self, name: &str) -> Response {
        self.file(Method::GET, name).send().await.unwrap()
    }

    pub async fn bytes(&self, name: &str) -> Vec<u8> {
        let response = self.get(name).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        response.bytes().await.unwrap().to_vec()
    }

    pub async fn put(&self, name: &str, bytes: &[u8]) -> Response {
        let request = self.file(Method::PUT, name).body(bytes.to_vec());
        request.send().await.unwrap()
    }

    pub async fn info(&self) -> Info {
        let response = self.ask(Method::GET, "/v1/info").send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    /// The whole listing: names with their sizes, and the end line.
    pub async fn index(&self) -> (Vec<(Vec<u8>, u64)>, Line) {
        let (objects, end) = self.objects().await;
        let sizes = objects
            .into_iter()
            .map(|object| (object.key.as_bytes().to_vec(), object.meta.size));
        (sizes.collect(), end)
    }

    /// The whole listing, and the end line.
    pub async fn objects(&self) -> (Vec<Object>, Line) {
        let response = self.ask(Method::GET, "/v1/index").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut lines = lines(&response.text().await.unwrap());
        let end = lines.pop().unwrap();
        assert!(end.is_end());
        let listed = lines.into_iter().map(|line| match line.into_listed() {
            Ok(Listed::Object(object)) => object,
            other => panic!("{other:?}"),
        });
        (listed.collect(), end)
    }

    /// Asks for many files at once.
    pub async fn batch(&self, wanted: &[Line]) -> (StatusCode, Vec<u8>) {
        let lines = wanted
            .iter()
            .map(|line| serde_json::to_string(line).unwrap() + "\n");
        let request = self.ask(Method::POST, "/v1/batch");
        let response = request
            .body(lines.collect::<String>())
            .send()
            .await
            .unwrap();
        (response.status(), response.bytes().await.unwrap().to_vec())
    }

    pub async fn changes(&self, epoch: &str, since: u64, wait: u64) -> (Vec<Change>, u64) {
        let path = format!("/v1/changes?epoch={epoch}&since={since}&wait={wait}");
        let response = self.ask(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut lines = lines(&response.text().await.unwrap());
        let end = lines.pop().unwrap();
        assert!(end.is_end());
        let changes = lines
            .into_iter()
            .map(|line| line.into_change(None).unwrap());
        (changes.collect(), end.seq.unwrap())
    }

    /// Follows the change feed until a change fits.
    pub async fn wait_change(&self, mut since: u64, fits: impl Fn(&Change) -> bool) -> u64 {
        let epoch = self.info().await.epoch;
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let (changes, seq) = self.changes(&epoch, since, 2).await;
            if changes.iter().any(&fits) {
                return seq;
            }
            since = seq;
        }
        panic!("the change was never told");
    }
}

pub fn lines(text: &str) -> Vec<Line> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn key(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

pub fn is_put(name: &'static str) -> impl Fn(&Change) -> bool {
    move |change| matches!(change, Change::Put(object) if object.key == key(name))
}

pub fn is_deleted(name: &'static str) -> impl Fn(&Change) -> bool {
    move |change| matches!(change, Change::Deleted(gone, _) if *gone == key(name))
}

pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

pub fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or(String::new(), |v| v.to_str().unwrap().to_owned())
}

pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// Polls until `done`.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < until, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A file system of its own, gone with this.
pub struct Mount(std::path::PathBuf);

impl Mount {
    pub fn tmpfs(at: &Path, options: &str) -> Mount {
        run("mount", &["-t", "tmpfs", "-o", options, "none"], at);
        Mount(at.to_owned())
    }

    pub fn read_only(&self) {
        run("mount", &["-o", "remount,ro"], &self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) {
    let status = Command::new(program).args(arguments).arg(at).status();
    assert!(
        status.unwrap().success(),
        "this test needs to mount a tmpfs"
    );
}
