"""Facts of a report made by hand, with everything in them that a page can show."""

import copy
from typing import Any

from logitfuse.tasks.results import MEAN

ROLES = {"small": "target", "big": "source", "control": "control", "fused": "fused"}


def compared(model: str, domain: str, percent: float) -> dict[str, Any]:
    verdict = "better" if percent > 0.5 else "worse" if percent < -0.5 else "unclear"
    low, high = percent - 0.5, percent + 0.5
    return {
        "against": model, "role": ROLES[model], "domain": domain, "verdict": verdict,
        "nats_per_byte": percent / 100, "low": low / 100, "high": high / 100,
        "percent": percent, "percent_low": low, "percent_high": high,
    }  # fmt: skip


def handmade() -> dict[str, Any]:
    """Facts of a run that went well."""
    domains = ["code", "prose", MEAN]
    served = {"positions": 1000, "served_share": 0.9, "mass_kept": 0.8}
    curve = [{"step": s, "tokens_seen": 100 * s, "clm_loss": 3.0 - s / 10, "fusion_loss": 2.0} for s in range(1, 9)]
    looks = [{"step": s, "tokens_seen": 100 * s, "code": 0.7, "mean": 0.8 - s / 100} for s in (4, 8)]
    arm = {"steps": 8, "tokens": 800, "settings": {}, "clm_loss": 2.2, "fusion_loss": 2.0, "tokens_per_s": 50.0,
           "held_out": looks, "curve": curve}  # fmt: skip
    won = {"positions": 1000, "unserved": 100, "won": {"small": 225, "big": 675}}
    facts: dict[str, Any] = {
        "format": 1, "run": "try", "made": "2026-01-02T03:04:05+00:00", "target": "small", "sources": ["big"],
        "target_is_source": True,
        "corpus": {"source": "text.jsonl", "evaluated_on": "validation", "splits": {"train": 9}},
        "results": [
            {"model": m, "role": r, "domain": d, "documents": 40, "nats_per_byte": 0.8 + i / 10,
             "low": 0.7, "high": 1.2}
            for i, (m, r) in enumerate(ROLES.items()) for d in domains
        ],
        "gains": [compared(m, d, p) for m, p in (("small", 3.0), ("big", 1.0), ("control", 2.0)) for d in domains],
        "fusion": {"rule": "min_ce", "weights": {"small": 0.25, "big": 0.75}, "documents": 40, **served,
                   "by_domain": {"code": {"documents": 40, "weights": {"small": 0.25, "big": 0.75}}},
                   "winners": {"by_domain": {"code": won},
                               "by_place": [{"from": 0, "to": 7, **won}, {"from": 8, "to": None, **won}]}},
        "alignment": {name: {**served, "beyond_context_share": 0.0} for name in ("small", "big")},
        "headroom": {"measured": True, "warnings": [], "rows": [
            {"subject": s, "domain": "all", "class": "all", "difference": -0.25} for s in ("fused", "big")]},
        "training": {"fused": arm, "control": copy.deepcopy(arm)},
        "stages": [{"stage": "capture", "source": s, "units": 3, "seconds": 70.0, "bytes": 2_000_000}
                   for s in ("small", "big")],
        "seconds": 140.0, "bytes": 4_000_000,
        "recipe": {"name": "try", "corpus": {"source": "text.jsonl"}},
        "fingerprints": {
            "models": {n: {"model": n, "revision": None, "weights": "sha256:1", "tokenizer": "sha256:2"}
                       for n in ("small", "big")},
            "corpus": ["sha256:3"], "fused": ["sha256:4"], "trained": {"fused": "sha256:5"}, "versions": {"torch": "2"},
        },
    }  # fmt: skip
    return facts
