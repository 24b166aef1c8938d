"""What a study was made for: differences of variants with intervals, over seeds and documents.

A difference is `of` less `against`, in nats per byte: below zero `of` is better. Intervals are 95%.
"""

# legend: S seeds, D documents, R draws

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.seeds_and_documents import Draws, draw, drawn_ratios, two_level_interval, two_sided
from logitfuse.kernels.several_tests import holm
from logitfuse.kernels.student_t import mean_interval, t_test
from logitfuse.kernels.token_multiple import multiple_interval, token_multiple
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.study.scores import Name, Scores
from logitfuse.tasks.study.settings import Contrast, TokenCurve
from logitfuse.tasks.study.text_facts import FEW_DOCUMENTS

Facts = dict[str, Any]
SMALLEST_GAP = 0.01  # nats per byte; a share of less is a share of noise


def contrast_facts(scores: Scores, contrasts: Sequence[Contrast]) -> list[Facts]:
    """Return what is known of every contrast whose variants were evaluated; p-values of all but the primary by Holm."""
    found = [compare(scores, contrast) for contrast in contrasts if _paired(scores, contrast.of, contrast.against)]
    secondary = [facts for facts in found if not facts["primary"]]
    for facts, adjusted in zip(secondary, holm([facts["p"] for facts in secondary]), strict=True):
        facts["p_holm"] = adjusted
    return found


def compare(scores: Scores, contrast: Contrast) -> Facts:
    """Compare two variants over their common seeds.

    Two intervals are made: t over the seeds, and a bootstrap over seeds and documents. `low` and `high` take the
    wider end of both, and `p` the larger value, so that a difference is believed only if neither explains it away.
    """
    seeds = _paired(scores, contrast.of, contrast.against)
    nats_SD = _difference(scores, contrast, seeds)
    draws = draw(len(seeds), nats_SD.shape[1])
    over_both = two_level_interval(nats_SD, scores.bytes_D, draws)
    by_seed_S = nats_SD.sum(axis=1) / scores.bytes_D.sum()
    over_seeds = mean_interval(by_seed_S)
    intervals = [over_both] if over_seeds is None else [over_both, over_seeds]
    p_both = two_sided(drawn_ratios(nats_SD, scores.bytes_D, draws))
    p_seeds = t_test(by_seed_S)
    return {
        "of": contrast.of,
        "against": contrast.against,
        "primary": contrast.primary,
        "delta": over_both.value,
        "low": min(interval.low for interval in intervals),
        "high": max(interval.high for interval in intervals),
        "seeds": seeds,
        "by_seed": by_seed_S.tolist(),
        "t_interval": list(over_seeds[1:]) if over_seeds else None,
        "bootstrap_interval": list(over_both[1:]),
        "p": p_both if p_seeds is None else max(p_both, p_seeds),
        "documents": nats_SD.shape[1],
        "domains": {domain: _in_domain(scores, nats_SD, domain) for domain in scores.domains if domain != MEAN},
    }


def _paired(scores: Scores, *variants: str) -> list[int | None]:
    """Return the seeds that all of these variants have; an untrained one goes with any. [None]: none is trained."""
    found = [scores.seeds(variant) for variant in variants]
    if not all(found):
        return []
    trained = [seeds for seeds in found if seeds != [None]]
    return [seed for seed in trained[0] if all(seed in other for other in trained)] if trained else [None]


def _difference(scores: Scores, contrast: Contrast, seeds: Sequence[int | None]) -> NDArray[np.float64]:
    """Return how much more `of` pays for each document, [S, D]."""
    return np.array([scores.nats(contrast.of, seed) - scores.nats(contrast.against, seed) for seed in seeds])


def _in_domain(scores: Scores, nats_SD: NDArray[np.float64], domain: str) -> Facts:
    inside = scores.inside(domain)
    found = two_level_interval(nats_SD[:, inside], scores.bytes_D[inside], draw(len(nats_SD), int(inside.sum())))
    documents = int(inside.sum())
    return {
        "delta": found.value,
        "low": found.low,
        "high": found.high,
        "documents": documents,
        "few": documents < FEW_DOCUMENTS,
    }


def multiple_facts(scores: Scores, curve: TokenCurve, tokens: dict[Name, int]) -> Facts | None:
    """Return how many times the tokens plain training needs for the loss of another variant; None before it is known.

    A value outside of the measured curve is told as text: "<1" or ">4".
    """
    seeds = _paired(scores, *curve.plain, curve.of)
    if not seeds:
        return None
    ordered = sorted(curve.plain, key=lambda name: tokens[Name(name, seeds[0])])
    tokens_P = np.array([np.mean([tokens[Name(name, seed)] for seed in seeds]) for name in ordered])
    own = float(np.mean([tokens[Name(curve.of, seed)] for seed in seeds]))
    if np.any(np.diff(tokens_P) <= 0):
        return None
    draws = draw(len(seeds), scores.nats_MD.shape[1], draws=2000)
    losses_PR = np.array([_drawn(scores, name, seeds, draws) for name in ordered])
    reached_R = _drawn(scores, curve.of, seeds, draws)
    losses_P = np.array([_mean(scores, name, seeds) for name in ordered])
    value = token_multiple(tokens_P, losses_P, _mean(scores, curve.of, seeds), own)
    multiples = [token_multiple(tokens_P, losses_PR[:, r], reached_R[r], own) for r in range(len(reached_R))]
    ends = [_told(end, tokens_P / own) for end in (value, *multiple_interval(np.array(multiples)))]
    points = [
        {"variant": n, "tokens": t, "nats_per_byte": x} for n, t, x in zip(ordered, tokens_P, losses_P, strict=True)
    ]
    about = {"of": curve.of, "tokens": own, "nats_per_byte": _mean(scores, curve.of, seeds), "seeds": seeds}
    return about | dict(zip(("value", "low", "high"), ends, strict=True)) | {"plain": points}


def _drawn(scores: Scores, variant: str, seeds: Sequence[int | None], draws: Draws) -> NDArray[np.float64]:
    return drawn_ratios(np.array([scores.nats(variant, seed) for seed in seeds]), scores.bytes_D, draws)


def _mean(scores: Scores, variant: str, seeds: Sequence[int | None], domain: str = MEAN) -> float:
    inside = scores.inside(domain)
    nats = np.mean([scores.nats(variant, seed)[inside].sum() for seed in seeds])
    return float(nats / scores.bytes_D[inside].sum())


def _told(multiple: float, measured: NDArray[np.float64]) -> float | str:
    if multiple == 0:
        return f"<{measured[0]:.3g}"
    return f">{measured[-1]:.3g}" if np.isinf(multiple) else float(multiple)


def gap_facts(scores: Scores, plain: str, references: Sequence[str], variants: Sequence[str]) -> list[Facts]:
    """Return which share of plain training's gap to the best source or ensemble each variant closes, by domain.

    Only where that gap is above SMALLEST_GAP. The best is picked on the very text, which makes the gap the widest.
    """
    known = [name for name in references if scores.seeds(name)]
    rows = []
    for domain in scores.domains if known and scores.seeds(plain) else []:
        losses = {name: _mean(scores, name, scores.seeds(name), domain) for name in known}
        best = min(losses, key=lambda name: losses[name])
        for name in variants:
            seeds = _paired(scores, plain, name)
            base = _mean(scores, plain, seeds, domain) if seeds else float("nan")
            if seeds and base - losses[best] > SMALLEST_GAP:
                closed = base - _mean(scores, name, seeds, domain)
                facts = {"domain": domain, "variant": name, "best": best, "gap": base - losses[best]}
                rows.append(facts | {"closed": closed / (base - losses[best])})
    return rows
