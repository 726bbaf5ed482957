//! What is done with a directory, and how long it takes. One program, the same calls everywhere.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long each of many took, and all of them together.
pub struct Times {
    each: Vec<Duration>,
    all: Duration,
}

impl Times {
    pub fn per_second(&self) -> f64 {
        self.each.len() as f64 / self.all.as_secs_f64()
    }

    /// In milliseconds, the one that `part` of them are not above.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut each = self.each.clone();
        each.sort();
        let at = (each.len() as f64 * part).ceil() as usize;
        let at = at.clamp(1, each.len()) - 1;
        each[at].as_secs_f64() * 1e3
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn of(each: Vec<Duration>) -> Times {
        let all = each.iter().sum();
        Times { each, all }
    }
}

/// Puts names in an order that is random and the same each time.
pub fn shuffled(names: &[PathBuf], seed: u64) -> Vec<PathBuf> {
    let mut names = names.to_vec();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for n in (1..names.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        names.swap(n, (state % (n as u64 + 1)) as usize);
    }
    names
}

/// Every file below `root`, from it, in the order of `find`.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let printed = find(root, &["-type", "f", "-printf", "%P\\n"]);
    printed.lines().map(PathBuf::from).collect()
}

fn find(root: &Path, words: &[&str]) -> String {
    let mut command = Command::new("find");
    // What a store or a server keeps for itself shows in the plain directory only.
    command.arg(root).args(["-name", ".larder", "-prune", "-o"]);
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "find in {}", root.display());
    String::from_utf8(output.stdout).unwrap()
}

/// Seconds of `find -type f -size +0`, which has to find `expected`.
pub fn walk(root: &Path, expected: usize) -> f64 {
    let begun = Instant::now();
    let printed = find(root, &["-type", "f", "-size", "+0", "-printf", "x"]);
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(printed.len(), expected, "files in {}", root.display());
    took
}

fn joined(root: &Path, names: &[PathBuf]) -> Vec<PathBuf> {
    names.iter().map(|name| root.join(name)).collect()
}

/// `lstat`s a second of names that exist.
pub fn stats(root: &Path, names: &[PathBuf]) -> f64 {
    let paths = joined(root, names);
    let begun = Instant::now();
    for path in &paths {
        fs::symlink_metadata(path).unwrap();
    }
    paths.len() as f64 / begun.elapsed().as_secs_f64()
}

/// `lstat`s a second of names that do not.
pub fn absent(root: &Path, names: &[PathBuf]) -> f64 {
    let paths = joined(root, names);
    let begun = Instant::now();
    for path in &paths {
        let error = fs::symlink_metadata(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", path.display());
    }
    paths.len() as f64 / begun.elapsed().as_secs_f64()
}

fn read_one(path: &Path, buffer: &mut [u8]) -> usize {
    let mut file = File::open(path).unwrap();
    let mut sum = 0;
    loop {
        match file.read(buffer).unwrap() {
            0 => return sum,
            n => sum += n,
        }
    }
}

/// open + read + close of each, by one reader.
pub fn reads(root: &Path, names: &[PathBuf]) -> Times {
    let paths = joined(root, names);
    let mut buffer = vec![0; 1 << 20];
    let begun = Instant::now();
    let each = paths
        .iter()
        .map(|path| {
            let begun = Instant::now();
            assert!(read_one(path, &mut buffer) > 0, "{}", path.display());
            begun.elapsed()
        })
        .collect();
    let all = begun.elapsed();
    Times { each, all }
}

/// The same by many readers, who take the next one each. Files a second.
pub fn reads_by(readers: usize, root: &Path, names: &[PathBuf]) -> f64 {
    let (paths, next) = (joined(root, names), AtomicUsize::new(0));
    let begun = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..readers {
            threads.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    assert!(read_one(path, &mut buffer) > 0, "{}", path.display());
                }
            });
        }
    });
    paths.len() as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes a second of one file from its beginning to its end.
pub fn sequential(path: &Path) -> f64 {
    let size = fs::metadata(path).unwrap().len();
    let mut buffer = vec![0; 1 << 20];
    let begun = Instant::now();
    assert_eq!(read_one(path, &mut buffer) as u64, size);
    size as f64 / begun.elapsed().as_secs_f64()
}

/// Files a second, written beside their names and renamed to them.
pub fn writes(root: &Path, count: usize, content: &[u8]) -> f64 {
    let begun = Instant::now();
    for n in 0..count {
        let at = root.join(format!("result_{n}.pkl"));
        let beside = root.join(format!("result_{n}.pkl.part"));
        let mut file = File::create(&beside).unwrap();
        file.write_all(content).unwrap();
        drop(file);
        fs::rename(&beside, &at).unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Has the kernel forget what files hold. Needs root: returns whether it did.
pub fn drop_page_cache() -> bool {
    // SAFETY: takes nothing and gives nothing.
    unsafe { libc::sync() };
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}
