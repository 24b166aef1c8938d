"""URLs of object stores: what is accepted as one, and where on this machine the copies of what lies there are kept."""

import re
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import JsonValue

from logitfuse.storage.errors import BadInput, without_passwords
from logitfuse.storage.paths import cache_folder

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(:|//)")
# For JSON schemas: Prefect's server refuses by it what would else be kept with a run's parameters for ever.
_NO_SECRETS = r"^(?![A-Za-z][A-Za-z0-9+.\-]*://[^/]*@)"
WITHOUT_SECRETS: dict[str, JsonValue] = {"pattern": _NO_SECRETS}
_LOCAL = frozenset({"file", "local"})


def is_url(place: str) -> bool:
    """Say whether a place is a URL, not a path on this machine."""
    return _SCHEME.match(place) is not None


def check_url(url: str, field: str) -> str:
    """Return a URL without a slash at its end; raise `BadInput` for what is no plain protocol://bucket/path.

    A secret in a URL would stand in recipes, logs and reports, so none is taken, and the message repeats none.
    """
    plain = url.rstrip("/")
    refuse_passwords(plain, f"{field}: ")
    parts = urlsplit(plain)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if "?" in plain or "#" in plain or "::" in plain:
        raise BadInput(f"{field}: {shown} has more than a protocol and a path. Write it as s3://bucket/folder.")
    if parts.scheme in _LOCAL:
        raise BadInput(f"{field}: {shown} is on this machine. Give its path.")
    if parts.scheme in ("http", "https"):
        raise BadInput(
            f"{field}: {shown} is a web address. Write s3://bucket/folder; AWS_ENDPOINT_URL names the server."
        )
    if not parts.netloc or ".." in parts.path.split("/"):
        raise BadInput(f"{field}: {shown} names no bucket, or leaves it. Write it as s3://bucket/folder.")
    return plain


def refuse_passwords(text: str, begin: str = "") -> None:
    """Raise `BadInput` for a URL with a user or password, repeating neither."""
    if re.match(_NO_SECRETS, text) is None:
        raise BadInput(
            f"{begin}{without_passwords(text)} was given with a user or password. Leave them out: credentials come "
            "from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) or from fsspec's "
            "configuration."
        )


def copies_folder(url: str, kind: str) -> Path:
    """Return the folder of this machine's cache that holds copies of what lies at a URL."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", url.rsplit("/", 1)[-1]).strip(".-")
    return cache_folder() / kind / f"{name or 'folder'}-{sha256(url.encode()).hexdigest()[:12]}"
