"""Where things lie that belong to no run."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for fetched models and text: `$LOGITFUSE_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("LOGITFUSE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "logitfuse"
