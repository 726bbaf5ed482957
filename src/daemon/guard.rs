//! The guard: a small process that outlives a killed daemon and takes its dead mount
//! away, so that the folder is an ordinary directory again (promise P7).

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// The guard's end of the line. When this process dies, the line breaks, and it acts.
pub struct Guard {
    line: Option<ChildStdin>,
    child: Option<Child>,
}

/// Posts a guard. Without one (the program was moved away, say) a dead mount stays until
/// the next start or `larder umount`.
pub fn post(mountpoint: &Path, source: &str) -> Guard {
    let posted = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .arg("guard")
            .arg(mountpoint)
            .arg(source)
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
    });
    match posted {
        Ok(mut child) => Guard {
            line: child.stdin.take(),
            child: Some(child),
        },
        Err(error) => {
            tracing::warn!(%error, "no guard: a mount left by a killed daemon will have to be detached by hand");
            Guard {
                line: None,
                child: None,
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.line = None;
        if let Some(mut child) = self.child.take() {
            // It ends by itself once the line is broken; this only collects it.
            let _ = child.wait();
        }
    }
}
