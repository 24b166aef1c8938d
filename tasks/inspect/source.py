"""What one source has to do with a position: its own tokens, what becomes of them, and what is lost on the way."""

# legend: T target positions of the stretch

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.vocabulary_map import How
from logitfuse.tasks.inspect.wording import lies, next_end, rounded, token_text

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.view import OfSource, View
    from logitfuse.tasks.models.source import Source

TARGETS_OF_A_TOKEN = 3  # that are shown of what a source token becomes
READ = 6  # tokens before a position that are shown of each source

Facts = dict[str, Any]


def source_facts(view: View, label: str, t: int, chunk: int, token: int, top: int) -> Facts:
    """Return what one source predicts there, what that becomes on the target's tokens, and what is lost on the way."""
    of, source = view.sources[label], view.run.teachers[label]
    position = int(of.position_T[t])
    served = bool(of.aligned.counts[t])
    gold = int(view.positions.labels[t])
    facts: Facts = {
        "label": label,
        "own": label == view.run.target.label,
        "served": served,
        "aligned": kept_facts(view.run.target, of.aligned, t, gold, top),
    }
    if position >= 0:
        row = of.captured.row(chunk, position)
    else:  # one may match all the same, of whose tokens the map knows none
        row = int(of.becomes.rows[of.rows_of[t]]) if of.becomes is not None and t in of.rows_of else None
    if row is None:
        return facts | {"position": None, "kept": [], "lost": None, "why_not": _why_not(view, served)}
    ids, ends = of.encoded.of(chunk)
    at = row - int(of.captured.offsets[chunk]) + int(of.captured.first[chunk])
    following = int(ids[at]) if at < len(ids) else None
    return facts | {
        "position": at,
        "read": [token_text(source.vocabulary, int(i)) for i in ids[max(0, at - READ) : at]],
        "next": None if following is None else token_facts(source, following),
        "lies": lies(next_end(ends, at), next_end(view.target.of(chunk)[1], token)) if following is not None else None,
        **_tokens_and_losses(view, of, source, row, t, top),
        "why_not": None if served else "the map knows none of the tokens that it keeps",
    }


def _tokens_and_losses(view: View, of: OfSource, source: Source, row: int, t: int, top: int) -> Facts:
    predictions = of.captured
    span = slice(int(predictions.entries[row]), int(predictions.entries[row + 1]))
    probs, ids = predictions.probabilities(row), predictions.ids[span]
    tail = float(max(0.0, 1.0 - probs.sum()))
    kept = [
        {**token_facts(source, int(token)), "p": rounded(p), **_becomes(view, of, source, int(token), t, k)}
        for k, (token, p) in enumerate(zip(ids[:top], probs[:top], strict=True))
    ]
    if len(predictions.draws):
        for entry, drawn in zip(kept, predictions.draws[span], strict=False):
            entry["drawn"] = int(drawn)
    return {"kept": kept, "more": max(0, len(ids) - top), "lost": _lost(of, t, probs, tail)}


def _becomes(view: View, of: OfSource, source: Source, token: int, t: int, k: int) -> Facts:
    """Return how a source token found its target tokens, and the likeliest of them with what they get."""
    mapping = view.maps.of(source)
    span = slice(int(mapping.offsets[token]), int(mapping.offsets[token + 1]))
    ids, given = mapping.target_ids[span], mapping.weights[span].astype(np.float64)
    if of.becomes is not None and t in of.rows_of:
        row = of.rows_of[t] * of.becomes.kept + k
        entries = slice(int(of.becomes.given.offsets[row]), int(of.becomes.given.offsets[row + 1]))
        ids, given = of.becomes.given.ids[entries], of.becomes.given.probs[entries]
    order = np.lexsort((ids, -given))
    target = view.run.target
    shown = [{**token_facts(target, int(ids[i])), "p": rounded(given[i])} for i in order[:TARGETS_OF_A_TOKEN]]
    return {
        "how": How(int(mapping.how[token])).name.lower(),
        "distance": int(mapping.distance[token]) if mapping.distance[token] >= 0 else None,
        "times": rounded(mapping.times[token]) if mapping.times[token] > 0 else None,
        "becomes": shown,
        "others": max(0, len(ids) - TARGETS_OF_A_TOKEN),
    }


def _lost(of: OfSource, t: int, probs: np.ndarray, tail: float) -> Facts | None:
    """Return where a source's probability went: kept on target tokens, never captured, not mapped, too little."""
    if of.becomes is None or t not in of.rows_of:
        return None
    first = of.rows_of[t] * of.becomes.kept
    entries = slice(int(of.becomes.given.offsets[first]), int(of.becomes.given.offsets[first + of.becomes.kept]))
    mapped, kept = float(of.becomes.given.probs[entries].sum()), float(of.aligned.mass[t])
    return {
        "kept": rounded(kept),
        "not_captured": rounded(tail),
        "not_mapped": rounded(max(0.0, float(probs.sum()) - mapped)),
        "too_small": rounded(max(0.0, mapped - kept)),
    }


def _why_not(view: View, served: bool) -> str:
    if served:
        return f"no position of it has read the same text: align.fallback {view.run.recipe.align.fallback} stands in"
    return "no position of it has read the same text"


def kept_facts(target: Source, rows: Distributions, t: int, gold: int, top: int) -> Facts:
    """Return a row of distributions on the target's tokens; `gold` is the true token's probability, None outside."""
    span = slice(int(rows.offsets[t]), int(rows.offsets[t + 1]))
    ids, probs = rows.ids[span], np.exp(rows.logprobs[span].astype(np.float64))
    there = np.flatnonzero(ids == gold)
    return {
        "kept": [{**token_facts(target, int(i)), "p": rounded(p)} for i, p in zip(ids[:top], probs[:top], strict=True)],
        "more": max(0, len(ids) - top),
        "mass": rounded(rows.mass[t]),
        "gold": rounded(probs[there[0]]) if len(there) else None,
    }


def token_facts(source: Source, token: int) -> Facts:
    """Return a token's id and how it is written."""
    return {"id": token, "text": token_text(source.vocabulary, token)}
