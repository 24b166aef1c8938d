"""Two-stage top-k against a full stable sort, and the scan of bfloat16 logits against float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from logitfuse.kernels.bfloat16_scan import products, scan
from logitfuse.kernels.blockmax import BLOCK, block_maxima, topk_of_blocks


def made_up(T: int, V: int, seed: int, spread: float) -> torch.Tensor:
    """Return values, many of them equal, some -inf, -0.0 and 0.0."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 1, (T, V)) * spread) + rng.choice([0.0, -0.0, -np.inf], (T, V), p=[0.6, 0.3, 0.1])
    return torch.tensor(values, dtype=torch.float32)


@given(st.integers(1, 4), st.integers(1, 900), st.integers(1, 900), st.integers(0, 10_000), st.sampled_from([0, 1, 30]))
@example(1, 1, 1, 0, 1)
@example(2, 10 * BLOCK, 3, 0, 0)  # every block has the same maximum
@example(2, BLOCK + 1, BLOCK + 1, 0, 30)
def test_it_is_a_stable_sort(T: int, V: int, k: int, seed: int, spread: float) -> None:
    values, k = made_up(T, V, seed, spread), min(k, V)
    found, ids = topk_of_blocks(values, block_maxima(values), k)
    # 0.0 and -0.0 are equal, so a stable sort leaves them by id.
    wanted, order = values.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(ids, order[:, :k])
    assert torch.equal(found, wanted[:, :k])


@given(
    st.integers(0, 5), st.integers(1, 900), st.integers(1, 200), st.integers(0, 10_000), st.sampled_from([0, 1, 30]),
    st.sampled_from([0.0625, 1.0, 3.0]),
)  # fmt: skip
def test_scan_finds_the_largest_and_sums_all(
    N: int, V: int, candidates: int, seed: int, spread: float, scale: float
) -> None:
    logits = made_up(N, V, seed, spread).bfloat16()
    logits[:, seed % V] = 1.0
    lse, ids, values = scan(logits, candidates, scale)
    C = min(candidates, V)
    torch.testing.assert_close(lse.double(), torch.logsumexp(logits.double() * scale, -1), atol=2e-6, rtol=1e-6)
    assert ids.shape == values.shape == (N, C)
    assert torch.equal(values, logits.gather(1, ids).float())
    assert bool((ids[:, 1:] > ids[:, :-1]).all())
    assert torch.equal(
        values.sort(dim=-1, descending=True).values, logits.float().sort(-1, descending=True).values[:, :C]
    )


def test_the_number_of_threads_changes_nothing() -> None:
    logits = torch.randn(7, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(scan(logits, 64))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@given(st.integers(0, 4), st.integers(1, 70), st.integers(1, 9), st.integers(0, 10_000))
def test_products_are_those_of_float32(N: int, H: int, C: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, H, generator=generator).bfloat16() for n in (N, 50))
    ids = torch.randint(0, 50, (N, C), generator=generator)
    wanted = (hidden.double() @ weight.double().T).gather(1, ids)
    torch.testing.assert_close(products(hidden, weight, ids).double(), wanted, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
def test_what_is_no_number_shows(bad: float) -> None:
    logits = torch.zeros(1, 300).bfloat16()
    logits[0, 200] = bad
    assert not torch.isfinite(scan(logits, 8)[0]).any()
