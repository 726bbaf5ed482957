#!/usr/bin/env bash
# The programs that tests/apps.rs runs on a mount (pandas, polars, DuckDB…), in an
# environment of their own outside of the checkout. Does nothing when it is there with
# the pinned versions; a broken one is made again. Needs the network only to make it.
#   LARDER_TEST_VENV  where (default: larder-test-venv in the user's cache directory)
#   PYTHON            which Python makes it (default: python3; 3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=tests/apps/requirements.txt
venv="${LARDER_TEST_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-venv}"
made="$venv/made-from.txt"

if cmp -s "$wanted" "$made" && "$venv/bin/python" -c 'import duckdb, pandas, polars, pyarrow' 2>/dev/null; then
  exit 0
fi

# One at a time: two test runs may begin together.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if cmp -s "$wanted" "$made" && "$venv/bin/python" -c 'import duckdb, pandas, polars, pyarrow' 2>/dev/null; then
  exit 0
fi

python="${PYTHON:-python3}"
# Debian has the part that makes environments in a package of its own.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  packaging/install.sh python3 python3-venv
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "the tests' Python programs need Python 3.11 or newer; name one: PYTHON=python3.12 make test" >&2
  exit 1
fi
echo "making the tests' Python environment in $venv"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: --requirement "$wanted"
cp "$wanted" "$made"
