"""What no input may bring about: an error not made for users, writing elsewhere, programs, connections, much memory."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import LogitfuseError
from logitfuse.storage.system_errors import explained

MOST_GROWTH = 600_000  # kB by which one input of a few kB may raise the most memory that this process ever had
WRITTEN = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
}  # events of Python, and which arguments
NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect",
         "socket.bind"}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Trespass(BaseException):
    """An input made the product do what no input may; no `except Exception` swallows it."""


class Oracle:
    """Judges one input after another; only one can be made in a process, because nothing unhooks it."""

    def __init__(self, *allowed: Path) -> None:
        """Watch from now on; nothing may be written but in the allowed folders."""
        self._allowed = tuple(os.path.realpath(folder) + "/" for folder in allowed)
        self._watching, self._found = False, list[str]()
        sys.addaudithook(self._heard)

    def judge(self, target: Any, place: Any, data: bytes) -> None:
        """Let a target read an input; raise whatever may not come of it."""
        before, self._watching = _most_memory(), True
        try:
            target.read(place, data)
        except Exception as error:
            if not is_permitted(error, target.permitted):
                raise
        finally:
            self._watching = False
        if self._found:
            raise Trespass("; ".join(self._found))
        if (grown := _most_memory() - before) > MOST_GROWTH:
            raise Trespass(f"it took {grown:,} kB of memory")

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in NEVER:
            self._found.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._note(event, arguments[0])
        elif event in WRITTEN:
            for number in WRITTEN[event]:
                self._note(event, arguments[number])

    def _note(self, event: str, path: Any) -> None:
        if isinstance(path, str | bytes) and (name := os.fsdecode(path)) != os.devnull:
            real = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
            if not f"{real}/".startswith(self._allowed):
                self._found.append(f"{event} {real}"[:300])


def is_permitted(error: Exception, permitted: tuple[type[Exception], ...] = ()) -> bool:
    """Whether a user would be told in a line: an error of ours, of the system, or what the target's caller expects."""
    return isinstance(error, (LogitfuseError, *permitted)) or explained(error) is not None


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
