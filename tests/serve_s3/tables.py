"""Tables kept in a bucket by pyarrow and polars: `tables.py HOST:PORT SECRET`."""

import sys

import polars as pl
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

host, secret = sys.argv[1:]
ROWS = 1_000_000

far = fs.S3FileSystem(
    access_key="id",
    secret_key=secret,
    endpoint_override=host,
    scheme="http",
    region="us-east-1",
)
table = pa.table({"n": list(range(ROWS)), "part": [n % 3 for n in range(ROWS)]})
# Bigger than what goes in one piece.
pq.write_table(table, "bars/x y/a.parquet", filesystem=far, compression="none", use_dictionary=False)
assert pq.read_table("bars/x y/a.parquet", filesystem=far, partitioning=None).equals(table)
assert far.get_file_info("bars/x y/a.parquet").size > 9 << 20
pq.write_to_dataset(table, "bars/set", partition_cols=["part"], filesystem=far)
assert pq.read_table("bars/set", filesystem=far).num_rows == ROWS
names = [info.path for info in far.get_file_info(fs.FileSelector("bars/set"))]
assert sorted(names) == [f"bars/set/part={n}" for n in range(3)], names
with far.open_input_file("bars/x y/a.parquet") as file:
    assert file.read_at(4, 0) == b"PAR1"
with far.open_output_stream("bars/raw") as file:
    for n in range(40):
        file.write(bytes([n]) * 300_000)
with far.open_input_stream("bars/raw") as file:
    assert file.read() == b"".join(bytes([n]) * 300_000 for n in range(40))
far.copy_file("bars/raw", "bars/raw2")
far.delete_file("bars/raw")
assert far.get_file_info("bars/raw").type == fs.FileType.NotFound
assert far.get_file_info("bars/raw2").size == 12_000_000

options = {
    "aws_endpoint_url": f"http://{host}",
    "aws_access_key_id": "id",
    "aws_secret_access_key": secret,
    "aws_allow_http": "true",
    "aws_region": "us-east-1",
}
read = pl.scan_parquet("s3://bars/x y/a.parquet", storage_options=options)
assert read.filter(pl.col("n") == 777_777).collect().height == 1
parts = pl.scan_parquet("s3://bars/set/**/*.parquet", storage_options=options)
assert parts.select(pl.len()).collect().item() == ROWS
pl.DataFrame({"a": [1, 2]}).write_parquet("s3://bars/p.parquet", storage_options=options)
assert pl.read_parquet("s3://bars/p.parquet", storage_options=options).height == 2
