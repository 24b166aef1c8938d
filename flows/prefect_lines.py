"""What Prefect itself prints beside a command that shows its own progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.logging.handlers import PrefectConsoleHandler

from logitfuse.flows.loudness import Loudness, loudness


@contextmanager
def prefects_lines(say: Callable[[str], None] | None) -> Iterator[None]:
    """Let Prefect's lines stand above a live view while the block runs, without those that the command tells itself.

    Those are of failed tasks and of a stop that was asked for.

    Prefect prints past whatever draws on the terminal, which then takes its lines for its own: parts of both stay.
    `say`: prints a line above the view; None where there is none. With --verbose Prefect prints as it does.
    """
    found = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    taken = [] if loudness() is Loudness.VERBOSE else [(handler, _Taken(handler, say)) for handler in found]
    for handler, filtering in taken:
        handler.addFilter(filtering)
    try:
        yield
    finally:
        for handler, filtering in taken:
            handler.removeFilter(filtering)


class _Taken(logging.Filter):
    """Takes lines away from a console of Prefect's. Prefect's API gets them all the same."""

    def __init__(self, handler: logging.Handler, say: Callable[[str], None] | None) -> None:
        super().__init__()
        self._handler, self._say = handler, say

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether Prefect's console shall print it."""
        if _is_a_stop() or _is_of_a_failed_task(record):
            return False
        if self._say is None:
            return True
        self._say(self._handler.format(record))
        return False


def _is_a_stop() -> bool:
    """Whether Prefect tells on its way out of a signal; the command line says in its own words what became of it."""
    error = sys.exc_info()[1]
    return error is not None and not isinstance(error, Exception)


def _is_of_a_failed_task(record: logging.LogRecord) -> bool:
    ended = record.name.startswith("prefect.task_runs") and record.levelno == logging.ERROR
    return ended and record.getMessage().startswith("Finished in state Failed")
