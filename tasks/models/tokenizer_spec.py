"""What a tokenizer's own JSON says about it: its kind, its ids, and a fingerprint of its behaviour."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from logitfuse.kernels.pieces import CONTINUATION_MARK, SPACE_MARK, Kind
from logitfuse.storage.errors import ModelRefused

BEHAVIOUR = ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens")
Spec = dict[str, Any]
LARGEST_ID = 1 << 24  # the largest vocabularies have a few hundred thousand
MOST_GROWTH = 64  # characters for one of the text; known tokenizers have 3, for a space


def read_kind(spec: Spec) -> Kind:
    """Return how the pieces are spelled; raise ModelRefused where they cannot be turned into bytes."""
    model = spec["model"]
    before = _parts_before_model(spec)
    if model.get("dropout"):
        raise ModelRefused("the tokenizer drops merges at random (BPE dropout): set its dropout to null.")
    if model["type"] == "WordPiece" and model["continuing_subword_prefix"] == CONTINUATION_MARK:
        return "wordpiece"
    marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if model["type"] in ("BPE", "Unigram") and not marked:
        if any(part["type"] == "ByteLevel" for part in before):
            return "byte_level"
        if any(_marks_spaces(part) for part in before):
            return "sentencepiece"
    kinds = [part["type"] for part in before]
    raise ModelRefused(
        f"a {model['type']} tokenizer with {', '.join(kinds) or 'nothing'} before it: its pieces cannot be turned into "
        f"bytes. Known: byte-level BPE, SentencePiece (BPE or Unigram with '{SPACE_MARK}'), WordPiece with "
        f"'{CONTINUATION_MARK}'."
    )


def check_spec(spec: Spec, where: str) -> None:
    """Refuse a tokenizer that would take all memory: ids far apart, or rules by which a text grows without bound."""
    added, model = spec.get("added_tokens") or [], spec.get("model") or {}
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [*(token.get("id") for token in tokens), *(vocabulary.values() if isinstance(vocabulary, dict) else ())]
    highest = max((token for token in ids if isinstance(token, int)), default=0)
    if highest > LARGEST_ID:
        raise ModelRefused(f"{where}: it has the token id {highest:,}; ids go to {LARGEST_ID:,}. Fetch it again.")
    growth = 1
    for rule in _rules(spec.get("normalizer")):
        growth *= max(1, *(len(rule[name]) for name in ("content", "prepend") if isinstance(rule.get(name), str)), 1)
    if growth > MOST_GROWTH:
        raise ModelRefused(
            f"{where}: its normalizer could make a text more than {MOST_GROWTH} times as long. Use another tokenizer."
        )


def _rules(component: Any) -> Iterator[Spec]:
    """Yield a component's parts whatever they are, sequences unfolded."""
    if isinstance(component, dict):
        yield component
        for inner in component.get("normalizers") or ():
            yield from _rules(inner)


def adds_space(spec: Spec) -> bool:
    """Return whether a space that is not in the text is put before it (SentencePiece's dummy prefix)."""
    return any(
        (part["type"] == "Prepend" and part["prepend"] == SPACE_MARK)
        or (part["type"] == "Metaspace" and part["prepend_scheme"] != "never")
        or (part["type"] == "ByteLevel" and part.get("add_prefix_space", False))
        for part in _parts_before_model(spec)
    )


def model_ids(model: Spec) -> dict[str, int]:
    """Return piece → id of the model proper (a Unigram model lists (piece, score) by id)."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    return {piece: token for token, (piece, _) in enumerate(vocabulary)}


def fingerprint(spec: Spec, roles: Mapping[str, int]) -> str:
    """Hash what the tokenizer does, not how its file is written; the order of JSON keys and of roles is no part."""
    behaviour = {part: _settled(spec[part]) for part in BEHAVIOUR}
    behaviour["added_tokens"] = sorted(behaviour["added_tokens"], key=lambda token: token["id"])
    text = json.dumps([behaviour, dict(roles)], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _parts_before_model(spec: Spec) -> list[Spec]:
    return [*_parts(spec["normalizer"]), *_parts(spec["pre_tokenizer"])]


def _parts(component: Spec | None) -> list[Spec]:
    """Return a component's parts, sequences unfolded."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        inner = component.get("normalizers") or component.get("pretokenizers") or []
        return [part for nested in inner for part in _parts(nested)]
    return [component]


def _marks_spaces(part: Spec) -> bool:
    if part["type"] == "Metaspace":
        return bool(part["replacement"] == SPACE_MARK)
    return part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE_MARK


def _settled(value: Any) -> Any:
    """Drop what is null or false, so that a library that learns a new switch, off, changes no fingerprint."""
    if isinstance(value, dict):
        return {key: _settled(inner) for key, inner in value.items() if inner is not None and inner is not False}
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [_settled(inner) for inner in value]
    return value
