#!/usr/bin/env bash
# What Larder is built from: licences, sources and banned crates (`deny.toml`), and known vulnerabilities.
# The latter come from a database on GitHub; where that cannot be reached, one line says so.
set -euo pipefail
cd "$(dirname "$0")/.."

database=https://github.com/rustsec/advisory-db
tools="${LARDER_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-tools}"

packaging/rust-tools.sh cargo-deny
PATH="$tools/cargo-deny/bin:$PATH"
# Two versions of one crate are a warning, of which there are many and none is ours to end.
cargo deny --locked --log-level error check licenses bans sources

if ! command -v git >/dev/null 2>&1 ||
  ! GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --exit-code "$database" HEAD >/dev/null 2>&1; then
  echo "NOT CHECKED: known vulnerabilities (cargo deny, cargo audit), for $database cannot be reached from here"
  exit 0
fi
packaging/rust-tools.sh cargo-audit
PATH="$tools/cargo-audit/bin:$PATH"
cargo deny --locked check advisories
cargo audit
