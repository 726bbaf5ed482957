"""Lumibot's cache manager and its bucket.

    cache_manager.py manager ROOT BUCKET         the unmodified class of the pinned version
    cache_manager.py development ROOT BUCKET     what its development version asks; needs a server that deletes

AWS_ENDPOINT_URL_S3 and the AWS_* credentials come from the environment, as Lumibot takes them.
"""

import os
import pathlib
import sys

import boto3
import pandas
from botocore.exceptions import ClientError

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "lumibot"))
from conftest import load  # noqa: E402

PREFIX, VERSION = "stage/cache", "v3"


def manager(root: pathlib.Path, bucket: str) -> None:
    module = load()
    module.LUMIBOT_CACHE_FOLDER = str(root)
    words = {"backend": "s3", "mode": "readwrite", "s3_bucket": bucket}
    words |= {"s3_prefix": PREFIX, "s3_version": VERSION, "s3_region": "us-east-1"}

    def started():
        return module.BacktestCacheManager(module.BacktestCacheSettings.from_env(words))

    path = root / "thetadata/stock/minute/ohlc/stock_SPY_minute_ohlc.parquet"
    big = path.with_name("stock_QQQ_minute_ohlc.parquet")
    for file, data in [(path, os.urandom(300_000)), (big, os.urandom(9 << 20))]:
        cache = started()
        assert cache.ensure_local_file(file) is False
        assert not file.exists()
        file.write_bytes(data)
        assert cache.on_local_update(file) is True
        file.unlink()
        # Another run, that knows of nothing.
        cache = started()
        assert cache.ensure_local_file(file) is True
        assert file.read_bytes() == data
        # What is here is not asked for again, unless it is forced.
        assert cache.ensure_local_file(file) is False
        assert cache.ensure_local_file(file, force_download=True) is True
        assert file.read_bytes() == data
    rows_of_two(started, root / "ibkr/bars.parquet")


def rows_of_two(started, path: pathlib.Path) -> None:
    """Two runs that add rows to one file: it is written on condition, and keeps those of both."""
    first, second = started(), started()
    for run, day in [(first, 1), (second, 2), (first, 3), (second, 4)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        days = pandas.DatetimeIndex([f"2026-01-0{day}"])
        pandas.DataFrame({"close": [float(day)]}, index=days).to_parquet(path)
        assert run.on_local_update(path, {"provider": "ibkr"}) is True
        path.unlink()
    assert started().ensure_local_file(path) is True
    assert list(pandas.read_parquet(path)["close"]) == [1.0, 2.0, 3.0, 4.0]


class Development:
    """What the development version asks of a bucket."""

    def __init__(self, root: pathlib.Path, bucket: str):
        self.root, self.bucket = root.resolve(), bucket
        self.client = boto3.client("s3", region_name="us-east-1")

    def key(self, path: pathlib.Path) -> str:
        return "/".join([PREFIX, VERSION, path.resolve().relative_to(self.root).as_posix()])

    def download(self, path: pathlib.Path) -> None:
        temporary = path.with_name(path.name + ".s3tmp")
        self.client.download_file(self.bucket, self.key(path), str(temporary))
        os.replace(temporary, path)


def development(root: pathlib.Path, bucket: str) -> None:
    """A temporary key, a copy, a deletion; the sidecar after it."""
    cache = Development(root, bucket)
    for name, size in [("a.parquet", 500_000), ("big.parquet", 9 << 20), ("a.parquet.meta.json", 80)]:
        path = root / "thetadata" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        key = cache.key(path)
        temporary = f"{key}.tmp-1795186679-1234"
        cache.client.upload_file(str(path), bucket, temporary)
        cache.client.copy({"Bucket": bucket, "Key": temporary}, bucket, key)
        cache.client.delete_object(Bucket=bucket, Key=temporary)
        data = path.read_bytes()
        path.unlink()
        cache.download(path)
        assert path.read_bytes() == data
    folder = f"{PREFIX}/{VERSION}/thetadata/"
    listed = cache.client.list_objects_v2(Bucket=bucket, Prefix=folder, Delimiter="/")["Contents"]
    assert sorted(item["Key"].rsplit("/", 1)[1] for item in listed) == [
        "a.parquet",
        "a.parquet.meta.json",
        "big.parquet",
    ]
    bars(cache)


def bars(cache: Development) -> None:
    """Conditional writes, one by one."""
    key, client, bucket = f"{PREFIX}/{VERSION}/ibkr/conditions.parquet", cache.client, cache.bucket
    first = client.put_object(Bucket=bucket, Key=key, Body=b"one", IfNoneMatch="*")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"two", IfNoneMatch="*")
        raise AssertionError("it was there")
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    client.put_object(Bucket=bucket, Key=key, Body=b"one two", IfMatch=first["ETag"])
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"one three", IfMatch=first["ETag"])
        raise AssertionError("it was another by then")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "PreconditionFailed"
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"one two"


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]), sys.argv[3])
