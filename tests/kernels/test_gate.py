"""What the gate compares, held against a plain reading of the definition."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from logitfuse.kernels.losses.gate import GoldNats, Head, gold_nats, open_sequences
from logitfuse.kernels.losses.residuals import leaves_room
from logitfuse.kernels.losses.targets import SparseTargets

POSITIONS, HIDDEN, VOCABULARY, KEPT = 13, 5, 11, 3


def example(seed: int) -> tuple[Tensor, Tensor, Tensor, SparseTargets]:
    """Hidden states, head, labels and targets, some without label, some not served, some with padding."""
    draw = torch.Generator().manual_seed(seed)
    hidden_NH = torch.randn(POSITIONS, HIDDEN, generator=draw, dtype=torch.float64)
    weight_VH = torch.randn(VOCABULARY, HIDDEN, generator=draw, dtype=torch.float64)
    labels_N = torch.randint(0, VOCABULARY, (POSITIONS,), generator=draw)
    labels_N[torch.rand(POSITIONS, generator=draw) < 0.2] = -100
    ids_NK = torch.stack([torch.randperm(VOCABULARY, generator=draw)[:KEPT] for _ in range(POSITIONS)])
    probs_NK = torch.rand(POSITIONS, KEPT, generator=draw, dtype=torch.float64) + 0.01
    probs_NK[torch.rand(POSITIONS, KEPT, generator=draw) < 0.3] = 0
    probs_NK[:, 0] += 0.1
    probs_NK *= (0.5 + 0.45 * torch.rand(POSITIONS, 1, generator=draw)) / probs_NK.sum(-1, keepdim=True)
    served_N = torch.rand(POSITIONS, generator=draw) < 0.7
    return hidden_NH, weight_VH, labels_N, SparseTargets(ids_NK, probs_NK, 1 - probs_NK.sum(-1), served_N)


def plainly(logits_NV: Tensor, labels_N: Tensor, targets: SparseTargets) -> list[tuple[int, float, float]]:
    """Return (position, student's nats, target's nats), by the definition."""
    found = []
    for n, gold in enumerate(labels_N.tolist()):
        if gold < 0 or not targets.served_N[n]:
            continue
        student = torch.softmax(logits_NV[n], 0)
        kept = {int(i): p for i, p in zip(targets.ids_NK[n], targets.probs_NK[n], strict=True) if p > 0}
        outside = 1 - sum(student[i] for i in kept)
        target = kept[gold] if gold in kept else targets.tail_N[n] * student[gold] / outside
        found.append((n, float(-student[gold].log()), float(-target.log())))
    return found


@given(st.integers(0, 10_000), st.sampled_from([1, 4, 256]), st.sampled_from([None, 2.0]), st.sampled_from([1.0, 0.3]))
def test_gold_nats_are_the_definition(seed: int, chunk: int, softcap: float | None, scale: float) -> None:
    hidden_NH, weight_VH, labels_N, targets = example(seed)
    bias_V = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)
    found = gold_nats(
        hidden_NH, Head(weight_VH, bias_V, softcap, scale), labels_N, targets, chunk=chunk, dtype=torch.float64
    )
    logits_NV = (hidden_NH @ weight_VH.T + bias_V) * scale
    logits_NV = logits_NV if softcap is None else softcap * torch.tanh(logits_NV / softcap)
    wanted = plainly(logits_NV, labels_N, targets)
    assert found.rows_M.tolist() == [n for n, _, _ in wanted]
    assert_close(found.student_M, torch.tensor([s for _, s, _ in wanted], dtype=torch.float64))
    assert_close(found.target_M, torch.tensor([t for _, _, t in wanted], dtype=torch.float64))


@given(st.integers(0, 10_000), st.sampled_from(["torch", "numba"]))
def test_backends_in_bfloat16_agree(seed: int, backend: str) -> None:
    hidden_NH, weight_VH, labels_N, targets = example(seed)
    head = Head(weight_VH.float())
    exact = gold_nats(hidden_NH, Head(weight_VH), labels_N, targets, dtype=torch.float64)
    found = gold_nats(hidden_NH.float(), head, labels_N, targets, dtype=torch.bfloat16, backend=backend)  # type: ignore[arg-type]
    assert_close(found.student_M.double(), exact.student_M, atol=0.1, rtol=0.05)
    assert_close(found.target_M.double(), exact.target_M, atol=0.1, rtol=0.05)


def test_a_label_that_the_target_rules_out_closes_its_sequence() -> None:
    hidden_NH, weight_VH, labels_N, targets = example(1)
    targets = targets._replace(
        probs_NK=targets.probs_NK / targets.probs_NK.sum(-1, keepdim=True), tail_N=torch.zeros(POSITIONS)
    )
    found = gold_nats(hidden_NH, Head(weight_VH), labels_N, targets)
    assert found.target_M.isposinf().any() and not found.student_M.isinf().any()
    assert not open_sequences(found, torch.zeros(POSITIONS, dtype=torch.int64), 1).item()


def test_nothing_to_compare_opens_nothing() -> None:
    hidden_NH, weight_VH, labels_N, targets = example(2)
    none = targets._replace(served_N=torch.zeros(POSITIONS, dtype=torch.bool))
    found = gold_nats(hidden_NH, Head(weight_VH), labels_N, none)
    assert len(found.rows_M) == 0
    assert open_sequences(found, torch.zeros(POSITIONS, dtype=torch.int64), 2).tolist() == [False, False]


def test_a_sequence_is_judged_by_all_its_positions_together() -> None:
    """Better at most positions is not enough, and neither is better at one."""
    student, target = torch.tensor([1.0, 1.0, 5.0, 1.0]), torch.tensor([0.5, 3.0, 0.1, 1.0])
    found = GoldNats(torch.tensor([0, 2, 3, 5]), student, target)
    assert open_sequences(found, torch.tensor([0, 0, 0, 1, 1, 2]), 3).tolist() == [False, True, False]


def test_which_rules_leave_room() -> None:
    assert leaves_room("bucket") and not leaves_room("renormalise") and not leaves_room("as_given")
