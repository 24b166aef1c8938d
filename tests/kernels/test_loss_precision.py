"""The fused objective in other precisions, with numbers that are none, and on several threads."""

import pytest
import torch
from loss_cases import check_equal, make_case, ruled

from logitfuse.kernels.losses.fused import fused_objective


@ruled
def test_bf16_stays_near_the_reference(residual):
    case = make_case(12, positions=40, vocabulary=257, bias=True)
    rounded = case._replace(hidden_NH=case.hidden_NH.bfloat16(), weight_VH=case.weight_VH.bfloat16())
    check_equal(rounded, tolerance=2e-2, dtype=torch.bfloat16, residual=residual)


def test_stated_dtype_holds_under_autocast():
    case = make_case(13, positions=40)
    arguments = (case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights())
    plain = fused_objective(*arguments).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused_objective(*arguments).loss == plain
        rough = fused_objective(*arguments, dtype=torch.bfloat16).loss
    assert rough != plain and rough.item() == pytest.approx(plain.item(), rel=1e-2)


def test_float64_is_float64_to_the_end():
    case = make_case(15, positions=12, bias=True)
    hidden_NH = case.hidden_NH.double().requires_grad_()
    arguments = case.weight_VH.double(), case.labels_N, case.targets, case.weights()
    parts = fused_objective(hidden_NH, *arguments, bias_V=case.bias_V.double())
    parts.loss.backward()
    assert parts.loss.dtype == hidden_NH.grad.dtype == torch.float64


def test_numbers_that_are_none_show():
    case = make_case(20, positions=5)
    for bad in (torch.nan, torch.inf):
        for backend in ("numba", "torch"):
            hidden_NH = case.hidden_NH.clone()
            hidden_NH[2, 3] = bad
            labels_N = case.labels_N.clamp(min=0)
            arguments = hidden_NH, case.weight_VH, labels_N, case.targets, case.weights()
            assert not fused_objective(*arguments, backend=backend).loss.isfinite()


def test_threads_change_no_bit():
    case = make_case(22, positions=64, vocabulary=501)
    hidden_NH, weight_VH = case.hidden_NH.bfloat16(), case.weight_VH.bfloat16()
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            leaf_NH = hidden_NH.clone().requires_grad_()
            fused_objective(leaf_NH, weight_VH, case.labels_N, case.targets, case.weights()).loss.backward()
            found.append(leaf_NH.grad)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=2e-2, atol=1e-4)  # the products' own sums differ
