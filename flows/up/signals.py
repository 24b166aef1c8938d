"""How `logitfuse up` is told to end: Ctrl-C, SIGTERM, or a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType


class StopAsked(Exception):
    """Somebody wants all of it to end; the message says how that was asked."""


SLICE = 0.1  # seconds; a handler must not touch what the code that it interrupts may hold, such as an Event's lock
HOW = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "the terminal was closed"}


class Signals:
    """Turns the first signal into `StopAsked` at the next pause; a second one means: at once."""

    def __init__(self) -> None:
        self._asked: list[int] = []
        for number in HOW:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, which outlives its terminal
                signal.signal(number, self._take)

    def pause(self, seconds: float) -> None:
        """Wait; raise `StopAsked` as soon as the first signal is there."""
        deadline = time.monotonic() + seconds
        while not self._asked and time.monotonic() < deadline:
            time.sleep(SLICE)
        if self._asked:
            raise StopAsked(HOW[signal.Signals(self._asked[0])])

    def pause_while_stopping(self, seconds: float) -> None:
        """Wait; a second signal ends the wait."""
        if not self.in_a_hurry:
            time.sleep(seconds)

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
