//! What Larder is compared with: rclone, sshfs with a server of its own, s3fs.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::Lab;
use crate::s3::{BUCKET, KEY, S3Server, SECRET};
use crate::systems::{Mounted, System, set_aside, wait_until};

/// The program, as `packaging/rclone.sh` names it.
fn rclone(lab: &Lab) -> Command {
    let mut command = Command::new(rclone_path());
    // Blind to the user's own remotes.
    command.env("RCLONE_CONFIG", lab.path("no-rclone.conf"));
    command.env("RCLONE_CACHE_DIR", lab.path("rclone-cache"));
    command
}

pub fn rclone_path() -> PathBuf {
    std::env::var_os("LARDER_BENCH_RCLONE").map_or_else(|| "rclone".into(), PathBuf::from)
}

/// rclone over a remote, with an empty cache.
fn mount_rclone(lab: &Lab, mut command: Command, remote: &str, mode: &str) -> Mounted {
    set_aside(lab, "rclone-cache");
    let at = lab.path("rclone");
    command.arg("mount").arg(remote).arg(&at);
    command.args(["--vfs-cache-mode", mode]);
    // Longer than any run: a listing that is thrown away is not what is compared.
    command.args(["--attr-timeout", "1h", "--dir-cache-time", "1h"]);
    Mounted::start(lab, &mut command, &at)
}

/// rclone over a local directory: the remote that costs it least.
pub fn rclone_over<'a>(lab: &'a Lab, dir: PathBuf, mode: &'static str) -> System<'a> {
    System::new(format!("rclone ({mode})"), move || {
        mount_rclone(lab, rclone(lab), dir.to_str().unwrap(), mode)
    })
}

/// rclone over a store's objects below `prefix`.
pub fn rclone_s3<'a>(
    lab: &'a Lab,
    store: &'a S3Server,
    prefix: &'a str,
    mode: &'static str,
) -> System<'a> {
    System::new(format!("rclone ({mode})"), move || {
        let mut command = rclone(lab);
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ACCESS_KEY_ID", KEY),
            ("SECRET_ACCESS_KEY", SECRET),
            ("REGION", "us-east-1"),
            ("LIST_VERSION", "2"),
            // As fast as it can be: one request a file.
            ("NO_HEAD_OBJECT", "true"),
            ("ENDPOINT", &store.endpoint()),
        ] {
            command.env(format!("RCLONE_CONFIG_STORE_{name}"), value);
        }
        command.env("RCLONE_USE_SERVER_MODTIME", "true");
        mount_rclone(lab, command, &format!("store:{BUCKET}/{prefix}"), mode)
    })
}

/// s3fs over the same.
pub fn s3fs<'a>(lab: &'a Lab, store: &'a S3Server, prefix: &'a str) -> System<'a> {
    System::new("s3fs", move || {
        let at = lab.path("s3fs");
        let endpoint = store.endpoint();
        let mut command = Command::new("s3fs");
        command.arg(format!("{BUCKET}:/{prefix}")).arg(&at);
        command.env("AWSACCESSKEYID", KEY);
        command.env("AWSSECRETACCESSKEY", SECRET);
        let url = format!("url={endpoint}");
        command.args(["-f", "-o", &url, "-o", "use_path_request_style"]);
        command.args(["-o", "endpoint=us-east-1", "-o", "listobjectsv2"]);
        Mounted::start(lab, &mut command, &at)
    })
}

/// An SSH server on the loopback with keys that live as long as it does. Touches nothing of the
/// system's own.
pub struct Sshd {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Sshd {
    pub fn start(lab: &Lab) -> Sshd {
        let dir = lab.dir("ssh");
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            let made = keygen.arg(dir.join(key)).status().unwrap();
            assert!(made.success());
        }
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
            dir.display()
        );
        fs::write(dir.join("config"), config).unwrap();
        // sshd of root wants this place, which only a service of the system makes.
        if rustix::process::geteuid().is_root() {
            let _ = fs::create_dir_all("/run/sshd");
        }
        let mut command = Command::new(sshd_path());
        command.args(["-D", "-E"]).arg(dir.join("log"));
        command
            .arg("-f")
            .arg(dir.join("config"))
            .stdin(Stdio::null());
        let sshd = Sshd {
            child: command.spawn().expect("openssh-server is installed"),
            port,
            dir,
        };
        wait_until("sshd answers", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sshd
    }

    /// sshfs over a directory of this machine, by way of the server.
    pub fn sshfs<'a>(&'a self, lab: &'a Lab, dir: PathBuf) -> System<'a> {
        System::new("sshfs", move || {
            let at = lab.path("sshfs");
            let mut command = Command::new("sshfs");
            let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
            command
                .arg("-f")
                .arg(format!("{user}@127.0.0.1:{}", dir.display()));
            command
                .arg(&at)
                .args(["-F", "/dev/null", "-p", &self.port.to_string()]);
            let identity = format!("IdentityFile={}", self.dir.join("user").display());
            for option in [
                identity.as_str(),
                "IdentitiesOnly=yes",
                "StrictHostKeyChecking=no",
                "UserKnownHostsFile=/dev/null",
                "kernel_cache",
                "entry_timeout=3600,attr_timeout=3600,negative_timeout=3600",
                "dcache_timeout=3600,dcache_max_size=1000000",
            ] {
                command.args(["-o", option]);
            }
            Mounted::start(lab, &mut command, &at)
        })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sshd_path() -> &'static Path {
    // It has to be called by its whole path, and ordinary users do not have it in theirs.
    Path::new("/usr/sbin/sshd")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
