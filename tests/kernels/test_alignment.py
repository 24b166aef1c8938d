"""Byte alignment against the definition, on random tokenisations of random bytes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.alignment import ALIGNMENTS
from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels, positions

ends = st.lists(st.integers(-1, 12), max_size=10).map(lambda values: np.array(_rising(values), np.int64))


def _rising(values: list[int]) -> list[int]:
    known = iter(sorted(v for v in values if v >= 0))
    return [-1 if v < 0 else next(known) for v in values]


@given(ends, ends)
def test_a_position_is_served_by_the_last_one_that_read_the_same(source: np.ndarray, target: np.ndarray) -> None:
    found = ALIGNMENTS.get("offsets")(source, target)
    for t, byte in enumerate(target):
        last_here = byte >= 0 and byte not in target[t + 1 :]
        same = [p for p in range(len(source)) if byte >= 0 and source[p] == byte]
        assert found[t] == (same[-1] if last_here and same else -1)


def test_positions_with_and_without_start_and_end() -> None:
    ids = np.array([7, 8, 9], np.int32)
    assert positions(3, start=True, end=False) == (0, 3)
    assert positions(3, start=False, end=False) == (1, 2)
    assert positions(3, start=True, end=True) == (0, 4)
    assert positions(0, start=True, end=True) == (0, 0)
    pairs = [
        (1, 2, [1, 7, 8, 9], [7, 8, 9, 2]),
        (1, None, [1, 7, 8], [7, 8, 9]),
        (None, None, [7, 8], [8, 9]),
        (None, 2, [7, 8, 9], [8, 9, 2]),
    ]
    for start, end, inputs, labels in pairs:
        found = inputs_and_labels(ids, start=start, end=end)
        assert [part.tolist() for part in found] == [inputs, labels]
    assert [len(part) for part in inputs_and_labels(ids[:0], start=1, end=2)] == [0, 0]
    assert len(inputs_and_labels(ids[:1], start=None, end=None)[0]) == 0
    assert consumed_bytes(np.array([2, 5, 9]), 1, 3).tolist() == [2, 5, 9]
    assert consumed_bytes(np.array([2, 5, 9]), 0, 3).tolist() == [0, 2, 5]
