"""Rows written behind the back of what makes them: all of them, in order, and failures where they are seen."""

import threading

import pytest

from logitfuse.storage.background import in_background


def test_rows_arrive_in_order_from_another_thread() -> None:
    seen: list[tuple[int, int]] = []
    with in_background(lambda row: seen.append((row, threading.get_ident())), waiting=3) as add:
        for number in range(50):
            add(number)
    assert [row for row, _ in seen] == list(range(50))
    assert {thread for _, thread in seen}.isdisjoint({threading.get_ident()})


def test_the_maker_waits_when_writing_is_slow() -> None:
    gate, made = threading.Semaphore(0), []

    def write(row: int) -> None:
        gate.acquire()

    def make() -> None:
        with in_background(write, waiting=2) as add:
            for number in range(6):
                add(number)
                made.append(number)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(0.3)
    assert len(made) <= 4  # one is being written, two wait, one may just have been handed over
    for _ in range(6):
        gate.release()
    thread.join(5)
    assert len(made) == 6


def test_a_failed_write_is_raised_and_does_not_block() -> None:
    def write(row: int) -> None:
        if row == 3:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), in_background(write, waiting=2) as add:
        for number in range(1000):
            add(number)


def test_a_failed_last_write_is_raised_at_the_end() -> None:
    def write(row: int) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), in_background(write) as add:
        add(1)


def test_rows_that_wait_are_dropped_when_the_maker_fails() -> None:
    seen: list[int] = []
    gate = threading.Event()

    def write(row: int) -> None:
        gate.wait(5)
        seen.append(row)

    with pytest.raises(KeyError), in_background(write, waiting=100) as add:
        for number in range(50):
            add(number)
        threading.Timer(0.2, gate.set).start()
        raise KeyError
    assert len(seen) <= 1
