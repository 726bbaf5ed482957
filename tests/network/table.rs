//! Every fault of the wire, through every protocol: what is read is right or an error within its
//! deadline; what needs no wire goes on as ever meanwhile; nothing grows; and when the wire is
//! straight again, so is all else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::common::{Lab, Mount, Server, bytes, eventually, put};
use super::crooked::{At, Crooked, Fault};
use super::names;
use super::original::Original;

/// The longest that a program may take to be told of a failure: a deadline of ten seconds to open,
/// and one to read, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What must not grow: descriptors, threads and memory of the daemon.
#[derive(Debug)]
pub struct Size {
    descriptors: usize,
    threads: usize,
    memory_kb: u64,
}

pub fn size(mount: &Mount<'_>) -> Size {
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
pub fn has_not_grown(mount: &Mount<'_>, before: &Size) {
    eventually("the daemon is as large as it was", || {
        let now = size(mount);
        now.descriptors <= before.descriptors + 24
            && now.threads <= before.threads + 24
            && now.memory_kb <= before.memory_kb + (48 << 10)
    });
}

/// What needs no wire, again and again. Returns how long it took.
pub fn local_work(at: &Path, rounds: usize) -> Duration {
    let begun = Instant::now();
    for n in 0..rounds {
        assert!(names(at).contains("held.bin"));
        assert_eq!(fs::read(at.join("held.bin")).unwrap(), bytes(1, 5000));
        assert_eq!(fs::metadata(at.join("far.bin")).unwrap().len(), 60_000);
        fs::write(at.join("mine.bin"), bytes(n as u64, 100)).unwrap();
    }
    begun.elapsed()
}

/// What the wire carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Own,
    Bucket,
    Fxcache,
}

/// What is at the other end of it.
enum Far {
    Larder(Server),
    Original(Original),
}

impl Protocol {
    /// The directory that is served.
    fn dir(self) -> &'static str {
        match self {
            Protocol::Own | Protocol::Bucket => "srv",
            Protocol::Fxcache => "original",
        }
    }

    fn serve(self, lab: &Lab, cases: &[Case]) -> Far {
        if self == Protocol::Fxcache {
            return Far::Original(Original::start(lab, &[]));
        }
        let server = lab.serve(self.dir(), &[]);
        server.scanned();
        for case in cases {
            // The server knows the hash of what it has sent once.
            let url = format!("{}/v1/files/{}", server.url, case.name);
            let mut asked = Command::new("curl");
            let asked = asked.args(["-fsS", "-o", "/dev/null", &url]).status();
            assert!(asked.unwrap().success());
        }
        Far::Larder(server)
    }

    fn remote(self, url: &str) -> String {
        match self {
            Protocol::Own | Protocol::Fxcache => url.to_owned(),
            Protocol::Bucket => format!("s3://bucket?endpoint={url}&region=us-east-1"),
        }
    }

    /// What stands in the head of a request for a file.
    fn asks_for(self, name: &str) -> String {
        match self {
            Protocol::Own => format!("/v1/files/{name} "),
            Protocol::Bucket => format!("/bucket/{name}"),
            Protocol::Fxcache => format!("/download?path={} ", encoded(name)),
        }
    }

    /// What stands in the head of the request that sends one.
    fn sends(self, name: &str) -> String {
        match self {
            Protocol::Own => format!("PUT /v1/files/{name} "),
            Protocol::Bucket => format!("PUT /bucket/{name}"),
            Protocol::Fxcache => format!("POST /upload?path={} ", encoded(name)),
        }
    }

    /// Whether nothing in an answer tells that this was done to it.
    fn is_blind_to(self, fault: Fault) -> bool {
        // No checksum of the bytes.
        self == Protocol::Fxcache && fault == Fault::WrongByte
    }
}

fn encoded(name: &str) -> String {
    name.replace('-', "%2D").replace('.', "%2E")
}

impl Far {
    fn url(&self) -> &str {
        match self {
            Far::Larder(server) => &server.url,
            Far::Original(server) => &server.url,
        }
    }

    fn root(&self) -> &Path {
        match self {
            Far::Larder(server) => &server.root,
            Far::Original(server) => &server.root,
        }
    }
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
    /// Every fault of a file that comes in one piece, and of one that comes in several.
    fn all(protocol: Protocol) -> Vec<Case> {
        let all = faults()
            .into_iter()
            .filter(|(_, fault)| !protocol.is_blind_to(*fault));
        let small = all.clone().map(|case| (case, "small", 60_000));
        let big = all.map(|case| (case, "big", 9 << 20));
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
    no_fault_hurts(Protocol::Own);
}

#[test]
fn p1_p6_no_fault_of_the_wire_to_a_bucket_gives_a_wrong_file_or_hangs_anybody() {
    no_fault_hurts(Protocol::Bucket);
}

#[test]
fn p1_p6_no_fault_of_the_wire_to_an_fxcache_server_gives_a_wrong_file_or_hangs_anybody() {
    no_fault_hurts(Protocol::Fxcache);
}

fn no_fault_hurts(protocol: Protocol) {
    let (lab, cases) = (Lab::new(), Case::all(protocol));
    let served = lab.path(protocol.dir());
    put(&served.join("held.bin"), &bytes(1, 5000));
    put(&served.join("far.bin"), &bytes(2, 60_000));
    for case in &cases {
        put(&served.join(&case.name), &case.content);
    }
    let far = protocol.serve(&lab, &cases);
    let wire = Crooked::to(far.url());
    let mount = mounted(&lab, &protocol.remote(&wire.url));
    mount.sync();
    assert_eq!(fs::read(mount.path("held.bin")).unwrap(), bytes(1, 5000));
    let calm = local_work(&mount.at, 100);
    mount.flush();
    let before = size(&mount);
    for case in &cases {
        wire.bend(&protocol.asks_for(&case.name), case.fault);
    }
    thread::scope(|scope| {
        for case in &cases {
            // Where others' faults have the remote pass for away just then, a read ends without a request.
            scope.spawn(|| {
                eventually(&format!("{}: it is hurt", case.name), || {
                    case.read(&mount.at);
                    wire.has_hurt(&protocol.asks_for(&case.name))
                });
            });
        }
        let busy = local_work(&mount.at, 100);
        assert!(
            busy < calm * 20 + Duration::from_secs(2),
            "{busy:?}, and {calm:?} on a calm day"
        );
    });
    let tries = wire.requests();
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
        fs::read(far.root().join("mine.bin")).unwrap(),
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

#[test]
fn p3_p5_no_fault_of_the_wire_loses_an_upload_or_makes_it_somebody_elses() {
    for protocol in [Protocol::Own, Protocol::Bucket, Protocol::Fxcache] {
        no_fault_hurts_uploads(protocol);
    }
}

/// Of new files, and of those that replace what is there.
fn no_fault_hurts_uploads(protocol: Protocol) {
    let lab = Lab::new();
    let served = lab.path(protocol.dir());
    let waits = |fault: &Fault| matches!(fault, Fault::Stall(_) | Fault::Drip);
    let cases = faults().into_iter().filter(|(_, fault)| !waits(fault));
    let cases: Vec<_> = ["new", "old"]
        .iter()
        .flat_map(|kind| {
            cases
                .clone()
                .map(move |(name, fault)| (format!("{kind}-{name}.bin"), fault))
        })
        .collect();
    for (name, _) in cases.iter().filter(|(name, _)| name.starts_with("old")) {
        put(&served.join(name), b"before");
    }
    put(&served.join("held.bin"), &bytes(1, 5000));
    let far = protocol.serve(&lab, &[]);
    let wire = Crooked::to(far.url());
    let mount = mounted(&lab, &protocol.remote(&wire.url));
    mount.sync();
    for (name, fault) in &cases {
        if name.starts_with("old") {
            assert_eq!(fs::read(mount.path(name)).unwrap(), b"before");
        }
        wire.bend(&protocol.sends(name), *fault);
    }
    for ((name, _), seed) in cases.iter().zip(7..) {
        fs::write(mount.path(name), bytes(seed, 20_000)).unwrap();
    }
    for (name, _) in &cases {
        let what = format!("{protocol:?}: {name} is sent");
        eventually(&what, || wire.has_hurt(&protocol.sends(name)));
    }
    mount.nothing_waits();
    wire.straighten();
    mount.flush();
    for ((name, _), seed) in cases.iter().zip(7..) {
        let there = fs::read(far.root().join(name)).unwrap();
        assert!(there == bytes(seed, 20_000), "{protocol:?}: {name}");
        let here = fs::read(mount.path(name)).unwrap();
        assert!(here == bytes(seed, 20_000), "{protocol:?}: {name}");
    }
    mount.sync();
    let status = mount.status();
    assert_eq!(
        status["conflicts"].as_array().unwrap().len(),
        0,
        "{protocol:?}: {status}"
    );
    assert_eq!(status["outbox"]["pending"], 0, "{protocol:?}: {status}");
}

#[test]
fn p2_p6_no_fault_of_the_wire_makes_a_listing_forget_anything() {
    no_fault_hurts_listings(Protocol::Own);
}

#[test]
fn p2_p6_no_fault_of_the_wire_to_a_bucket_makes_its_listing_forget_anything() {
    no_fault_hurts_listings(Protocol::Bucket);
}

#[test]
fn p2_p6_no_fault_of_the_wire_to_an_fxcache_server_makes_its_listing_forget_anything() {
    no_fault_hurts_listings(Protocol::Fxcache);
}

/// Whatever the mount asks about the remote and its files is answered crookedly.
fn no_fault_hurts_listings(protocol: Protocol) {
    let lab = Lab::new();
    let served = lab.path(protocol.dir());
    let known: Vec<_> = (0..200).map(|n| format!("known{n:03}.bin")).collect();
    for name in &known {
        put(&served.join(name), b"known");
    }
    let far = protocol.serve(&lab, &[]);
    let wire = Crooked::to(far.url());
    let mount = mounted(&lab, &protocol.remote(&wire.url));
    mount.sync();
    assert_eq!(fs::read(mount.path(&known[0])).unwrap(), b"known");
    let is_tried = |fault: &Fault| match fault {
        // No checksum of a listing's tells that a byte of it was changed.
        Fault::WrongByte => false,
        // One of each that is waited for, or is over at once.
        Fault::Stall(at) | Fault::Reset(at) => *at == At::Middle,
        Fault::Drip | Fault::Status("429 Too Many Requests" | "500 Internal Server Error") => false,
        _ => true,
    };
    for (name, fault) in faults().into_iter().filter(|(_, fault)| is_tried(fault)) {
        let what = format!("{protocol:?}, {name}");
        let new = format!("new-{name}.bin");
        put(&served.join(&new), name.as_bytes());
        if let Far::Original(server) = &far {
            server.refresh("incremental");
        }
        wire.bend("/", fault);
        let begun = Instant::now();
        let _ = mount.verb(&["sync"]);
        assert!(begun.elapsed() < DEADLINE, "{what}: {:?}", begun.elapsed());
        let shown = names(&mount.at);
        assert!(known.iter().all(|name| shown.contains(name)), "{what}");
        assert_eq!(fs::read(mount.path(&known[0])).unwrap(), b"known");
        wire.straighten();
        eventually(&what, || {
            fs::read(mount.path(&new)).is_ok_and(|found| found == name.as_bytes())
        });
        let shown = names(&mount.at);
        assert!(known.iter().all(|name| shown.contains(name)), "{what}");
    }
    mount.nothing_waits();
}

fn mounted<'a>(lab: &'a Lab, remote: &str) -> Mount<'a> {
    let keys = [
        ("AWS_ACCESS_KEY_ID", "anybody"),
        ("AWS_SECRET_ACCESS_KEY", "anything"),
    ];
    let args = [
        "--remote",
        remote,
        "--upload",
        "--offline",
        "error",
        "--prefetch",
        "0",
        "--refresh",
        "2s",
    ];
    let mount = lab.try_mount_with("mnt", &keys, &args);
    mount.unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}
