//! A server whose certificate is replaced: by one that is trusted, and by one that is not.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::common::{Lab, Mount, Server, bytes, eventually, put};
use super::errno;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let named = rcgen::DnType::CommonName;
    params.distinguished_name.push(named, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A certificate for this machine.
fn right() -> CertificateParams {
    named("127.0.0.1")
}

fn expired() -> CertificateParams {
    let mut params = right();
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params
}

/// A certificate and its key.
fn issued(params: &CertificateParams, by: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, by).unwrap();
    (cert.pem(), key.serialize_pem())
}

/// A server's files, its certificate's among them, and who issues that.
struct Files<'a> {
    lab: &'a Lab,
    ours: Authority,
    renewed: Authority,
    stranger: Authority,
}

impl Files<'_> {
    fn of(lab: &Lab) -> Files<'_> {
        for n in 0..4 {
            put(&lab.path(Path::new("srv").join(far(n))), &bytes(n, 5000));
        }
        let files = Files {
            lab,
            ours: authority("ours"),
            renewed: authority("renewed"),
            stranger: authority("stranger"),
        };
        put(&lab.path("ours.pem"), files.ours.pem().as_bytes());
        put(&lab.path("renewed.pem"), files.renewed.pem().as_bytes());
        put(&lab.path("stranger.pem"), files.stranger.pem().as_bytes());
        let trusted = files.ours.pem() + &files.renewed.pem();
        put(&lab.path("trusted.pem"), trusted.as_bytes());
        put(&lab.path("secret"), b"open sesame");
        let only_ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(lab.path("secret"), only_ours).unwrap();
        files
    }

    /// Puts a file in the place of another, as who renews certificates does.
    fn replace(&self, name: &str, text: &str) {
        put(&self.lab.path("new"), text.as_bytes());
        fs::rename(self.lab.path("new"), self.lab.path(name)).unwrap();
    }

    fn issue(&self, params: &CertificateParams, by: &Authority) {
        let (cert, key) = issued(params, by);
        self.replace("cert.pem", &cert);
        self.replace("key.pem", &key);
    }

    fn path(&self, name: &str) -> String {
        self.lab.path(name).display().to_string()
    }

    fn serve(&self, port: &str) -> Server {
        let log = File::create(self.lab.path("log")).unwrap();
        let (cert, key, secret) = (
            self.path("cert.pem"),
            self.path("key.pem"),
            self.path("secret"),
        );
        let tls = ["--tls-cert", &cert, "--tls-key", &key];
        let guard = ["--key-file", &secret, "--read-key-file", &secret];
        let args = [&tls[..], &guard[..]].concat();
        self.lab.serve_logged("srv", port, &args, log)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.lab.path("log")).unwrap()
    }

    /// A mount that trusts ours, and those of the authority that will issue the next.
    fn mount(&self, server: &Server) -> Mount<'_> {
        self.mount_at("mnt", &server.url)
    }

    fn mount_at(&self, name: &str, remote: &str) -> Mount<'_> {
        let (trusted, secret) = (self.path("trusted.pem"), self.path("secret"));
        let remote = ["--remote", remote, "--upload", "--key-file", &secret];
        let how = ["--offline", "error", "--prefetch", "0"];
        let env = [
            ("SSL_CERT_FILE", trusted.as_str()),
            ("AWS_ACCESS_KEY_ID", "anybody"),
            ("AWS_SECRET_ACCESS_KEY", "open sesame"),
        ];
        let mount = self
            .lab
            .try_mount_with(name, &env, &[&remote[..], &how[..]].concat());
        mount.unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// A server whose certificate is ours, and its mount, with one file read.
    fn begin(&self) -> (Server, Mount<'_>) {
        self.issue(&right(), &self.ours);
        let server = self.serve("0");
        let mount = self.mount(&server);
        // A name may be seen before the listing is at its end.
        eventually("all is listed", || {
            mount.status()["remotes"][0]["listed"] == true
        });
        assert!(is_read(&mount, 0));
        (server, mount)
    }

    /// Requests of any kind that the server has heard, whomever it is taken for.
    fn requests(&self, server: &Server) -> u64 {
        let asked = Command::new("curl")
            .args(["-fsSk", "-H", "x-api-key: open sesame"])
            .arg(format!("{}/v1/stats", server.url))
            .output();
        let stats: serde_json::Value = serde_json::from_slice(&asked.unwrap().stdout).unwrap();
        let kinds = stats.as_object().unwrap().values();
        kinds.map(|kind| kind.as_u64().unwrap()).sum()
    }

    /// Whether who trusts this authority alone gets an answer.
    fn is_of(&self, server: &Server, authority: &str) -> bool {
        let mut asked = Command::new("curl");
        let asked = asked
            .args(["-sS", "-o", "/dev/null", "--cacert"])
            .arg(self.lab.path(authority))
            .arg(&server.url);
        asked.output().unwrap().status.success()
    }
}

fn far(n: u64) -> PathBuf {
    PathBuf::from(format!("far{n}.bin"))
}

fn is_read(mount: &Mount<'_>, n: u64) -> bool {
    fs::read(mount.path(far(n))).is_ok_and(|found| found == bytes(n, 5000))
}

#[test]
fn p6_a_renewed_certificate_is_taken_without_a_restart() {
    let lab = Lab::new();
    let files = Files::of(&lab);
    let (server, mount) = files.begin();
    assert!(files.is_of(&server, "ours.pem"));
    // The one file is new, and the other not yet.
    let (cert, key) = issued(&right(), &files.renewed);
    files.replace("cert.pem", &cert);
    eventually("it is said", || {
        files.log().contains("the one before is kept")
    });
    assert!(files.is_of(&server, "ours.pem"));
    assert!(is_read(&mount, 1));
    files.replace("key.pem", &key);
    eventually("it is renewed", || files.is_of(&server, "renewed.pem"));
    assert!(!files.is_of(&server, "ours.pem"));
    assert!(is_read(&mount, 2));
    fs::write(mount.path("mine.bin"), b"mine").unwrap();
    mount.flush();
    assert_eq!(fs::read(server.root.join("mine.bin")).unwrap(), b"mine");
    // The same through S3.
    let bucket = format!("s3://bucket?endpoint={}&region=us-east-1", server.url);
    let bucket = files.mount_at("bucket", &bucket);
    eventually("it is read as a bucket", || is_read(&bucket, 2));
    // And by who starts the server anew.
    let port = server.port();
    server.kill();
    files.issue(&right(), &files.ours);
    let _server = files.serve(&port);
    eventually("it is read", || is_read(&mount, 3));
    assert_eq!(mount.status()["remotes"][0]["state"], "online");
    mount.nothing_waits();
}

#[test]
fn p10_a_certificate_that_is_not_trusted_gets_no_key_and_is_one_line() {
    let lab = Lab::new();
    let files = Files::of(&lab);
    let (mut server, mount) = files.begin();
    let port = server.port();
    let wrong = [
        (
            right(),
            &files.stranger,
            "of nobody whom this machine trusts",
        ),
        (expired(), &files.ours, "has expired"),
        (named("another"), &files.ours, "for another name"),
    ];
    for ((params, by, words), n) in wrong.into_iter().zip(1..) {
        // Connections that stand go on: here they end.
        server.kill();
        files.issue(&params, by);
        server = files.serve(&port);
        fs::write(mount.path("mine.bin"), words).unwrap();
        eventually("it is said", || {
            let remote = mount.status()["remotes"][0].clone();
            let said = remote["last_error"].to_string();
            assert!(!said.contains("sesame") && !said.contains("\\n"), "{said}");
            remote["state"] == "away" && said.contains(words)
        });
        assert_eq!(errno(File::open(mount.path(far(n)))), libc::EIO);
        assert!(is_read(&mount, 0));
        mount.nothing_waits();
        assert_eq!(files.requests(&server), 0, "{words}: it was asked");
        // The right one is back, and nobody does anything.
        files.issue(&right(), &files.ours);
        eventually("it is read", || is_read(&mount, n));
        mount.flush();
        let there = fs::read(server.root.join("mine.bin"));
        assert_eq!(there.unwrap(), words.as_bytes());
    }
}

#[test]
fn p6_where_the_scheme_is_wrong_the_right_one_is_named() {
    let lab = Lab::new();
    let files = Files::of(&lab);
    files.issue(&right(), &files.ours);
    let (with, without) = (files.serve("0"), lab.serve("plain", &[]));
    for (url, right) in [
        (with.url.replace("https:", "http:"), "https://"),
        (without.url.replace("http:", "https:"), "http://"),
    ] {
        let output = lab.run(["doctor", "--remote", &url]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains(&format!("write {right} in its URL")),
            "{said}"
        );
    }
}
