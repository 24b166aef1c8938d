"""What can go wrong, as one tree. Each message says what, where, and what to do next."""


class LogitfuseError(Exception):
    """Base of every error this project raises on purpose; the command line prints it without a traceback."""


class BadInput(LogitfuseError, ValueError):
    """What a user gave cannot be used; raised before work starts and before anything is written."""


class ShardMissing(LogitfuseError):
    """A shard that a stage needs has not been made yet."""


class ShardCorrupt(LogitfuseError):
    """A file's bytes are not the ones its record vouches for."""


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
