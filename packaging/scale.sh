#!/usr/bin/env bash
# What the tests do with a few files at the size of a real FXCACHE, with a release build: 63,000
# files of 6.5 GB, behind a larder and behind an original FXCACHE server. Needs about 30 GB of
# disk beneath Cargo's target directory for some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export LARDER_SCALE_FILES="${LARDER_SCALE_FILES:-63000}"
export LARDER_SCALE_MEAN="${LARDER_SCALE_MEAN:-103000}"
exec cargo test --release --locked --test scale --test fxcache -- --nocapture --test-threads 1 many
