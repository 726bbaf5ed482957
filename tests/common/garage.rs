//! A real object store, Garage, on loopback: one node with one bucket, taken away with the test.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What Garage is told to make at its start.
pub const BUCKET: &str = "cache";
pub const KEY: &str = "GK0123456789abcdef01234567";
pub const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const REGION: &str = "garage";

/// How long its first start may take.
const START: Duration = Duration::from_secs(60);

pub struct Garage {
    child: Option<Child>,
    dir: PathBuf,
    port: u16,
}

impl Garage {
    /// Starts one whose data is in `dir`, which must be empty.
    pub fn start(dir: &Path) -> Garage {
        let port = free_port();
        let config = format!(
            "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"sqlite\"\n\
             metadata_fsync = false\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{SECRET}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{port}\"\n",
            dir = dir.display(),
            rpc = free_port(),
        );
        fs::write(dir.join("garage.toml"), config).unwrap();
        let mut garage = Garage {
            child: None,
            dir: dir.to_owned(),
            port,
        };
        garage.run();
        garage
    }

    /// Starts the program, again after [`stop`](Garage::stop) on what it had.
    pub fn run(&mut self) {
        let program = std::env::var_os("LARDER_GARAGE").expect(
            "LARDER_GARAGE names no Garage: `make test-garage` installs one and says where",
        );
        let log = File::create(self.dir.join("log")).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(self.dir.join("garage.toml"))
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("RUST_LOG", "garage=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while !self.answers() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < START,
                "Garage does not start: {}",
                fs::read_to_string(self.dir.join("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its bucket and key are made before it listens.
    fn answers(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// Ends the program; its data stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The remote at `prefix` of its bucket, through `endpoint`.
    pub fn url_through(&self, endpoint: &str, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={endpoint}&region={REGION}")
    }

    /// The remote at `prefix` of its bucket.
    pub fn url(&self, prefix: &str) -> String {
        self.url_through(&self.endpoint(), prefix)
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}
