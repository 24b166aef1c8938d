"""How `logitfuse up` is told to end: Ctrl-C, SIGTERM, or a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


class StopAsked(Exception):
    """Somebody wants all of it to end; the message says how that was asked."""


HOW = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "the terminal was closed"}


class Signals:
    """Turns the first signal into `StopAsked` at the next pause; a second one means: at once."""

    def __init__(self) -> None:
        self._asked: list[int] = []
        self._came = threading.Event()
        for number in HOW:
            signal.signal(number, self._take)

    def pause(self, seconds: float) -> None:
        """Wait; raise `StopAsked` as soon as the first signal is there."""
        if self._came.wait(seconds):
            raise StopAsked(HOW[signal.Signals(self._asked[0])])

    def pause_while_stopping(self, seconds: float) -> None:
        """Wait; a second signal ends the wait."""
        if not self.in_a_hurry:
            threading.Event().wait(seconds)

    @property
    def in_a_hurry(self) -> bool:
        """Whether a second signal came."""
        return len(self._asked) > 1

    def _take(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:  # writing to a terminal that is gone would end the clean-up half-way
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
        elif self._asked[:1] == [signal.SIGHUP]:
            return  # a shell that loses its terminal sends both
        self._asked.append(number)
        self._came.set()
