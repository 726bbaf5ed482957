#!/usr/bin/env bash
# The Python programs that tests run (pandas, polars, DuckDB… on a mount; a server of the FXCACHE
# protocol; boto3), in an environment of their own outside of the checkout. Does nothing when all of it is
# there with the pinned versions; a broken environment is made again. Needs the network only to make it.
#   LARDER_TEST_VENV  where (default: larder-test-venv in the user's cache directory)
#   PYTHON            which Python makes it (default: python3; 3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${LARDER_TEST_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/larder-test-venv}"
# What is installed, and how to see that it works: list, record of what was installed, modules;
# and pip's flags for it.
lists=(
  "tests/apps/requirements.txt made-from.txt duckdb,pandas,polars,pyarrow"
  "benches/requirements.txt made-from-fxcache.txt flask"
  "tests/serve_s3/requirements.txt made-from-s3.txt boto3"
  "tests/lumibot/requirements.txt made-from-lumibot.txt appdirs,pytest,pytz --no-deps"
)

is_there() { # list record modules [flag]
  cmp -s "$1" "$venv/$2" && "$venv/bin/python" -c "import $3" 2>/dev/null
}

all_there() {
  local entry
  for entry in "${lists[@]}"; do
    # shellcheck disable=SC2086  # several words
    is_there $entry || return 1
  done
}

if all_there; then
  exit 0
fi

# One at a time: two test runs may begin together.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if all_there; then
  exit 0
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
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
fi

for entry in "${lists[@]}"; do
  read -r wanted record modules flags <<<"$entry"
  if is_there "$wanted" "$record" "$modules"; then
    continue
  fi
  echo "installing what $wanted names into $venv"
  # Packages that are there and do not work are taken for installed, unless their files are written again.
  again=($flags)
  if cmp -s "$wanted" "$venv/$record"; then
    again+=(--force-reinstall)
  fi
  rm -f "$venv/$record"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: "${again[@]}" --requirement "$wanted"
  cp "$wanted" "$venv/$record"
done
