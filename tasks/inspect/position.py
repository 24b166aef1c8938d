"""One position explained, as plain JSON values: what the terminal, the page and `--json` show."""

# legend: T target positions of the stretch

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitfuse.tasks.inspect.judgement import reason, shares_of
from logitfuse.tasks.inspect.nats import Nats
from logitfuse.tasks.inspect.source import kept_facts, source_facts, token_facts
from logitfuse.tasks.inspect.wording import compared, rounded, settings_of

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.predictions import Predictions
    from logitfuse.tasks.inspect.view import View
    from logitfuse.tasks.models.source import Source

Facts = dict[str, Any]


def explain(view: View, nats: Nats, number: int, top: int) -> Facts:
    """Return all that is known of how one token of a document is predicted; lists hold `top` tokens at most.

    A token that nothing predicts (the first of a chunk, without a start token) has no `fused`.
    """
    chunk, token = view.locate(number)
    ids, ends = view.target.of(chunk)
    gold = int(ids[token]) if token < len(ids) else view.run.target.end_id
    assert gold is not None, "only closed chunks have a token past their text"
    begin = 0 if token == 0 else int(ends[token - 1])
    base = int(view.numbering.bytes[chunk + view.first_chunk])
    end = int(ends[token]) if token < len(ids) else -1
    facts: Facts = {
        "number": number,
        "chunk": chunk + view.first_chunk,
        "token": token_facts(view.run.target, gold),
        "bytes": [base + begin, base + end] if min(begin, end) >= 0 else None,
        "fused": None,
    }
    t = view.position(number)
    return facts if t is None else facts | _predicted(view, nats, t, chunk, token, gold, top)


def _predicted(view: View, nats: Nats, t: int, chunk: int, token: int, gold: int, top: int) -> Facts:
    run, taught = view.run, view.taught
    sources = [source_facts(view, label, t, chunk, token, top) for label in view.sources]
    served_S = np.array([source["served"] for source in sources])
    weights_S = view.judged.weights_ST[:, t] if view.judged else taught.weights_ST[:, t]
    scores_S = view.judged.scores_ST[:, t] if view.judged else taught.scores_ST[:, t]
    shares_S = shares_of(weights_S, served_S, run.recipe.fuse.rule)
    for source, weight, share, score in zip(sources, weights_S, shares_S, scores_S, strict=True):
        source |= {"weight": rounded(weight), "share": rounded(share), "score": rounded(score)}
        source["nats"] = rounded(nats.sources[source["label"]][t])
    labels = list(view.sources)
    winner = labels[int(taught.winner_T[t])] if taught.winner_T[t] >= 0 else None
    held_back = bool(view.judged.held_back_T[t]) if view.judged else False
    strongest = int(np.argmax(weights_S)) if len(weights_S) and weights_S.max() > 0 else None
    stronger = labels[strongest] if strongest is not None and not served_S[strongest] else None
    fused = kept_facts(run.target, taught.targets, t, gold, top)
    scores = compared(run.recipe.fuse, {s["label"]: s["score"] for s in sources if s["score"] is not None})
    return {
        "fused": {**fused, "nats": rounded(nats.fused[t]), "held_back": held_back},
        "winner": winner,
        "why": scores
        + reason(run.recipe.fuse.rule, settings_of(run.recipe.fuse), winner, bool(served_S.any()), held_back, stronger),
        "before": _prediction(run.target, view.before, chunk, token, gold, top),
        "after": _prediction(run.target, view.after, chunk, token, gold, top),
        "pairs": {arm: _prediction(run.target, pair, chunk, token, gold, top) for arm, pair in view.pairs.items()},
        "sources": sources,
    }


def _prediction(
    target: Source, predictions: Predictions | None, chunk: int, token: int, gold: int, top: int
) -> Facts | None:
    """Return what the student predicts, None where that is not known."""
    row = None if predictions is None else predictions.row(chunk, token)
    if predictions is None or row is None:
        return None
    span = slice(int(predictions.entries[row]), int(predictions.entries[row + 1]))
    probs = predictions.probabilities(row)
    kept = [
        {**token_facts(target, int(i)), "p": rounded(p)}
        for i, p in zip(predictions.ids[span][:top], probs[:top], strict=True)
    ]
    logprob, rank = float(predictions.gold[row]), int(predictions.rank[row])
    return {
        "kept": kept,
        "more": max(0, len(probs) - top),
        "mass": rounded(probs.sum()),
        "gold": rounded(np.exp(logprob)),
        "rank": rank,
        "nats": rounded(-logprob),
    }
