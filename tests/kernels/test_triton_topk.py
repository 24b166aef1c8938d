"""The GPU's top-k, interpreted on the CPU, against the reference in plain torch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitfuse.kernels import triton_topk
from logitfuse.kernels.topk import TopK, topk_logprobs

# Triton decides when it is imported whether it interprets, and other tests import it before. So these run in a process
# of their own, which the last one starts.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not (triton_topk.AVAILABLE and INTERPRETED), reason="interpreted, in the process that the last test starts"
)


def check(logits_TV: torch.Tensor, gold_T: torch.Tensor, k: int, span: int = triton_topk.SPAN) -> None:
    found = triton_topk.triton_topk_logprobs(logits_TV, gold_T, k, span=span)
    wanted = topk_logprobs(logits_TV.float(), gold_T, k)
    assert torch.equal(found.ids_TK, wanted.ids_TK)
    assert torch.equal(found.gold_rank_T, wanted.gold_rank_T)
    for name in TopK._fields[1:4]:
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=3e-6, rtol=3e-6)


@interpreted
@given(
    st.integers(1, 3), st.integers(1, 700), st.integers(1, 128), st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3, 4.0]), st.sampled_from([0.0, 0.5, 0.95]), st.sampled_from([128, 256, 1 << 15]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
@example(1, 1, 1, 0, 4.0, 0.0, 1 << 15, torch.float32)  # a vocabulary of one
@example(2, 700, 128, 1, 0.0, 0.0, 128, torch.float32)  # all equal: ids 0 … 127
@example(1, 65, 65, 2, 4.0, 0.95, 128, torch.bfloat16)  # the last block has one token, and all are kept
@settings(max_examples=25)
def test_it_is_the_reference(
    T: int, V: int, k: int, seed: int, spread: float, impossible: float, span: int, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 1, (T, V)) * spread, 6 if seed % 2 else 0)  # every other time with many ties
    logits[rng.random((T, V)) < impossible] = -np.inf
    logits[:, rng.integers(0, V)] = 1.0  # a distribution has at least one token that can be
    check(torch.tensor(logits, dtype=dtype), torch.tensor(rng.integers(0, V, T)), min(k, V), span)


@interpreted
@pytest.mark.parametrize("k", [1, 10, 128])
def test_a_vocabulary_of_real_size_in_several_programs(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(2, 2 * triton_topk.SPAN + 77, generator=generator) * 5
    check(logits, logits.topk(20).indices[:, -1], k)
    check(logits.bfloat16(), logits.topk(20).indices[:, -1], k)


@interpreted
def test_equal_maxima_of_blocks_are_searched_from_the_lowest_id() -> None:
    logits = torch.zeros(1, 640)
    logits[0, [639, 130, 5, 64]] = 3.0  # four blocks with one maximum, three of them kept
    check(logits, torch.tensor([639]), 3)
    check(logits, torch.tensor([130]), 6)


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_shows(bad: float) -> None:
    logits = torch.zeros(1, 300)
    logits[0, 200] = bad
    found = triton_topk.triton_topk_logprobs(logits, torch.tensor([3]), 4)
    assert not (torch.isfinite(found.logprobs_TK).all() and torch.isfinite(found.gold_logprob_T).all())


def test_it_imports_where_triton_is_missing() -> None:
    code = "import sys; sys.modules['triton'] = None; from logitfuse.kernels.triton_topk import AVAILABLE"
    subprocess.run([sys.executable, "-c", f"{code}; assert not AVAILABLE"], check=True)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.skipif(not triton_topk.AVAILABLE, reason="triton is not installed")
def test_interpreted_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed, 1 skipped" in ran.stdout
