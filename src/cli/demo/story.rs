//! The story: what is shown, in order, and the check behind each sentence.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Scene, tree};
use crate::cli::show;
use crate::clock::Chance;
use crate::daemon;
use crate::error::{About, Error, Kind, Result};
use crate::server::{self, ServeConfig, Server};

/// The server, and the runtime it lives in.
struct Far {
    runtime: tokio::runtime::Runtime,
    server: Server,
}

impl Far {
    fn start(dir: &Path) -> Result<Far> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .about("starting the server")?;
        let config = ServeConfig {
            host: "127.0.0.1".to_owned(),
            port: 0,
            ..ServeConfig::new(dir)
        };
        let server = runtime.block_on(async {
            let server = server::start(config).await?;
            server.wait_scanned().await;
            Ok::<_, Error>(server)
        })?;
        Ok(Far { runtime, server })
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// Requests for a file's bytes so far.
    fn gets(&self) -> u64 {
        self.server.stats().get
    }

    fn stop(self) {
        self.runtime.block_on(self.server.stop());
        self.runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

/// Tells it; the first thing that is not as told ends it.
pub fn tell(scene: &Scene) -> Result<()> {
    let files = prepare(scene)?;
    let far = Far::start(&scene.far)?;
    mount(scene, &far)?;
    list(scene, files)?;
    let read = read_through(scene, &far)?;
    write_back(scene)?;
    status(scene)?;
    offline(scene, far, &read)?;
    unmount(scene, &read)
}

fn step(number: u32, text: &str) {
    show::tell(&format!("\n{number}. {text}"));
}

fn right(text: &str) {
    show::tell(&format!("   ok: {text}"));
}

fn check(holds: bool, told: &str) -> Result<()> {
    match holds {
        true => {
            right(told);
            Ok(())
        }
        false => Err(Error::new(Kind::Io, format!("this is not so: {told}"))),
    }
}

/// What the folder holds of its own before anything is mounted.
const OWN: [(&str, &str); 2] = [
    ("my-notes.txt", "kept by me\n"),
    ("TB/my_own_fit.pkl", "a fit that only this machine has\n"),
];
/// Written while mounted.
const NEW: &str = "FIT/opt_from_this_machine.pkl";
/// Written while the server is away.
const LATE: &str = "FIT/opt_written_offline.pkl";

fn prepare(scene: &Scene) -> Result<usize> {
    step(1, "Two machines, played by two folders.");
    let files = tree::fxcache(&scene.far)?;
    for (name, text) in OWN {
        tree::write(&scene.near.join(name), text.as_bytes(), 1_600_000_000)?;
    }
    right(&format!("the \"server\" has a cache of {files} files"));
    right("the folder on \"this machine\" has 2 files of its own");
    Ok(files)
}

fn mount(scene: &Scene, far: &Far) -> Result<()> {
    step(
        2,
        "The server shares its cache (as `larder serve` does), and we mount over our folder:",
    );
    let url = far.url();
    show::tell(&format!(
        "   $ larder mount {} --remote {url} --upload --min-free 0B",
        scene.near.display()
    ));
    scene.larder(
        &["mount", "--remote", &url, "--upload", "--min-free", "0B"],
        &scene.near,
    )?;
    check(is_mounted(scene)?, "the mount answers")
}

fn is_mounted(scene: &Scene) -> Result<bool> {
    let mounts = daemon::mounts()?;
    Ok(mounts.iter().any(|m| m.mountpoint == scene.near))
}

fn list(scene: &Scene, files: usize) -> Result<()> {
    step(
        3,
        "The folder now shows everything, its own files and the server's, though nothing was copied:",
    );
    let seen = tree::names(&scene.near)?;
    check(
        seen.len() == files + OWN.len(),
        &format!("{} files are listed", seen.len()),
    )?;
    for (name, text) in OWN {
        let path = scene.near.join(name);
        let own = std::fs::read_to_string(&path).about(path.display())?;
        check(own == text, &format!("{name} is untouched"))?;
    }
    Ok(())
}

/// Reads some files; gives back which.
fn read_through(scene: &Scene, far: &Far) -> Result<Vec<PathBuf>> {
    step(
        4,
        "Reading a file brings it here. The second time nothing is asked for:",
    );
    let mut chosen: Vec<PathBuf> = tree::names(&scene.far)?.into_iter().step_by(9).collect();
    for extra in ["prices/big.parquet", "FIT/empty.pkl"] {
        let extra = PathBuf::from(extra);
        if !chosen.contains(&extra) {
            chosen.push(extra);
        }
    }
    let before = far.gets();
    let same = |path: &PathBuf| -> Result<bool> {
        Ok(tree::facts(&scene.near.join(path))? == tree::facts(&scene.far.join(path))?)
    };
    let mut equal = true;
    for path in &chosen {
        equal &= same(path)?;
    }
    let files = chosen.len();
    check(
        equal,
        &format!("{files} files were read; bytes and times are the server's"),
    )?;
    let fetched = far.gets();
    check(
        fetched > before,
        &format!("the server was asked for files {} times", fetched - before),
    )?;
    for path in &chosen {
        equal &= same(path)?;
    }
    check(
        equal && far.gets() == fetched,
        "they were read again, and the server was asked for nothing",
    )?;
    Ok(chosen)
}

fn write_back(scene: &Scene) -> Result<()> {
    step(
        5,
        "What a pipeline writes here is safe here at once, and goes up in the background:",
    );
    let bytes = tree::bytes(&Chance::seeded(7), 100_000);
    tree::write(&scene.near.join(NEW), &bytes, 1_710_000_000)?;
    show::tell(&format!(
        "   $ larder flush --wait {}",
        scene.near.display()
    ));
    scene.larder(&["flush", "--wait"], &scene.near)?;
    let (there, here) = (
        tree::facts(&scene.far.join(NEW))?,
        tree::facts(&scene.near.join(NEW))?,
    );
    check(
        there == here,
        &format!("{NEW} is on the server, the same to the last byte"),
    )
}

fn status(scene: &Scene) -> Result<()> {
    step(6, "How it stands:");
    show::tell(&format!("   $ larder status {}", scene.near.display()));
    let text = scene.larder(&["status"], &scene.near)?;
    for line in text.lines() {
        show::tell(&format!("   {line}"));
    }
    check(text.contains("online"), "the remote is online")
}

fn offline(scene: &Scene, far: Far, read: &[PathBuf]) -> Result<()> {
    step(7, "Now the server is switched off.");
    let kept: Vec<(PathBuf, tree::Facts)> = read
        .iter()
        .map(|path| Ok((path.clone(), tree::facts(&scene.far.join(path))?)))
        .collect::<Result<_>>()?;
    far.stop();
    let mut equal = true;
    for (path, facts) in &kept {
        equal &= tree::facts(&scene.near.join(path))? == *facts;
    }
    check(equal, "everything that was read before can still be read")?;
    let missing = tree::names(&scene.far)?
        .into_iter()
        .find(|path| !read.contains(path) && path != Path::new(NEW));
    if let Some(path) = missing {
        let began = Instant::now();
        let opened = std::fs::File::open(scene.near.join(&path));
        let gone = opened.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let took = began.elapsed();
        check(
            gone,
            "a file that is not here is \"no such file\", so a pipeline makes it anew",
        )?;
        check(
            took < Duration::from_secs(10),
            &format!("nothing hung: that took {} ms", took.as_millis()),
        )?;
    }
    tree::write(
        &scene.near.join(LATE),
        b"made while offline\n",
        1_720_000_000,
    )?;
    right("a file can be written; it waits for the server");
    Ok(())
}

fn unmount(scene: &Scene, read: &[PathBuf]) -> Result<()> {
    step(8, "We unmount. The folder is an ordinary folder again:");
    show::tell(&format!("   $ larder umount {}", scene.near.display()));
    scene.larder(&["umount"], &scene.near)?;
    check(!is_mounted(scene)?, "nothing is mounted")?;
    let found = tree::all(&scene.near)?;
    let mut expected: Vec<PathBuf> = read.to_vec();
    expected.extend(OWN.iter().map(|(name, _)| PathBuf::from(name)));
    expected.extend([NEW, LATE].map(PathBuf::from));
    expected.sort();
    let names: Vec<&PathBuf> = found.keys().collect();
    check(
        names.into_iter().eq(expected.iter()),
        &format!(
            "it holds exactly the {} files that were its own, read or written",
            expected.len()
        ),
    )?;
    let mut equal = true;
    for (path, facts) in &found {
        let far = scene.far.join(path);
        if far.exists() {
            equal &= tree::facts(&far)? == *facts;
        }
    }
    check(
        equal,
        "every one is whole, at its own path, with its own time",
    )
}
