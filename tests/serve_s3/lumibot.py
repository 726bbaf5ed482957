"""What Lumibot's cache manager does with its bucket, request by request.

    lumibot.py manager ROOT BUCKET
    lumibot.py development ROOT BUCKET     needs a server that deletes

AWS_ENDPOINT_URL_S3 and the AWS_* credentials come from the environment, as Lumibot takes them.
"""

import os
import pathlib
import sys

import boto3
from botocore.exceptions import ClientError

PREFIX, VERSION = "stage/cache", "v3"
MISSING = {"404", "400", "NoSuchKey", "NotFound"}


class Manager:
    """`LUMIBOT_CACHE_BACKEND=s3` in the mode `readwrite`."""

    def __init__(self, root: pathlib.Path, bucket: str):
        self.root, self.bucket = root.resolve(), bucket
        self.client = boto3.client("s3", region_name="us-east-1")

    def key(self, path: pathlib.Path) -> str:
        return "/".join([PREFIX, VERSION, path.resolve().relative_to(self.root).as_posix()])

    def ensure_local_file(self, path: pathlib.Path, force: bool = False) -> bool:
        if path.exists() and not force:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".s3tmp")
        try:
            self.client.download_file(self.bucket, self.key(path), str(temporary))
        except ClientError as error:
            temporary.unlink(missing_ok=True)
            if error.response["Error"]["Code"] in MISSING:
                return False
            raise
        os.replace(temporary, path)
        return True

    def on_local_update(self, path: pathlib.Path) -> bool:
        self.client.upload_file(str(path), self.bucket, self.key(path))
        return True


def manager(root: pathlib.Path, bucket: str) -> None:
    cache = Manager(root, bucket)
    path = root / "thetadata/stock/minute/ohlc/stock_SPY_minute_ohlc.parquet"
    assert cache.ensure_local_file(path) is False
    assert not path.exists() and not list(path.parent.iterdir())
    big = path.with_name("stock_QQQ_minute_ohlc.parquet")
    for file, data in [(path, os.urandom(300_000)), (big, os.urandom(9 << 20))]:
        file.write_bytes(data)
        assert cache.on_local_update(file) is True
        file.unlink()
        assert cache.ensure_local_file(file) is True
        assert file.read_bytes() == data
        # What is here is not asked for again, unless it is forced.
        assert cache.ensure_local_file(file) is False
        assert cache.ensure_local_file(file, force=True) is True


def development(root: pathlib.Path, bucket: str) -> None:
    """The development version's way: a temporary key, a copy, a deletion; the sidecar after it."""
    cache = Manager(root, bucket)
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
        assert cache.ensure_local_file(path, force=True) is True
        assert path.read_bytes() == data
    folder = f"{PREFIX}/{VERSION}/thetadata/"
    listed = cache.client.list_objects_v2(Bucket=bucket, Prefix=folder, Delimiter="/")["Contents"]
    assert sorted(item["Key"].rsplit("/", 1)[1] for item in listed) == [
        "a.parquet",
        "a.parquet.meta.json",
        "big.parquet",
    ]
    bars(cache)


def bars(cache: Manager) -> None:
    """Version 4.6.30: a read, rows merged, and a write that must not lose another's."""
    key, client, bucket = f"{PREFIX}/{VERSION}/ibkr/bars.parquet", cache.client, cache.bucket
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
