"""What aligning a very long document takes: room is made for some positions at a time, never for the worst of all.

Each case runs in a process of its own, which says by how much its address space grew at most: room that is asked for
counts, used or not.
"""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Spelling, VocabularyPair, read_side
from logitfuse.kernels.conditioning import condition
from logitfuse.kernels.projection import project

MIB = 1 << 20
S, V, K, FAN = 2_000, 400, 64, 100  # each kept source token may become a hundred target tokens
WORST = K * FAN * 12  # bytes that a position's entries might need: 4 for an id, 8 for a value


def carried(rows_T: NDArray[np.int64]) -> None:
    """Carry a wide source over, through a wide map, with the target's own captures."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, S, (len(rows_T), K)).astype(np.int32)
    probs = np.full((len(rows_T), K), 1 / K)
    own = condition(
        ids[:, :8] % V, np.full((len(rows_T), 8), 0.1), np.full(len(rows_T), 0.2), rows_T, np.full(V, 1 / V)
    )
    targets = (rng.integers(0, V, S)[:, None] + np.arange(FAN)) % V
    vocabulary_map = np.arange(S + 1) * FAN, targets.ravel().astype(np.int32), np.full(S * FAN, 1 / FAN, np.float32)
    project(ids, probs, rows_T, *vocabulary_map, conditional=own, min_probability=0.005)


def warped(tokens: int) -> None:
    """Align one document by dynamic time warping, and carry the source over."""
    rng = np.random.default_rng(0)
    pieces = [f"▁{number:x}" for number in range(S)]
    spelling = Spelling(pieces, "▁")
    pair = VocabularyPair(spelling, spelling, np.arange(S + 1), np.arange(S, dtype=np.int32), np.ones(S, np.float32))
    text = rng.integers(0, S, tokens).astype(np.int32)
    other = np.where(rng.random(tokens) < 0.2, rng.integers(0, S, tokens), text).astype(np.int32)
    one, last = np.array([0, tokens]), np.array([True])
    ends = np.arange(1, tokens + 1, dtype=np.int32)
    sides = [read_side(ids, ends, one, last, start=True, end=None) for ids in (text, other)]
    serving_T = ALIGNMENTS.get("dtw")(*sides, pair)
    assert 0.5 < (serving_T >= 0).mean() < 1
    carried(serving_T)


CASES: dict[str, tuple[Callable[[int], None], int]] = {
    "carried": (lambda positions: carried(np.arange(positions)), 4_000),
    "warped": (warped, 30_000),
}


def grown(case: str) -> int:
    """Return by how many bytes the case grows a process that has compiled what it needs."""
    done = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_room_is_made_for_some_positions_at_a_time() -> None:
    """4,000 positions of which each might have 6,400 entries: 293 MiB at the worst, of which 61 are asked for."""
    positions = CASES["carried"][1]
    assert positions * WORST > 290 * MIB
    assert grown("carried") < 120 * MIB


@pytest.mark.slow
def test_a_document_of_many_tokens_is_warped_in_bounded_memory() -> None:
    """30,000 × 30,000 tokens: a table of 858 MiB in bytes alone, and 2,197 MiB of entries; 128 are asked for."""
    tokens = CASES["warped"][1]
    assert tokens**2 > 850 * MIB and tokens * WORST > 2_000 * MIB
    assert grown("warped") < 250 * MIB


def _address_space(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name + ":"))


if __name__ == "__main__":
    run, size = CASES[sys.argv[1]]
    run(50)
    before = _address_space("VmSize")
    run(size)
    print(_address_space("VmPeak") - before)
