"""Merging methods against loops over single elements, and at the limits where they are one another."""

# legend: M models, N elements of a tensor

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitfuse.kernels.merging import MERGES
from logitfuse.kernels.registry import BadOption

seeds = st.integers(0, 100_000)


def drawn(seed: int, models: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """M models and their base; some elements did not change, some changed alike."""
    rng = np.random.default_rng(seed)
    elements = int(rng.integers(1, 12))
    base = rng.integers(-3, 4, elements).astype(np.float32)
    found = base + rng.integers(-4, 5, (models, elements)) * rng.choice([0.0, 0.5, 1.0], (models, 1))
    weights = rng.choice([0.5, 1.0, 2.0], models)
    return torch.from_numpy(found).float(), torch.from_numpy(base), torch.from_numpy(weights).float()


def kept_of(sizes: list[float], share: float) -> list[bool]:
    least = sorted(sizes, reverse=True)[math.ceil(round(len(sizes) * share, 6)) - 1]
    return [size >= least for size in sizes]


def ties_reference(models: Tensor, base: Tensor, weights: Tensor, density: float) -> list[float]:
    vectors = (models - base).tolist()
    trimmed = []
    for vector in vectors:
        kept = kept_of([abs(v) for v in vector], density)
        trimmed.append([v if k else 0.0 for v, k in zip(vector, kept, strict=True)])
    return [b + agreed_mean([t[n] for t in trimmed], weights.tolist(), weights.tolist())
            for n, b in enumerate(base.tolist())]  # fmt: skip


def agreed_mean(values: list[float], elect: list[float], weights: list[float]) -> float:
    """Mean of the values that have the sign of their sum weighted by `elect`."""
    elected = sum(w * v for w, v in zip(elect, values, strict=True))
    agreed = [(w, v) for w, v in zip(weights, values, strict=True) if v * elected > 0]
    total = sum(w for w, _ in agreed)
    return sum(w * v for w, v in agreed) / total if total else 0.0


def sce_reference(models: Tensor, base: Tensor, weights: Tensor, select: float) -> list[float]:
    vectors = np.array((models - base).tolist())
    vectors = vectors * kept_of(vectors.var(axis=0).round(6).tolist(), select)
    change = np.array(weights) * (vectors**2).mean(axis=1)
    shares = change / change.sum() if change.sum() else np.full(len(change), 1 / len(change))
    return [b + agreed_mean(vectors[:, n].tolist(), weights.tolist(), shares.tolist())
            for n, b in enumerate(base.tolist())]  # fmt: skip


@given(seeds, st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_ties_is_the_reference(seed: int, density: float) -> None:
    models, base, weights = drawn(seed)
    found = MERGES.get("ties")(models, base, weights, "w", density=density)
    torch.testing.assert_close(found, torch.tensor(ties_reference(models, base, weights, density)))


@given(seeds, st.sampled_from([0.1, 0.3, 1.0]))
def test_sce_is_the_reference(seed: int, select: float) -> None:
    models, base, weights = drawn(seed)
    found = MERGES.get("sce")(models, base, weights, "w", select=select)
    torch.testing.assert_close(found, torch.tensor(sce_reference(models, base, weights, select)), atol=1e-5, rtol=1e-5)


@given(seeds)
def test_linear_and_varm_are_weighted_means(seed: int) -> None:
    models, base, weights = drawn(seed)
    w = np.array(weights) / np.array(weights).sum()
    np.testing.assert_allclose(MERGES.get("linear")(models, base, weights, "w"), w @ models.numpy(), rtol=1e-5,
                               atol=1e-5)  # fmt: skip
    vectors = (models - base).numpy()
    change = np.array(weights) * (vectors**2).mean(axis=1)
    shares = change / change.sum() if change.sum() else np.full(3, 1 / 3)
    np.testing.assert_allclose(MERGES.get("varm")(models, base, weights, "w"), base.numpy() + shares @ vectors,
                               rtol=1e-5, atol=1e-5)  # fmt: skip


@given(seeds)
def test_every_method_gives_the_model_back_if_all_are_the_same(seed: int) -> None:
    """All that a method may leave out is what it is told to."""
    models, base, _ = drawn(seed, models=1)
    options = {"ties": {"density": 1.0}, "dare": {"drop": 0.0}}
    for name in MERGES.names():
        found = MERGES.get(name)(models.repeat(2, 1), base, torch.ones(2), "w", **options.get(name, {}))
        torch.testing.assert_close(found, models[0], msg=name)
        torch.testing.assert_close(MERGES.get(name)(base[None], base, torch.ones(1), "w"), base, msg=name)


def test_dare_keeps_the_mean_and_depends_on_seed_and_name_alone() -> None:
    models, base, weights = torch.ones(2, 20_000), torch.zeros(20_000), torch.ones(2)
    dare = MERGES.get("dare")
    found = dare(models, base, weights, "w", drop=0.8)
    assert found.mean() == pytest.approx(1.0, abs=0.05)
    assert found.unique().tolist() == pytest.approx([0.0, 2.5, 5.0])
    assert torch.equal(found, dare(models, base, weights, "w", drop=0.8))
    assert not torch.equal(found, dare(models, base, weights, "v", drop=0.8))
    assert not torch.equal(found, dare(models, base, weights, "w", drop=0.8, seed=1))
    torch.testing.assert_close(dare(models, base, weights, "w", drop=0.0), torch.ones(20_000))


def test_options_are_checked() -> None:
    for name, option in (("ties", "density"), ("sce", "select"), ("dare", "drop")):
        with pytest.raises(BadOption, match=option):
            MERGES.check_options(name, {option: 1.5})
