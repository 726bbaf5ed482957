//! Folders of the demo: made, counted and compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::clock::Chance;
use crate::error::{About, Result};

/// What the demo compares of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub size: u64,
    pub mtime_ns: i64,
    pub hash: [u8; 32],
}

/// Files of the shapes that a cache of FX fits has: many small ones, in the same folders.
pub fn fxcache(root: &Path) -> Result<usize> {
    let chance = Chance::seeded(5002);
    let mut paths: Vec<String> = Vec::new();
    for pair in ["EURUSD", "GBPUSD", "USDJPY", "AUDUSD"] {
        for n in 0..15 {
            let id = format!("{:08x}", chance.next_u64() >> 32);
            paths.push(format!("TB/{pair}_{id}.pkl"));
            paths.push(format!("MT/result_0x{id}.pkl"));
            paths.push(format!("FIT/opt_{pair}_{n}.pkl"));
            paths.push(format!("TT/cached_{id}.pkl"));
            paths.push(format!("oanda-london-tf_M{n}/{pair}/prices_{id}.pkl"));
            paths.push(format!("8/oanda/{pair}/meta_{n}.json"));
        }
    }
    paths.push("notes/with spaces, ümläuts and 100%.txt".into());
    for path in &paths {
        let size = 2_000 + chance.next_u64() % 60_000;
        write(&root.join(path), &bytes(&chance, size), 1_700_000_000)?;
    }
    write(&root.join("FIT/empty.pkl"), b"", 1_700_000_100)?;
    write(
        &root.join("prices/big.parquet"),
        &bytes(&chance, 8 << 20),
        1_700_000_200,
    )?;
    Ok(paths.len() + 2)
}

/// Bytes that do not compress.
pub fn bytes(chance: &Chance, size: u64) -> Vec<u8> {
    let words = size.div_ceil(8);
    let mut out: Vec<u8> = (0..words)
        .flat_map(|_| chance.next_u64().to_le_bytes())
        .collect();
    out.truncate(usize::try_from(size).unwrap_or(0));
    out
}

/// Writes a file with a time that is not now.
pub fn write(path: &Path, bytes: &[u8], seconds: u64) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).about(parent.display())?;
    }
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    let put = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.set_modified(time)
    };
    put().about(path.display())
}

/// The names of all files beneath `root`, without what is larder's own. Only names are asked for.
pub fn names(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        let here = root.join(&dir);
        for entry in std::fs::read_dir(&here).about(here.display())? {
            let entry = entry.about(here.display())?;
            let path = dir.join(entry.file_name());
            if path == Path::new(crate::path::RESERVED) {
                continue;
            }
            match entry.file_type().about(path.display())?.is_dir() {
                true => left.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads one file whole.
pub fn facts(path: &Path) -> Result<Facts> {
    let mut file = File::open(path).about(path.display())?;
    let meta = file.metadata().about(path.display())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).about(path.display())?;
        if n == 0 {
            break;
        }
        size += n as u64;
        hash.update(&buffer[..n]);
    }
    Ok(Facts {
        size,
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        hash: hash.finalize().into(),
    })
}

/// Reads every file beneath `root`.
pub fn all(root: &Path) -> Result<BTreeMap<PathBuf, Facts>> {
    let names = names(root)?;
    names
        .into_iter()
        .map(|name| Ok((name.clone(), facts(&root.join(name))?)))
        .collect()
}
