#!/usr/bin/env bash
# Installs the Rust programs that tests and CI run (pjdfstest, fsx, cargo-deny…) from crates.io: pinned,
# each built once, outside of the checkout. Does nothing for one that is there.
#   packaging/rust-tools.sh NAME…
#   LARDER_TEST_TOOLS  where (default: larder-test-tools in the user's cache directory);
#                      a program is then in NAME/bin there
set -euo pipefail
cd "$(dirname "$0")/.."

tools="${LARDER_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-tools}"

version_of() { # name
  case "$1" in
    pjdfstest) echo 0.2.2 ;;
    fsx) echo 0.3.2 ;;
    cargo-deny) echo 0.20.2 ;;
    cargo-audit) echo 0.22.2 ;;
    *)
      echo "packaging/rust-tools.sh does not know $1" >&2
      exit 1
      ;;
  esac
}

works() { # name root
  "$2/bin/$1" --version >/dev/null 2>&1 || "$2/bin/$1" --help >/dev/null 2>&1
}

for name in "$@"; do
  version="$(version_of "$name")"
  root="$tools/$name-$version"
  mkdir -p "$tools"
  # One at a time: two test runs may begin together.
  exec 9>"$root.lock"
  flock 9
  if ! works "$name" "$root"; then
    # It asks a file system for its access lists through the system's library.
    if [ "$name" = pjdfstest ] && ! [ -e /usr/include/sys/acl.h ]; then
      packaging/install.sh libacl1-dev >&2
    fi
    echo "building $name $version in $root; this takes a minute or more, once" >&2
    # They only have to be correct: little optimization builds in a third of the time.
    env -u CARGO_TARGET_DIR -u CARGO_INCREMENTAL \
      CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
      cargo install --quiet --locked "$name" --version "$version" --root "$root" >&2
  fi
  ln -sfn "$name-$version" "$tools/$name"
  exec 9>&-
done
