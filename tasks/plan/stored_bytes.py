"""Bytes that stages write, from what real runs wrote: a probe on the run's own models says it better.

Measured on SmolLM2-135M and Gemma-3-270M over the demo's text, 270 to 320 positions a chunk, with k = 10, 32 and 64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from logitfuse.tasks.plan.estimates import Estimate

if TYPE_CHECKING:
    from logitfuse.tasks.recipe import Recipe

TEXT = {"prepare": 0.42, "encode": 2.75}  # of a byte of text, of a token
PER_FILE = 2_000  # of a shard's schema and footer, whatever it holds
PAGES = {"check": 300, "headroom": 30_000, "report": 150_000}  # whole
KEPT = (0.0, 10.0, 32.0, 64.0, 512.0)  # tokens kept of a position
CAPTURED = (5.5, 33.8, 94.7, 176.0, 1300.0)  # bytes, at a vocabulary of 49,152; the last one by extension
ALIGNED = (4.0, 29.4, 68.0, 99.0, 420.0)  # with align.min_probability 0.001, which leaves out ever more of a larger k
ALIGNED_WHOLE = (4.0, 29.8, 86.0, 164.0, 1250.0)  # without
PER_DOUBLED_VOCABULARY = 0.029  # ids of a larger one are less alike
COMPACT = 0.70
RAW_LOGIT = 1.6  # bytes of each, where raw logits are kept too
BESIDE_TARGETS = 2.5  # bytes of a fused position beside its target: input, label, winner
EVALUATED = 4.5
MAPPED = {True: 2.5, False: 4.8}  # bytes of a source token, where both tokenizers are the same or not
SPREAD = 0.15  # how far texts, models and rules lie apart


def captured(recipe: Recipe, vocabulary: int) -> float:
    """Return the bytes of one captured position of a model with so many tokens."""
    settings = recipe.capture
    kept = settings.most * (0.6 if settings.mode == "topp" else 1.0)
    found = float(np.interp(kept, KEPT, CAPTURED)) + RAW_LOGIT * kept * settings.raw_logits
    found *= 1 + PER_DOUBLED_VOCABULARY * math.log2(max(vocabulary, 2) / 49_152)
    return found * (COMPACT if settings.codec == "compact" else 1.0)


def aligned(recipe: Recipe) -> float:
    """Return the bytes of one aligned position."""
    whole = recipe.align.min_probability == 0 or recipe.align.values == "logits"
    raw = RAW_LOGIT * recipe.capture.most if recipe.align.values == "logits" else 0.0
    return float(np.interp(recipe.capture.most, KEPT, ALIGNED_WHOLE if whole else ALIGNED)) + raw


def fused(recipe: Recipe, sources: int) -> float:
    """Return the bytes of one fused position: a mixture has more tokens than one source, though not as many times."""
    mixed = 1.0 if recipe.fuse.rule == "min_ce" else math.sqrt(sources)
    return aligned(recipe) * mixed + BESIDE_TARGETS


def around(value: float) -> Estimate:
    """Return an estimate as far as such numbers can be trusted."""
    return Estimate(value, value * (1 - SPREAD), value * (1 + SPREAD))
