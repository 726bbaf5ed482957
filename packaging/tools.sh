#!/usr/bin/env bash
# Installs what building and mounting need and this machine lacks: a C compiler (SQLite
# is built from source), fusermount3, and the tools of the tests. Does nothing where
# all of it is there. Needs apt-get, and root or sudo, only where something is missing.
set -euo pipefail

missing=()
need() { # command package
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc build-essential
need fusermount3 fuse3

if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing: ${missing[*]}"
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "please install ${missing[*]} (this system has no apt-get), then try again" >&2
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "please install ${missing[*]} as root, then try again" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  # The lists may be old or absent; an update that fails for one source is no reason to stop.
  "${as_root[@]}" apt-get update -q || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing: install it from https://rustup.rs, then try again" >&2
  exit 1
fi
if [ ! -e /dev/fuse ]; then
  echo "/dev/fuse is missing: run \`modprobe fuse\` as root, or give the container --device /dev/fuse --cap-add SYS_ADMIN" >&2
  exit 1
fi
