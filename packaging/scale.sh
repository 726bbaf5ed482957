#!/usr/bin/env bash
# tests/scale.rs at the size of a real FXCACHE, with a release build: 63,000 files of
# 6.5 GB. Needs about 20 GB of disk beneath Cargo's target directory for a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export LARDER_SCALE_FILES="${LARDER_SCALE_FILES:-63000}"
export LARDER_SCALE_MEAN="${LARDER_SCALE_MEAN:-103000}"
exec cargo test --release --locked --test scale -- --nocapture
