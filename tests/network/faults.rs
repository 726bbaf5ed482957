//! Every fault of the wire: what is read is right or an error within its deadline; what needs no wire
//! goes on as ever meanwhile; nothing grows; and when the wire is straight again, so is all else.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::common::many::setting;
use super::common::{Lab, Mount, bytes, eventually, put};
use super::crooked::{At, Crooked, Fault};
use super::names;

/// The longest that a read may take to fail: two deadlines of ten seconds, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(40);

/// What must not grow: descriptors, threads and memory of the daemon.
#[derive(Debug)]
struct Size {
    descriptors: usize,
    threads: usize,
    memory_kb: u64,
}

fn size(mount: &Mount<'_>) -> Size {
    let proc = format!("/proc/{}", mount.pid());
    let count = |dir: &str| fs::read_dir(format!("{proc}/{dir}")).unwrap().count();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let memory = line.unwrap().split_whitespace().nth(1).unwrap();
    Size {
        descriptors: count("fd"),
        threads: count("task"),
        memory_kb: memory.parse().unwrap(),
    }
}

#[track_caller]
fn has_not_grown(mount: &Mount<'_>, before: &Size) {
    eventually("the daemon is as large as it was", || {
        let now = size(mount);
        now.descriptors <= before.descriptors + 24
            && now.threads <= before.threads + 24
            && now.memory_kb <= before.memory_kb + (48 << 10)
    });
}

/// What needs no wire, again and again. Returns how long it took.
fn local_work(at: &Path, rounds: usize) -> Duration {
    let begun = Instant::now();
    for n in 0..rounds {
        assert!(names(at).contains("held.bin"));
        assert_eq!(fs::read(at.join("held.bin")).unwrap(), bytes(1, 5000));
        assert_eq!(fs::metadata(at.join("far.bin")).unwrap().len(), 60_000);
        fs::write(at.join("mine.bin"), bytes(n as u64, 100)).unwrap();
    }
    begun.elapsed()
}

/// Every fault with the name of the file that it is done to.
fn faults() -> Vec<(String, Fault)> {
    let mut all = Vec::new();
    for at in At::ALL {
        all.push((format!("reset-{at:?}"), Fault::Reset(at)));
        all.push((format!("close-{at:?}"), Fault::Close(at)));
        all.push((format!("stall-{at:?}"), Fault::Stall(at)));
    }
    let others = [
        ("shorter", Fault::Shorter),
        ("longer", Fault::Longer),
        ("wrong", Fault::WrongByte),
        ("page", Fault::Page),
        ("429", Fault::Status("429 Too Many Requests")),
        ("500", Fault::Status("500 Internal Server Error")),
        ("503", Fault::Status("503 Service Unavailable")),
        ("drip", Fault::Drip),
        ("twice", Fault::Twice),
    ];
    all.extend(others.map(|(name, fault)| (name.to_owned(), fault)));
    all
}

/// One file, the fault that is done to it, and what it is.
struct Case {
    name: String,
    fault: Fault,
    content: Vec<u8>,
}

impl Case {
    /// Every fault of a file that comes in one piece, and of one that comes in several. A stalled
    /// one of those is in `away.rs`: the kernel asks again for what it could not read ahead.
    fn all() -> Vec<Case> {
        let waits = |fault: &Fault| matches!(fault, Fault::Stall(_) | Fault::Drip);
        let small = faults().into_iter().map(|case| (case, "small", 60_000));
        let big = faults().into_iter().filter(|(_, fault)| !waits(fault));
        let big = big.map(|case| (case, "big", 9 << 20));
        let all = small.chain(big).zip(100..);
        all.map(|(((name, fault), kind, len), seed)| Case {
            name: format!("{kind}-{name}.bin"),
            fault,
            content: bytes(seed, len),
        })
        .collect()
    }

    /// What `cat` gives is right, or not the end of it.
    fn read(&self, mount: &Path) {
        let begun = Instant::now();
        let output = Command::new("cat").arg(mount.join(&self.name)).output();
        let (output, took) = (output.unwrap(), begun.elapsed());
        let name = &self.name;
        // The middle of a big file is given out before all of it was compared.
        let is_right = self.content.starts_with(&output.stdout);
        let is_part = self.fault == Fault::WrongByte && output.stdout.len() < self.content.len();
        assert!(is_right || is_part, "{name}: wrong bytes");
        let is_whole = output.stdout.len() == self.content.len();
        assert!(is_whole == output.status.success(), "{name}: a false end");
        assert!(took < DEADLINE, "{name}: {took:?}");
    }
}

#[test]
fn p1_p6_no_fault_of_the_wire_gives_a_wrong_file_or_hangs_anybody() {
    let (lab, cases) = (Lab::new(), Case::all());
    put(&lab.path("srv/held.bin"), &bytes(1, 5000));
    put(&lab.path("srv/far.bin"), &bytes(2, 60_000));
    for case in &cases {
        put(&lab.path("srv").join(&case.name), &case.content);
    }
    let server = lab.serve("srv", &[]);
    server.scanned();
    for case in &cases {
        // The server knows the hash of what it has sent once.
        let url = format!("{}/v1/files/{}", server.url, case.name);
        let mut asked = Command::new("curl");
        let asked = asked.args(["-fsS", "-o", "/dev/null", &url]).status();
        assert!(asked.unwrap().success());
    }
    let wire = Crooked::to(&server.url);
    let mount = lab.mount(
        "mnt",
        &[
            "--remote",
            &wire.url,
            "--upload",
            "--offline",
            "error",
            "--prefetch",
            "0",
        ],
    );
    mount.sync();
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    let calm = local_work(&mount.at, 100);
    mount.flush();
    let before = size(&mount);
    for case in &cases {
        wire.bend(&format!("/v1/files/{} ", case.name), case.fault);
    }
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| case.read(&mount.at));
        }
        let busy = local_work(&mount.at, 100);
        assert!(
            busy < calm * 20 + Duration::from_secs(2),
            "{busy:?}, and {calm:?} on a calm day"
        );
    });
    let (hurt, tries) = (wire.hurt(), wire.requests());
    assert!(hurt >= cases.len() as u64, "{hurt}");
    assert!(
        tries < 60 * cases.len() as u64,
        "tries have an end: {tries}"
    );
    mount.nothing_waits();
    wire.straighten();
    for case in &cases {
        eventually(&format!("{}: it is read", case.name), || {
            fs::read(mount.path(&case.name)).is_ok_and(|found| found == case.content)
        });
    }
    mount.flush();
    assert_eq!(
        fs::read(server.root.join("mine.bin")).unwrap(),
        bytes(99, 100)
    );
    assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
    has_not_grown(&mount, &before);
    let at = mount.unmount();
    for case in &cases {
        assert!(
            fs::read(at.join(&case.name)).unwrap() == case.content,
            "{}",
            case.name
        );
    }
}

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
