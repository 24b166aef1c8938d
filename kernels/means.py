"""Intervals for means over examples, and for the mean of several tasks' means, by resampling examples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.bootstrap import Interval

DRAWS_AT_ONCE = 100  # bounds memory: a task may have 10,000 examples


def mean_interval(tasks: Sequence[NDArray[np.float64]], *, seed: int = 0, draws: int = 2000) -> Interval:
    """Return the plain mean of the tasks' means with its 95% percentile interval.

    Each task's N scores [N] are resampled by themselves: a task is chosen, its examples are a sample. Differences of
    two models' scores on the same examples give a paired interval.
    """
    if not tasks or any(len(scores_N) == 0 for scores_N in tasks):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn_D = sum(_drawn_means(scores_N, rng, draws) for scores_N in tasks) / len(tasks)
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return Interval(float(np.mean([scores_N.mean() for scores_N in tasks])), float(low), float(high))


def _drawn_means(scores_N: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Return the means of `draws` resampled sets of examples, float64 [draws]."""
    N = len(scores_N)
    sizes = [min(DRAWS_AT_ONCE, draws - start) for start in range(0, draws, DRAWS_AT_ONCE)]
    return np.concatenate([rng.multinomial(N, np.full(N, 1.0 / N), size=size) @ scores_N / N for size in sizes])
