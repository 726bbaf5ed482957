//! What a test was promised: every path, and what it may be after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::IntoRawFd as _;
use std::path::{Path, PathBuf};

/// The content of a file; none if there is none.
pub type Content = Option<Vec<u8>>;

/// The promises of one sequence of operations. One operation at most is under way.
#[derive(Default)]
pub struct Ledger {
    now: BTreeMap<String, Content>,
    /// Paths of the operation under way, with what they may become.
    pending: Vec<(String, Content)>,
    /// Paths being changed in place: here they may be anything between the two.
    torn: BTreeSet<String>,
    /// What was done, for the report of a failure.
    told: Vec<String>,
    /// Every whole version that a path ever had or was about to have.
    ever: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Ledger {
    /// What is there before the first operation.
    pub fn given(&mut self, path: &str, content: &[u8]) {
        self.ever
            .entry(path.to_owned())
            .or_default()
            .push(content.to_vec());
        self.now.insert(path.to_owned(), Some(content.to_vec()));
    }

    /// Whether a note was made; it is no file.
    pub fn take(&mut self, note: &str) -> bool {
        self.now.remove(note).is_some()
    }

    pub fn now(&self, path: &str) -> Content {
        self.now.get(path).cloned().flatten()
    }

    fn intend(&mut self, path: &str, content: Content) {
        if let Some(bytes) = &content {
            let ever = self.ever.entry(path.to_owned()).or_default();
            ever.push(bytes.clone());
        }
        self.pending.push((path.to_owned(), content));
    }

    fn settle(&mut self) {
        self.now.extend(self.pending.drain(..));
        self.torn.clear();
    }

    /// Runs an operation that makes `path` into `content`; an error if it was not acknowledged.
    pub fn run(
        &mut self,
        path: &str,
        content: Content,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.run_all(vec![(path.to_owned(), content)], operation)
    }

    /// The same for an operation that changes an existing file in place.
    pub fn run_in_place(
        &mut self,
        path: &str,
        content: Vec<u8>,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.torn.insert(path.to_owned());
        self.run(path, Some(content), operation)
    }

    /// The same for several paths.
    pub fn run_all(
        &mut self,
        changes: Vec<(String, Content)>,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        for (path, content) in changes {
            let kind = if self.torn.contains(&path) {
                "changed in place"
            } else {
                "made"
            };
            self.told
                .push(format!("{path}: {kind} {}", shown(&content)));
            self.intend(&path, content);
        }
        let done = operation();
        self.told.push(format!("  {done:?}"));
        if done.is_ok() {
            self.settle();
        }
        done
    }

    /// Renames a directory: every path beneath `from` moves.
    pub fn run_move(
        &mut self,
        from: &str,
        to: &str,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let prefix = format!("{from}/");
        let moved: Vec<_> = self
            .now
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        let mut changes = Vec::new();
        for (path, content) in moved {
            changes.push((format!("{to}/{}", &path[prefix.len()..]), content));
            changes.push((path, None));
        }
        self.run_all(changes, operation)
    }

    /// Every path under `root` is what it was acknowledged to be, or what the operation under
    /// way was about to make of it; nothing else is there.
    pub fn check(&self, root: &Path, concerned: impl Fn(&str) -> bool) {
        for (path, now) in &self.now {
            let found = read(&root.join(path));
            let mut allowed = vec![now];
            allowed.extend(self.pending.iter().filter(|p| p.0 == *path).map(|p| &p.1));
            let fits = allowed.contains(&&found) || self.is_torn(path, &found);
            assert!(
                fits,
                "{path}: {} is not what was acknowledged ({})\n{}",
                shown(&found),
                allowed
                    .iter()
                    .map(|c| shown(c))
                    .collect::<Vec<_>>()
                    .join(" or "),
                self.history(path),
            );
        }
        for path in files(root).into_iter().filter(|path| concerned(path)) {
            let known = self.now.get(&path).is_some_and(Option::is_some)
                || self.pending.iter().any(|p| p.0 == path && p.1.is_some());
            assert!(known, "{path} is there, and nobody wrote it");
            let found = read(&root.join(&path));
            let whole = self.was_ever(&path, &found) || self.is_torn(&path, &found);
            assert!(whole, "{path}: {} is no whole version", shown(&found));
        }
        self.check_moved(root);
    }

    /// Whatever was being moved is under one name at least.
    fn check_moved(&self, root: &Path) {
        for (path, _) in self.pending.iter().filter(|p| p.1.is_none()) {
            let Some(bytes) = self.now(path) else {
                continue;
            };
            let targets = self.pending.iter().filter(|p| p.1.as_ref() == Some(&bytes));
            let mut names = targets.map(|p| &p.0).peekable();
            let found = read(&root.join(path)).as_ref() == Some(&bytes)
                || names.peek().is_none()
                || names.any(|name| read(&root.join(name)).as_ref() == Some(&bytes));
            assert!(found, "{path}: neither under its old name nor its new");
        }
    }

    /// What was under way is settled: what is there now is what it came to. A file that was being
    /// changed in place stays here until it is written again, which this does.
    pub fn accept(&mut self, mount: &Path) {
        let open: Vec<_> = self.pending.drain(..).map(|p| p.0).collect();
        let torn = std::mem::take(&mut self.torn);
        for path in open {
            let found = read(&mount.join(&path));
            if torn.contains(&path)
                && let Some(bytes) = &found
            {
                write(&mount.join(&path), bytes).unwrap();
                self.ever
                    .entry(path.clone())
                    .or_default()
                    .push(bytes.clone());
            }
            self.now.insert(path, found);
        }
    }

    fn history(&self, path: &str) -> String {
        let mut lines = Vec::new();
        for pair in self.told.windows(2) {
            if pair[0].starts_with(path) {
                lines.extend_from_slice(pair);
            }
        }
        lines.join("\n")
    }

    fn is_torn(&self, path: &str, found: &Content) -> bool {
        self.torn.contains(path) && found.is_some()
    }

    fn was_ever(&self, path: &str, found: &Content) -> bool {
        let ever = self.ever.get(path);
        found
            .as_ref()
            .is_some_and(|f| ever.is_some_and(|ever| ever.contains(f)))
    }

    /// At the server is nothing but whole versions, and of every acknowledged file the last one.
    /// `stays` says which paths never leave.
    pub fn check_server(&self, root: &Path, mount: &Path, stays: impl Fn(&str) -> bool) {
        for path in files(root) {
            let Some(_) = self.ever.get(&path) else {
                continue;
            };
            let found = read(&root.join(&path));
            assert!(
                self.was_ever(&path, &found),
                "{path}: {} went up and is no whole version",
                shown(&found)
            );
            assert!(!stays(&path), "{path} was to stay");
        }
        for path in self.now.keys() {
            let here = read(&mount.join(path));
            if here.is_none() || stays(path) || self.torn.contains(path) {
                continue;
            }
            let there = read(&root.join(path));
            assert!(
                here == there,
                "{path}: the server has {}, the mount {}",
                shown(&there),
                shown(&here)
            );
        }
    }
}

/// Closes a file and says how that went, which `drop` does not.
pub fn close(file: fs::File) -> io::Result<()> {
    // SAFETY: the descriptor was just taken out of its owner and is closed once.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes a file; acknowledged when its `close()` is.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    io::Write::write_all(&mut file, content)?;
    close(file)
}

fn shown(content: &Content) -> String {
    match content {
        None => "nothing".into(),
        Some(bytes) => format!(
            "{} bytes ({:02x?}…)",
            bytes.len(),
            &bytes[..bytes.len().min(4)]
        ),
    }
}

fn read(path: &Path) -> Content {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Every file beneath `root` but ours, by its path from there.
pub fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut work = vec![PathBuf::new()];
    while let Some(dir) = work.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_name() == ".larder" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                work.push(path);
            } else {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
