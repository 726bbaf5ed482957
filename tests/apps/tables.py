"""Tables as pipelines have them: made plainly in one directory, read through another.

    tables.py make DIR          makes them
    tables.py read DIR REAL     reads those in DIR with every reader, and compares with REAL
    tables.py write DIR         writes new ones in every way, and reads them back
"""

import pathlib
import pickle
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq


def prices(rows: int, seed: int) -> pd.DataFrame:
    chance = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "at": pd.date_range("2024-01-01", periods=rows, freq="min", tz="UTC"),
            "symbol": chance.choice(["EURUSD", "GBPUSD", "USDJPY"], rows),
            "open": chance.normal(1.1, 0.01, rows),
            "close": chance.normal(1.1, 0.01, rows),
            "volume": chance.integers(0, 1_000_000, rows),
        }
    )


# Rows of the small file and of one that is fetched piece by piece.
SIZES = {"small": 2_000, "large": 200_000}


def make(at: pathlib.Path) -> None:
    (at / "parts").mkdir(parents=True, exist_ok=True)
    for name, rows in SIZES.items():
        frame = prices(rows, rows)
        frame.to_parquet(at / f"{name}.parquet", row_group_size=10_000)
        feather.write_feather(frame, str(at / f"{name}.feather"), compression="uncompressed")
        frame.to_pickle(at / f"{name}.pkl")
        frame.to_csv(at / f"{name}.csv", index=False)
    for n in range(8):
        prices(5_000, n).to_parquet(at / "parts" / f"{n}.parquet")
    with duckdb.connect(str(at / "cold.duckdb")) as db:
        db.execute("CREATE TABLE prices AS SELECT * FROM read_parquet($1)", [str(at / "large.parquet")])


def sums(frame: pd.DataFrame) -> tuple:
    return len(frame), round(float(frame["close"].sum()), 6), int(frame["volume"].sum())


def read(at: pathlib.Path, real: pathlib.Path) -> None:
    # Out of order first: the footer, then one column of one row group in the middle.
    with pq.ParquetFile(at / "large.parquet") as file:
        middle = file.read_row_group(file.num_row_groups // 2, columns=["close"])
    with pq.ParquetFile(real / "large.parquet") as file:
        assert middle.equals(file.read_row_group(file.num_row_groups // 2, columns=["close"]))
    for name, rows in SIZES.items():
        expected = prices(rows, rows)
        for frame in pandas_reads(at, name):
            pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
        for found in other_reads(at, name):
            assert found == sums(expected), (name, found, sums(expected))
    total = pl.scan_parquet(at / "parts" / "*.parquet").select(pl.len()).collect().item()
    assert total == 40_000, total
    found = duckdb.sql(f"SELECT count(*) FROM read_parquet('{at}/parts/*.parquet')").fetchall()
    assert found == [(40_000,)], found
    with duckdb.connect(str(at / "cold.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM prices").fetchone() == (SIZES["large"],)


def pandas_reads(at: pathlib.Path, name: str):
    yield pd.read_parquet(at / f"{name}.parquet")
    yield pd.read_pickle(at / f"{name}.pkl")
    yield pd.read_feather(at / f"{name}.feather")
    yield pd.read_csv(at / f"{name}.csv", parse_dates=["at"])
    with open(at / f"{name}.pkl", "rb") as file:
        yield pickle.load(file)


def other_reads(at: pathlib.Path, name: str):
    path = at / f"{name}.parquet"
    # Mapped, as pyarrow and polars do.
    yield sums(pq.read_table(path, memory_map=True).to_pandas())
    with pa.memory_map(str(at / f"{name}.feather")) as source:
        yield sums(pa.ipc.open_file(source).read_all().to_pandas())
    lazy = pl.scan_parquet(path)
    picked = lazy.select(pl.len().alias("n"), pl.col("close").sum(), pl.col("volume").sum()).collect().row(0)
    yield picked[0], round(picked[1], 6), picked[2]
    eager = pl.read_parquet(path, memory_map=True)
    yield len(eager), round(eager["close"].sum(), 6), eager["volume"].sum()
    query = f"SELECT count(*), sum(close), sum(volume) FROM read_parquet('{path}')"
    n, close, volume = duckdb.sql(query).fetchall()[0]
    yield n, round(close, 6), int(volume)


def write(at: pathlib.Path) -> None:
    (at / "out").mkdir()
    frame = prices(100_000, 7)
    frame.to_parquet(at / "out" / "pandas.parquet")
    pl.from_pandas(frame).write_parquet(at / "out" / "polars.parquet")
    pl.from_pandas(frame).lazy().sink_parquet(at / "out" / "sunk.parquet")
    duckdb.sql("SELECT * FROM frame").write_parquet(str(at / "out" / "duckdb.parquet"))
    for name in ("pandas", "polars", "sunk", "duckdb"):
        assert sums(pd.read_parquet(at / "out" / f"{name}.parquet")) == sums(frame), name
    with pq.ParquetWriter(at / "out" / "grown.parquet", pa.Schema.from_pandas(frame)) as writer:
        for start in range(0, len(frame), 10_000):
            writer.write_table(pa.Table.from_pandas(frame[start : start + 10_000], preserve_index=False))
    assert len(pd.read_parquet(at / "out" / "grown.parquet")) == len(frame)
    # A mapped array that is changed through the mapping.
    mapped = np.lib.format.open_memmap(at / "out" / "mapped.npy", mode="w+", dtype="f8", shape=(100_000,))
    mapped[:] = frame["close"].to_numpy()
    mapped.flush()
    del mapped
    assert np.array_equal(np.load(at / "out" / "mapped.npy"), frame["close"].to_numpy())


if __name__ == "__main__":
    verb, *places = sys.argv[1:]
    {"make": make, "read": read, "write": write}[verb](*map(pathlib.Path, places))
