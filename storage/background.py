"""Writing behind the back of what computes: rows wait in a short queue for a thread that writes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from threading import Event, Thread
from typing import Any, TypeVar

Row = TypeVar("Row")
WAITING = 128  # rows; the maker waits when as many are not written yet


@contextmanager
def in_background(add: Callable[[Row], None], waiting: int = WAITING) -> Iterator[Callable[[Row], None]]:
    """Yield a function that hands rows to `add` in another thread, in order; the block ends when all are written.

    What `add` raises is raised by the next row, or at the end. If the block itself fails, rows that wait are dropped.
    """
    queue: Queue[Any] = Queue(waiting)
    failures: list[BaseException] = []
    stopped, end = Event(), object()

    def write() -> None:
        while (row := queue.get()) is not end:
            if failures or stopped.is_set():
                continue  # keep the queue moving, or the maker would wait for ever
            try:
                add(row)
            except BaseException as error:  # it is raised again where somebody sees it
                failures.append(error)

    def hand_over(row: Row) -> None:
        if failures:
            raise failures[0]
        queue.put(row)

    thread = Thread(target=write, name="logitfuse-writer", daemon=True)
    thread.start()
    try:
        yield hand_over
    except BaseException:
        stopped.set()
        raise
    finally:
        queue.put(end)
        thread.join()
    if failures:
        raise failures[0]
