"""How far one reading of the same predictions is from another, in numbers that need little memory."""

# legend: P positions, K most tokens kept at one of them, V vocabulary

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitfuse.tasks.audit.readings import Dense, Reading
from logitfuse.tasks.audit.rounding import UNIFORM, Rounding

LEAST, PER_OCTAVE, OCTAVES = -30, 16, 40  # bins from 2^-30 nats on, each 4% wide; the last ones hold all above


@dataclass
class Differences:
    """Absolute differences of log-probabilities, in nats: their size, and how much of it rounding explains."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    rounding: float = 0.0  # sum of the variances that rounding gives
    highest: float = 0.0
    beyond: float = 0.0  # the largest part of a difference that rounding cannot explain
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PER_OCTAVE * OCTAVES, np.int64), repr=False)

    def add(self, values: NDArray[np.floating[Any]], half_steps: NDArray[np.float64]) -> None:
        """Count differences, each with the most that rounding may have moved it."""
        if not len(values):
            return
        sizes = np.abs(values.astype(np.float64))
        self.count += len(sizes)
        self.total += float(sizes.sum())
        self.squares += float((sizes**2).sum())
        self.rounding += float((half_steps**2).sum()) * UNIFORM
        self.highest = max(self.highest, float(sizes.max()))
        self.beyond = max(self.beyond, float((sizes - half_steps).max()))
        with np.errstate(divide="ignore"):
            places = np.floor((np.log2(sizes) - LEAST) * PER_OCTAVE)
        self.bins += np.bincount(places.clip(0, len(self.bins) - 1).astype(np.int64), minlength=len(self.bins))

    def join(self, other: Differences) -> None:
        """Count what another one has counted."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.rounding += other.rounding
        self.highest = max(self.highest, other.highest)
        self.beyond = max(self.beyond, other.beyond)
        self.bins += other.bins

    def quantile(self, share: float) -> float:
        """Return a quantile, to within 5%; 0 below 2^-30."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.bins), share * self.count))
        return 0.0 if place == 0 else min(2.0 ** (LEAST + (place + 1) / PER_OCTAVE), self.highest)

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return float(np.sqrt(self.squares / max(self.count, 1)))

    @property
    def rounding_rms(self) -> float:
        """What `rms` is expected to be where nothing but rounding differs."""
        return float(np.sqrt(self.rounding / max(self.count, 1)))

    def facts(self) -> dict[str, float | int]:
        """Return plain JSON values."""
        return {
            "count": self.count, "mean": self.mean, "median": self.quantile(0.5), "p99": self.quantile(0.99),
            "max": self.highest, "rms": self.rms, "rms_of_rounding": self.rounding_rms,
            "max_beyond_rounding": max(self.beyond, 0.0),
        }  # fmt: skip


@dataclass
class Measures:
    """A reading against the live model alone: `kept` and `gold` log-probabilities, divergence, agreement."""

    kept: Differences = field(default_factory=Differences)
    gold: Differences = field(default_factory=Differences)
    positions: int = 0
    nats: float = 0.0  # -log p of the tokens that follow, as the reading has it
    kl: float = 0.0  # summed over positions, live to reading, on the kept tokens and what is left
    kl_of_rounding: float = 0.0
    same_best: int = 0
    same_set: int = 0
    same_rank: int = 0

    def add(self, live: Dense, reading: Reading, there_P: Tensor, rounding: Rounding | None) -> None:
        """Count P positions; `there_P` says where a token follows. `rounding` None: nothing was rounded."""
        of_live_PK = live.logprobs_PV.gather(1, reading.ids_PK)
        there_PK = reading.there_PK
        steps_PK = np.zeros(there_PK.shape) if rounding is None else rounding.of_kept(_numpy(reading.logprobs_PK))
        chosen = _numpy(there_PK)
        self.kept.add(_numpy(reading.logprobs_PK - of_live_PK)[chosen], steps_PK[chosen])
        self._add_gold(live, reading, there_P, rounding)
        self.positions += len(there_P)
        self.kl += float(divergences(of_live_PK, reading).sum())
        if rounding is not None:
            probs_PK, rest_P = np.exp(_numpy(of_live_PK)) * chosen, _numpy(reading.rest_P)
            squares = (probs_PK * steps_PK**2).sum() + (rest_P * rounding.of_rest(rest_P) ** 2).sum()
            self.kl_of_rounding += float(squares) * UNIFORM / 2
        again = live.kept(there_PK)
        self.same_best += int((again.ids_PK[:, 0] == reading.ids_PK[:, 0]).sum())
        self.same_set += int((_sorted(again) == _sorted(reading)).all(-1).sum())

    def join(self, other: Measures) -> None:
        """Count what another one has counted."""
        self.kept.join(other.kept)
        self.gold.join(other.gold)
        for name in ("positions", "nats", "kl", "kl_of_rounding", "same_best", "same_set", "same_rank"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _add_gold(self, live: Dense, reading: Reading, there_P: Tensor, rounding: Rounding | None) -> None:
        gold_P = _numpy(reading.gold_P[there_P])
        steps_P = np.zeros(len(gold_P)) if rounding is None else rounding.of_kept(gold_P)
        self.gold.add(gold_P - _numpy(live.gold_P[there_P]), steps_P)
        self.nats -= float(gold_P.sum(dtype=np.float64))
        self.same_rank += int((reading.rank_P == live.rank_P)[there_P].sum())

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values; shares are of positions."""
        return {
            "kept": self.kept.facts(),
            "gold": self.gold.facts(),
            "kl_mean": self.kl / max(self.positions, 1),
            "same_best": self.same_best / max(self.positions, 1),
            "same_set": self.same_set / max(self.positions, 1),
            "same_rank": self.same_rank / max(self.gold.count, 1),
        }


def divergences(of_live_PK: Tensor, reading: Reading) -> Tensor:
    """Return KL(live || reading) of each position, float64 [P]: the reading's tokens, and all others as one.

    The reading's numbers are made to add up to 1: what rounding adds or takes is no divergence of distributions.
    """
    p_PK = of_live_PK.double().exp() * reading.there_PK
    q_PK = reading.logprobs_PK.double().exp() * reading.there_PK
    rest_P = 1 - p_PK.sum(-1)
    rest_P = torch.where(rest_P < 1e-6, 0.0, rest_P)  # float32 sums over a vocabulary know nothing smaller
    p = torch.cat([p_PK, rest_P[:, None]], 1)
    q = torch.cat([q_PK, torch.where(rest_P > 0, reading.rest_P.double(), 0.0)[:, None]], 1)
    p, q = (values / values.sum(-1, keepdim=True).clamp_min(1e-30) for values in (p, q))
    return torch.where(p > 0, p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-12).log()), 0.0).sum(-1).clamp_min(0)


def _sorted(reading: Reading) -> Tensor:
    return reading.ids_PK.masked_fill(~reading.there_PK, -1).sort(dim=-1).values


def _numpy(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
