"""Paths that users give, and where things lie that belong to no run."""

import os
from pathlib import Path

from logitfuse.storage.errors import BadInput

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes, as Linux and its file systems have them


def user_path(given: str, field: str) -> Path:
    """Return a path as a user wrote it, `~` filled in; raise `BadInput` for what no file system can have.

    Looking for such a path, or for one of a user that is not there, fails in many ways; here it is said once.
    """
    shown = given if len(given) <= 80 else f"{given[:60]}… ({len(given)} characters)"
    try:
        path = Path(given).expanduser()
        names = [os.fsencode(part) for part in path.parts]
    except RuntimeError:
        raise BadInput(f"{field} {shown!r}: there is no user of that name here. Write the path in full.") from None
    except UnicodeEncodeError:
        raise BadInput(f"{field} {shown!r}: it holds half a surrogate pair, which no path can. Rename it.") from None
    if any(b"\0" in name or len(name) > LONGEST_NAME for name in names) or len(os.fsencode(path)) > LONGEST_PATH:
        raise BadInput(
            f"{field} {shown!r}: no file can be called that (a NUL byte, more than {LONGEST_NAME} bytes in a name, or "
            f"{LONGEST_PATH} in all). Give a shorter, plain path."
        )
    return path


def cache_folder() -> Path:
    """Return the folder for fetched models and text: `$LOGITFUSE_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("LOGITFUSE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "logitfuse"
