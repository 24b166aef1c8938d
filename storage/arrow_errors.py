"""What Arrow finds wrong with a file, told apart from what the file system and the machine refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from logitfuse.storage.errors import LogitfuseError
from logitfuse.storage.system_errors import out_of_memory

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError, RuntimeError)  # the last: what its C++ throws


@contextmanager
def reading_arrow(told: Callable[[str], LogitfuseError]) -> Iterator[None]:
    """Let what Arrow finds wrong with a file in the block be raised as `told` makes it of Arrow's words.

    What the file system refuses, and lack of memory, is raised as it is: another copy of the file would not help.
    """
    try:
        yield
    except UNREADABLE as error:
        if (isinstance(error, OSError) and error.errno is not None) or out_of_memory(error):
            raise
        raise told(" ".join(str(error).split())[:200]) from error
