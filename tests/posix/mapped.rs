//! Stores into a shared mapping that outlives the descriptor it was made from.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use crate::common::{Lab, bytes, eventually, put};
use crate::{PYTHON, READ_PATHS};

/// Python's own mapping keeps a descriptor open; this one does not.
const LATE: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
path, flags = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_RDWR | flags, 0o644)
os.ftruncate(fd, 200000)
at = libc.mmap(None, 200000, 3, 1, fd, 0)
ctypes.memmove(at, b'first', 5)
os.close(fd)
print('closed', flush=True)
sys.stdin.readline()
ctypes.memmove(at, b'later', 5)
ctypes.memmove(at + 199995, b'later', 5)
libc.munmap(at, 200000)
";

#[test]
fn p4_what_is_stored_into_a_mapping_after_the_close_goes_up() {
    for (read_path, flags) in READ_PATHS {
        let lab = Lab::new();
        let server = lab.serve("srv", &[]);
        put(&server.root.join("old.bin"), &bytes(1, 200_000));
        let mut all = vec!["--remote", server.url.as_str(), "--upload"];
        all.extend(flags);
        let mount = lab.mount("mnt", &all);
        eventually("it is listed", || mount.path("old.bin").exists());
        let made = libc::O_CREAT.to_string();
        for (name, open_flags) in [("new.bin", made.as_str()), ("old.bin", "0")] {
            let mut writer = Command::new(PYTHON)
                .args(["-c", LATE])
                .arg(mount.path(name))
                .arg(open_flags)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            let stdout = writer.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut said).unwrap();
            assert_eq!(said, "closed\n");
            // Another file goes up meanwhile, and this one, which is not finished, does not.
            let before = fs::read(server.root.join(name)).ok();
            fs::write(mount.path("other.bin"), name).unwrap();
            eventually("another goes up", || {
                fs::read(server.root.join("other.bin")).is_ok_and(|b| b == name.as_bytes())
            });
            assert!(
                fs::read(server.root.join(name)).ok() == before,
                "{name}, {read_path}"
            );
            writeln!(writer.stdin.take().unwrap(), "go on").unwrap();
            assert!(writer.wait().unwrap().success());
            let mut whole = match name {
                "old.bin" => bytes(1, 200_000),
                _ => vec![0; 200_000],
            };
            whole[..5].copy_from_slice(b"later");
            whole[199_995..].copy_from_slice(b"later");
            mount.flush();
            let there = fs::read(server.root.join(name)).unwrap();
            assert!(there == whole, "{name} at the server, {read_path}");
            assert!(
                fs::read(mount.path(name)).unwrap() == whole,
                "{name}, {read_path}"
            );
            assert_eq!(mount.status()["conflicts"].as_array().unwrap().len(), 0);
        }
    }
}
