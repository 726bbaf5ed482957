"""Lumibot's unmodified cache manager, with its files wherever `--basetemp` says: on a mount."""

import pathlib

import pytest
from conftest import load

cache = load()


class Bucket:
    """The one call of an S3 client that each direction of the manager makes."""

    def __init__(self):
        self.objects = {}

    def download_file(self, bucket, key, path):
        if key not in self.objects:
            raise FileNotFoundError(f"no {key} in {bucket}")
        pathlib.Path(path).write_bytes(self.objects[key])

    def upload_file(self, path, bucket, key):
        self.objects[key] = pathlib.Path(path).read_bytes()


def settings(**more):
    words = {"backend": "s3", "mode": "readwrite", "s3_bucket": "quotes", **more}
    return cache.BacktestCacheSettings.from_env(words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LUMIBOT_CACHE_FOLDER", str(tmp_path))
    return tmp_path


def manager(bucket, **more):
    return cache.BacktestCacheManager(settings(**more), client_factory=lambda _: bucket)


PATH = "thetadata/stock/minute/ohlc/stock_SPY_minute_ohlc.parquet"


def test_other_backends_are_off():
    assert cache.BacktestCacheSettings.from_env({"backend": "local", "mode": "nonsense"}) is None


def test_a_bucket_must_be_named():
    with pytest.raises(ValueError, match="LUMIBOT_CACHE_S3_BUCKET must be set"):
        settings(s3_bucket=" ")


def test_the_key_is_prefix_version_and_path(folder):
    found = manager(Bucket(), s3_prefix="/stage/cache/", s3_version="v3").remote_key_for(folder / PATH)
    assert found == f"stage/cache/v3/{PATH}"


def test_a_hit_comes_down(folder):
    bucket = Bucket()
    bucket.objects[f"v1/{PATH}"] = b"cached"
    assert manager(bucket).ensure_local_file(folder / PATH) is True
    assert (folder / PATH).read_bytes() == b"cached"


def test_a_miss_leaves_nothing(folder):
    assert manager(Bucket()).ensure_local_file(folder / PATH) is False
    assert not (folder / PATH).exists()
    assert [p.name for p in (folder / PATH).parent.iterdir()] == []


def test_what_was_written_goes_up(folder):
    bucket, path = Bucket(), folder / PATH
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")
    assert manager(bucket).on_local_update(path) is True
    assert bucket.objects == {f"v1/{PATH}": b"rows"}


def test_while_it_is_off_nothing_moves(folder):
    off = cache.BacktestCacheManager(settings(mode="off"), client_factory=lambda _: Bucket())
    (folder / "a").write_bytes(b"rows")
    assert off.ensure_local_file(folder / "b") is False
    assert off.on_local_update(folder / "a") is False
