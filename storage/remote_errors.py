"""What an object store's client raises, in words that say what is wrong there and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from logitfuse.storage.errors import LogitfuseError, StoreFailed

NO_BUCKET = frozenset({"NoSuchBucket"})
TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
NOT_OFFERED = frozenset({"NotImplemented", "501"})
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
_NOT_REACHED = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "TimeoutError", "FSTimeoutError",
    "ClientConnectorError", "ProxyConnectionError", "SSLError", "ClientPayloadError", "IncompleteRead",
)  # fmt: skip
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or fsspec's configuration"


def store_code(error: BaseException) -> str:
    """Return the code with which an S3 store answered, empty where there is none."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


@contextmanager
def explained(url: str, doing: str, *, absent: bool = False) -> Iterator[None]:
    """Raise `StoreFailed` for whatever the client raises in the block; `doing` says what was tried.

    `absent`: an object may be missing, so FileNotFoundError passes, unless it is the bucket that is.
    """
    try:
        yield
    except (LogitfuseError, FileExistsError, NotImplementedError):
        raise
    except Exception as error:  # every file system of fsspec raises its own
        if absent and isinstance(error, FileNotFoundError) and store_code(error) not in NO_BUCKET:
            raise
        raise StoreFailed(_words(error, url, doing)) from error


def _words(error: Exception, url: str, doing: str) -> str:
    names = {kind.__name__ for one in (error, error.__cause__) if one is not None for kind in type(one).__mro__}
    said = f"{url}: {doing} failed"
    code = store_code(error)
    if names & set(_NO_CREDENTIALS):
        return f"{said}: there are no credentials for it. Give them by {CREDENTIALS}; then run the same command again."
    if isinstance(error, PermissionError):
        return (
            f"{said}: the store refuses these credentials ({_short(error, code)}). Check {CREDENTIALS}, and that they "
            "may list, read, write and delete there; then run the same command again."
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"{said}: there is no such bucket ({_short(error, code)}). Check the name and AWS_ENDPOINT_URL, or create "
            "it; then run the same command again. What this machine had finished is sent then."
        )
    if names & set(_NOT_REACHED):
        return (
            f"{said}: the store cannot be reached ({type(error).__name__}). Check the network and AWS_ENDPOINT_URL, "
            "then run the same command again: what this machine had finished is sent then."
        )
    return f"{said} ({_short(error, code)}). What was finished stays; the same command can be run again."


def _short(error: Exception, code: Any) -> str:
    text = " ".join(str(error.args[1] if len(error.args) > 1 and isinstance(error.args[0], int) else error).split())
    return f"{code or type(error).__name__}: {text[:200].split('?', 1)[0]}"
