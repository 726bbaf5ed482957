#!/usr/bin/env bash
# Installs what building and mounting need and this machine lacks: a C compiler (SQLite
# is built from source) and fusermount3; with the word `test`, what the tests need as well:
# also a /dev/fuse that ordinary users may open, as udev makes it everywhere; with the word
# `page`, Chromium; with the word `bench`, what Larder is measured against.
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
case "${1:-}" in
  test | page)
    need curl curl
    need git git
    need rsync rsync
    need tar tar
    ;;
esac
if [ "${1:-}" = bench ]; then
  need sshfs sshfs
  need s3fs s3fs
  need ssh-keygen openssh-client
  # Ordinary users do not have it in their path.
  if [ ! -x /usr/sbin/sshd ]; then
    missing+=(openssh-server)
    echo "installing openssh-server may start its service, which is not needed: systemctl disable --now ssh"
  fi
fi
if [ "${1:-}" = page ] && ! command -v chromium-browser >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
  need chromium chromium
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
  if [ "$(id -u)" -eq 0 ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    echo "letting every user open /dev/fuse, as udev does: chmod 666 /dev/fuse"
    chmod 666 /dev/fuse
  fi
  "$here/python-tools.sh"
  "$here/rust-tools.sh" pjdfstest fsx
fi
