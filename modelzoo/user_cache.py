"""What is kept between runs, outside any zoo."""

import os
from pathlib import Path

import platformdirs


def cache_folder(part: str) -> Path:
    """The folder of one kind of kept things, in `METAZOO_CACHE` or else in the user's cache folder; it may not be there."""
    return Path(os.environ.get("METAZOO_CACHE") or platformdirs.user_cache_path("metazoo")) / part
