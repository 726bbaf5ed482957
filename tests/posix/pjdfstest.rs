//! pjdfstest, a suite that others wrote for what POSIX says of file systems: run on a bare directory
//! and on mounts of the same disk. What passes there passes here, or is in `pjdfstest.txt` with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::Lab;
use crate::tools::tool;
use crate::{READ_PATHS, expect_read_path, is_root, plain};

/// What Linux offers, and two users that are on every Debian.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Names of what a mount is not expected to pass. Every one stands beneath a reason.
fn exceptions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut has_reason = false;
    for line in include_str!("pjdfstest.txt").lines() {
        match line {
            "" => has_reason = false,
            reason if reason.starts_with("# ") => has_reason = true,
            name => {
                assert!(has_reason, "{name} stands beneath no reason");
                assert!(found.insert(name.to_owned()), "{name} is there twice");
            }
        }
    }
    found
}

/// Runs the suite in `dir`, with `elsewhere` on another disk; returns what became of each test.
fn run(lab: &Lab, dir: &Path, elsewhere: &Path) -> BTreeMap<String, String> {
    let configuration = lab.path("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let (log, mut child) = (lab.path("pjdfstest.log"), Command::new(tool("pjdfstest")));
    let out = fs::File::create(&log).unwrap();
    let mut child = child
        .arg("--configuration-file")
        .arg(&configuration)
        .arg("--secondary-fs")
        .arg(elsewhere)
        .arg("--path")
        .arg(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null())
        // A test that fails leaves what it started running.
        .process_group(0)
        .spawn()
        .unwrap();
    let group = format!("-{}", child.id());
    // Its code says whether all passed, which nobody expects of a mount.
    child.wait().unwrap();
    // Mostly there is nobody left.
    let killed = Command::new("kill").args(["-9", "--", &group]).output();
    killed.unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("\nSummary: "), "it did not end: {log}");
    let results = log.lines().filter_map(|line| {
        let (name, result) = line.split_once(' ')?;
        let result = result.trim();
        let is_result = name.contains("::") && ["ok", "FAILED", "skipped"].contains(&result);
        is_result.then(|| (name.to_owned(), result.to_owned()))
    });
    results.collect()
}

fn passed(results: &BTreeMap<String, String>) -> BTreeSet<String> {
    let passed = results.iter().filter(|(_, result)| *result == "ok");
    passed.map(|(name, _)| name.clone()).collect()
}

#[test]
fn p13_what_posix_says_holds_as_on_the_disk_beneath() {
    if !is_root() {
        println!("SKIPPED: pjdfstest changes users and owners, which only root may");
        return;
    }
    let exceptions = exceptions();
    // Its users have to come in, which the laboratory's place need not let them.
    let outside = plain::User::new();
    let lab = Lab::new();
    let bare = outside.others().join("bare");
    fs::create_dir(&bare).unwrap();
    let elsewhere = Path::new("/dev/shm");
    let on_disk = run(&lab, &bare, elsewhere);
    let expected = passed(&on_disk);
    println!(
        "{} tests, {} pass on the bare directory",
        on_disk.len(),
        expected.len()
    );
    assert!(on_disk.len() >= 398 && expected.len() >= 370, "{on_disk:?}");
    for (read_path, flags) in READ_PATHS {
        let server = lab.serve(&format!("srv {read_path}"), &[]);
        let at = outside.others().join(read_path.replace(' ', "-"));
        let mut all = vec!["--remote", server.url.as_str(), "--upload", "--allow-other"];
        all.extend(flags);
        let mount = lab.mount(at.to_str().unwrap(), &all);
        expect_read_path(&mount, read_path);
        let mounted = passed(&run(&lab, &mount.at, &bare));
        let missing: Vec<_> = expected
            .difference(&mounted)
            .filter(|name| !exceptions.contains(*name))
            .collect();
        let needless: Vec<_> = exceptions
            .iter()
            .filter(|name| mounted.contains(*name) || !on_disk.contains_key(*name))
            .collect();
        println!(
            "{read_path}: {} pass, {} are excepted",
            mounted.len(),
            exceptions.len()
        );
        assert!(
            missing.is_empty(),
            "{read_path}: these pass on the bare directory and not here: {missing:#?}"
        );
        assert!(
            needless.is_empty(),
            "{read_path}: in tests/posix/pjdfstest.txt, and pass here or do not exist: {needless:#?}"
        );
        mount.flush();
        assert_eq!(
            mount.status()["conflicts"].as_array().map(Vec::len),
            Some(0)
        );
    }
}
