#!/usr/bin/env bash
# Installs packages of the system: as root, or with sudo; or says what to install.
#   packaging/install.sh PACKAGE…
set -euo pipefail

echo "installing: $*"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "please install $* (this system has no apt-get), then try again" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "please install $* as root, then try again" >&2
    exit 1
  fi
  as_root=(sudo)
fi
# The lists may be old or absent; an update that fails for one source is no reason to stop.
"${as_root[@]}" apt-get update -q || true
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"
