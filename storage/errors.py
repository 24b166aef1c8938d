"""What can go wrong, as one tree. Each message says what, where, and what to do next."""

import re

_IN_A_URL = re.compile(r"(?<=://)(?!USER:PASSWORD@)[^/\s]*@")  # what a message says to write is no password


def without_passwords(text: str) -> str:
    """Return a text without the users and passwords of the URLs in it, such as those that libraries quote."""
    return _IN_A_URL.sub("", text)


class LogitfuseError(Exception):
    """Base of every error this project raises on purpose; the command line prints it without a traceback.

    A message goes to terminals, logs and Prefect: it repeats no password, also where it quotes what a library said.
    """

    def __init__(self, *said: object) -> None:
        super().__init__(*(without_passwords(one) if isinstance(one, str) else one for one in said))


def said(error: BaseException) -> str:
    """Return what an error says, with its kind where it was not made for users."""
    return str(error) if isinstance(error, LogitfuseError) else f"{type(error).__name__}: {error}"


class BadInput(LogitfuseError, ValueError):
    """What a user gave cannot be used; raised before work starts and before anything is written."""


class ShardMissing(LogitfuseError):
    """A shard that a stage needs has not been made yet."""


class ShardCorrupt(LogitfuseError):
    """A file's bytes are not the ones its record vouches for."""


class MadeByNewer(ShardCorrupt):
    """A record of a later version of this program: whole, but not to be judged here, and so never to be deleted."""


class ShardMismatch(LogitfuseError):
    """Two shards that must describe the same text do not."""


class OutOfSpace(LogitfuseError):
    """The file system cannot take what a stage is about to write."""


class DoesNotFit(LogitfuseError):
    """A run needs more disk or memory than there is; said before it begins."""


class SystemRefused(LogitfuseError):
    """The operating system does not let a run do what it needs, such as write; somebody must mend that first."""


class ModelRefused(LogitfuseError):
    """A model or tokenizer cannot be used as it is."""


class WorkFailed(LogitfuseError):
    """A child process that does a stage's work ended badly."""


class StoreFailed(LogitfuseError):
    """An object store or a file system does not answer, or has not taken what was sent; another attempt may succeed."""
