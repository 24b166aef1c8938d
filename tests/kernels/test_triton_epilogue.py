"""The GPU's visits to the logits, interpreted on the CPU, against those in plain torch."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitfuse.kernels.losses import triton_epilogue
from logitfuse.kernels.losses.backends import BackendMissing, passes_for
from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.passes import Shape, TorchPasses, Written
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_position

# Triton decides when it is imported whether it interprets, and other tests import it before. So these run in a process
# of their own, which the last one starts.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not (triton_epilogue.AVAILABLE and INTERPRETED), reason="interpreted, in the process that the last test starts"
)


def check(logits_CV: torch.Tensor, shape: Shape, span: int = triton_epilogue.SPAN) -> None:
    """Compare sums and gradient; the gradient's factors are drawn, not those of a loss."""
    C, V = logits_CV.shape
    found, wanted = (passes.outside(logits_CV, shape) for passes in (triton_epilogue.TritonPasses(span), TorchPasses()))
    assert torch.equal(found.peak_C == -torch.inf, wanted.peak_C == -torch.inf)
    for name in ("plain_C", "tempered_C"):
        one, other = (sums.peak_C + getattr(sums, name).log() for sums in (found, wanted))
        torch.testing.assert_close(one, other, rtol=3e-6, atol=3e-6)
    draw = torch.Generator().manual_seed(C + V)
    uniform = lambda *sizes: torch.rand(sizes, generator=draw)  # noqa: E731
    peak_C = wanted.peak_C.masked_fill(wanted.peak_C == -torch.inf, 0)
    ids_CP = uniform(C, V).argsort(-1)[:, : min(V, 5)]
    ids_CP, values_CP = torch.cat([ids_CP, ids_CP[:, :1]], dim=1), uniform(C, ids_CP.shape[1] + 1) - 0.5
    values_CP[:, -1] = values_CP[:, 0]  # the same point twice, as padding is
    written = Written(peak_C, uniform(C), uniform(C) - 0.5 if shape.tempered else None, ids_CP, values_CP)
    one_CV, other_CV = logits_CV.clone(), logits_CV.clone()
    triton_epilogue.TritonPasses(span).gradient_(one_CV, shape, written)
    TorchPasses().gradient_(other_CV, shape, written)
    exact = logits_CV.dtype == torch.float32
    # Where tanh is nearly 1 the slope of the cap, 1 - tanh², is its rounding.
    torch.testing.assert_close(one_CV, other_CV, rtol=2e-5 if exact else 2e-2, atol=1e-6 if shape.softcap else 1e-7)


@interpreted
@given(
    rows=st.integers(1, 3),
    vocabulary=st.sampled_from([1, 2, 63, 128, 401, 1025]),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.0, 0.3, 4.0, 30.0]),
    impossible=st.sampled_from([0.0, 0.5, 1.0]),
    span=st.sampled_from([64, 128, 1 << 15]),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    temperature=st.sampled_from([1.0, 0.5, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@example(1, 1, 0, 0.0, 1.0, 64, None, 1.0, torch.float32)  # the support is the whole vocabulary
@example(2, 401, 1, 30.0, 0.5, 64, 30.0, 2.0, torch.bfloat16)
@settings(max_examples=40, deadline=None)
def test_the_visits_are_the_reference(rows, vocabulary, seed, spread, impossible, span, softcap, temperature, dtype):
    draw = torch.Generator().manual_seed(seed)
    logits_CV = spread * torch.randn(rows, vocabulary, generator=draw)
    logits_CV[torch.rand(rows, vocabulary, generator=draw) < impossible] = -torch.inf
    check(logits_CV.to(dtype), Shape(softcap, temperature), span)


@interpreted
def test_a_vocabulary_of_real_size_in_several_programs():
    logits_CV = 5 * torch.randn(2, 2 * triton_epilogue.SPAN + 77, generator=torch.Generator().manual_seed(0))
    check(logits_CV, Shape())
    check(logits_CV.bfloat16(), Shape(30.0, 2.0))


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_shows(bad):
    logits_CV = torch.zeros(1, 300)
    logits_CV[0, 200] = bad
    sums = triton_epilogue.TritonPasses(128).outside(logits_CV, Shape())
    assert not torch.isfinite(sums.peak_C + sums.plain_C.log()).all()


@interpreted
@pytest.mark.parametrize("divergence", ["cross_entropy", "kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("residual", ["bucket", "renormalise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_objective(residual, divergence, dtype):
    draw = torch.Generator().manual_seed(3)
    N, V, H = 9, 333, 8
    ids_NK = torch.rand(N, V, generator=draw).argsort(-1)[:, :4]
    probs_NK = torch.rand(N, 4, generator=draw) * torch.tensor([1.0, 1.0, 0.0, 1.0]) / 4
    targets = SparseTargets(ids_NK, probs_NK, 1 - probs_NK.sum(-1), torch.arange(N) % 4 != 3)
    labels_N = torch.where(torch.arange(N) % 2 == 0, ids_NK[:, 0], 7)
    weights = by_position(labels_N, targets.served_N, clm_weight=0.4, normaliser=N)

    def run(backend):
        draw.manual_seed(4)
        hidden_NH = torch.randn(N, H, generator=draw).to(dtype).requires_grad_()
        weight_VH = torch.randn(V, H, generator=draw).to(dtype).requires_grad_()
        parts = fused_objective(
            hidden_NH, weight_VH, labels_N, targets, weights, residual=residual, divergence=divergence, chunk=4,
            temperature=2.0, temperature_squared=True, softcap=30.0, backend=backend,
        )  # fmt: skip
        parts.loss.backward()
        return parts.loss.detach(), hidden_NH.grad, weight_VH.grad

    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-3}
    for found, wanted in zip(run("triton"), run("torch"), strict=True):
        torch.testing.assert_close(found, wanted, **close)


def test_it_imports_where_triton_is_missing() -> None:
    code = "import sys; sys.modules['triton'] = None; from logitfuse.kernels.losses.triton_epilogue import AVAILABLE"
    subprocess.run([sys.executable, "-c", f"{code}; assert not AVAILABLE"], check=True)


def test_a_backend_that_cannot_run_says_so(monkeypatch):
    monkeypatch.setattr(triton_epilogue, "AVAILABLE", False)
    with pytest.raises(BackendMissing, match=r"triton.*take 'auto' or 'torch'"):
        passes_for("triton", torch.device("cpu"), torch.float32)
    with pytest.raises(BackendMissing, match="runs on a CPU"):
        passes_for("numba", torch.device("meta"), torch.float32)
    assert isinstance(passes_for("triton", torch.device("cpu"), torch.float64), TorchPasses)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.skipif(not triton_epilogue.AVAILABLE, reason="triton is not installed")
def test_interpreted_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed, 1 skipped" in ran.stdout
