"""Doing something now and then beside the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context


@contextmanager
def repeating(
    seconds: float, act: Callable[[], None], last: Callable[[], None] | None = None, *, patience: float = 1.0
) -> Iterator[None]:
    """Call `act` each `seconds` while the block runs, in a thread with the caller's context, then `last`.

    A call that hangs holds the block's end up by `patience` seconds and no longer.
    """
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            act()
        if last:
            last()

    thread = threading.Thread(target=copy_context().run, args=(loop,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(patience)
