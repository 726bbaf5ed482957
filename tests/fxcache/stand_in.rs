//! Runs `benches/fxcache_server.py`: a server of the FXCACHE protocol with the original's habits.

#[path = "../common/python.rs"]
mod python;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running stand-in. Ends with the test.
pub struct StandIn {
    child: Child,
    pub url: String,
}

#[allow(dead_code, reason = "not every test uses all of it")]
impl StandIn {
    /// Serves `root` on a free port of this machine.
    pub fn serve(root: &Path, args: &[&str]) -> StandIn {
        StandIn::serve_at("0", root, args, Stdio::null())
    }

    /// The same on a port that was used before, with its log somewhere.
    pub fn serve_at(port: &str, root: &Path, args: &[&str], log: Stdio) -> StandIn {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fxcache_server.py");
        let mut child = Command::new(python::python())
            .arg("-B")
            .arg(program)
            .args(["--host", "127.0.0.1", "--port", port, "--fxcache-path"])
            .arg(root)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let url = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("URL:")?.trim().to_owned()))
            .expect("the stand-in says where it is");
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        StandIn { child, url }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
