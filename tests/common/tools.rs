//! Programs from crates.io that `packaging/rust-tools.sh` installs.

use std::path::PathBuf;

/// The program `name`. A machine without it fails: nothing is skipped.
pub fn tool(name: &str) -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let tools = var("LARDER_TEST_TOOLS").or_else(|| Some(cache?.join("larder-test-tools")));
    let tool = tools.unwrap_or_default().join(name).join("bin").join(name);
    assert!(
        tool.exists(),
        "{} is missing: run `packaging/rust-tools.sh {name}` once (`make test` does)",
        tool.display()
    );
    tool
}
