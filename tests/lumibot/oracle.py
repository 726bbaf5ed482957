"""What Lumibot makes of its variables. Takes the environments as a JSON list of objects; prints a JSON
list of `null` (off), `{"error": …}`, or what it understood, with the key of the file `x/a b#.parquet`."""

import json
import os
import sys

from conftest import load

FOLDER = "/somewhere"


def understood(environment):
    for name in [name for name in os.environ if name.startswith("LUMIBOT_")]:
        del os.environ[name]
    os.environ.update(environment, LUMIBOT_CACHE_FOLDER=FOLDER)
    for name in [name for name in sys.modules if name.startswith("lumibot")]:
        del sys.modules[name]
    cache = load()
    try:
        manager = cache.get_backtest_cache()
    except ValueError as error:
        return {"error": str(error)}
    if not manager.enabled:
        return None
    known = manager._settings
    return {
        "upload": manager.mode == cache.CacheMode.S3_READWRITE,
        "bucket": known.bucket,
        "key": manager.remote_key_for(f"{FOLDER}/x/a b#.parquet"),
        "region": known.region,
        "access_key_id": known.access_key_id,
    }


print(json.dumps([understood(environment) for environment in json.load(sys.stdin)]))
