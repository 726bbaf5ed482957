"""What Lumibot does with its folder, one step a call.

    tables.py write FILE SEED       a table in place, as `to_parquet` does
    tables.py same FILE SEED        reads it with pandas, and polars mapped into memory
    tables.py many FILE N           writes N tables over one another
    tables.py valid FILE UNTIL      reads until UNTIL is there; every read is a whole table
    tables.py temporary FILE SEED   `mkstemp` beside the file, and a rename
    tables.py lock FILE             holds the lock of FILE until its input ends
    tables.py locked FILE           fails to take that lock
    tables.py duckdb FILE           makes, fills and reads again a database; another process may not write
"""

import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile

import duckdb
import pandas as pd
import polars as pl


def table(seed: int) -> pd.DataFrame:
    rows = 500 + seed % 7
    return pd.DataFrame(
        {
            "datetime": pd.date_range("2024-01-02 14:30", periods=rows, freq="min", tz="UTC"),
            "close": [seed + n / 100 for n in range(rows)],
            "missing": [False] * rows,
        }
    )


def write(file: pathlib.Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table(seed).to_parquet(file)


def same(file: pathlib.Path, seed: int) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(file), table(seed))
    mapped = pl.scan_parquet(file).select(pl.col("close").sum()).collect().item()
    assert abs(mapped - table(seed)["close"].sum()) < 1e-6


def many(file: pathlib.Path, count: int) -> None:
    for seed in range(count):
        write(file, seed)


def valid(file: pathlib.Path, until: pathlib.Path) -> None:
    reads, seen = 0, set()
    while reads == 0 or not until.exists():
        # By one open: given a path, pyarrow opens it twice, once for the footer and once for the
        # pages, and what has the name may be another table by then, as on any disk.
        with open(file, "rb") as opened:
            frame = pd.read_parquet(opened)
        seed = int(frame["close"].iloc[0])
        pd.testing.assert_frame_equal(frame, table(seed))
        reads, seen = reads + 1, seen | {seed}
    print(reads, len(seen))


def temporary(file: pathlib.Path, seed: int) -> None:
    made, name = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".tmp", dir=file.parent)
    os.close(made)
    table(seed).to_parquet(name)
    os.replace(name, file)


def lock(file: pathlib.Path) -> None:
    with open(f"{file}.lock", "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()


def locked(file: pathlib.Path) -> None:
    with open(f"{file}.lock", "a+") as wanted:
        try:
            fcntl.flock(wanted, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise AssertionError("two processes hold the lock")


def database(file: pathlib.Path) -> None:
    with duckdb.connect(str(file)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS bars AS SELECT range AS n FROM range(10000)")
        other = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('DELETE FROM bars')"
        second = subprocess.run([sys.executable, "-c", other, str(file)], capture_output=True, text=True)
        assert second.returncode != 0 and "lock" in second.stderr.lower(), second.stderr
    with duckdb.connect(str(file)) as db:
        assert db.execute("SELECT sum(n) FROM bars").fetchone() == (49_995_000,)


def main(verb: str, file: str, *words: str) -> None:
    at = pathlib.Path(file)
    match verb:
        case "write" | "same" | "many" | "temporary":
            globals()[verb](at, int(words[0]))
        case "valid":
            valid(at, pathlib.Path(words[0]))
        case "lock" | "locked":
            globals()[verb](at)
        case "duckdb":
            database(at)
        case other:
            raise SystemExit(f"no such step: {other}")


main(*sys.argv[1:])
# All is done and closed. The interpreter's own end may abort in Arrow's threads after a read through
# an opened file (apache/arrow#34314, #50482), which would say nothing about the step.
sys.stdout.flush()
os._exit(0)
