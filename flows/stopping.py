"""A command that is told to end by SIGTERM or a closed terminal: it tidies up, and training saves a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

HOW = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: "its terminal was closed"}


class Stopped(BaseException):
    """Somebody wants this process to end; like KeyboardInterrupt nothing on the way takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"stopped: {HOW[signal.Signals(number)]}. What was finished stays; the same command goes on from there."
        )
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the block at the first signal; at a second SIGTERM the process ends at once.

    What is ignored stays so: under nohup a command outlives its terminal.
    """
    before = {number: signal.getsignal(number) for number in HOW}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell and the kernel both send it
    if number == signal.SIGHUP:  # writing to a terminal that is gone would end the tidying up half-way
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                if stream.isatty():
                    os.dup2(nowhere, stream.fileno())
    raise Stopped(number)
