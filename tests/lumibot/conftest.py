"""Lumibot without what its cache manager does not need: only the real `lumibot.constants` and
`lumibot.tools.backtest_cache` are loaded."""

import importlib.util
import os
import pathlib
import sys
import types

HERE = pathlib.Path(__file__).parent


def _bare(name: str, path: pathlib.Path) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module


def load():
    """The real module, told the environment as `lumibot.credentials` tells it."""
    root = pathlib.Path(importlib.util.find_spec("lumibot").submodule_search_locations[0])
    _bare("lumibot", root)
    _bare("lumibot.tools", root / "tools")
    credentials = types.ModuleType("lumibot.credentials")
    names = [
        "backend", "mode", "s3_bucket", "s3_prefix", "s3_region", "s3_access_key_id",
        "s3_secret_access_key", "s3_session_token", "s3_version",
    ]
    variables = {name: os.environ.get(f"LUMIBOT_CACHE_{name.upper()}") for name in names}
    credentials.CACHE_REMOTE_CONFIG = variables
    credentials.LUMIWEALTH_API_KEY = None
    sys.modules["lumibot.credentials"] = credentials
    logger = types.ModuleType("lumibot.tools.lumibot_logger")
    logger.get_logger = __import__("logging").getLogger
    sys.modules["lumibot.tools.lumibot_logger"] = logger
    import lumibot.tools.backtest_cache as module

    return module
