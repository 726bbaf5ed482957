#!/usr/bin/env bash
# Installs what building and mounting need and this machine lacks: a C compiler (SQLite
# is built from source) and fusermount3; with the word `test`, what the tests need as well.
# Does nothing where all of it is there. Needs apt-get, and root or sudo, only where
# something is missing.
set -euo pipefail
here="$(dirname "$0")"

missing=()
need() { # command package
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc build-essential
need fusermount3 fuse3
if [ "${1:-}" = test ]; then
  need curl curl
fi
if [ "${#missing[@]}" -gt 0 ]; then
  "$here/install.sh" "${missing[@]}"
fi

if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing: install it from https://rustup.rs, then try again" >&2
  exit 1
fi
if [ ! -e /dev/fuse ]; then
  echo "/dev/fuse is missing: run \`modprobe fuse\` as root, or give the container --device /dev/fuse --cap-add SYS_ADMIN" >&2
  exit 1
fi
if [ "${1:-}" = test ]; then
  "$here/python-tools.sh"
fi
