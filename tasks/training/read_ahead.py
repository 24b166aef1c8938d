"""Batches made ready in a thread while the model computes: reading Parquet must not make a step wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from logitfuse.tasks.training.batch import Batch
from logitfuse.tasks.training.plan import Windows

AHEAD = 4  # batches that wait at most before whole further steps are asked for


class ReadAhead:
    """The batches of step after step, in the plan's order; the next ones are read meanwhile.

    One thread reads, so nothing that it uses needs a lock, and an error is raised where its batch is due. About a step
    waits in memory, or `AHEAD` batches where that is more.
    """

    def __init__(
        self, windows_of: Callable[[int], list[Windows]], steps: int, read: Callable[[Windows], Batch]
    ) -> None:
        """`windows_of` gives a step's batches, `steps` is their end; `read` makes one batch, in the thread."""
        self._windows_of, self._steps, self._read = windows_of, steps, read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()
        self._begun, self._next = -1, 0  # the step whose batches are given out, the first that is not asked for

    def step(self, number: int) -> Iterator[Batch]:
        """Yield the batches of a step; any step may be asked for, but only the following one is ready."""
        if number == self._begun or not self._waiting or self._waiting[0][0] != number:
            self.forget()
            self._next = number
        self._begun = number
        self._ask()
        while self._waiting and self._waiting[0][0] == number:
            _, batch = self._waiting.popleft()
            self._ask()
            yield batch.result()

    def _ask(self) -> None:
        while len(self._waiting) < AHEAD and self._next < self._steps:
            for windows in self._windows_of(self._next):
                self._waiting.append((self._next, self._thread.submit(self._read, windows)))
            self._next += 1

    def forget(self) -> None:
        """Read nothing more that was asked for; a process that is to end need not wait for it."""
        for _, batch in self._waiting:
            batch.cancel()
        self._waiting.clear()
