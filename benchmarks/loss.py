"""The fused loss over the head's three matrix products, which no loss can do without.

    python benchmarks/loss.py --json loss.json
    python benchmarks/loss.py --device cuda
    python benchmarks/loss.py --device rehearsal

over_floor_*: loss and gradients of hidden states and head (label and fused target, bucket, k = 10) over the products
logits, gradient · head and gradientᵀ · hidden, each in one piece. One thread and the process's CPU seconds, the
kernel's for its memory included; other processes are left out. fp32: V = 32,000. bf16: V = 49,152, the gradient of the
head summed in float32. over_floor: the worse of the two.
peak_share_*: the most memory that is resident beyond what was before, over the same of `full`. peak_share: the worse.
full: all logits at once in float32, cross_entropy of the labels, log_softmax and the kept tokens gathered from it, as
is commonly written; its target says nothing of other tokens. lean: the same with one log_softmax for both, which takes
less. recompute: lean by chunks of 256 positions, whose logits are computed again in the backward pass.

--device cuda: H = 4096, V = 128,256, bfloat16. Triton is held equal to torch before anything is timed. liger: where
liger-kernel is installed, its cross-entropy with the head in it; it knows labels alone and so does less. (Its
distillation losses need a whole distribution for a target.)
--device rehearsal: the same script on a CPU with tiny sizes and the kernel interpreted; its times mean nothing.
"""

import ctypes
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import Goal, at_most, interleaved, options, ratio, show, write
from process import forget_peak, memory_mb
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from logitfuse.kernels.losses.backends import Backend
from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_position

SIZES = {"fp32": (32_000, torch.float32), "bf16": (49_152, torch.bfloat16)}
GOALS = {
    "over_floor": at_most(1.15),
    "over_floor_fp32": at_most(1.15),
    "over_floor_bf16": at_most(1.15),
    "peak_share": at_most(0.25),
    "peak_share_fp32": at_most(0.25),
    "peak_share_bf16": at_most(0.25),
}
KEPT, HIDDEN, CHUNK, LABEL_WEIGHT = 10, 576, 256, 0.9


@dataclass
class Problem:
    """Hidden states, a head, labels, and targets that hold the label at every other position."""

    hidden_NH: Tensor
    weight_VH: Tensor
    labels_N: Tensor
    targets: SparseTargets
    chunk: int = CHUNK
    backend: Backend = "auto"

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        """Fresh leaves over the same memory."""
        return self.hidden_NH.detach().requires_grad_(), self.weight_VH.detach().requires_grad_()

    def floor(self) -> None:
        """The three products."""
        logits_NV = self.hidden_NH @ self.weight_VH.T
        logits_NV @ self.weight_VH
        logits_NV.T @ self.hidden_NH

    def ours(self, residual: str = "bucket", backend: Backend | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The fused objective."""
        hidden_NH, weight_VH = self.leaves
        weights = by_position(
            self.labels_N, self.targets.served_N, clm_weight=LABEL_WEIGHT, normaliser=len(self.labels_N)
        )
        parts = fused_objective(
            hidden_NH, weight_VH, self.labels_N, self.targets, weights, residual=residual, chunk=self.chunk,
            backend=backend or self.backend,
        )  # fmt: skip
        return _gradients(parts.loss, hidden_NH, weight_VH)

    def full(self) -> tuple[Tensor, Tensor, Tensor]:
        """All logits at once, as commonly written."""
        hidden_NH, weight_VH = self.leaves
        logits_NV = (hidden_NH @ weight_VH.T).float()
        probs_NK = self.targets.probs_NK / self.targets.probs_NK.sum(-1, keepdim=True)
        fused_N = -(probs_NK * logits_NV.log_softmax(-1).gather(1, self.targets.ids_NK)).sum(-1)
        labelled = cross_entropy(logits_NV, self.labels_N)
        return _gradients(LABEL_WEIGHT * labelled + (1 - LABEL_WEIGHT) * fused_N.mean(), hidden_NH, weight_VH)

    def lean(self) -> tuple[Tensor, Tensor, Tensor]:
        """All logits at once, one log_softmax."""
        hidden_NH, weight_VH = self.leaves
        loss = self._loss(hidden_NH, weight_VH, self.labels_N, self.targets.ids_NK, self.targets.probs_NK)
        return _gradients(loss, hidden_NH, weight_VH)

    def recompute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Chunk by chunk, each computed again in the backward pass."""
        hidden_NH, weight_VH = self.leaves
        loss = hidden_NH.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_NH), self.chunk):
            part = slice(start, start + self.chunk)
            taken = hidden_NH[part], weight_VH, self.labels_N[part], self.targets.ids_NK[part]
            loss = loss + checkpoint(self._loss, *taken, self.targets.probs_NK[part], use_reentrant=False)
        return _gradients(loss, hidden_NH, weight_VH)

    def _loss(self, hidden_CH: Tensor, weight_VH: Tensor, labels_C: Tensor, ids_CK: Tensor, probs_CK: Tensor) -> Tensor:
        logq_CV = (hidden_CH @ weight_VH.T).float().log_softmax(-1)
        label_C = -logq_CV.gather(1, labels_C[:, None])[:, 0]
        probs_CK = probs_CK / probs_CK.sum(-1, keepdim=True)
        fused_C = -(probs_CK * logq_CV.gather(1, ids_CK)).sum(-1)
        total: Tensor = (LABEL_WEIGHT * label_C + (1 - LABEL_WEIGHT) * fused_C).sum() / len(self.labels_N)
        return total

    def check(self) -> float:
        """Hold ours equal to full logits; return how far the gradients are apart, over their norm."""
        found, wanted = self.ours("renormalise"), self.full()
        assert abs(float(found[0] - wanted[0])) < 1e-4 * float(wanted[0]), "the losses differ"
        apart = [float((f.float() - w.float()).norm() / w.float().norm()) for f, w in zip(found, wanted, strict=True)]
        assert max(apart) < (1e-5 if self.hidden_NH.dtype == torch.float32 else 2e-2), "the gradients differ"
        return max(apart)


def _gradients(loss: Tensor, hidden_NH: Tensor, weight_VH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return loss.detach(), *torch.autograd.grad(loss, (hidden_NH, weight_VH))


def problem(
    N: int, V: int, H: int, dtype: torch.dtype, device: str = "cpu", chunk: int = CHUNK, backend: Backend = "auto"
) -> Problem:
    """Draw a problem. Logits spread by 3 nats, as a language model's do."""
    draw = torch.Generator(device).manual_seed(0)
    hidden_NH = torch.randn(N, H, generator=draw, device=device).to(dtype)
    weight_VH = (torch.randn(V, H, generator=draw, device=device) * 3 / H**0.5).to(dtype)

    first_N1 = torch.randint(V, (N, 1), generator=draw, device=device)
    ids_NK = (first_N1 + torch.arange(KEPT, device=device) * (V // KEPT - 1)) % V
    probs_NK = 0.85 * torch.rand(N, KEPT, generator=draw, device=device).softmax(-1)
    labels_N = torch.where(torch.arange(N, device=device) % 2 == 0, ids_NK[:, 0], first_N1[:, 0] // 2)
    served_N = torch.ones(N, dtype=torch.bool, device=device)
    targets = SparseTargets(ids_NK, probs_NK, 1 - probs_NK.sum(-1), served_N)
    return Problem(hidden_NH, weight_VH, labels_N, targets, chunk, backend)


def peak_mb(side: Callable[[], object], device: str) -> float:
    """Return the most memory that a side takes beyond what is taken before, its results included, MB."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later would otherwise not be seen to be taken
    forget_peak()
    before, _ = memory_mb()
    side()
    return memory_mb()[1] - before


def on_cpu(quick: bool, path: Path | None) -> None:
    """Measure both sizes."""
    torch.set_num_threads(1)
    N, rounds = 1024, 5 if quick else 9
    others = ["full"] if quick else ["full", "lean", "recompute"]
    metrics: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for name, (V, dtype) in SIZES.items():
        case = problem(N, V, HIDDEN, dtype)
        metrics[f"gradients_apart_{name}"] = case.check()
        named: dict[str, Callable[[], object]] = {
            f"{side} {name}": getattr(case, side) for side in ("ours", *others, "floor")
        }
        for side, call in named.items():
            call()
            peaks[side] = median(peak_mb(call, "cpu") for _ in range(1 if quick else 3))
        seconds |= interleaved(named, rounds, clock=time.process_time)
        for side in ("ours", *others):
            prefix = "" if side == "ours" else f"{side}_"
            metrics[f"{prefix}over_floor_{name}"] = ratio(seconds, f"{side} {name}", f"floor {name}")
            metrics[f"{prefix}peak_share_{name}"] = peaks[f"{side} {name}"] / peaks[f"full {name}"]
        del metrics[f"full_peak_share_{name}"]
    for metric in ("over_floor", "peak_share"):
        metrics[metric] = max(metrics[f"{metric}_{name}"] for name in SIZES)
    show("loss", metrics, GOALS, seconds)
    inputs = {
        "quick": quick, "positions": N, "hidden": HIDDEN, "k": KEPT, "chunk": CHUNK, "threads": 1, "seconds": seconds,
        "peak_mb": peaks, "liger": "not run: its kernels need a GPU",
    }  # fmt: skip
    write(path, metrics, GOALS, inputs)


def liger_side(case: Problem) -> Callable[[], object] | None:
    """Return liger-kernel's cross-entropy of the labels with the head in it, None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss_of = LigerFusedLinearCrossEntropyLoss()

    def run() -> None:
        hidden_NH, weight_VH = case.leaves
        _gradients(loss_of(weight_VH, hidden_NH, case.labels_N), hidden_NH, weight_VH)

    return run


def on_gpu(quick: bool, path: Path | None, rehearsal: bool) -> None:
    """Measure one large size, or rehearse it."""
    device = "cpu" if rehearsal else "cuda"
    N, V, H, chunk = (24, 515, 16, 8) if rehearsal else (2048 if quick else 8192, 128_256, 4096, 1024)
    dtype = torch.bfloat16
    case = problem(N, V, H, dtype, device, chunk, "triton")
    metrics = {"gradients_apart": case.check(), "triton_apart": check_kernel(case)}
    sides: dict[str, Callable[[], object]] = {"ours": case.ours, "ours, torch": lambda: case.ours(backend="torch")}
    sides |= {"full": case.full, "recompute": case.recompute, "floor": case.floor}
    sides |= {"plain cross-entropy": lambda: plain(case)}
    if not rehearsal and (liger := liger_side(case)):
        sides["liger, labels alone"] = liger
    timed = sides if rehearsal else {name: waited(side) for name, side in sides.items()}
    for side in timed.values():
        side()
    peaks = {name: peak_mb(side, device) for name, side in timed.items()}
    seconds = interleaved(timed, 5 if quick else 11)
    metrics |= {f"{name.replace(', ', '_').replace(' ', '_')}_over_floor": ratio(seconds, name, "floor") for name in
                sides if name not in ("ours", "floor")}  # fmt: skip
    metrics["over_floor"] = ratio(seconds, "ours", "floor")
    goals: dict[str, Goal] = {"over_floor": at_most(1.25), "peak_share": at_most(0.25)}
    if not rehearsal:
        metrics["peak_share"] = peaks["ours"] / peaks["full"]
    title = "rehearsal of the loss on a GPU: these times mean nothing" if rehearsal else "loss on a GPU"
    show(title, metrics, {} if rehearsal else goals, seconds)
    inputs: dict[str, Any] = {
        "quick": quick, "rehearsal": rehearsal, "positions": N, "vocabulary": V, "hidden": H, "k": KEPT, "chunk": chunk,
        "seconds": seconds, "peak_mb": peaks, "liger": "liger, labels alone" in sides,
    }  # fmt: skip
    write(path, metrics, {} if rehearsal else goals, inputs)


def plain(case: Problem) -> None:
    """The labels alone, all logits at once: what training without fusion does."""
    hidden_NH, weight_VH = case.leaves
    _gradients(cross_entropy((hidden_NH @ weight_VH.T).float(), case.labels_N), hidden_NH, weight_VH)


def waited(side: Callable[[], object]) -> Callable[[], object]:
    """Return a side that waits for the GPU."""

    def run() -> None:
        side()
        torch.cuda.synchronize()

    return run


def check_kernel(case: Problem) -> float:
    """Hold Triton equal to torch on the same problem; return how far the gradients are apart, over their norm."""
    found, wanted = case.ours(backend="triton"), case.ours(backend="torch")
    apart = [float((f.float() - w.float()).norm() / w.float().norm()) for f, w in zip(found, wanted, strict=True)]
    assert max(apart) < 1e-2, f"Triton's gradients differ from torch's by {max(apart):.2g} of their norm"
    return max(apart)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda", "rehearsal"), default="cpu", help="where to measure")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        on_cpu(arguments.quick, arguments.json)
        return
    if arguments.device == "rehearsal" and os.environ.get("TRITON_INTERPRET") != "1":  # wanted before Triton's import
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"TRITON_INTERPRET": "1"})
    on_gpu(arguments.quick, arguments.json, arguments.device == "rehearsal")


if __name__ == "__main__":
    main()
