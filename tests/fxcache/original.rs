//! The stand-in server, with a place in the laboratory, and asked what it was asked.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::common::Lab;
use super::common::many::wait_until;
use super::stand_in::StandIn;

pub struct Original {
    server: StandIn,
    pub root: PathBuf,
    pub url: String,
    log: PathBuf,
}

impl Original {
    pub fn start(lab: &Lab, args: &[&str]) -> Original {
        Original::start_at(lab, "0", args)
    }

    pub fn start_at(lab: &Lab, port: &str, args: &[&str]) -> Original {
        let (root, log) = (lab.dir("original"), lab.path("original.log"));
        let lines = fs::OpenOptions::new().create(true).append(true).open(&log);
        let server = StandIn::serve_at(port, &root, args, lines.unwrap().into());
        let original = Original {
            url: server.url.clone(),
            server,
            root,
            log,
        };
        if !args.contains(&"--no-refresh") {
            original.refreshed();
        }
        original
    }

    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    /// Waits for the refresh that runs.
    pub fn refreshed(&self) {
        let status = format!("{}/refresh/status", self.url);
        wait_until("the index is made", || {
            let asked = Command::new("curl").args(["-sS", &status]).output();
            let said = String::from_utf8_lossy(&asked.unwrap().stdout).into_owned();
            assert!(!said.contains("\"error\""), "{said}");
            said.contains("complete")
        });
    }

    /// Has it look at its files again.
    pub fn refresh(&self, mode: &str) {
        let url = format!("{}/refresh?mode={mode}", self.url);
        let mut asked = Command::new("curl");
        let asked = asked.args(["-fsS", "-X", "POST", &url]);
        assert!(asked_well(asked));
        self.refreshed();
    }

    /// Puts a file there as another of its clients does.
    pub fn upload(&self, name: &str, content: &[u8]) {
        let body = self.log.with_extension("body");
        fs::write(&body, content).unwrap();
        let mut sent = Command::new("curl");
        let sent = sent
            .args(["-fsS", "--data-binary", &format!("@{}", body.display())])
            .arg(format!("{}/upload?path={name}", self.url));
        assert!(asked_well(sent));
    }

    /// Requests so far whose line has this in it.
    pub fn asked(&self, what: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(what)).count()
    }

    pub fn stop(self) {
        drop(self.server);
    }
}

fn asked_well(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().unwrap().success()
}
