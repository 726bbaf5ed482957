"""A table of 40 columns, and programs that want two of them.

    columns.py make FILE ROWS          makes it; prints how many bytes the two columns and the footer are
    columns.py read READER FILE        reads the two with one reader, and prints the sum of both
    columns.py time READER FILE        the same, and prints the seconds until they were there
"""

import struct
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WANTED = ["c07", "c30"]


def make(path: str, rows: str) -> None:
    chance = np.random.default_rng(7)
    columns = {f"c{n:02d}": chance.random(int(rows)) for n in range(40)}
    pq.write_table(pa.table(columns), path, use_dictionary=False, compression="none")
    meta = pq.read_metadata(path)
    groups = [meta.row_group(n) for n in range(meta.num_row_groups)]
    chunks = [group.column(n) for group in groups for n in range(40)]
    needed = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in WANTED)
    with open(path, "rb") as file:
        file.seek(-8, 2)
        footer = struct.unpack("<I", file.read(4))[0] + 8
    print(needed + footer)


def pyarrow(path: str) -> float:
    table = pq.read_table(path, columns=WANTED)
    return sum(table[name].to_numpy().sum() for name in WANTED)


def mapped(path: str) -> float:
    table = pq.read_table(path, columns=WANTED, memory_map=True)
    return sum(table[name].to_numpy().sum() for name in WANTED)


def pandas(path: str) -> float:
    import pandas as pd

    return float(pd.read_parquet(path, columns=WANTED).to_numpy().sum(axis=0).sum())


def polars(path: str) -> float:
    import polars as pl

    return sum(pl.scan_parquet(path).select(WANTED).collect().sum().row(0))


def duckdb(path: str) -> float:
    import duckdb

    return sum(duckdb.sql(f"SELECT sum(c07), sum(c30) FROM read_parquet('{path}')").fetchall()[0])


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "make":
        make(*words)
    else:
        reader, path = words
        begun = time.monotonic()
        found = {f.__name__: f for f in (pyarrow, mapped, pandas, polars, duckdb)}[reader](path)
        print(time.monotonic() - begun if verb == "time" else round(found, 3))
