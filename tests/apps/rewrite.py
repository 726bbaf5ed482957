"""A table that one machine rewrites while another reads it.

    rewrite.py write FILE ROWS TIMES     rewrites it TIMES times by opening it anew
    rewrite.py replace FILE ROWS TIMES   writes TIMES drafts that are renamed over it
    rewrite.py read FILE ROWS LAST       reads it until version LAST is seen; prints how often

Every version has one number in all of its rows, and as many rows as its number says: a
mixture, or a part, of two versions cannot pass for one.
"""

import errno
import pathlib
import sys
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

# From here on a file comes piece by piece, and may become stale while it does; what is
# mapped then ends with a signal.
LONG = 50_000


def table(version: int, rows: int) -> pd.DataFrame:
    chance = np.random.default_rng(version)
    rows += version
    return pd.DataFrame({"version": np.full(rows, version), "value": chance.random(rows)})


def write(path: pathlib.Path, rows: int, times: int) -> None:
    for version in range(1, times + 1):
        table(version, rows).to_parquet(path)


def replace(path: pathlib.Path, rows: int, times: int) -> None:
    for version in range(1, times + 1):
        draft = path.with_suffix(".tmp")
        table(version, rows).to_parquet(draft)
        draft.rename(path)


def read(path: pathlib.Path, rows: int, last: int) -> None:
    reads, stale, version = 0, 0, 0
    deadline = time.monotonic() + 60
    while version < last:
        assert time.monotonic() < deadline, f"version {version} after {reads} reads"
        try:
            # With one open: `pandas.read_parquet(path)` takes the footer of one and the pages of
            # another, on any disk, when the file is replaced between its two.
            with pq.ParquetFile(path, memory_map=reads % 2 == 1 and rows < LONG) as file:
                frame = file.read().to_pandas()
        except OSError as error:
            # The one error there may be: a long file that was replaced while it came.
            assert error.errno == errno.ESTALE or "tale" in str(error), error
            stale += 1
            continue
        seen = int(frame["version"].iloc[0])
        pd.testing.assert_frame_equal(frame, table(seen, rows))
        assert seen >= version, f"version {seen} after version {version}"
        reads, version = reads + 1, seen
    print(reads, stale)


if __name__ == "__main__":
    verb, path, rows, number = sys.argv[1:]
    {"write": write, "replace": replace, "read": read}[verb](pathlib.Path(path), int(rows), int(number))
