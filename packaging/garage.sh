#!/usr/bin/env bash
# Installs Garage, a real object store, for the tests that talk to one (`make test-garage`): built
# from its source on crates.io, once, outside of the checkout. Does nothing when it is there.
# Prints where the program is.
#   LARDER_TEST_TOOLS  where (default: larder-test-tools in the user's cache directory)
set -euo pipefail

version=2.5.0
tools="${LARDER_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-tools}/garage-$version"
garage="$tools/bin/garage"

if ! "$garage" --version >/dev/null 2>&1; then
  mkdir -p "$tools"
  # One at a time: two test runs may begin together.
  exec 9>"$tools.lock"
  flock 9
fi
if ! "$garage" --version >/dev/null 2>&1; then
  echo "building Garage $version in $tools; this takes some minutes, once" >&2
  # It only has to be correct: little optimization builds in a third of the time.
  env -u CARGO_TARGET_DIR -u CARGO_INCREMENTAL \
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
    cargo install --quiet --locked garage --version "$version" --root "$tools" \
    --no-default-features --features bundled-libs,sqlite >&2
fi
echo "$garage"
