//! fsx, which others wrote: a file is written, cut, mapped, read at random, and compared at every step with
//! what it has to be. Of a file that is held, of one that is on its way, and across uploads and refreshes.
//!
//! `LARDER_FSX_SEED` repeats a run (each prints its own), `LARDER_FSX_OPERATIONS` makes it longer.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::many::setting;
use crate::common::{Lab, Mount, bytes, eventually, put};
use crate::slow::SlowLine;
use crate::tools::tool;
use crate::{READ_PATHS, expect_read_path, listed};

/// Of one run, of which there are six for each way to read: 100,000 for both ways without mappings, and as
/// many with them.
const OPERATIONS: usize = 16_667;
const SEED: usize = 20_260_101;
/// How much of the file it works on.
const LENGTH: usize = 64 << 10;

const MAPPED: &str = "mapread = 10\nmapwrite = 10\ninvalidate = 0.2\n";
const UNMAPPED: &str = "mapread = 0\nmapwrite = 0\n";
/// What changes a file's length, and closes it.
const FREE: &str = "truncate = 3\nposix_fallocate = 1\nclose_open = 0.3\nfsync = 0.01\n";

/// Runs it on `file`. One that exists and keeps its length is worked on in place.
fn exercise(lab: &Lab, file: &Path, mapped: bool, in_place: bool) {
    let name = format!("{}.toml", file.file_name().unwrap().to_str().unwrap());
    let configuration = lab.path(name);
    let maps = if mapped { MAPPED } else { UNMAPPED };
    let shapes = if in_place { "truncate = 0\n" } else { FREE };
    fs::write(
        &configuration,
        format!(
            "flen = {LENGTH}\nblockmode = {in_place}\nnomsyncafterwrite = true\n[opsize]\nmax = 4096\n\
             [weights]\nread = 10\nwrite = 10\nsendfile = 3\nposix_fadvise = 1\ncopy_file_range = 1\n{maps}{shapes}"
        ),
    )
    .unwrap();
    let seed = setting("LARDER_FSX_SEED", SEED);
    println!(
        "{}: mapped {mapped}, LARDER_FSX_SEED={seed}",
        file.display()
    );
    let output = Command::new(tool("fsx"))
        .arg("-f")
        .arg(&configuration)
        .arg("-P")
        .arg(lab.dir("artifacts"))
        .args([
            "-N",
            &setting("LARDER_FSX_OPERATIONS", OPERATIONS).to_string(),
        ])
        .args(["-S", &seed.to_string()])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "seed {seed}, {}, mapped {mapped}: {}{}",
        file.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Ends what goes on beside a run, also when the run fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A file that is here, changed in place. What lies behind the part that is worked on stays.
fn held(lab: &Lab, mount: &Mount<'_>, original: &[u8], mapped: bool) {
    let file = mount.path(if mapped { "held.map" } else { "held.bin" });
    assert!(fs::read(&file).unwrap() == original);
    exercise(lab, &file, mapped, true);
    let now = fs::read(&file).unwrap();
    assert!(now[LENGTH..] == original[LENGTH..], "{}", file.display());
}

/// A file that comes over a slow line while somebody reads it and this begins to write to it: the
/// reader has one version or the other, whole.
fn coming(lab: &Lab, mount: &Mount<'_>, line: &SlowLine, original: &[u8], mapped: bool) {
    let file = mount.path(if mapped { "far.map" } else { "far.bin" });
    line.narrow();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                line.allow(64 << 10);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // What is behind the part that is worked on is the same at every moment.
        scope.spawn(|| {
            let read = fs::read(&file).unwrap();
            assert!(read.len() == original.len() && read[LENGTH..] == original[LENGTH..]);
        });
        let _until = Until(&done);
        exercise(lab, &file, mapped, true);
    });
    line.widen();
    let now = fs::read(&file).unwrap();
    assert!(now[LENGTH..] == original[LENGTH..], "{}", file.display());
}

/// A new file that is closed and opened again, so that it goes up again and again, over a line that takes its
/// time, while the server is asked for news.
fn across_uploads(lab: &Lab, mount: &Mount<'_>, mapped: bool) {
    let file = mount.path(if mapped { "new.map" } else { "new.bin" });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                mount.sync();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _until = Until(&done);
        exercise(lab, &file, mapped, false);
    });
}

fn on(way: usize) {
    let (read_path, flags) = READ_PATHS[way];
    let lab = Lab::new();
    let original = bytes(7, 4 << 20);
    for name in ["held.bin", "held.map", "far.bin", "far.map"] {
        put(&lab.dir("srv").join(name), &original);
    }
    let server = lab.serve("srv", &[]);
    let line = SlowLine::to(&server.url);
    let url = line.url();
    let mut all = vec!["--remote", url.as_str(), "--upload"];
    all.extend(flags);
    let mount = lab.mount("mnt", &all);
    expect_read_path(&mount, read_path);
    listed(&mount, &server);
    for mapped in [false, true] {
        held(&lab, &mount, &original, mapped);
        coming(&lab, &mount, &line, &original, mapped);
        across_uploads(&lab, &mount, mapped);
    }
    mount.flush();
    crate::plain::assert_nothing_set_aside(&mount);
    let names = [
        "held.bin", "held.map", "far.bin", "far.map", "new.bin", "new.map",
    ];
    let shown = names.map(|name| fs::read(mount.path(name)).unwrap());
    let at = mount.unmount();
    for (name, shown) in names.iter().zip(shown) {
        eventually("the server has what was written last", || {
            fs::read(server.root.join(name)).is_ok_and(|there| there == shown)
        });
        assert!(
            fs::read(at.join(name)).unwrap() == shown,
            "{name} in the folder"
        );
    }
}

#[test]
fn p13_random_operations_past_the_daemon() {
    on(0);
}

#[test]
fn p13_random_operations_through_the_page_cache() {
    on(1);
}
