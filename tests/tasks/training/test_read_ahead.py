"""Batches read ahead are those of the plan, in its order, whatever step is asked for; errors come when due."""

import threading
import time

import pytest

from logitfuse.tasks.training import read_ahead
from logitfuse.tasks.training.read_ahead import ReadAhead


def windows_of(step: int) -> list:
    return [(step, part) for part in range(1 + step % 3)]


def test_every_step_gets_its_own_batches_in_order():
    reader = ReadAhead(windows_of, 10, lambda windows: ("read", *windows))
    for step in [*range(5), 8, 9, 2, 3, 3, 9]:
        assert list(reader.step(step)) == [("read", *windows) for windows in windows_of(step)]


def test_the_next_batches_are_read_while_one_is_used():
    began: list = []
    reader = ReadAhead(windows_of, 10, lambda windows: began.append(windows) or threading.current_thread().name)
    batches = reader.step(0)
    assert next(batches).startswith("read-ahead")
    deadline = time.monotonic() + 10
    while len(began) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = [windows for step in range(4) for windows in windows_of(step)]
    assert began[:4] == asked[:4]
    time.sleep(0.05)
    assert len(began) <= 1 + read_ahead.AHEAD + 2  # whole steps are asked for, no more


def test_an_error_is_raised_where_its_batch_is_due():
    def read(windows):
        if windows == (2, 1):
            raise KeyError("damaged")
        return windows

    reader = ReadAhead(windows_of, 10, read)
    assert list(reader.step(0)) == windows_of(0) and list(reader.step(1)) == windows_of(1)
    batches = reader.step(2)
    assert next(batches) == (2, 0)
    with pytest.raises(KeyError, match="damaged"):
        next(batches)


def test_what_is_forgotten_is_not_read():
    began: list = []
    go_on = threading.Event()
    reader = ReadAhead(windows_of, 10, lambda windows: began.append(windows) or windows == (1, 0) or go_on.wait(10))
    next(reader.step(1))  # the thread is at the second batch, or about to be
    reader.forget()
    go_on.set()
    reader._thread.submit(lambda: None).result(10)
    assert began in ([(1, 0)], [(1, 0), (1, 1)])


def test_a_step_given_up_half_way_is_read_again():
    reader = ReadAhead(windows_of, 10, lambda windows: windows)
    next(reader.step(2))
    assert list(reader.step(2)) == windows_of(2)
    assert list(reader.step(4)) == windows_of(4)
