//! The tests' Python, with what `packaging/python-tools.sh` installed.

use std::path::PathBuf;

/// The interpreter. A machine without it fails: nothing is skipped.
pub fn python() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let venv = var("LARDER_TEST_VENV").or_else(|| Some(cache?.join("larder-test-venv")));
    let python = venv.unwrap_or_default().join("bin/python");
    assert!(
        python.exists(),
        "{} is missing: run packaging/python-tools.sh once (`make test` does)",
        python.display()
    );
    python
}
