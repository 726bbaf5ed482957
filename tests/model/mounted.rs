//! The same operations on real mounts: two folders over one server, through the kernel, with daemons
//! that are killed, a server that comes and goes, and people in the plain folders and behind its back.
//!
//! Nobody knows here what a mount has heard of at which moment, so less is asked for than of the
//! overlay alone: who wrote what reads it back; what was acknowledged is there, or set aside, or was
//! replaced by somebody who could see it; what was not is nowhere; and in the end all sides agree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::common::{Lab, Mount, SOON, Server, is_mounted};
use crate::world::{Check, Step, bytes_of};
use crate::{between, dir, file};

const NAMES: [&str; 2] = ["a", "b"];

type View = BTreeMap<String, usize>;

/// A file that is open, and not finished.
struct Begun {
    file: File,
    path: String,
    content: usize,
}

/// One of the two folders, and what was done in it.
#[derive(Default)]
struct Side<'a> {
    mount: Option<Mount<'a>>,
    begun: Option<Begun>,
    /// What was acknowledged here, and where it must be.
    written: BTreeMap<usize, String>,
    /// Names that were taken away here, and stay at the server.
    gone: HashSet<String>,
}

pub struct Mounted<'a> {
    lab: &'a Lab,
    server: Option<Server>,
    port: String,
    sides: [Side<'a>; 2],
    contents: usize,
    /// What the server had when it went away: names that are hidden since were listed before.
    had: View,
    /// Everything that was finished by anybody.
    finished: HashSet<usize>,
    /// What each content may have replaced with its writer's knowledge.
    replaced: HashMap<usize, HashSet<usize>>,
    /// What somebody took away who could see it.
    dropped: HashSet<usize>,
    /// Whether what is removed in a folder goes at the server, too.
    propagates: bool,
}

fn other_kind(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::DirectoryNotEmpty
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::StaleNetworkFileHandle
    )
}

/// A change that others, or the server's absence, may have made impossible.
fn tried<T>(done: io::Result<T>, what: &str) -> Result<Option<T>, String> {
    match done {
        Err(error) if other_kind(&error) => Ok(None),
        done => done.map(Some).map_err(|e| format!("{what}: {e}")),
    }
}

/// Which content a file has by its length.
fn content_at(path: &Path) -> Option<usize> {
    let facts = fs::symlink_metadata(path).ok()?;
    facts.is_file().then_some(facts.len() as usize)
}

/// All files beneath `root`, each of which is whole.
fn files(root: &Path) -> Result<View, String> {
    walk(root, |path, at| {
        let Some(bytes) = tried(fs::read(at), path)? else {
            return Ok(None);
        };
        if bytes.is_empty() || bytes != bytes_of(bytes.len()) {
            return Err(format!("{path}: {} bytes are no whole file", bytes.len()));
        }
        Ok(Some(bytes.len()))
    })
}

/// What `look` says of each file beneath `root`, but of what Larder keeps there.
fn walk<F>(root: &Path, look: F) -> Result<View, String>
where
    F: Fn(&str, &Path) -> Result<Option<usize>, String>,
{
    let mut found = View::new();
    let mut work = vec![String::new()];
    while let Some(dir) = work.pop() {
        // Others may have renamed it since it was listed.
        let Some(entries) = tried(fs::read_dir(root.join(&dir)), &dir)? else {
            continue;
        };
        for entry in entries {
            let entry = entry.map_err(|e| format!("{dir}: {e}"))?;
            let path = format!("{dir}{}", entry.file_name().to_string_lossy());
            match entry.file_type() {
                _ if path == ".larder" => {}
                Ok(kind) if kind.is_dir() => work.push(format!("{path}/")),
                _ => {
                    if let Some(content) = look(&path, &entry.path())? {
                        found.insert(path, content);
                    }
                }
            }
        }
    }
    Ok(found)
}

fn patiently(what: &str, mut check: impl FnMut() -> Check) -> Check {
    let begun = Instant::now();
    loop {
        match check() {
            Err(why) if begun.elapsed() > SOON => return Err(format!("{what}: {why}")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(()) => return Ok(()),
        }
    }
}

fn allowed(propagates: bool) -> &'static [&'static str] {
    match propagates {
        true => &["--allow-delete"],
        false => &[],
    }
}

impl<'a> Mounted<'a> {
    pub fn new(lab: &'a Lab, propagates: bool) -> Mounted<'a> {
        let server = lab.serve("srv", allowed(propagates));
        let mut mounted = Mounted {
            lab,
            port: server.port(),
            server: Some(server),
            sides: Default::default(),
            contents: 0,
            had: View::new(),
            finished: HashSet::new(),
            replaced: HashMap::new(),
            dropped: HashSet::new(),
            propagates,
        };
        mounted.mount(0);
        mounted.mount(1);
        mounted
    }

    fn mount(&mut self, at: usize) {
        let url = format!("http://127.0.0.1:{}", self.port);
        let mut args = vec!["--remote", url.as_str(), "--upload", "--min-free", "1MiB"];
        if self.propagates {
            args.push("--propagate-deletes");
        }
        self.sides[at].mount = Some(self.lab.mount(NAMES[at], &args));
    }

    fn at(&self, at: usize, path: &str) -> std::path::PathBuf {
        self.lab.path(NAMES[at]).join(path)
    }

    fn there(&self, path: &str) -> std::path::PathBuf {
        self.lab.path("srv").join(path)
    }

    fn content(&mut self) -> usize {
        self.contents += 1;
        self.contents
    }

    /// What somebody who changes the name now may know of it.
    fn knows(&self, at: usize, path: &str) -> HashSet<usize> {
        let here = content_at(&self.at(at, path));
        here.into_iter().chain(self.heard(path)).collect()
    }

    /// What the mounts may have heard of a name by now.
    fn heard(&self, path: &str) -> Option<usize> {
        match self.server {
            Some(_) => content_at(&self.there(path)),
            None => self.had.get(path).copied(),
        }
    }

    fn is_begun(&self, at: usize, path: &str) -> bool {
        let begun = self.sides[at].begun.as_ref();
        begun.is_some_and(|begun| begun.path == path)
    }

    /// A `close()` returned for the content.
    fn acknowledged(&mut self, at: usize, path: &str, content: usize, knew: HashSet<usize>) {
        let side = &mut self.sides[at];
        side.written.retain(|_, there| there != path);
        side.written.insert(content, path.to_owned());
        side.gone.remove(path);
        self.finished.insert(content);
        self.replaced.entry(content).or_default().extend(knew);
    }

    /// Does one step in one of the folders, and looks whether all is well.
    pub fn take(&mut self, at: usize, step: &Step) -> Check {
        self.act(at, step)?;
        self.check(at)
    }

    fn act(&mut self, at: usize, step: &Step) -> Check {
        match *step {
            Step::Write(p) if !self.is_begun(at, p) => self.write(at, p, true),
            Step::Patch(p) if !self.is_begun(at, p) => self.write(at, p, false),
            Step::Begin(p) => self.begin(at, p),
            Step::Finish => self.finish(at),
            Step::Read(p) if !self.is_begun(at, p) => self.read(at, p),
            Step::Unlink(p) => self.unlink(at, p),
            Step::Rename(a, b) | Step::RenameDir(a, b) if a != b => self.rename(at, a, b),
            Step::MakeDir(p) => tried(fs::create_dir(self.at(at, p)), p).map(drop),
            Step::RemoveDir(p) => tried(fs::remove_dir(self.at(at, p)), p).map(drop),
            Step::RemotePut(p) => self.remote_put(p),
            Step::RemoteDelete(p) => self.remote_delete(p),
            Step::Sync if self.server.is_some() => self.verb(at, &["sync"]),
            Step::Push if self.server.is_some() && self.sides[at].begun.is_none() => {
                self.verb(at, &["flush", "--wait"])
            }
            Step::Online(online) => self.set_online(online),
            Step::EvictAll => {
                // It says what it could not drop.
                self.sides[at].mount.as_ref().unwrap().verb(&["evict"]);
                Ok(())
            }
            Step::Reopen(clean) => self.reopen(at, clean, |_| Ok(())),
            Step::PlainWrite(p, between) => {
                let knew = self.knows(at, p);
                self.reopen(at, !between.killed, |this| {
                    if between.hears_first {
                        // While nothing is mounted here; the start hears of it.
                        this.remote_put(p)?;
                    }
                    this.plain_write(at, p, knew)
                })
            }
            Step::PlainDelete(p, between) => {
                self.reopen(at, !between.killed, |this| this.plain_delete(at, p))
            }
            Step::Settle => self.settle(),
            _ => Ok(()),
        }
    }

    fn verb(&self, at: usize, words: &[&str]) -> Check {
        let output = self.sides[at].mount.as_ref().unwrap().verb(words);
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{words:?} at {}: {output:?}", NAMES[at])),
        }
    }

    // What programs do.

    fn write(&mut self, at: usize, path: &str, anew: bool) -> Check {
        let (target, content) = (self.at(at, path), self.content());
        if anew {
            tried(fs::create_dir_all(target.parent().unwrap()), path)?;
        }
        let mut knew = self.knows(at, path);
        let mut options = File::options();
        options.write(true).create(anew).truncate(anew);
        let Some(file) = tried(options.open(&target), path)? else {
            return Ok(());
        };
        // It may have heard of another between the two.
        knew.extend(self.heard(path));
        let write = || -> io::Result<()> {
            file.write_all_at(&bytes_of(content), 0)?;
            file.set_len(content as u64)
        };
        write().map_err(|e| format!("{path}: {e}"))?;
        drop(file);
        self.acknowledged(at, path, content, knew);
        self.reads_back(at, path, content)
    }

    /// It shows what was written, unless that is a conflict or was replaced already.
    fn reads_back(&self, at: usize, path: &str, content: usize) -> Check {
        let found = fs::read(self.at(at, path));
        match found {
            Ok(bytes) if bytes == bytes_of(content) => Ok(()),
            found if self.is_safe(at, content)? => drop_kind(found),
            found => Err(format!(
                "{path}: {content} was written, and {:?} read",
                found.map(|b| b.len())
            )),
        }
    }

    fn begin(&mut self, at: usize, path: &str) -> Check {
        if self.sides[at].begun.is_some() {
            return Ok(());
        }
        let (target, content) = (self.at(at, path), self.content());
        tried(fs::create_dir_all(target.parent().unwrap()), path)?;
        let knew = self.knows(at, path);
        let Some(mut file) = tried(File::create(&target), path)? else {
            return Ok(());
        };
        file.write_all(&bytes_of(content))
            .map_err(|e| format!("{path}: {e}"))?;
        self.replaced.insert(content, knew);
        let path = path.to_owned();
        self.sides[at].begun = Some(Begun {
            file,
            path,
            content,
        });
        Ok(())
    }

    fn finish(&mut self, at: usize) -> Check {
        let Some(begun) = self.sides[at].begun.take() else {
            return Ok(());
        };
        // From here on it may be published.
        self.finished.insert(begun.content);
        drop(begun.file);
        if begun.path.is_empty() {
            self.dropped.insert(begun.content);
        } else {
            self.acknowledged(at, &begun.path, begun.content, HashSet::new());
        }
        Ok(())
    }

    fn read(&mut self, at: usize, path: &str) -> Check {
        let Ok(bytes) = fs::read(self.at(at, path)) else {
            return Ok(());
        };
        match bytes == bytes_of(bytes.len()) {
            true => Ok(()),
            false => Err(format!("{path}: wrong bytes shown")),
        }
    }

    fn unlink(&mut self, at: usize, path: &str) -> Check {
        let mut knew = self.knows(at, path);
        if tried(fs::remove_file(self.at(at, path)), path)?.is_some() {
            // It may have heard of another between the two.
            knew.extend(self.heard(path));
            self.took_away(knew);
            self.left(at, path, None);
            self.sides[at].gone.insert(path.to_owned());
        }
        Ok(())
    }

    /// Somebody who knew these contents removed their name here.
    fn took_away(&mut self, contents: HashSet<usize>) {
        if self.propagates {
            self.dropped.extend(contents);
        }
    }

    /// What was under a name here is under another one now, or nowhere.
    fn left(&mut self, at: usize, from: &str, to: Option<&str>) {
        let side = &mut self.sides[at];
        if let Some(begun) = &mut side.begun
            && begun.path == from
        {
            begun.path = to.unwrap_or_default().to_owned();
        }
        let was = side.written.iter().find(|(_, path)| *path == from);
        let Some(content) = was.map(|(content, _)| *content) else {
            return;
        };
        match to {
            Some(to) => drop(side.written.insert(content, to.to_owned())),
            None => {
                side.written.remove(&content);
                self.dropped.insert(content);
            }
        }
    }

    fn rename(&mut self, at: usize, from: &str, to: &str) -> Check {
        let root = self.at(at, "");
        let within = |name: &str| -> Result<View, String> {
            let mut found = files_named(&root)?;
            found.retain(|path, _| path == name || path.starts_with(&format!("{name}/")));
            Ok(found)
        };
        let mut moved = within(from)?;
        let target = |path: &str| format!("{to}{}", &path[from.len()..]);
        let mut knew: HashMap<String, HashSet<usize>> = HashMap::new();
        for path in moved.keys() {
            knew.insert(path.clone(), self.knows(at, &target(path)));
        }
        if let Some(parent) = self.at(at, to).parent() {
            tried(fs::create_dir_all(parent), to)?;
        }
        let done = fs::rename(self.at(at, from), self.at(at, to));
        if tried(done, &format!("{from} to {to}"))?.is_none() {
            return Ok(());
        }
        // Some of it may have been heard of just before.
        for (path, content) in within(to)? {
            moved
                .entry(format!("{from}{}", &path[to.len()..]))
                .or_insert(content);
        }
        for (path, content) in &moved {
            let target = target(path);
            self.left(at, &target, None);
            self.left(at, path, Some(&target));
            let knew = knew.remove(path).unwrap_or_default();
            self.replaced.entry(*content).or_default().extend(knew);
            let side = &mut self.sides[at];
            side.gone.insert(path.clone());
            side.gone.remove(&target);
        }
        Ok(())
    }

    // What others do.

    /// Somebody puts a file at the server, whatever is there.
    fn remote_put(&mut self, path: &str) -> Check {
        let content = self.content();
        let (target, next) = (self.there(path), self.lab.path("next"));
        let put = || -> io::Result<Option<usize>> {
            fs::create_dir_all(target.parent().unwrap())?;
            fs::write(&next, bytes_of(content))?;
            // What was there is known exactly, whatever went up meanwhile.
            match renameat_with(CWD, &next, CWD, &target, RenameFlags::EXCHANGE) {
                Ok(()) => Ok(content_at(&next)),
                Err(rustix::io::Errno::NOENT) => fs::rename(&next, &target).map(|()| None),
                Err(error) => Err(error.into()),
            }
        };
        self.finished.insert(content);
        let Some(before) = tried(put(), path)? else {
            self.dropped.insert(content);
            return Ok(());
        };
        self.replaced.insert(content, before.into_iter().collect());
        Ok(())
    }

    /// Somebody removes a file at the server, whatever it is.
    fn remote_delete(&mut self, path: &str) -> Check {
        let aside = self.lab.path("removed");
        // What was there is known exactly, whatever went up meanwhile.
        if tried(fs::rename(self.there(path), &aside), path)?.is_some() {
            self.dropped.extend(content_at(&aside));
        }
        Ok(())
    }

    fn set_online(&mut self, online: bool) -> Check {
        match (online, self.server.take()) {
            (true, None) => {
                let args = allowed(self.propagates);
                self.server = Some(self.lab.serve_at("srv", &self.port, args));
            }
            (true, server) => self.server = server,
            (false, server) => {
                if let Some(server) = server {
                    server.kill();
                    self.had = files(&self.there(""))?;
                }
            }
        }
        let wanted = if online { "online" } else { "away" };
        patiently("the mounts notice", || {
            for side in &self.sides {
                let status = side.mount.as_ref().unwrap().status();
                let state = status["remotes"][0]["state"].as_str().unwrap_or_default();
                if state != wanted {
                    return Err(format!("{state} and not {wanted}"));
                }
            }
            Ok(())
        })
    }

    /// The daemon ends, unmounted or killed, and starts again, with the plain folder in between.
    fn reopen(&mut self, at: usize, clean: bool, plain: impl FnOnce(&mut Self) -> Check) -> Check {
        if clean {
            self.finish(at)?;
            self.sides[at].mount.take().unwrap().unmount();
        } else {
            self.sides[at].mount.take().unwrap().kill();
            // Its `close()` reaches nobody.
            self.sides[at].begun = None;
        }
        files(&self.at(at, "")).map_err(|why| format!("in the plain folder: {why}"))?;
        plain(self)?;
        self.mount(at);
        Ok(())
    }

    fn plain_write(&mut self, at: usize, path: &str, mut knew: HashSet<usize>) -> Check {
        let (target, content) = (self.at(at, path), self.content());
        // Of what was begun there and left, only this is there.
        knew.extend(content_at(&target));
        let put = || -> io::Result<()> {
            fs::create_dir_all(target.parent().unwrap())?;
            fs::write(&target, bytes_of(content))
        };
        if tried(put(), path)?.is_some() {
            self.acknowledged(at, path, content, knew);
        }
        Ok(())
    }

    fn plain_delete(&mut self, at: usize, path: &str) -> Check {
        let knew = self.knows(at, path);
        if fs::remove_file(self.at(at, path)).is_ok() {
            self.took_away(knew);
            self.left(at, path, None);
        }
        Ok(())
    }

    // What must be true.

    /// Everything goes up and is heard of; then all sides agree, and nothing is lost.
    fn settle(&mut self) -> Check {
        self.finish(0)?;
        self.finish(1)?;
        self.set_online(true)?;
        for _ in 0..2 {
            for at in [0, 1] {
                self.verb(at, &["sync"])?;
                self.verb(at, &["flush", "--wait"])?;
            }
        }
        patiently("the two sides and the server", || self.agree())?;
        self.check_kept()
    }

    fn agree(&mut self) -> Check {
        for at in [0, 1] {
            self.verb(at, &["sync"])?;
            let (view, there) = (files(&self.at(at, ""))?, files(&self.there(""))?);
            for (path, content) in &view {
                if there.get(path) != Some(content) {
                    let there = there.get(path);
                    return Err(format!(
                        "{path}: {content} at {}, {there:?} at the server",
                        NAMES[at]
                    ));
                }
            }
            for path in there.keys().filter(|path| !view.contains_key(*path)) {
                if !self.sides[at].gone.contains(path) {
                    return Err(format!("{path} is at the server, and not at {}", NAMES[at]));
                }
            }
        }
        Ok(())
    }

    fn aside(&self, at: usize) -> Result<HashSet<usize>, String> {
        let Some(mount) = &self.sides[at].mount else {
            return Ok(HashSet::new());
        };
        let output = mount.verb(&["conflicts", "--json"]);
        let rows: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        let rows = rows["conflicts"].as_array().or(rows.as_array());
        let rows = rows.ok_or("no conflicts in the answer")?.iter();
        Ok(rows
            .filter_map(|row| Some(row["size"].as_u64()? as usize))
            .collect())
    }

    /// Whether a content that its name does not show is somewhere, or was replaced or taken away by
    /// somebody who could see it.
    fn is_safe(&self, at: usize, content: usize) -> Result<bool, String> {
        let was_replaced = |(by, replaced): (&usize, &HashSet<usize>)| {
            self.finished.contains(by) && *by != content && replaced.contains(&content)
        };
        Ok(self.dropped.contains(&content)
            || self.replaced.iter().any(was_replaced)
            || files(&self.there(""))?.values().any(|n| *n == content)
            || self.aside(at)?.contains(&content))
    }

    /// What is at the server was finished by somebody; what was written here is safe.
    fn check(&mut self, at: usize) -> Check {
        for (path, content) in files(&self.there(""))? {
            if !self.finished.contains(&content) {
                return Err(format!(
                    "{path}: {content} was never finished, and is at the server"
                ));
            }
        }
        for (content, path) in &self.sides[at].written {
            let shown = content_at(&self.at(at, path));
            if shown != Some(*content) && !self.is_begun(at, path) && !self.is_safe(at, *content)? {
                return Err(format!(
                    "{path}: {content} was written, and {shown:?} is shown"
                ));
            }
        }
        Ok(())
    }

    /// Everything that anybody finished is somewhere, but for what somebody replaced who could see it.
    fn check_kept(&self) -> Check {
        let mut kept: HashSet<usize> = files(&self.there(""))?.into_values().collect();
        for at in [0, 1] {
            kept.extend(files(&self.at(at, ""))?.into_values());
            kept.extend(self.aside(at)?);
        }
        let replaced = self
            .replaced
            .iter()
            .filter(|(by, _)| self.finished.contains(by));
        kept.extend(replaced.flat_map(|(_, replaced)| replaced));
        kept.extend(&self.dropped);
        let lost: Vec<_> = self.finished.difference(&kept).collect();
        match lost.is_empty() {
            true => Ok(()),
            false => Err(format!("{lost:?} of {} is lost", self.contents)),
        }
    }
}

fn drop_kind<T>(found: io::Result<T>) -> Check {
    match found {
        Err(error) if !other_kind(&error) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Names and lengths alone: the files may be open for writing.
fn files_named(root: &Path) -> Result<View, String> {
    walk(root, |_, at| Ok(content_at(at)))
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        for (at, side) in self.sides.iter_mut().enumerate() {
            side.begun = None;
            side.mount = None;
            debug_assert!(!is_mounted(&self.lab.path(NAMES[at])));
        }
    }
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        8 => file().prop_map(Step::Write),
        3 => file().prop_map(Step::Patch),
        2 => file().prop_map(Step::Begin),
        2 => Just(Step::Finish),
        4 => file().prop_map(Step::Read),
        3 => file().prop_map(Step::Unlink),
        5 => (file(), file()).prop_map(|(a, b)| Step::Rename(a, b)),
        2 => (dir(), dir()).prop_map(|(a, b)| Step::RenameDir(a, b)),
        1 => dir().prop_map(Step::MakeDir),
        1 => dir().prop_map(Step::RemoveDir),
        4 => file().prop_map(Step::RemotePut),
        2 => file().prop_map(Step::RemoteDelete),
        2 => Just(Step::Sync),
        2 => Just(Step::Push),
        2 => any::<bool>().prop_map(Step::Online),
        2 => Just(Step::EvictAll),
        2 => any::<bool>().prop_map(Step::Reopen),
        2 => (file(), between()).prop_map(|(p, b)| Step::PlainWrite(p, b)),
        1 => (file(), between()).prop_map(|(p, b)| Step::PlainDelete(p, b)),
        1 => Just(Step::Settle),
    ];
    (0..2usize, step)
}

fn run(propagates: bool, steps: &[(usize, Step)]) -> Check {
    let lab = Lab::new();
    let mut mounted = Mounted::new(&lab, propagates);
    for (n, (at, step)) in steps.iter().enumerate() {
        mounted
            .take(*at, step)
            .map_err(|why| format!("step {n}, mount {at}, {step:?}: {why}"))?;
    }
    mounted
        .take(0, &Step::Settle)
        .map_err(|why| format!("at the end: {why}"))
}

/// The same few stories each time, or as many as `LARDER_SOAK` seconds take; others with
/// `LARDER_SEED=NUMBER`, which a story that fails says.
#[test]
fn p5_what_two_real_mounts_do_loses_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let soak = number("LARDER_SOAK").map(Duration::from_secs);
    let (first, begun) = (number("LARDER_SEED").unwrap_or(1), Instant::now());
    for seed in first.. {
        let config = ProptestConfig {
            cases: 1,
            rng_seed: RngSeed::Fixed(seed),
            max_shrink_iters: soak.map_or(0, |_| 60),
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let story = (any::<bool>(), proptest::collection::vec(step(), 1..20));
        let told = TestRunner::new(config).run(&story, |(propagates, steps)| {
            run(propagates, &steps).map_err(TestCaseError::fail)
        });
        if let Err(why) = told {
            panic!("LARDER_SEED={seed} tells this story again: {why}");
        }
        let is_over = match soak {
            Some(soak) => begun.elapsed() >= soak,
            None => seed == first + 11,
        };
        if is_over {
            return;
        }
    }
}
