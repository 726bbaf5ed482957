//! `larder warm`: what is missing comes before anybody opens it (P14), nothing goes for it (P11), and
//! a remote that goes away ends it and costs nothing of what came (P6).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::common::{Lab, Mount, Server, bytes, eventually, put};
use super::proxy::Proxy;

const FILES: usize = 90;

/// Some directories in directories, a name that takes two lines, an empty file, a long one.
fn tree() -> Vec<(PathBuf, Vec<u8>)> {
    let path = |n: usize| format!("{}/{n:03}.pkl", ["a", "b/x", "b/y"][n / 30]);
    let mut files: Vec<(PathBuf, Vec<u8>)> = (0..FILES)
        .map(|n| (path(n).into(), bytes(n as u64, 20_000 + n)))
        .collect();
    files.push(("b/two\nlines".into(), b"x".to_vec()));
    files.push(("c/empty".into(), Vec::new()));
    files.push(("c/long.bin".into(), bytes(7, 9 << 20)));
    files
}

fn served(lab: &Lab) -> Server {
    let root = lab.dir("srv");
    for (path, content) in tree() {
        put(&root.join(path), &content);
    }
    lab.serve("srv", &[])
}

/// `larder warm` of paths in the mount; of all of it, if none is given.
fn command(mount: &Mount<'_>, paths: &[&str]) -> Command {
    let mut command = mount.lab.larder();
    command.args(["warm", "--json"]);
    match paths {
        [] => command.arg(&mount.at),
        _ => command.args(paths.iter().map(|path| mount.path(path))),
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    let complaint = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{complaint}"))
}

/// Lines of complaint.
fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::to_owned).collect()
}

fn held(mount: &Mount<'_>) -> u64 {
    mount.status()["held"]["files"].as_u64().unwrap()
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[test]
fn p14_small_files_that_are_warmed_come_many_to_a_request() {
    let lab = Lab::new();
    let server = served(&lab);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let output = command(&mount, &[]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", json(&output));
    let (stats, files) = (server.stats(), tree().len() as u64);
    let count = |what: &str| stats[what].as_u64().unwrap();
    assert!(count("batch") > 0, "{stats}");
    assert!(count("batch") + count("get") < files / 2, "{stats}");
    for (path, content) in tree() {
        assert_eq!(fs::read(mount.at.join(path)).unwrap(), content);
    }
    assert_eq!(server.stats()["get"], stats["get"]);
}

#[test]
fn p14_what_was_warmed_is_read_without_a_request() {
    let lab = Lab::new();
    let server = served(&lab);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    // At once after the mount: what there is is waited for. One folder, by its own path.
    let output = command(&mount, &["b/x"]).output().unwrap();
    let warmed = json(&output);
    assert_eq!(
        (&warmed["files"], code(&output)),
        (&30.into(), 0),
        "{warmed}"
    );
    assert_eq!(held(&mount), 30);
    // What is being written, or was written here, is nothing to fetch.
    put(&mount.path("a/mine.pkl"), b"mine");
    let writer = OpenOptions::new()
        .append(true)
        .open(mount.path("a/000.pkl"));
    let mut writer = writer.unwrap();
    writer.write_all(b"more").unwrap();
    // All of it, by two at once, one of whom names some of it twice.
    let all = command(&mount, &[]).spawn();
    let twice = command(&mount, &["", "a"]).output().unwrap();
    let all = ended(all.unwrap());
    for output in [&all, &twice] {
        let warmed = json(output);
        assert_eq!(code(output), 0, "{warmed} {:?}", lines(output));
        assert_eq!(
            (&warmed["failed"], &warmed["stopped"]),
            (&0.into(), &Value::Null)
        );
        assert_eq!(warmed["busy"], 1, "{warmed}");
        let seen = warmed["files"].as_u64().unwrap() + warmed["here"].as_u64().unwrap();
        assert_eq!(seen, tree().len() as u64, "{warmed}");
    }
    drop(writer);
    let before = server.requests();
    for (path, content) in tree().into_iter().skip(1) {
        assert!(fs::read(mount.path(&path)).unwrap() == content, "{path:?}");
    }
    assert_eq!(server.requests(), before, "a warm run asks for nothing");
    // Nothing came twice.
    let sum: usize = tree().iter().map(|(_, content)| content.len()).sum();
    assert_eq!(mount.status()["counts"]["bytes_down"], sum);
    let output = mount.verb(&["warm"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        text,
        format!(
            "fetched 0 files, 0 B; {} files were here already\n",
            tree().len() + 1
        )
    );
}

#[test]
fn p11_warming_ends_where_something_would_have_to_go() {
    for (limit, most) in [(["--max-size", "300k"], 15), (["--max-files", "15"], 15)] {
        let lab = Lab::new();
        let server = served(&lab);
        let mount = lab.mount("mnt", &[&limit[..], &["--remote", &server.url]].concat());
        eventually("it is listed", || {
            mount.status()["remotes"][0]["listed"] == true
        });
        // What lies behind all that fits.
        let (last, content) = (mount.path("b/y/089.pkl"), bytes(89, 20_089));
        assert!(fs::read(&last).unwrap() == content);
        eventually("it is held", || held(&mount) == 1);
        let output = command(&mount, &[]).output().unwrap();
        let warmed = json(&output);
        assert_eq!(code(&output), 1, "{warmed}");
        assert_eq!(warmed["stopped"]["full"], limit[0].trim_start_matches('-'));
        assert_eq!((&warmed["files"], held(&mount)), (&(most - 1).into(), most));
        let said = lines(&output);
        assert!(
            said.len() == 1 && said[0].contains(limit[0]) && said[0].contains("14 of 92"),
            "{said:?}"
        );
        let counts = &mount.status()["counts"];
        assert_eq!(counts["evicted"], 0, "{counts}");
        let before = server.requests();
        assert!(fs::read(&last).unwrap() == content);
        assert_eq!(server.requests(), before);
    }
}

#[test]
fn p11_a_mount_that_keeps_nothing_is_not_warmed() {
    let lab = Lab::new();
    let server = served(&lab);
    let mount = lab.mount("mnt", &["--stream", "--remote", &server.url]);
    let output = command(&mount, &[]).output().unwrap();
    let said = lines(&output);
    assert_eq!((code(&output), said.len()), (1, 1), "{said:?}");
    assert!(said[0].contains("--stream"), "{said:?}");
}

#[test]
fn p6_a_remote_that_goes_ends_warming_and_what_came_is_kept() {
    let lab = Lab::new();
    let server = served(&lab);
    let wire = Proxy::to(&server.url);
    let mount = lab.mount("mnt", &["--remote", &wire.url]);
    eventually("it is listed", || {
        mount.status()["remotes"][0]["listed"] == true
    });
    wire.slow(400_000);
    let warming = command(&mount, &[]).spawn();
    eventually("some came", || held(&mount) > 3);
    wire.cut();
    let output = ended(warming.unwrap());
    let (warmed, said) = (json(&output), lines(&output));
    assert_eq!(code(&output), 1, "{warmed}");
    assert_eq!(warmed["stopped"]["away"], wire.url, "{warmed}");
    // Files whose bodies broke off amid the cut may be named before it.
    let is_complaint = |line: &&String| line.starts_with("larder:");
    let last = said.iter().rfind(is_complaint).unwrap();
    assert!(last.contains(" of 93 missing files came"), "{said:?}");
    let came = held(&mount);
    assert!((3..93).contains(&came), "{came}");
    // While it is away nothing is begun; with it back the rest comes.
    let again = command(&mount, &[]).output().unwrap();
    assert_eq!((code(&again), &json(&again)["files"]), (1, &0.into()));
    wire.open();
    eventually("it is back", || {
        mount.status()["remotes"][0]["state"] == "online"
    });
    let rest = command(&mount, &[]).output().unwrap();
    assert_eq!((code(&rest), held(&mount)), (0, 93), "{}", json(&rest));
    for (path, content) in tree() {
        assert!(fs::read(mount.path(&path)).unwrap() == content, "{path:?}");
    }
}

#[test]
fn p6_a_mount_that_never_saw_its_remote_says_so() {
    let lab = Lab::new();
    let mount = lab.mount("mnt", &["--remote", "http://127.0.0.1:9"]);
    let output = command(&mount, &[]).output().unwrap();
    let said = lines(&output);
    assert_eq!((code(&output), said.len()), (1, 1), "{said:?}");
    assert!(said[0].contains("was never listed"), "{said:?}");
}

#[test]
fn p10_what_cannot_be_warmed_is_named_in_one_line_each() {
    let lab = Lab::new();
    let server = served(&lab);
    let mount = lab.mount("mnt", &["--remote", &server.url]);
    let output = command(&mount, &["no\nsuch", "b/two\nlines", "none"])
        .output()
        .unwrap();
    let warmed = json(&output);
    assert_eq!(
        (code(&output), &warmed["files"], &warmed["failed"]),
        (1, &1.into(), &2.into())
    );
    assert_eq!(warmed["failures"][0]["path"], "no%0Asuch");
    let said = lines(&output);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("no\\nsuch: no such file"), "{said:?}");
    assert!(said[1].contains("none: no such file"), "{said:?}");
    assert_eq!(fs::read(mount.path("b/two\nlines")).unwrap(), b"x");
}
