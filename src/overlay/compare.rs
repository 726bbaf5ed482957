//! Two versions of a file side by side: whether they are the same, where they begin to differ,
//! and how, where both are short texts. Reads each once, in flat memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256 as Hasher};
use similar::TextDiff;

use crate::error::Result;
use crate::object::Sha256;

/// Read in one go.
const BLOCK: usize = 256 << 10;
/// Longer texts are not compared line by line.
const TEXT_MOST: u64 = 256 << 10;
/// Lines of a comparison that are told.
const LINES_MOST: usize = 200;
/// How long looking for the shortest way to tell it may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// What reading both files to their ends came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    pub hashes: [Sha256; 2],
    /// The first byte that differs, or that only one of them has.
    pub first_difference: Option<u64>,
}

/// Reads two files side by side.
pub fn compare(a: &File, b: &File) -> Result<Compared> {
    let (mut first, mut offset) = (None, 0);
    let (mut hashers, mut blocks) = (
        [Hasher::new(), Hasher::new()],
        [vec![0; BLOCK], vec![0; BLOCK]],
    );
    loop {
        let mut lens = [0; 2];
        for (n, file) in [a, b].into_iter().enumerate() {
            lens[n] = fill(file, &mut blocks[n], offset)?;
            hashers[n].update(&blocks[n][..lens[n]]);
        }
        let [ours, theirs] = [&blocks[0][..lens[0]], &blocks[1][..lens[1]]];
        if first.is_none() && ours != theirs {
            let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            first = Some(offset + same as u64);
        }
        if lens == [0, 0] {
            let hashes = hashers.map(|hasher| Sha256(hasher.finalize().into()));
            return Ok(Compared {
                hashes,
                first_difference: first,
            });
        }
        offset += BLOCK as u64;
    }
}

/// The hash of a file.
pub fn hash(file: &File) -> Result<Sha256> {
    let (mut hasher, mut block, mut offset) = (Hasher::new(), vec![0; BLOCK], 0);
    loop {
        let len = fill(file, &mut block, offset)?;
        if len == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(&block[..len]);
        offset += len as u64;
    }
}

/// Fills `block` from `offset` on; less of it only at the file's end.
fn fill(file: &File, block: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// How to get from `old` to `new`, line by line, each with its name; none unless both are short
/// texts.
pub fn lines(old: (&str, &File), new: (&str, &File)) -> Result<Option<String>> {
    let (Some(a), Some(b)) = (text(old.1)?, text(new.1)?) else {
        return Ok(None);
    };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&a, &b);
    let mut unified = diff.unified_diff();
    let told = unified.context_radius(3).header(old.0, new.0).to_string();
    let count = told.lines().count();
    if count <= LINES_MOST {
        return Ok(Some(told));
    }
    let mut short: Vec<&str> = told.lines().take(LINES_MOST).collect();
    let more = format!("… {} lines more", count - LINES_MOST);
    short.push(&more);
    Ok(Some(short.join("\n")))
}

fn text(file: &File) -> Result<Option<String>> {
    let size = file.metadata()?.len();
    if size > TEXT_MOST {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    let len = fill(file, &mut bytes, 0)?;
    bytes.truncate(len);
    let text = String::from_utf8(bytes).ok();
    Ok(text.filter(|text| !text.contains('\0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn where_two_files_begin_to_differ() {
        let long = vec![7; BLOCK * 2 + 5];
        let mut other = long.clone();
        other[BLOCK + 3] = 8;
        for (a, b, first) in [
            (&b""[..], &b""[..], None),
            (b"same", b"same", None),
            (b"same", b"sane", Some(2)),
            (b"same", b"same and more", Some(4)),
            (&long, &long, None),
            (&long, &other, Some(BLOCK as u64 + 3)),
            (&long, &long[..BLOCK * 2], Some(BLOCK as u64 * 2)),
        ] {
            let found = compare(&file(a), &file(b)).unwrap();
            assert_eq!(found.first_difference, first);
            assert_eq!(found.hashes[0] == found.hashes[1], first.is_none());
            assert_eq!(hash(&file(a)).unwrap(), found.hashes[0]);
        }
    }

    #[test]
    fn short_texts_are_told_line_by_line_and_others_are_not() {
        let told = |a: &[u8], b: &[u8]| lines(("theirs", &file(a)), ("mine", &file(b))).unwrap();
        let text = told(b"a\nb\nc\n", b"a\nB\nc\n").unwrap();
        for line in ["--- theirs", "+++ mine", "-b", "+B", " c"] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert_eq!(told(b"a\n", b"a\0b\n"), None);
        assert_eq!(told(b"a\n", &[0xff, 0xfe]), None);
        assert_eq!(told(b"a\n", &vec![b'x'; TEXT_MOST as usize + 1]), None);
        let many: String = (0..1000).map(|n| format!("{n}\n")).collect();
        let text = told(b"", many.as_bytes()).unwrap();
        assert_eq!(text.lines().count(), LINES_MOST + 1);
        assert!(text.ends_with("lines more"), "{text}");
    }
}
