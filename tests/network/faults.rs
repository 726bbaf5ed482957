//! Faults of whole conversations: answers that are those of others, storms of errors, redirects, TLS.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::common::many::setting;
use super::common::{Lab, bytes, eventually, put};
use super::crooked::{Crooked, Fault};
use super::table::{DEADLINE, has_not_grown, local_work, size};

/// Files that nothing tells apart but their names and bytes: length, time and so ETag are the same.
#[test]
fn p1_answers_that_come_twice_or_late_are_no_other_files() {
    for fault in [Fault::Twice, Fault::OneBehind] {
        let lab = Lab::new();
        let name = |n: u64| format!("f{n:02}.bin");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for n in 0..24 {
            put(&lab.path("srv").join(name(n)), &bytes(n, 5000));
            let file = fs::File::options()
                .write(true)
                .open(lab.path("srv").join(name(n)));
            file.unwrap().set_modified(time).unwrap();
        }
        let server = lab.serve("srv", &[]);
        server.scanned();
        let wire = Crooked::to(&server.url);
        let mount = lab.mount("mnt", &["--remote", &wire.url, "--offline", "error"]);
        mount.sync();
        wire.bend("/v1/files/", fault);
        for n in 0..24 {
            if let Ok(found) = fs::read(mount.path(name(n))) {
                assert!(
                    found == bytes(n, 5000),
                    "{fault:?}: {} is another file",
                    name(n)
                );
            }
        }
        assert!(wire.hurt() > 0);
        mount.nothing_waits();
        wire.straighten();
        for n in 0..24 {
            eventually("it is read", || {
                fs::read(mount.path(name(n))).is_ok_and(|found| found == bytes(n, 5000))
            });
        }
    }
}

/// Every answer is an error for a while; `LARDER_STORM_SECONDS` asks for more.
#[test]
fn p9_a_storm_of_errors_is_not_answered_by_a_storm_of_requests() {
    let seconds = setting("LARDER_STORM_SECONDS", 3) as u64;
    let statuses = [
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ];
    let lab = Lab::new();
    put(&lab.path("srv/held.bin"), &bytes(1, 5000));
    put(&lab.path("srv/far.bin"), &bytes(2, 60_000));
    let server = lab.serve("srv", &[]);
    server.scanned();
    let wire = Crooked::to(&server.url);
    let args = ["--remote", &wire.url, "--upload", "--offline", "error"];
    let mount = lab.mount("mnt", &args);
    mount.sync();
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    let calm = local_work(&mount.at, 100);
    mount.flush();
    let before = size(&mount);
    for status in statuses {
        wire.straighten();
        wire.bend("/", Fault::Status(status));
        let asked = wire.requests();
        let (begun, mut reads) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(seconds) {
            if let Ok(found) = fs::read(mount.path("far.bin")) {
                assert!(found == bytes(2, 60_000));
                break;
            }
            reads += 1;
            let busy = local_work(&mount.at, 10);
            assert!(
                busy < calm * 4 + Duration::from_secs(2),
                "{busy:?}, {calm:?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
        let asked = wire.requests() - asked;
        println!(
            "{status}: {reads} reads, {asked} requests in {:?}",
            begun.elapsed()
        );
        // Twelve attempts a read, and what the mount itself wants to know.
        assert!(
            asked <= reads * 16 + 20 * seconds + 40,
            "{asked} requests for {reads} reads"
        );
    }
    mount.nothing_waits();
    wire.straighten();
    eventually("it is read", || {
        fs::read(mount.path("far.bin")).is_ok_and(|found| found == bytes(2, 60_000))
    });
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("mine.bin")).unwrap(),
        fs::read(mount.path("mine.bin")).unwrap()
    );
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    has_not_grown(&mount, &before);
}

/// Answers everybody with `answer`; counts who came.
fn says(answer: impl Fn() -> String + Send + 'static) -> (String, std::sync::Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let came = std::sync::Arc::new(AtomicU64::new(0));
    let count = came.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(answer().as_bytes());
        }
    });
    (url, came)
}

#[test]
fn p10_no_key_follows_a_redirect() {
    let lab = Lab::new();
    let key = lab.path("key");
    put(&key, b"open sesame");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let key = key.to_str().unwrap();
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let (elsewhere, came) = says(|| "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into());
        let (url, asked) = says(move || {
            format!(
                "HTTP/1.1 {status}\r\nlocation: {elsewhere}/v1/info\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        });
        let mount = lab.mount("mnt", &["--remote", &url, "--upload", "--key-file", key]);
        fs::write(mount.path("mine.bin"), status).unwrap();
        eventually("it is said", || {
            let said = mount.status()["remotes"][0]["last_error"].to_string();
            said.contains("the server answers 30") || said.contains("the server redirects")
        });
        assert!(!mount.verb(&["flush", "--wait"]).status.success());
        assert!(asked.load(Ordering::SeqCst) > 0);
        assert_eq!(came.load(Ordering::SeqCst), 0, "{status} was followed");
        mount.nothing_waits();
        let at = mount.unmount();
        assert_eq!(fs::read(at.join("mine.bin")).unwrap(), status.as_bytes());
    }
}

/// One whose certificate nobody knows, one that speaks no TLS, and one that says nothing.
#[test]
fn p6_tls_that_fails_is_a_remote_that_is_away() {
    let lab = Lab::new();
    put(&lab.path("srv/far.bin"), b"far");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (cert, secret) = (lab.path("cert.pem"), lab.path("key.pem"));
    put(&cert, made.cert.pem().as_bytes());
    put(&secret, made.signing_key.serialize_pem().as_bytes());
    let (cert, secret) = (cert.to_str().unwrap(), secret.to_str().unwrap());
    let secure = lab.serve("srv", &["--tls-cert", cert, "--tls-key", secret]);
    let plain = lab.serve("other", &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("https://{}", silent.local_addr().unwrap());
    assert!(secure.url.starts_with("https://"));
    for url in [
        secure.url.clone(),
        plain.url.replace("http:", "https:"),
        silent,
    ] {
        let mount = lab.mount("mnt", &["--remote", &url, "--upload"]);
        let begun = Instant::now();
        fs::write(mount.path("mine.bin"), &url).unwrap();
        assert_eq!(fs::read(mount.path("mine.bin")).unwrap(), url.as_bytes());
        assert!(fs::metadata(mount.path("far.bin")).is_err());
        eventually("it is known to be away", || {
            mount.status()["remotes"][0]["state"] == "away"
        });
        assert!(begun.elapsed() < DEADLINE);
        let said = mount.status()["remotes"][0]["last_error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(!said.is_empty() && said.lines().count() == 1, "{said}");
        mount.nothing_waits();
        let at = mount.unmount();
        assert_eq!(fs::read(at.join("mine.bin")).unwrap(), url.as_bytes());
    }
    assert!(!secure.root.join("mine.bin").exists() && !plain.root.join("mine.bin").exists());
}
