"""The facts of documents as compact JSON for the page: tokens stand once, probabilities as whole numbers.

`page.js` reads these lists by place; what stands where is said beside each list here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from logitfuse.tasks.inspect.wording import LIES

SCALE = 10_000  # a probability of 1
HOWS = ("unmapped", "exact", "role", "byte", "distance", "first_piece", "learned")
LIE = tuple(LIES)
Facts = Mapping[str, Any]


class Words:
    """Texts that stand once, and are named by their numbers."""

    def __init__(self) -> None:
        self.texts: list[list[Any]] = []
        self.maps: dict[str, dict[int, list[Any]]] = {}  # by source and number of its token: how, distance, times
        self._numbers: dict[tuple[str, Any], int] = {}

    def __call__(self, text: str | None, of: Any = None) -> int:
        """Return the number of a text, of a token with this id; -1 for none."""
        if text is None:
            return -1
        if (text, of) not in self._numbers:
            self._numbers[text, of] = len(self.texts)
            self.texts.append([text] if of is None else [text, of])
        return self._numbers[text, of]


def page_data(documents: Sequence[Facts]) -> str:
    """Return the JSON of some documents, which is inert within HTML."""
    words = Words()
    packed = [_document(facts, words) for facts in documents]
    first = documents[0]
    labels = [*first["labels"]]
    whole = {
        "scale": SCALE, "hows": HOWS, "lies": list(LIES.values()), "labels": labels, "target": first["target"],
        "unit": first["score_unit"], "documents": packed, "words": words.texts,
        "arms": next((list(one["pairs"]) for facts in documents for one in facts["positions"] if one["fused"]), []),
        "maps": [words.maps.get(label, {}) for label in labels],
    }  # fmt: skip
    return inert(json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def inert(text: str) -> str:
    """Return JSON in which nothing ends a script element or a line of a script."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _document(facts: Facts, words: Words) -> dict[str, Any]:
    of = facts["document"]
    return {
        "name": of["doc_id"],
        "about": [of["domain"], of["split"], of["shard"], of["chunks"], of["tokens"], of["begin"]],
        "scores": of["scores"],
        "weights": of["weights"],
        "cautions": facts["cautions"],
        "note": facts.get("note"),
        "at": facts["at"] - of["begin"],
        # text; 0 where it is no piece of the text; who counts most (-1 nobody, null not predicted); nats
        "tokens": [
            [token["text"], int(token["of_text"]), token["winner"], _nats(token["nats"])] for token in facts["tokens"]
        ],
        "positions": [_position(position, words, facts["labels"]) for position in facts["positions"]],
    }


def _nats(values: Sequence[float | None] | None) -> list[float | None] | None:
    """Before, fused, after."""
    return None if values is None else [None if value is None else round(value, 3) for value in values]


def _position(position: Facts, words: Words, labels: Sequence[str]) -> list[Any]:
    """Token; chunk; bytes; then if it is predicted: why, fused, before, after, sources, pairs."""
    token = words(position["token"]["text"], position["token"]["id"])
    found: list[Any] = [token, position["chunk"], position["bytes"]]
    if position["fused"] is None:
        return found
    fused = position["fused"]
    return [
        *found,
        words(position["why"]),
        # kept; how many more; mass; the true token's probability; its nats
        [_kept(fused["kept"], words), fused["more"], _p(fused["mass"]), _p(fused["gold"]), fused["nats"]],
        _prediction(position["before"], words),
        _prediction(position["after"], words),
        [_source(source, words) for source in position["sources"]],
        # those that learned from one source each, in the order of `arms`
        [_prediction(pair, words) for pair in position["pairs"].values()],
    ]


def _prediction(found: Facts | None, words: Words) -> list[Any] | None:
    """Kept; how many more; their mass; the true token's probability; its nats; its rank."""
    if found is None:
        return None
    kept = _kept(found["kept"], words)
    return [kept, found["more"], _p(found["mass"]), _p(found["gold"]), _short(found["nats"]), found["rank"]]


def _source(source: Facts, words: Words) -> list[Any]:
    """Served; why not; weight; share; score; nats; on the target's tokens; position; then if it has one: more."""
    aligned, own = source["aligned"], source["own"] and source["served"]
    found: list[Any] = [
        int(source["served"]), words(source["why_not"]), _short(source["weight"]), _short(source["share"]),
        _short(source["score"]), _short(source["nats"]),
        [] if own else [_kept(aligned["kept"], words), aligned["more"], _p(aligned["mass"])],
        source["position"],
    ]  # fmt: skip
    if source["position"] is None or own:  # the student's own is shown already
        return found
    following, lost = source["next"], source["lost"]
    return [
        *found,
        [words(text) for text in source["read"]],
        -1 if following is None else words(following["text"], following["id"]),
        -1 if source["lies"] is None else LIE.index(source["lies"]),
        [_token(token, words, source["label"]) for token in source["kept"]],
        source["more"],
        None if lost is None else [_p(lost[name]) for name in ("kept", "not_captured", "not_mapped", "too_small")],
    ]


def _token(token: Facts, words: Words, label: str) -> list[Any]:
    """Token; probability; what it becomes, one number where that is one token with all of it; how many others."""
    number, p = words(token["text"], token["id"]), _p(token["p"])
    words.maps.setdefault(label, {})[number] = [HOWS.index(token["how"]), token["distance"], token["times"]]
    becomes = _kept(token["becomes"], words)
    if len(becomes) == 2 and becomes[1] == p and not token["others"]:
        return [number, p, becomes[0]]
    return [number, p, becomes, *([token["others"]] if token["others"] else [])]


def _kept(kept: Sequence[Facts], words: Words) -> list[Any]:
    """Token, probability, token, probability, …"""
    return [value for token in kept for value in (words(token["text"], token["id"]), _p(token["p"]))]


def _p(probability: float | None) -> int | None:
    """Round; only nothing is 0."""
    return None if probability is None else max(round(SCALE * probability), int(probability > 0))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
