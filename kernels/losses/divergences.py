"""Divergences by name: how far the student is from a target's masses. Imports no torch.

The student is given as log-probabilities of the kept tokens and of the class of all others. A divergence returns its
value and its slopes, as if these log-probabilities could be moved one by one; that they come from one softmax is
reckoned with by whoever asks (`epilogue.py`).
"""

# legend: C positions of a chunk, K kept tokens

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from logitfuse.kernels.losses.residuals import RESIDUALS, Matched
from logitfuse.kernels.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Student(NamedTuple):
    """The student at the target's classes, in the dtype that the losses are computed in."""

    logq_CK: Tensor  # log-probabilities of the kept tokens, 0 at padding
    support_CK: Tensor  # bool, false at padding
    log_out_C: Tensor  # log of the mass of all other tokens, at least LOG_FLOOR


class Compared(NamedTuple):
    """A divergence's values and slopes."""

    loss_C: Tensor  # nats
    kept_CK: Tensor  # ∂ loss / ∂ logq_CK, 0 at padding
    out_C: Tensor  # ∂ loss / ∂ log_out_C


class NoMeaning(ValueError):
    """A divergence asks for what a residual rule's masses are not."""


# Called with the masses of C positions and the student there. Options are its keyword-only arguments.
Divergence = Callable[..., Compared]
DIVERGENCES: Registry[Divergence] = Registry("divergence", "logitfuse.kernels.losses")


def check_meaning(divergence: str, residual: str, options: Mapping[str, Any]) -> None:
    """Try a divergence on one position's masses; raise `NoMeaning` where it has no value for what the rule makes."""
    import torch

    matched: Matched = RESIDUALS.get(residual)(torch.tensor([[0.5]]), torch.tensor([0.5]))
    half = torch.tensor([[0.5]]).log()
    DIVERGENCES.get(divergence)(matched, Student(half, torch.tensor([[True]]), half[0]), **options)


def need_distributions(name: str, matched: Matched) -> None:
    """Raise `NoMeaning` unless the masses add up to 1."""
    if not matched.adds_up:
        raise NoMeaning(
            f"divergence {name!r} compares distributions, but this residual rule leaves masses that do not add up to 1."
            " Take residual 'bucket' or 'renormalise', or divergence 'cross_entropy' or 'kl'."
        )
